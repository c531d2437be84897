"""The process that talks to Comet: what a run shows, logged to an experiment."""

from __future__ import annotations

import base64
import csv
import json
import logging
import os
import sys
import threading
from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import fields
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean, median
from typing import Any

import requests

from llmtwin_data.datasets import StoredRows, file_entry, stored_sides
from llmtwin_data.folders import RunFolder, write_atomically
from llmtwin_data.measures import Measures
from llmtwin_data.tracking import Plan, read_plan

# A table is read in the browser; the whole ledger is among the files.
TABLE_ROWS = 10_000
LEDGER = "ledger.csv"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")
_MEASURES = (*(field.name for field in fields(Measures)), "judge_score")


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
        for total, row in enumerate(StoredRows(run.ledger_file), start=1):
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
    carried = _upload_archives(plan)
    experiment = _start(key, online=True)
    if not experiment.alive:
        raise ConnectionError("Comet did not start the experiment")
    _describe(experiment, plan)
    if not carried:
        again = plan.name in held and not plan.interrupted
        log_run(experiment, plan.run, scratch=Path(plan.scratch), again=again)
    problems = _artifact_problems()
    for name in _names(plan):
        if name not in held:
            experiment.log_artifact(_artifact(name, plan))
    _end(experiment, problems)
    outcome = _outcome(plan, before=held, after=_versions(api, plan))
    return outcome | {"url": experiment.url, "missing": _missing(api, key, plan)}


def publish_offline(plan: Plan) -> dict[str, Any]:
    """Write an archive of everything that Comet's offline mode can carry: all but the artifacts."""
    folder = plan.archive_folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.zip"):
        old.unlink()
    experiment = _start(plan.experiment_key, online=False, folder=str(folder))
    log_run(experiment, plan.run, scratch=Path(plan.scratch), again=False)
    _describe(experiment, plan)
    experiment.end()
    archives = [path.name for path in sorted(folder.glob(f"{plan.experiment_key}*.zip"))]
    return {"state": "offline", "experiment_key": plan.experiment_key, "archives": archives}


def main() -> None:
    """Carry out the plan of the first line, leave a result file, die with the process that gave the plan."""
    plan = read_plan(sys.stdin.readline())
    # The client would take what the environment leaves open from ~/.comet.config, unseen by the giver.
    os.environ["HOME"] = plan.scratch
    # A header of its own, which requests would carry on to wherever a reply redirects it, holds the key.
    requests.sessions.DEFAULT_REDIRECT_LIMIT = 0  # type: ignore[attr-defined]
    threading.Thread(target=_die_with_giver, daemon=True).start()
    try:
        result = publish_online(plan) if plan.online else publish_offline(plan)
    except Exception as error:
        result = {"reason": _reason(error), "problem": f"{type(error).__name__}: {error}"}
    write_atomically(plan.result_file, json.dumps(result))
    # Threads of comet_ml may still wait for a server that does not answer.
    os._exit(0)


def _start(key: str, *, online: bool, folder: str | None = None) -> Any:
    import comet_ml

    quiet: dict[str, Any] = dict.fromkeys(_OFF, False)
    config = comet_ml.ExperimentConfig(display_summary_level=0, offline_directory=folder, **quiet)
    mode = "get_or_create" if online else "create"
    return comet_ml.start(online=online, mode=mode, experiment_key=key, experiment_config=config)


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


def _upload_archives(plan: Plan) -> bool:
    """Upload what an offline publishing wrote; False if there is none, or Comet has it or refuses it."""
    from comet_ml.exceptions import OfflineExperimentUploadFailed
    from comet_ml.offline import main_upload

    paths = [plan.archive_folder / name for name in plan.archives]
    there = [str(path) for path in paths if path.exists()]
    try:
        main_upload(there, force_upload=False)
    except OfflineExperimentUploadFailed:
        return False
    return bool(there)


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
