"""The driver: one params file executed from lock to report, whatever happens on the way."""

from __future__ import annotations

import hashlib
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmtwin_data.endpoints import address_of, told_endpoint
from llmtwin_data.errors import ParamsError, exit_code_of
from llmtwin_data.folders import RunFolder, RunLock, shown, told
from llmtwin_data.generator.accounts import spent_usd
from llmtwin_data.generator.forecasts import check_prices
from llmtwin_data.params import Params
from llmtwin_data.processes.kernels import Executed, Stop, execute_notebook
from llmtwin_data.processes.sessions import (
    RETRY_FAILED,
    driver_fields,
    new_run_dir,
    now,
    process_costs,
)
from llmtwin_data.runs.preflight import (
    check_before,
    notebooks_of,
    proxy_note,
    shutdown_words,
    unreachable_endpoint,
)
from llmtwin_data.runs.run_logs import RunLog
from llmtwin_data.runs.run_places import (
    Place,
    check_out,
    mark_dead,
    place_of,
    point_latest,
    recover_run,
    replace_target,
)
from llmtwin_data.runs.run_summaries import summary_lines
from llmtwin_data.runs.sweeps import Study
from llmtwin_data.summaries.run_tables import spent

_STATES = {5: "incomplete", 6: "gated", 130: "incomplete"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, and where; ``message`` says why it is not complete."""

    exit_code: int
    run_dir: Path
    message: str = ""
    traceback: str = field(default="", repr=False)


def run_params(
    study: Study,
    *,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Execute the notebooks on a study's params, write the report, publish.

    Parameters
    ----------
    environ
        Addresses and keys; handed to the kernel, kept out of everything that is written.
    say, progress
        Take lines for a person; a line of progress replaces the one before.

    Raises
    ------
    LlmTwinError
        Nothing could be started; what goes wrong later is in the outcome.
    """
    settings, notebooks = study.settings, notebooks_of(study.only)
    check_before(settings, notebooks, environ=environ)
    check_prices(settings, environ=environ)
    out = check_out(study.out) if study.out else new_run_dir(study.stem, varied=study.varied)
    began, used = time.monotonic(), _used()
    recover_run(out)
    with Stop() as stop, RunLock(RunFolder(out)):
        place = place_of(settings, out)
        if place.replaces and study.only in (1, 2):
            raise ParamsError(f"--only {study.only} --out {out}: found a complete run; choose another folder")
        log = RunLog(place.run, environ=environ, say=say, progress=progress)
        _open(place, settings, environ=environ, log=log)
        for dead in mark_dead(out.parent) if not study.out else ():
            log.say(f"{told(dead)} had been cut off: marked as incomplete, its answers are stored")
        executed = _execute(notebooks, study, place, environ=environ, stop=stop, log=log)
        outcome = _close(executed, place, study, used=used, log=log)
    if outcome.exit_code == 0:
        log = RunLog(RunFolder(out), environ=environ, say=say, progress=progress)
        for line in summary_lines(RunFolder(out), seconds=time.monotonic() - began):
            log.say(line)
        if not study.only:
            log.say(_publish(out, settings, environ))
    return outcome


def _open(place: Place, settings: Params, *, environ: Mapping[str, str], log: RunLog) -> None:
    place.run.work.mkdir(parents=True, exist_ok=True)
    before = place.run.read()
    # What an incomplete run has spent counts towards the limit of the run that goes on from it.
    spent_before = 0.0 if before.get("state") == "complete" else spent_usd(before)
    fields = {"state": "running", "given": settings.given(), "started": now(), "spent_before": spent_before}
    place.run.update(**fields, asked={}, progress={}, forecast={}, told=[], manifest_sha256=None)
    place.run.update(**driver_fields())
    log.say(f"Run folder: {told(place.target)}" + (" (replaced at the end)" if place.replaces else ""))
    log.say(told_endpoint(address_of(settings.endpoint, environ), settings.model))
    for note in (proxy_note(environ), shutdown_words(settings, environ=environ)):
        if note:
            log.say(note)


def _execute(
    notebooks: list[Path],
    study: Study,
    place: Place,
    *,
    environ: Mapping[str, str],
    stop: Stop,
    log: RunLog,
) -> Executed:
    """Execute the notebooks one after another, up to the first that does not reach its end."""
    parameters = study.settings.given() | {"run_dir": shown(place.work)}
    kernel_environ = dict(environ) | ({RETRY_FAILED: "1"} if study.retry_failed else {})
    if study.only != 1 and (fault := unreachable_endpoint(study.settings, environ=environ)):
        return Executed("EndpointDown", fault)
    for number, notebook in enumerate(notebooks, start=1):
        log.say(f"Notebook {number} of {len(notebooks)}: {notebook.stem}")
        executed = execute_notebook(
            notebook, run=place.run, parameters=parameters, environ=kernel_environ, stop=stop, tick=log.tick
        )
        log.catch_up()
        log.keep_kernel()
        if executed.error:
            log.keep(f"{notebook.name}: {executed.error}: {executed.message}\n{executed.traceback}")
            return executed
    return Executed()


def _close(
    executed: Executed, place: Place, study: Study, *, used: Mapping[str, float], log: RunLog
) -> Outcome:
    """Write state, totals and report, and put a complete run where it belongs."""
    code = exit_code_of(executed.error) if executed.error else 0
    run = place.run
    if not executed.error and not study.only and not run.read()["manifest_sha256"]:
        code, executed = 5, Executed("RunIncomplete", "the notebooks ended, but no dataset was published")
    partial = bool(study.only) and not run.read()["manifest_sha256"]
    state, costs = "incomplete" if partial else "complete", _costs(run, used)
    run.update(state=_STATES.get(code, "failed") if code else state, ended=now(), driver=None, **costs)
    _report(run, code, log=log)
    if code:
        # Of our own errors the words say enough; a foreign one often says nothing without its class.
        words = executed.message if code > 1 else f"{executed.error}: {executed.message}"
        return Outcome(code, place.work, words, executed.traceback)
    shutil.rmtree(run.work, ignore_errors=True)
    if partial:
        return Outcome(0, place.work)
    replace_target(place)
    if study.out is None:
        point_latest(place.target)
    return Outcome(0, place.target)


def _report(run: RunFolder, code: int, *, log: RunLog) -> None:
    """Write the report also of a run that failed, but keep no one waiting who stopped it."""
    if code == exit_code_of("Interrupted"):
        return
    from llmtwin_data.reports import write_report

    try:
        write_report(run.path)
    except Exception as error:
        if not code:
            raise
        log.keep(f"no report: {type(error).__name__}: {error}")
    run.update(files=file_hashes(run))


def file_hashes(run: RunFolder) -> dict[str, str]:
    """Give the hashes of report and executed notebooks, by which a later change shows."""
    files = [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.is_file() else [])]
    return {str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _costs(run: RunFolder, used: Mapping[str, float]) -> dict[str, object]:
    """Give the totals with what all notebooks asked, and with what kernels and driver used since ``used``."""
    fields = run.read()
    if "totals" not in fields:
        return {}
    now_used = _used()
    # Of memory the system keeps the peak alone, so in a sweep it is that of all runs so far.
    cpu_seconds = round(now_used["cpu_seconds"] - used["cpu_seconds"], 2)
    asked = spent(fields.get("asked", {}).values())
    return {"totals": fields["totals"] | asked | now_used | {"cpu_seconds": cpu_seconds}}


def _used() -> dict[str, float]:
    ours, kernels = process_costs(resource.RUSAGE_SELF), process_costs(resource.RUSAGE_CHILDREN)
    return {key: round(ours[key] + kernels[key], 2) for key in ours}


def _publish(run_dir: Path, settings: Params, environ: Mapping[str, str]) -> str:
    from llmtwin_data.tracking import publish_run

    return publish_run(run_dir, environ=environ, mode=settings.comet).line
