"""The process that talks to Comet: a module to run, with a plan on standard input.

It is a process of its own because comet_ml hooks into the interpreter that imports it, and may hang.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import requests

from llmtwin_data.datasets.manifests import file_entry
from llmtwin_data.folders import write_atomically
from llmtwin_data.tracking.exhibits import dataset_files, exhibit_names, log_run
from llmtwin_data.tracking.plans import Plan, read_plan

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
