"""A finished run attached to Comet, from a process of its own; never at the cost of the run."""

from __future__ import annotations

import base64
import json
import logging
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

import pandas as pd
import requests

from llmtwin_data.datasets import file_entry, read_manifest, stored_sides, write_course_pair
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.folders import (
    PROJECT_ROOT,
    RunFolder,
    display_path,
    project_path,
    read_json_lines,
    run_lock,
    write_atomically,
)
from llmtwin_data.lineage import CHANGES
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import may_be_sent_key, redact, withheld_key

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
    # What the client calls the person who runs it.
    "LOGNAME": "llmtwin_data",
    # Not even through a proxy that the system itself knows.
    "NO_PROXY": "*",
}
OFF = (
    *("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "auto_output_logging"),
    *("log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk"),
    *("auto_param_logging", "auto_metric_logging", "auto_log_co2"),
)
# The process gets no other variable, so that no other key can leave with what it sends.
NEEDED = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "SYSTEMROOT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
COMET_URL = "https://www.comet.com/clientlib/"
PATIENCE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 250_000
# A table is read in the browser; the whole ledger is among the files.
TABLE_ROWS = 10_000
LEDGER = "ledger.csv"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people.

    ``reason`` says why it is pending: ``no_key``, ``bad_key``, ``no_network``, ``no_answer`` or ``failed``.
    """

    state: Literal["published", "unchanged", "off", "pending", "refused"]
    line: str
    url: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to publish; ``scratch`` holds the two files of the dataset's artifact in ``course``.

    ``interrupted``: an earlier publishing of this run began and did not come to its end.
    """

    run_dir: str
    scratch: str
    name: str
    manifest_sha256: str
    experiment_key: str
    interrupted: bool

    @property
    def run(self) -> RunFolder:
        """The run to publish."""
        return RunFolder(Path(self.run_dir))

    @property
    def names(self) -> tuple[str, str]:
        """The artifact that the course's client reads, and the one of all other files."""
        return self.name, f"{self.name}-files"

    @property
    def alias(self) -> str:
        """The alias under which a version that holds this very dataset is found again."""
        return f"manifest-{self.manifest_sha256[:12]}"

    def remember(self, **result: Any) -> None:
        """Write into the run folder which experiment this dataset belongs to, and what became of it."""
        note = {"dataset_name": self.name, "manifest_sha256": self.manifest_sha256}
        note |= {"experiment_key": result.get("experiment_key") or self.experiment_key}
        note |= {key: result[key] for key in ("url", "version") if key in result}
        write_atomically(self.run.path / "comet.json", json.dumps(note, indent=1) + "\n")


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
        uploads it later. ``off`` does nothing.
    patience_seconds
        How long Comet may take to answer, on top of what the run's bytes need on a slow line.
    """
    if mode == "off":
        return Publication("off", "Comet: off")
    run = RunFolder(run_dir.resolve())
    try:
        name = _checked_name(run)
        with _scratch_folder(run) as scratch:
            (scratch / "course").mkdir()
            write_course_pair(run.dataset, scratch / "course")
            digest, memory = file_entry(run.dataset / "manifest.json")["sha256"], {}
            with suppress(OSError, ValueError):
                memory = json.loads((run.path / "comet.json").read_bytes())
            memory = memory if memory.get("manifest_sha256") == digest else {}
            interrupted = "experiment_key" in memory and "url" not in memory
            key = memory.get("experiment_key") or secrets.token_hex(16)
            plan = Plan(str(run.path), str(scratch), name, digest, key, interrupted)
            return _publication(plan, _upload(plan, environ, patience_seconds), environ)
    except (LlmTwinError, OSError) as error:
        return Publication("refused", f"Comet: not uploaded, {error}")


def _checked_name(run: RunFolder) -> str:
    """Return the dataset's name, once its files are known to be what the manifest says."""
    if not (run.dataset / "manifest.json").exists():
        raise QualityGate(f"{display_path(run.path)} holds no dataset: the run did not complete")
    manifest = read_manifest(run.dataset / "manifest.json")
    for name, entry in manifest.files.items():
        path = run.dataset / name
        if not path.exists() or file_entry(path)["sha256"] != entry["sha256"]:
            raise QualityGate(f"{display_path(path)} is not what its manifest says; make the run again")
    return manifest.name


@contextmanager
def _scratch_folder(run: RunFolder) -> Iterator[Path]:
    """Yield an empty folder that one publishing of this run has for itself; a second one gets RunLocked."""
    place = run.work / "publish"
    with run_lock(RunFolder(place)):
        scratch = place / "files"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                run.work.rmdir()


def _upload(plan: Plan, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    """Return what the process came to within its time; a result with ``reason`` is a failure."""
    if not environ.get("COMET_API_KEY") or not may_be_sent_key(_url(environ)):
        return {"reason": "no_key"}
    # Written before anything is sent: should we be killed, the next publishing goes on with this experiment.
    plan.remember()
    size = sum(path.stat().st_size for path in plan.run.path.rglob("*") if path.is_file())
    with subprocess.Popen(
        [sys.executable, "-m", "llmtwin_data.tracking"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=quiet_environ(environ), cwd=plan.scratch, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                # The pipe stays open: its end tells the process that we died.
                process.stdin.write(json.dumps(asdict(plan)) + "\n")
                process.stdin.flush()
            process.wait(patience_seconds + size / SLOWEST_BYTES_PER_SECOND)
        except subprocess.TimeoutExpired:
            return {"reason": "no_answer"}
        finally:
            process.kill()
    try:
        return dict(json.loads((Path(plan.scratch) / "result.json").read_bytes()))
    except FileNotFoundError:
        return {"reason": "failed", "problem": f"its process ended with {process.returncode}"}


def quiet_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the process: Comet's variables, what any process needs, and silence."""
    names = [name for name in environ if name.upper() in NEEDED or name.startswith("COMET_")]
    return {name: environ[name] for name in names} | QUIET


def _url(environ: Mapping[str, str]) -> str:
    return environ.get("COMET_URL_OVERRIDE") or COMET_URL


def _publication(plan: Plan, result: dict[str, Any], environ: Mapping[str, str]) -> Publication:
    """Write down what came out, in files for the next publishing and in one line for people."""
    later = f"llmtwin-data publish {display_path(plan.run.path)}"
    problem = url = ""
    if reason := result.get("reason", ""):
        answer = " ".join(redact(str(result.get("problem", "")), environ.get("COMET_API_KEY", "")).split())
        problem = {
            "no_key": withheld_key(_url(environ), "COMET_API_KEY", environ=environ)
            or "COMET_API_KEY is not set",
            "bad_key": "Comet refused the key in COMET_API_KEY, or its right to COMET_WORKSPACE",
            "no_network": f"{urlsplit(_url(environ)).hostname} cannot be reached",
            "no_answer": "Comet did not answer in time",
            "failed": f"Comet did not take it ({answer[:200]})",
        }[reason]
        line = f"Comet: not uploaded, {problem}; nothing is lost, upload later with: {later}"
    else:
        plan.remember(**result)
        version, url = f"{plan.name} {result['version']}", result["url"]
        newer = "" if result["is_latest"] else " (there is a newer version with other contents)"
        line = f"Comet: {version} holds this dataset already{newer}, no new version; {url}"
        if result["state"] == "published":
            line = f"Comet: published {version}, {url}"
        if missing := result["missing"]:
            problem = f"Comet does not hold {', '.join(missing)} of the run"
            line += f"; {problem}, upload again with: {later}"
    pending = plan.run.path / "upload_pending.json"
    if problem:
        command = f"llmtwin-data publish {project_path(plan.run.path)}"
        note = {"command": command, "why": problem, "dataset_name": plan.name}
        note |= {"manifest_sha256": plan.manifest_sha256}
        write_atomically(pending, json.dumps(note, indent=1) + "\n")
    else:
        pending.unlink(missing_ok=True)
    return Publication("pending" if reason else result["state"], line, url=url, reason=reason)


def main() -> None:
    """Carry out the plan of the first line, leave a result file, die with the process that gave the plan."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    # The client would take what the environment leaves open from ~/.comet.config, unseen by the giver.
    os.environ["HOME"] = plan.scratch
    # A header of its own, which requests would carry on to wherever a reply redirects it, holds the key.
    requests.sessions.DEFAULT_REDIRECT_LIMIT = 0  # type: ignore[attr-defined]
    threading.Thread(target=_die_with_giver, daemon=True).start()
    url = urlsplit(_url(os.environ))
    try:
        # comet_ml itself would try for half a minute.
        socket.create_connection((url.hostname, url.port or url.scheme), timeout=5.0).close()
    except (OSError, UnicodeError):
        result: dict[str, Any] = {"reason": "no_network"}
    else:
        try:
            result = publish_online(plan)
        except Exception as error:
            result = {"reason": _reason(error), "problem": f"{type(error).__name__}: {error}"}
    write_atomically(Path(plan.scratch) / "result.json", json.dumps(result))
    # Threads of comet_ml may still wait for a server that does not answer.
    os._exit(0)


def _die_with_giver() -> None:
    # The giver holds the other end of the pipe. Once it is gone, somebody may publish again.
    sys.stdin.read()
    os._exit(1)


def _reason(error: BaseException | None) -> str:
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in (401, 403) or type(error).__name__ == "InvalidAPIKey":
            return "bad_key"
        error = error.__cause__ or error.__context__
    return "failed"


def publish_online(plan: Plan) -> dict[str, Any]:
    """Log the run and its artifacts; where Comet holds this dataset, only the run, on the same experiment."""
    import comet_ml

    api: Any = comet_ml.API(cache=False)  # type: ignore[no-untyped-call]
    held = _versions(api, plan)
    key = next((version.source_experiment_key for version in held.values()), plan.experiment_key)
    quiet: dict[str, Any] = dict.fromkeys(OFF, False)
    config = comet_ml.ExperimentConfig(display_summary_level=0, **quiet)
    experiment = comet_ml.start(
        online=True, mode="get_or_create", experiment_key=key, experiment_config=config
    )
    if not experiment.alive:
        raise ConnectionError("Comet did not start the experiment")
    experiment.log_others({"dataset_name": plan.name, "manifest_sha256": plan.manifest_sha256})
    experiment.add_tags([plan.name])
    again = plan.name in held and not plan.interrupted
    names = _log_run(experiment, plan.run, Path(plan.scratch), again=again)
    _log_artifacts(experiment, plan, [name for name in plan.names if name not in held])
    versions = _versions(api, plan)
    if lacking := [name for name in plan.names if name not in versions]:
        raise ConnectionError(f"Comet holds no complete version of {' and '.join(lacking)}")
    version = versions[plan.name]
    # The client passes over files that it could not upload.
    assets = {asset["fileName"] for asset in api.get_experiment_by_key(key).get_asset_list("all")}
    return {
        "state": "unchanged" if len(held) == len(versions) else "published",
        "experiment_key": version.source_experiment_key,
        "version": str(version.version),
        "is_latest": "latest" in {alias.lower() for alias in version.aliases},
        "url": experiment.url,
        "missing": [name for name in names if name not in assets],
    }


def _versions(api: Any, plan: Plan) -> dict[str, Any]:
    """Find the complete versions that hold this dataset, by artifact."""
    from comet_ml.exceptions import ArtifactNotFinalException, ArtifactNotFound

    workspace = os.environ.get("COMET_WORKSPACE") or api.get_default_workspace()
    versions = {}
    for name in plan.names:
        with suppress(ArtifactNotFound, ArtifactNotFinalException):
            version = api.get_artifact(workspace, name, alias=plan.alias)
            if version and (version.metadata or {}).get("manifest_sha256") == plan.manifest_sha256:
                versions[name] = version
    return versions


def _log_artifacts(experiment: Any, plan: Plan, names: list[str]) -> None:
    """Log these artifacts and end the experiment; do not wait for the rest once one has failed."""
    import comet_ml

    # comet_ml raises what fails of an artifact only after trying everything else, but logs it at once.
    problems: SimpleQueue[str] = SimpleQueue()
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: problems.put(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("comet_ml.artifacts").addHandler(handler)
    run = plan.run
    counts, params = read_manifest(run.dataset / "manifest.json").counts, _params_of(run)
    metadata = {"manifest_sha256": plan.manifest_sha256, "counts": counts, "params": params}
    metadata |= {"changes": _changes_of(run)}
    files = {path.name: path for path in (Path(plan.scratch) / "course").iterdir()}
    others = [*sorted(run.dataset.rglob("*")), run.ledger_file]
    others_by_name = {path.relative_to(run.path).as_posix(): path for path in others if path.is_file()}
    for name in names:
        artifact = comet_ml.Artifact(name, "dataset", aliases=[plan.alias], metadata=metadata)
        for logical_path, path in (files if name == plan.name else others_by_name).items():
            artifact.add(str(path), logical_path=logical_path, metadata=file_entry(path))
        experiment.log_artifact(artifact)
    ending = ThreadPoolExecutor(1).submit(experiment.end)
    ending.add_done_callback(lambda _: problems.put(""))
    if problem := problems.get():
        # Time to tell Comet that the version is not whole.
        wait([ending], timeout=2)
        raise ConnectionError(problem)
    ending.result()


def _log_run(experiment: Any, run: RunFolder, scratch: Path, *, again: bool) -> list[str]:
    """Log a run, all but artifacts, over what is there already; return the names of the files logged.

    ``scratch`` takes files made here, and must stay until the experiment has ended. ``again``: the experiment
    holds this dataset already; histograms cannot be replaced, so they are logged once.
    """
    recorded, params = run.read(), _params_of(run)
    lists = {key: it for key, it in params.items() if not isinstance(it, str | int | float)}
    experiment.log_parameters(params | {key: json.dumps(it, ensure_ascii=False) for key, it in lists.items()})
    for number, sentence in enumerate(recorded.get("verdict") or (), start=1):
        experiment.log_other(f"verdict {number}", sentence)
    metrics = {f"totals/{key}": value for key, value in (recorded.get("totals") or {}).items()}
    counts = read_manifest(run.dataset / "manifest.json").counts
    metrics |= {f"dataset/{side}": count for side, count in counts.items()}
    if changes := _changes_of(run):
        metrics |= {f"changes/{kind}": count for kind, count in changes.items()}
        words = ", ".join(f"{kind} {changes[kind]}" for kind in CHANGES)
        experiment.log_other("changes", f"{words}; against the version manifest-{changes['against'][:12]}")
    for chooser in recorded.get("judge") or ():
        name = chooser["chooser"].split(",")[0]
        metrics |= {f"judging/{name}/{key}": value for key, value in chooser.items()}
    for name, values in _measured_values(run.dataset).items():
        metrics[f"measures/{name}/mean"] = round(float(values.mean()), 4)
        metrics[f"measures/{name}/median"] = round(float(values.median()), 4)
        if not again:
            experiment.log_histogram_3d(values.tolist(), name=name, step=0)
    experiment.log_metrics({name: it for name, it in metrics.items() if type(it) in (int, float)})
    shown, total = write_ledger_table(run, scratch / LEDGER)
    experiment.log_asset(str(scratch / LEDGER), file_name=LEDGER, overwrite=True)
    experiment.log_other(LEDGER, f"{shown} of {total} rows; all are in the artifact of files")
    names = [LEDGER]
    # As others may see them: no path says how this machine is laid out.
    for path in [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.exists() else [])]:
        copy = scratch / "shown" / path.name
        write_atomically(copy, _placeless(path.read_text("utf-8"), run))
        names.append(path.name)
        if path == run.report:
            experiment.log_asset(str(copy), file_name=path.name, overwrite=True)
            experiment.log_html(copy.read_text("utf-8"), clear=True)
        else:
            experiment.log_notebook(str(copy), overwrite=True)
    for name, picture in figures_of(run.notebooks):
        (scratch / name).write_bytes(picture)
        experiment.log_image(str(scratch / name), name=name, overwrite=True)
        names.append(name)
    return names


def _changes_of(run: RunFolder) -> dict[str, Any]:
    """Return how many rows differ from the version before, by kind, and its manifest's hash."""
    changes = run.read().get("changes") or {}
    return {key: changes[key] for key in ("against", *CHANGES) if key in changes}


def _params_of(run: RunFolder) -> dict[str, Any]:
    """Return the params of a run, without what stands on this machine where."""
    return dict(json.loads(_placeless(json.dumps(run.read().get("params") or {}, ensure_ascii=False), run)))


def _placeless(text: str, run: RunFolder) -> str:
    """Replace the absolute paths that a run knows by their last part, the longest first."""
    given = [it for it in (run.read().get("params") or {}).values() if isinstance(it, str)]
    named = [Path(it) for it in given if it.startswith("/")]
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    places = [*named, *(path.parent for path in named), run.path, run.path.parent, PROJECT_ROOT, home]
    places += [Path(sys.prefix), Path(tempfile.gettempdir())]
    for place in sorted({str(path) for path in places if path.name}, key=len, reverse=True):
        text = re.sub(rf"{re.escape(place)}(?![\w-])", Path(place).name, text)
    return text


def _measured_values(dataset: Path) -> dict[str, pd.Series]:
    """Return all values of each measure over train and test; true is 1, what was not measured is left out."""
    names = [*(name for name, kind in MEASURES.items() if kind != "str"), "judge_score"]
    rows = [[row.get(name) for name in names] for side in stored_sides(dataset).values() for row in side]
    table = pd.DataFrame(rows, columns=names).astype(float)
    return {name: table[name].dropna() for name in names if table[name].notna().any()}


def figures_of(notebooks: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each PNG that the executed notebooks hold, named by notebook and place."""
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8")).get("cells", [])
        data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pictures = [each["image/png"] for each in data if "image/png" in each]
        for number, picture in enumerate(pictures, start=1):
            yield f"{path.stem}-{number:02}.png", base64.b64decode("".join(picture))


def write_ledger_table(run: RunFolder, path: Path) -> tuple[int, int]:
    """Write the ledger's first rows as CSV; return rows written and rows there are.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    rows = read_json_lines(run.ledger_file)
    table = pd.DataFrame(rows[:TABLE_ROWS], dtype=object)
    table = table.map(lambda it: f"'{it}" if isinstance(it, str) and it.startswith(FORMULA_STARTS) else it)
    table.to_csv(path, index=False, lineterminator="\r\n")
    return len(table), len(rows)


if __name__ == "__main__":
    main()
