"""A finished run attached to Comet, from a process of its own; never at the cost of the run."""

from __future__ import annotations

import base64
import csv
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean, median
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

import requests

from llmtwin_data.datasets import (
    Manifest,
    file_entry,
    read_manifest,
    stored_sides,
    write_course_pair,
)
from llmtwin_data.errors import LlmTwinError, QualityGate
from llmtwin_data.folders import (
    RunFolder,
    display_path,
    project_path,
    read_json_lines,
    run_lock,
    write_atomically,
)
from llmtwin_data.measures import MEASURES
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
    interrupted: bool = False
    workspace: str = ""

    @property
    def run(self) -> RunFolder:
        """The run to publish."""
        return RunFolder(Path(self.run_dir))

    @property
    def alias(self) -> str:
        """The alias under which a version that holds this very dataset is found again."""
        return f"manifest-{self.manifest_sha256[:12]}"

    @property
    def result_file(self) -> Path:
        """Where the process leaves what came out."""
        return Path(self.scratch) / "result.json"


def carry_out(plan: Plan, *, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    """Start the process, wait for it and give its result; a result with ``reason`` is a failure.

    The wait is bounded: by the patience, plus the time the run's bytes take on a slow line.
    """
    command = [sys.executable, "-m", "llmtwin_data.tracking"]
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


def _tell(process: subprocess.Popen[str], plan: Plan) -> None:
    # The pipe stays open: its end tells the process that we died.
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asdict(plan)) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass


def _bytes_of(run: RunFolder) -> int:
    return sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())


COMET_URL = "https://www.comet.com/clientlib/"
PATIENCE_SECONDS = 60.0
_PENDING = "upload_pending.json"
_MEMORY = "comet.json"


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people.

    ``reason`` says why it is pending: ``no_key``, ``bad_key``, ``no_network``, ``no_answer`` or ``failed``.
    """

    state: Literal["published", "unchanged", "off", "pending", "refused"]
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
        uploads it later. ``off`` does nothing.
    patience_seconds
        How long Comet may take to answer, on top of what the run's bytes need on a slow line.
    """
    if mode == "off":
        return Publication("off", "Comet: off")
    run = RunFolder(run_dir.resolve())
    try:
        manifest = _whole_manifest(run)
        with _desk(run) as scratch:
            plan = _plan(run, manifest, scratch=scratch, environ=environ)
            reason = _hindrance(environ)
            result = {"reason": reason} if reason else _sent(plan, environ, patience_seconds)
            return _note(plan, result, environ=environ)
    except (LlmTwinError, OSError) as error:
        return Publication("refused", f"Comet: not uploaded, {error}")


@contextmanager
def _desk(run: RunFolder) -> Iterator[Path]:
    """Give an empty folder that one publishing of this run has for itself; a second one gets RunLocked."""
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


def _plan(run: RunFolder, manifest: Manifest, *, scratch: Path, environ: Mapping[str, str]) -> Plan:
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
        interrupted="experiment_key" in known and "url" not in known,
        workspace=environ.get("COMET_WORKSPACE", ""),
    )


def _sent(plan: Plan, environ: Mapping[str, str], patience_seconds: float) -> dict[str, Any]:
    # Written before anything is sent: should we be killed, the next publishing goes on with this experiment.
    _remember(plan, {})
    return carry_out(plan, environ=environ, patience_seconds=patience_seconds)


def _whole_manifest(run: RunFolder) -> Manifest:
    if not (run.dataset / "manifest.json").exists():
        raise QualityGate(f"{display_path(run.path)} holds no dataset: the run did not complete")
    manifest = read_manifest(run.dataset / "manifest.json")
    for name, entry in manifest.files.items():
        path = run.dataset / name
        if not path.exists() or file_entry(path)["sha256"] != entry["sha256"]:
            raise QualityGate(f"{display_path(path)} is not what its manifest says; make the run again")
    return manifest


