"""A finished run attached to Comet, from a process of its own; never at the cost of the run."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmtwin_data.datasets import Manifest, file_entry, read_manifest, write_course_pair
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.folders import RunFolder, RunLock, shown, told, write_atomically
from llmtwin_data.params import may_be_sent_key, withheld_key

# Everything that comet_ml would otherwise collect, send or print unasked (its own documentation, and tried).
QUIET = {
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_AUTO_LOG_ENV_DETAILS": "false",
    "COMET_AUTO_LOG_GIT_PATCH": "false",
    "COMET_AUTO_LOG_GIT_METADATA": "false",
    "COMET_AUTO_LOG_CODE": "false",
    "COMET_DISABLE_ANNOUNCEMENT": "1",
    "COMET_LOGGING_CONSOLE": "ERROR",
    "COMET_DISPLAY_SUMMARY_LEVEL": "0",
    # Workers per core: a failing upload is tried for 20 s and must not keep the others waiting.
    "COMET_INTERNAL_FILE_UPLOAD_WORKER_RATIO": "16",
    # Not even through a proxy that the system itself knows.
    "NO_PROXY": "*",
}
# The process gets no other variable, so that no other key can leave with what it sends.
_NEEDED = {
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "PYTHONPATH",
    "SYSTEMROOT",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
}
_PORTS = {"http": 80, "https": 443}
_SLOWEST_BYTES_PER_SECOND = 250_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish, with absolute paths; ``course_files`` are the two of the dataset's artifact.

    ``interrupted``: an earlier publishing of this run began and did not come to its end.
    """

    run_dir: str
    scratch: str
    name: str
    manifest_sha256: str
    metadata: dict[str, Any]
    course_files: tuple[str, ...]
    experiment_key: str
    archives: tuple[str, ...] = ()
    online: bool = True
    interrupted: bool = False
    workspace: str = ""

    @property
    def run(self) -> RunFolder:
        """The run to publish."""
        return RunFolder(Path(self.run_dir))

    @property
    def archive_folder(self) -> Path:
        """Where offline archives lie, ``archives`` being their names."""
        return self.run.path / "comet"

    @property
    def alias(self) -> str:
        """The alias under which a version that holds this very dataset is found again."""
        return f"manifest-{self.manifest_sha256[:12]}"

    @property
    def result_file(self) -> Path:
        """Where the process leaves what came out."""
        return Path(self.scratch) / "result.json"

    def line(self) -> str:
        """Give the line from which :func:`read_plan` makes the plan."""
        return json.dumps(asdict(self)) + "\n"


def read_plan(line: str) -> Plan:
    """Make the plan that a line holds."""
    return Plan(**json.loads(line))


def carry_out(plan: Plan, *, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    """Start the process, wait for it and give its result; a result with ``reason`` is a failure.

    The wait is bounded: by the patience, plus the time the run's bytes take on a slow line.
    """
    command = [sys.executable, "-m", "llmtwin_data.experiments"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=quiet_environ(environ), cwd=plan.scratch, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _tell(process, plan)
            process.wait(patience_seconds + _bytes_of(plan.run) / _SLOWEST_BYTES_PER_SECOND)
        except subprocess.TimeoutExpired:
            return {"reason": "no_answer"}
        finally:
            process.kill()
    if not plan.result_file.exists():
        return {"reason": "failed", "problem": f"its process ended with {process.returncode}"}
    result: dict[str, Any] = json.loads(plan.result_file.read_text("utf-8"))
    return result


def quiet_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of the process: Comet's variables, what any process needs, and silence."""
    kept = {
        name: value for name, value in environ.items() if name.upper() in _NEEDED or name.startswith("COMET_")
    }
    return kept | QUIET


def reachable(url: str, *, seconds: float = 5.0) -> bool:
    """Say whether the URL's host accepts a connection.

    Takes at most twice ``seconds``: looking up a name has no deadline of its own, so it is left behind.
    """
    target = urlsplit(url)
    address = target.hostname or "", target.port or _PORTS.get(target.scheme, 443)
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_connects(address, seconds)), daemon=True)
    asking.start()
    asking.join(2 * seconds)
    return bool(answers and answers[0])