def _hindrance(environ: Mapping[str, str]) -> str:
    if not environ.get("COMET_API_KEY") or not may_be_sent_key(_url(environ)):
        return "no_key"
    return ""


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
        "command": f"llmtwin-data publish {project_path(plan.run.path)}",
        "why": problem,
        "dataset_name": plan.name,
        "manifest_sha256": plan.manifest_sha256,
    }
    write_atomically(plan.run.path / _PENDING, json.dumps(note, indent=1) + "\n")
    return f"llmtwin-data publish {display_path(plan.run.path)}"


def _memory(run: RunFolder, manifest_sha256: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run.path / _MEMORY).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if found.get("manifest_sha256") == manifest_sha256 else {}


def _remember(plan: Plan, facts: Mapping[str, Any]) -> None:
    kept = {key: facts[key] for key in ("url", "version") if key in facts}
    key = facts.get("experiment_key") or plan.experiment_key
    note = {"dataset_name": plan.name, "manifest_sha256": plan.manifest_sha256, "experiment_key": key} | kept
    write_atomically(plan.run.path / _MEMORY, json.dumps(note, indent=1) + "\n")


# A table is read in the browser; the whole ledger is among the files.
TABLE_ROWS = 10_000
LEDGER = "ledger.csv"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")
_MEASURES = (*MEASURES, "judge_score")


def log_run(experiment: Any, run: RunFolder, *, scratch: Path, again: bool) -> None:
    """Log a run on a started Comet experiment, all but artifacts; what is there already is replaced.

    Parameters
    ----------
    scratch
        Folder for the files made here; must stay until the experiment has ended.
    again
        The experiment holds this dataset already. Histograms cannot be replaced, so they are logged once.
    """
    recorded, values = run.read(), measured_values(run.dataset)
    experiment.log_parameters(parameters_of(recorded))
    experiment.log_metrics(totals_of(recorded) | judging_metrics(recorded) | measure_metrics(values))
    for name, found in values.items() if not again else ():
        experiment.log_histogram_3d(list(found), name=name, step=0)
    shown, total = write_ledger_table(run, scratch / LEDGER)
    experiment.log_asset(str(scratch / LEDGER), file_name=LEDGER, overwrite=True)
    experiment.log_other(LEDGER, f"{shown} of {total} rows; all are in the artifact of files")
    _log_pages(experiment, run, scratch)


def exhibit_names(run: RunFolder) -> list[str]:
    """Name the files that :func:`log_run` logs, distributions aside."""
    pages = [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.exists() else [])]
    return [LEDGER, *(path.name for path in pages), *(name for name, _ in figures_of(run.notebooks))]


def parameters_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Give the run's resolved params, lists and objects as JSON text."""
    params = run.get("params") or {}
    return {key: _plain(value) for key, value in params.items()}


def totals_of(run: Mapping[str, Any]) -> dict[str, float]:
    """Give the numbers of ``totals``, named after it."""
    totals = run.get("totals") or {}
    return {f"totals/{key}": value for key, value in totals.items() if _is_number(value)}


def judging_metrics(run: Mapping[str, Any]) -> dict[str, float]:
    """Give what judge, length and chance keep, and how each agrees with people where that is known."""
    choosers = {each["chooser"].split(",")[0]: each for each in run.get("judge") or ()}
    return {
        f"judging/{name}/{key}": value
        for name, each in choosers.items()
        for key, value in each.items()
        if _is_number(value)
    }


def measured_values(dataset: Path) -> dict[str, array[float]]:
    """Give all values of each measure over train and test; true is 1, what was not measured is left out."""
    values = {name: array("d") for name in _MEASURES}
    for rows in stored_sides(dataset).values():
        for row in rows:
            for name in _MEASURES:
                if isinstance(row.get(name), int | float):
                    values[name].append(row[name])
    return {name: found for name, found in values.items() if found}


def measure_metrics(values: Mapping[str, array[float]]) -> dict[str, float]:
    """Give mean and median of each measure, rounded as in the dataset."""
    means = {f"measures/{name}/mean": round(fmean(found), 4) for name, found in values.items()}
    return means | {f"measures/{name}/median": round(median(found), 4) for name, found in values.items()}