def _tell(process: subprocess.Popen[str], plan: Plan) -> None:
    # The pipe stays open: its end tells the process that we died.
    assert process.stdin is not None
    try:
        process.stdin.write(plan.line())
        process.stdin.flush()
    except BrokenPipeError:
        pass


def _bytes_of(run: RunFolder) -> int:
    return sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())


def _connects(address: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(address, timeout=seconds).close()
    except (OSError, UnicodeError):
        return False
    return True


COMET_URL = "https://www.comet.com/clientlib/"
PATIENCE_SECONDS = 60.0
_PENDING = "upload_pending.json"
_MEMORY = "comet.json"
_NOT_CARRIED = "the dataset artifact, which Comet's offline mode cannot carry"


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people.

    ``reason`` says why it is pending: ``no_key``, ``bad_key``, ``no_network``, ``no_answer`` or ``failed``.
    """

    state: Literal["published", "unchanged", "offline", "off", "pending", "refused"]
    line: str
    url: str = ""
    reason: str = ""


def publish_run(
    run_dir: Path,
    *,
    environ: Mapping[str, str],
    mode: str = "auto",
    patience_seconds: float = PATIENCE_SECONDS,
) -> Publication:
    """Attach the finished run in a folder to Comet; nothing that Comet does raises or harms the run.

    Parameters
    ----------
    mode
        ``auto`` and ``online`` upload; without key or network the run stays pending, with the command that
        uploads it later. ``offline`` writes an archive of all but the artifacts. ``off`` does nothing.
    patience_seconds
        How long Comet may take to answer, on top of what the run's bytes need on a slow line.
    """
    if mode == "off":
        return Publication("off", "Comet: off")
    run = RunFolder(run_dir.resolve())
    try:
        manifest = _whole_manifest(run)
        with _desk(run) as scratch:
            plan = _plan(run, manifest, scratch=scratch, environ=environ, mode=mode)
            reason = "" if mode == "offline" else _hindrance(environ)
            result = {"reason": reason} if reason else _sent(plan, environ, patience_seconds)
            return _note(plan, result, environ=environ)
    except (LlmTwinError, OSError) as error:
        return Publication("refused", f"Comet: not uploaded, {error}")


@contextmanager
def _desk(run: RunFolder) -> Iterator[Path]:
    """Give an empty folder that one publishing of this run has for itself; a second one gets RunLocked."""
    place = run.work / "publish"
    with RunLock(RunFolder(place)):
        scratch = place / "files"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                run.work.rmdir()


def _plan(
    run: RunFolder, manifest: Manifest, *, scratch: Path, environ: Mapping[str, str], mode: str
) -> Plan:
    digest = file_entry(run.dataset / "manifest.json")["sha256"]
    facts = {"manifest_sha256": digest, "counts": manifest.counts, "params": run.read().get("params", {})}
    known = _memory(run, digest)
    return Plan(
        run_dir=str(run.path),
        scratch=str(scratch),
        name=manifest.name,
        manifest_sha256=digest,
        metadata=facts,
        course_files=tuple(str(path) for path in write_course_pair(run.dataset, scratch)),
        experiment_key=known.get("experiment_key") or secrets.token_hex(16),
        archives=tuple(known.get("archives", ())),
        online=mode != "offline",
        interrupted="experiment_key" in known and "url" not in known,
        workspace=environ.get("COMET_WORKSPACE", ""),
    )


def _sent(plan: Plan, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    # Written before anything is sent: should we be killed, the next publishing goes on with this experiment.
    _remember(plan, {"archives": plan.archives})
    return carry_out(plan, environ=environ, patience_seconds=patience_seconds)


def _whole_manifest(run: RunFolder) -> Manifest:
    if not (run.dataset / "manifest.json").exists():
        raise QualityGate(f"{told(run.path)} holds no dataset: the run did not complete")
    manifest = read_manifest(run.dataset / "manifest.json")
    for name, entry in manifest.files.items():
        path = run.dataset / name
        if not path.exists() or file_entry(path)["sha256"] != entry["sha256"]:
            raise QualityGate(f"{told(path)} is not what its manifest says; make the run again")
    return manifest


def _hindrance(environ: Mapping[str, str]) -> str:
    if not environ.get("COMET_API_KEY") or not may_be_sent_key(_url(environ)):
        return "no_key"
    return "" if reachable(_url(environ)) else "no_network"


def _url(environ: Mapping[str, str]) -> str:
    return environ.get("COMET_URL_OVERRIDE") or COMET_URL


def _note(plan: Plan, result: dict[str, Any], *, environ: Mapping[str, str]) -> Publication:
    """Write down what came out, in files for the next publishing and in one line for people."""
    if "reason" in result:
        problem = _problem(result, environ)
        command = _leave_pending(plan, problem)
        line = f"Comet: not uploaded, {problem}; nothing is lost, upload it later with: {command}"
        return Publication("pending", line, reason=result["reason"])
    _remember(plan, result)
    if result["state"] == "offline":
        command = _leave_pending(plan, "offline was asked for")
        place = told(plan.archive_folder / result["archives"][0])
        line = f"Comet: {place} holds all but {_NOT_CARRIED}; upload both with: {command}"
        return Publication("offline", line)
    line = _success(plan, result)
    if missing := result["missing"]:
        problem = f"Comet does not hold {', '.join(missing)} of the run"
        line += f"; {problem}, upload again with: {_leave_pending(plan, problem)}"
    else:
        (plan.run.path / _PENDING).unlink(missing_ok=True)
    return Publication(result["state"], line, url=result["url"])


def _success(plan: Plan, result: Mapping[str, Any]) -> str:
    place = f"{plan.name} {result['version']}"
    if result["state"] == "published":
        return f"Comet: published {place}, {result['url']}"
    newer = "" if result["is_latest"] else " (there is a newer version with other contents)"
    return f"Comet: {place} holds this dataset already{newer}, no new version; {result['url']}"


def _problem(result: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    words = {
        "no_key": withheld_key(_url(environ), "COMET_API_KEY", environ=environ)
        or "COMET_API_KEY is not set in the environment or .env (comet: off silences this)",
        "bad_key": "Comet refused the key in COMET_API_KEY, or its right to COMET_WORKSPACE",
        "no_network": f"{urlsplit(_url(environ)).hostname} cannot be reached",
        "no_answer": "Comet did not answer in time",
    }
    key = environ.get("COMET_API_KEY") or "\0"
    said = " ".join(str(result.get("problem", "")).replace(key, "[key]").split())[:200]
    return words.get(result["reason"]) or f"Comet did not take it ({said})"


def _leave_pending(plan: Plan, problem: str) -> str:
    note = {
        "command": f"llmtwin-data publish {shown(plan.run.path)}",
        "why": problem,
        "dataset_name": plan.name,
        "manifest_sha256": plan.manifest_sha256,
    }
    write_atomically(plan.run.path / _PENDING, json.dumps(note, indent=1) + "\n")
    return f"llmtwin-data publish {told(plan.run.path)}"


def _memory(run: RunFolder, manifest_sha256: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run.path / _MEMORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if found.get("manifest_sha256") == manifest_sha256 else {}


def _remember(plan: Plan, facts: Mapping[str, Any]) -> None:
    kept = {key: facts[key] for key in ("url", "version", "archives") if key in facts}
    key = facts.get("experiment_key") or plan.experiment_key
    note = {"dataset_name": plan.name, "manifest_sha256": plan.manifest_sha256, "experiment_key": key} | kept
    write_atomically(plan.run.path / _MEMORY, json.dumps(note, indent=1) + "\n")