def figures_of(notebooks: Path) -> Iterator[tuple[str, bytes]]:
    """Give each PNG that the executed notebooks hold, named by notebook and place."""
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8")).get("cells", [])
        pictures = [
            output["data"]["image/png"] for output in _outputs(cells) if "image/png" in output.get("data", {})
        ]
        for number, picture in enumerate(pictures, start=1):
            yield f"{path.stem}-{number:02}.png", base64.b64decode("".join(picture))


def write_ledger_table(run: RunFolder, path: Path) -> tuple[int, int]:
    """Write the ledger's first rows as CSV; give rows written and rows there are.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    shown = total = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for total, row in enumerate(read_json_lines(run.ledger_file), start=1):
            if total == 1:
                writer.writerow(row)
            if total <= TABLE_ROWS:
                writer.writerow(_harmless(value) for value in row.values())
                shown = total
    return shown, total


def dataset_files(run: RunFolder) -> dict[str, Path]:
    """Give every file of the dataset, and the ledger, by its path in the run folder."""
    found = [path for path in sorted(run.dataset.rglob("*")) if path.is_file()]
    return {
        path.relative_to(run.path).as_posix(): path for path in [*found, run.ledger_file] if path.exists()
    }


def _log_pages(experiment: Any, run: RunFolder, scratch: Path) -> None:
    for path in sorted(run.notebooks.glob("*.ipynb")):
        experiment.log_notebook(str(path), overwrite=True)
    for name, picture in figures_of(run.notebooks):
        (scratch / name).write_bytes(picture)
        experiment.log_image(str(scratch / name), name=name, overwrite=True)
    if run.report.exists():
        experiment.log_asset(str(run.report), file_name=run.report.name, overwrite=True)
        experiment.log_html(run.report.read_text("utf-8"), clear=True)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _outputs(cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        yield from cell.get("outputs", [])


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


_OFF = (
    *("log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "auto_output_logging"),
    *("log_env_details", "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk"),
    *("auto_param_logging", "auto_metric_logging", "auto_log_co2"),
)
_REFUSED = (401, 403)


def publish_online(plan: Plan) -> dict[str, Any]:
    """Log the run and its artifacts; where Comet holds this dataset, only the run, on the same experiment."""
    import comet_ml

    api = comet_ml.API(cache=False)  # type: ignore[no-untyped-call]
    held = _versions(api, plan)
    key = next((version.source_experiment_key for version in held.values()), plan.experiment_key)
    experiment = _start(key)
    if not experiment.alive:
        raise ConnectionError("Comet did not start the experiment")
    _describe(experiment, plan)
    again = plan.name in held and not plan.interrupted
    log_run(experiment, plan.run, scratch=Path(plan.scratch), again=again)
    problems = _artifact_problems()
    for name in _names(plan):
        if name not in held:
            experiment.log_artifact(_artifact(name, plan))
    _end(experiment, problems)
    outcome = _outcome(plan, before=held, after=_versions(api, plan))
    return outcome | {"url": experiment.url, "missing": _missing(api, key, plan)}


def main() -> None:
    """Carry out the plan of the first line, leave a result file, die with the process that gave the plan."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    # The client would take what the environment leaves open from ~/.comet.config, unseen by the giver.
    os.environ["HOME"] = plan.scratch
    # A header of its own, which requests would carry on to wherever a reply redirects it, holds the key.
    requests.sessions.DEFAULT_REDIRECT_LIMIT = 0  # type: ignore[attr-defined]
    threading.Thread(target=_die_with_giver, daemon=True).start()
    try:
        url = urlsplit(_url(os.environ))
        # comet_ml itself would try for half a minute.
        socket.create_connection((url.hostname, url.port or url.scheme), timeout=5.0).close()
    except (OSError, UnicodeError):
        _leave(plan, {"reason": "no_network"})
    try:
        result = publish_online(plan)
    except Exception as error:
        result = {"reason": _reason(error), "problem": f"{type(error).__name__}: {error}"}
    _leave(plan, result)


def _leave(plan: Plan, result: Mapping[str, Any]) -> NoReturn:
    write_atomically(plan.result_file, json.dumps(result))
    # Threads of comet_ml may still wait for a server that does not answer.
    os._exit(0)


def _start(key: str) -> Any:
    import comet_ml

    quiet: dict[str, Any] = dict.fromkeys(_OFF, False)
    config = comet_ml.ExperimentConfig(display_summary_level=0, **quiet)
    return comet_ml.start(online=True, mode="get_or_create", experiment_key=key, experiment_config=config)


def _artifact_problems() -> SimpleQueue[str]:
    """Collect what comet_ml says of artifacts that fail; it raises only after trying everything else."""
    problems: SimpleQueue[str] = SimpleQueue()
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: problems.put(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("comet_ml.artifacts").addHandler(handler)
    return problems


def _end(experiment: Any, problems: SimpleQueue[str]) -> None:
    """End the experiment, heeding what that raises; do not wait for the rest once an artifact has failed."""
    ending = ThreadPoolExecutor(1).submit(experiment.end)
    ending.add_done_callback(lambda _: problems.put(""))
    if problem := problems.get():
        # Time to tell Comet that the version is not whole.
        wait([ending], timeout=2)
        raise ConnectionError(problem)
    ending.result()


def _describe(experiment: Any, plan: Plan) -> None:
    experiment.log_others({"dataset_name": plan.name, "manifest_sha256": plan.manifest_sha256})
    experiment.add_tags([plan.name])


def _versions(api: Any, plan: Plan) -> dict[str, Any]:
    """Find the complete versions that hold this dataset, by artifact."""
    workspace = plan.workspace or api.get_default_workspace()
    found = {name: _version(api, workspace, name, plan.alias) for name in _names(plan)}
    return {
        name: version
        for name, version in found.items()
        if version and (version.metadata or {}).get("manifest_sha256") == plan.manifest_sha256
    }


def _version(api: Any, workspace: str, name: str, alias: str) -> Any:
    from comet_ml.exceptions import ArtifactNotFinalException, ArtifactNotFound

    try:
        return api.get_artifact(workspace, name, alias=alias)
    except (ArtifactNotFound, ArtifactNotFinalException):
        return None


def _outcome(plan: Plan, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    if missing := [name for name in _names(plan) if name not in after]:
        raise ConnectionError(f"Comet holds no complete version of {' and '.join(missing)}")
    version = after[plan.name]
    aliases = {alias.lower() for alias in version.aliases}
    return {
        "state": "unchanged" if len(before) == len(after) else "published",
        "experiment_key": version.source_experiment_key,
        "version": str(version.version),
        "is_latest": "latest" in aliases,
    }


def _missing(api: Any, key: str, plan: Plan) -> list[str]:
    """Name the files of the run that Comet does not hold; the client passes over what it could not upload."""
    held = {asset["fileName"] for asset in api.get_experiment_by_key(key).get_asset_list("all")}
    return [name for name in exhibit_names(plan.run) if name not in held]


def _names(plan: Plan) -> tuple[str, str]:
    return plan.name, f"{plan.name}-files"


def _artifact(name: str, plan: Plan) -> Any:
    """Make the artifact of the two files that the course's client reads, or the one of all others."""
    import comet_ml

    course = {Path(path).name: Path(path) for path in plan.course_files}
    artifact = comet_ml.Artifact(name, "dataset", aliases=[plan.alias], metadata=plan.metadata)
    for logical_path, path in (course if name == plan.name else dataset_files(plan.run)).items():
        artifact.add(str(path), logical_path=logical_path, metadata=file_entry(path))
    return artifact


def _reason(error: BaseException | None) -> str:
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status in _REFUSED or type(error).__name__ == "InvalidAPIKey":
            return "bad_key"
        error = error.__cause__ or error.__context__
    return "failed"


def _die_with_giver() -> None:
    # The giver holds the other end of the pipe. Once it is gone, somebody may publish again.
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
