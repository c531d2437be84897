"""One study executed from lock to report, whatever happens; sweeps and the dry run."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import re
import resource
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pandas as pd

from llmtwin_data import endpoints, folders, pipeline, reports, tuning, twin
from llmtwin_data.answers import AnswerStore
from llmtwin_data.datasets import file_entry, seal_run
from llmtwin_data.errors import (
    RUN_STATES,
    BudgetReached,
    EndpointDown,
    LlmTwinError,
    ParamsError,
    RunLocked,
    exit_code_of,
)
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, disk_errors, display_path, locked, now, run_lock
from llmtwin_data.lineage import previous_sides
from llmtwin_data.params import Params, make_params, read_mapping, redact, secret_values
from llmtwin_data.prices import REFINED, add_up, cost_range, forecast_words, format_usd, spent, spent_words
from llmtwin_data.prompts import load_template
from llmtwin_data.sources import open_source, source_address
from llmtwin_data.tables import by_step
from llmtwin_data.texts import counted
from llmtwin_data.tracking import publish_run
from llmtwin_data.transport import unreachable

NOTEBOOKS = PROJECT_ROOT / "notebooks"
# Runs of one sweep; each is a whole run, so more is rather a mistake.
MOST_RUNS = 64
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# This process, and the kernels of it that have ended.
EVERYONE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
# Files that driver and kernel have open, with 64 connections; a kernel does not start with 48.
FEWEST_FILES = 128
# Seconds that a new kernel waits for the one before it, which ends within one when its driver is gone.
GONE_SECONDS = 10.0
# Seconds that an interrupted kernel gets: the engine's drain and some to store and say goodbye.
DRAIN_SECONDS = 30.0
# Seconds between two looks at what the kernel writes into run.json.
POLL_SECONDS = 0.25
# Characters of one output that are kept; a progress bar gone wild must not fill the disk.
MAX_OUTPUT = 200_000
# Characters of a kernel's own words that are kept; they come from libraries and can be many.
MAX_KERNEL_LOG = 20_000
# A step's name of more than 48 characters is cut in its middle, so that a forecast fits a terminal of 100.
LONG_STEP = re.compile(r"(.{24}).+(.{23})")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Study:
    """One run to be made: its params and what it varies, and how the command line wants it done."""

    stem: str
    settings: Params
    varied: str = ""
    notebooks: tuple[int, ...] = (1, 2, 3)  # 4 and 5 are for a person: to review, and to meet the twin
    out: Path | None = None  # a new folder under runs/<stem> where none is given
    retry_failed: bool = False

    @property
    def whole(self) -> bool:
        """Return whether all notebooks are executed that a driver executes."""
        return {1, 2, 3} <= set(self.notebooks)

    def kernel_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment that notebooks see."""
        return {**environ, **({pipeline.RETRY_FAILED: "1"} if self.retry_failed else {})}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run or a notebook ended; ``error`` is the class name of what ended it, empty when nothing did."""

    error: str = ""
    message: str = ""
    traceback: str = field(default="", repr=False)
    run_dir: Path = PROJECT_ROOT

    @property
    def exit_code(self) -> int:
        """What a command that ends so returns."""
        return exit_code_of(self.error) if self.error else 0


def studies_of(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> list[Study]:
    """Return the one study of a params file, or those of a sweep file, every combination one.

    A sweep file holds ``params``, the path of a params file beside it or from the project's root, and
    ``vary``, lists of values by key. ParamsError: as for params, before the first run.
    """
    values, given = read_mapping(path), list(overrides)
    if "vary" not in values:
        return [Study(path.stem, make_params(values, place=str(path), overrides=given))]
    if set(values) != {"params", "vary"} or not isinstance(values["params"], str):
        keys = sorted(values)
        raise ParamsError(f"{path}: a sweep file has the keys params (a path) and vary, found {keys}")
    vary = values["vary"] if isinstance(values["vary"], dict) else {}
    if not vary or not all(isinstance(items, list) and items for items in vary.values()):
        raise ParamsError(f"{path}: vary must hold lists of values by key, such as temperature: [0.0, 0.7]")
    if (count := math.prod(map(len, vary.values()))) > MOST_RUNS:
        raise ParamsError(f"{path}: expected at most {MOST_RUNS} combinations, found {count}")
    beside = path.parent / values["params"]
    base = read_mapping(beside if beside.exists() else PROJECT_ROOT / values["params"])
    studies = []
    for combination in itertools.product(*vary.values()):
        choice = dict(zip(vary, combination, strict=True))
        words = "_".join(f"{key}-{value}" for key, value in choice.items())
        # Characters that any file system takes.
        varied = re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:80].strip("-")
        studies.append(Study(path.stem, make_params(base | choice, place=str(path), overrides=given), varied))
    return studies


def check_before(settings: Params, *, environ: Mapping[str, str]) -> None:
    """Raise for what would only show after the kernel has started, or after money is spent.

    Raises ParamsError: a parameter, template, address, model or manifest is not what it must be; KeyRejected:
    the endpoint needs a key that is not set; SourceError: a collection is not there.
    """
    for name in {settings.prompt, *settings.prompts}:
        load_template(name, folder=folders.PROMPTS, kind="instructions")
    for model in {settings.model, settings.judge_model, *settings.models}:
        endpoints.checked_address(settings.endpoint, model=model, environ=environ)
    place = endpoints.address_of(settings.endpoint, environ)
    endpoints.with_embeddings(endpoints.Endpoint(place, place, "", ""), settings.embedding_model)
    if settings.previous or settings.dataset_name:
        previous_sides(settings, settings.dataset_name)
    if settings.min_judge_score and not settings.judge_model:
        raise ParamsError(
            "min_judge_score: expected 0 without a judge_model, for there is no verdict to compare"
        )
    if settings.max_cost_usd:
        endpoint = endpoints.endpoint_of(settings.endpoint, model=settings.model, environ=environ)
        for variant in [settings, *tuning.variants_of(settings)]:
            pipeline.check_prices(variant, endpoint)
    address = source_address(settings.qdrant, environ=environ)
    with open_source(address, api_key=environ.get("QDRANT_API_KEY", "")) as source:
        for name in settings.collections:
            source.count(name)


def dry_run(
    study: Study, *, environ: Mapping[str, str], say: Say, name: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield what the run would ask, in the notebooks that it executes, and what that would cost.

    Yield their sum once that is said, before the limit is looked at.

    Raises ParamsError: ``max_cost_usd`` does not pay for the first request, or cannot hold because the price
    is unknown; BudgetReached: it is lower than the forecast, so that the run would stop there.
    """
    check_before(study.settings, environ=environ)
    with _passing_study(study.settings, study.kernel_environ(environ)) as (chunks, settings, endpoint, store):
        tuned = 2 in study.notebooks or not {3, 4, 5} & {*study.notebooks}
        make = tuning.forecast_run if tuned else pipeline.forecast
        forecast = make(chunks, settings, endpoint, store)
        if 5 in study.notebooks:
            forecast = pd.concat([forecast, twin.forecast_run(chunks, settings, endpoint, store)])
        say(name + endpoints.told_endpoint(endpoint.identity, endpoint.model))
        for line in filter(None, (_shutdown_note(study.settings, environ), chunks.attrs["destroyed"])):
            say(line)
        steps = by_step(forecast)
        if nothing := steps.index[(steps.requests == 0) & (steps.index != "all")].tolist():
            say(f"Nothing to ask, stored or asked while tuning: {', '.join(nothing)}")
        steps = steps[~steps.index.isin(nothing)]
        costs = zip(steps.cost_usd_low, steps.cost_usd_high, strict=True)
        columns = {
            "requests": steps.requests.map("{:,}".format),
            "tokens in": steps.prompt_tokens.map("{:,}".format),
            "tokens out": steps.completion_tokens.map("{:,}".format),
            "USD": ["unknown" if math.isnan(high) else cost_range(low, high) for low, high in costs],
        }
        if steps.requests.any():
            names = steps.index.str.replace(LONG_STEP, r"\1…\2", regex=True).rename(None)
            say(pd.DataFrame(columns, names).to_string())
        yield add_up(forecast)
        pipeline.check_limit(chunks, settings, endpoint, store)
    lowest, limit = float(forecast.cost_usd_low.fillna(0.0).sum()), study.settings.max_cost_usd
    if limit and lowest > limit:
        raise BudgetReached(
            f"max_cost_usd: expected at least the forecast's {format_usd(lowest)} USD, found {limit:g}; "
            "the run would stop there, to go on with a higher limit"
        )
    say("Dry run: nothing was sent")


@contextmanager
def _passing_study(
    settings: Params, environ: Mapping[str, str]
) -> Iterator[tuple[pd.DataFrame, Params, endpoints.Endpoint, AnswerStore]]:
    """Open a study and read its chunks, as notebooks do, without a run folder that stays."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings, run_dir=folder)
        settings, source, endpoint, store = pipeline.open_study(settings, environ=environ)
        with source, store:
            yield pipeline.read_chunks(source, settings, store), settings, endpoint, store


def _shutdown_note(settings: Params, environ: Mapping[str, str]) -> str:
    models = {settings.model, settings.judge_model or settings.model, *settings.models}
    return endpoints.shutdown_note(settings.endpoint, models, environ=environ)


def run_params(
    study: Study, *, environ: Mapping[str, str], say: Say, progress: Say = lambda line: None
) -> Outcome:
    """Execute the notebooks on a study's params, write the report, publish.

    ``environ`` holds addresses and keys: the kernel gets it, nothing that is written does. A line of
    ``progress`` replaces the one before. An LlmTwinError is raised where nothing could be started; what goes
    wrong later is in the outcome.
    """
    out = _checked_out(study.out) if study.out else folders.new_run_dir(study.stem, varied=study.varied)
    _allow_open_files()
    check_before(study.settings, environ=environ)
    began, used = time.monotonic(), pipeline.process_costs(*EVERYONE)["cpu_seconds"]
    recover_run(out)
    with counted_signals() as signals, run_lock(RunFolder(out)):
        run = RunFolder(working_folder(study.settings, out))
        if run.path != out and 3 not in study.notebooks:
            raise ParamsError(f"--out {out}: found a complete run, which --only 3 replaces; choose another")
        log = RunLog(run, environ=environ, say=say, progress=progress)
        _open(study.settings, out, environ=environ, log=log)
        executed = _execute(study, environ=environ, signals=signals, log=log)
        outcome = _close(executed, study, out, environ=environ, used=used, log=log)
    log.run = RunFolder(outcome.run_dir)
    if outcome.exit_code == 0:
        for line in summary_lines(log.run, seconds=time.monotonic() - began):
            log.say(line)
        if study.whole:
            publication = publish_run(out, environ=environ, mode=study.settings.comet)
            if publication.url:  # the report leads there
                write_report(log.run)
            log.say(publication.line)
        if 3 in study.notebooks:
            for line in closing_lines(log.run):
                log.say(line)
    elif not study.out and outcome.exit_code in (2, 3, 4, 5, 130):
        values = log.run.read()
        # It ended before it began to ask, for a reason that its message names whole.
        if not values["asked"] and not values["progress"]:
            shutil.rmtree(out)
            with suppress(OSError):  # runs of other times are beside it
                out.parent.rmdir()
    return outcome


def _allow_open_files() -> None:
    """Raise ParamsError where a shell allows too few open files for a notebook's kernel to start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEWEST_FILES:  # -1 is no limit
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (FEWEST_FILES, hard))
        except (ValueError, OSError) as error:
            raise ParamsError(
                f"this shell allows {soft} open files, expected at least {FEWEST_FILES}; "
                f"run again where ulimit -n {FEWEST_FILES} is allowed"
            ) from error


def _checked_out(out: Path) -> Path:
    real = folders.resolve(out.absolute())
    if out.is_symlink() and real.parent != out.absolute().parent.resolve():
        raise ParamsError(f"--out {out} is a link to {real}; give that folder itself, if it is meant")
    # Before a lock is laid into it.
    with disk_errors(real):
        names = {path.name for path in real.iterdir()} if real.exists() else set()
    others = sorted(names - {".work"})
    if others and not ("run.json" in names and "state" in RunFolder(real).read()):
        raise ParamsError(
            f"{real}: expected a run folder or nothing, found {', '.join(others[:3])}; choose a new folder"
        )
    return real


def recover_run(out: Path) -> None:
    """Take back a replacement that was cut off between its two renames, before the lock is taken.

    RunLocked: it is not cut off, but at work.
    """
    if folders.aside_of(out).exists():
        # The lock of the folder that is set aside has moved with it.
        with disk_errors(out), run_lock(RunFolder(folders.aside_of(out))):
            if out.exists() and {path.name for path in out.iterdir()} <= {".work"}:
                shutil.rmtree(out)
            folders.recover_folder(out)


def working_folder(settings: Params, out: Path) -> Path:
    """Return where a run that is to end in ``out`` works: there, or beside the complete one that it replaces.

    Call it while the lock is held. ParamsError: a run of other params is there.
    """
    run = RunFolder(out).read()
    if not run:
        return out
    if differing := _differing(settings, run):
        raise ParamsError(
            f"--out {out}: expected a run of these params, found one that differs in "
            f"{', '.join(differing[:5])}; choose another folder, or remove this one"
        )
    if run.get("state") != "complete":
        return out
    beside = out.with_name(f".{out.name}.next")
    if (begun := RunFolder(beside).read()) and _differing(settings, begun):
        shutil.rmtree(beside)
    return beside


def _differing(settings: Params, run: Mapping[str, Any]) -> list[str]:
    """Return the params by which these settings are not those of a run that is there."""
    asked, known = settings.given(), run.get("given") or {}
    # No answer depends on them, and a run that stopped for one of them goes on with another.
    keys = {*known, *asked} - {"max_cost_usd", "partitions", "cluster"}
    return sorted(key for key in keys if known.get(key) != asked.get(key))


def _open(settings: Params, out: Path, *, environ: Mapping[str, str], log: RunLog) -> None:
    run = log.run
    run.work.mkdir(parents=True, exist_ok=True)
    before = run.read()
    # What an incomplete run has spent counts towards the limit of the run that goes on from it.
    spent_before = 0.0 if before.get("state") == "complete" else pipeline.spent_usd(before)
    run.update(
        state="running", given=settings.given(), started=now(), driver=folders.process_of(os.getpid()),
        spent_before=spent_before, asked={}, progress={}, forecast={}, notes=[], totals=None,
        manifest_sha256=None,
    )  # fmt: skip
    log.say(f"Run folder: {display_path(out)}" + (" (replaced at the end)" if run.path != out else ""))
    log.say(endpoints.told_endpoint(endpoints.address_of(settings.endpoint, environ), settings.model))
    if proxies := [name for name in PROXY_VARIABLES if environ.get(name) or environ.get(name.lower())]:
        log.say(f"{', '.join(proxies)} set, but not used: requests go straight to the endpoint")
    if note := _shutdown_note(settings, environ):
        log.say(note)


def _execute(study: Study, *, environ: Mapping[str, str], signals: list[int], log: RunLog) -> Outcome:
    """Execute the notebooks one after another, up to the first that does not reach its end."""
    environ = study.kernel_environ(environ)
    try:
        # Whoever opens a damaged store first restores it and is told so: that must stand in this run's log.
        with AnswerStore(folders.resolve(study.settings.answers)) as store:
            for note in store.notes:
                log.say(note)
        if study.notebooks != (1,):
            _check_endpoint(study.settings, environ)
    except LlmTwinError as error:
        return Outcome(type(error).__name__, str(error))
    parameters = study.settings.given() | {"run_dir": folders.project_path(log.run.path)}
    notebooks = [it for it in sorted(NOTEBOOKS.glob("[1-5]_*.ipynb")) if int(it.name[0]) in study.notebooks]
    for number, notebook in enumerate(notebooks, start=1):
        log.say(f"Notebook {number} of {len(notebooks)}: {notebook.stem}")
        executed = execute_notebook(
            notebook, run=log.run, parameters=parameters, environ=environ, signals=signals,
            tick=log.tick, keep=log.keep, enter=log.enter,
        )  # fmt: skip
        log.tick()
        if executed.error:
            log.keep(f"{notebook.name}: {executed.error}: {executed.message}\n{executed.traceback}")
            return executed
    if study.whole and not log.run.read()["manifest_sha256"]:
        return Outcome("RunIncomplete", "the notebooks ended, but no dataset was published")
    return Outcome()


def _check_endpoint(settings: Params, environ: Mapping[str, str]) -> None:
    """Raise EndpointDown where nothing can be sent, unless every answer is stored already."""
    address = endpoints.address_of(settings.endpoint, environ)
    fault = "" if address == "embedded" else unreachable(address)
    if not fault:
        return
    with _passing_study(settings, environ) as study:
        if not pipeline.forecast(*study).requests.sum():
            return
    raise EndpointDown(endpoints.unreachable_text(address, fault))


def _close(
    executed: Outcome, study: Study, out: Path,
    *, environ: Mapping[str, str], used: float, log: RunLog,
) -> Outcome:  # fmt: skip
    """Write state, totals and report, and put a complete run where it belongs."""
    run, values = log.run, log.run.read()
    is_published = bool(values["manifest_sha256"])
    code = executed.exit_code
    closing: dict[str, Any] = {"ended": now(), "driver": None, "problem": executed.message}
    closing["state"] = RUN_STATES.get(code, "failed") if code or is_published else "incomplete"
    if values["totals"]:
        # Of memory the system keeps the peak alone, so in a sweep it is that of all runs so far.
        costs = pipeline.process_costs(*EVERYONE)
        costs["cpu_seconds"] = round(costs["cpu_seconds"] - used, 2)
        closing["totals"] = values["totals"] | spent(values["asked"].values()) | costs
    elif code:
        run.update(**closing)
        try:
            here = replace(study.settings, run_dir=str(run.path), cluster="")  # not worth a Ray of its own
            pipeline.keep_ledger(here, environ=environ)
        except LlmTwinError as error:  # such as the one that ended the run
            log.keep(f"no ledger: {error}")
    if not code and is_published:
        rows = reports.dataset_rows(run, reports.VERDICT)
        closing["verdict"] = list(reports.verdict_of(values | closing, rows).sentences)
    seal_run(run, **closing)
    if code != exit_code_of("Interrupted"):  # who stopped it is not kept waiting for a report
        log.enter("Report")
        log.tick()
        try:
            write_report(run)
        except Exception as error:
            if not code:
                raise
            log.keep(f"no report: {type(error).__name__}: {error}")
    if code:
        # Of our own errors the words say enough; a foreign one often says nothing without its class.
        words = executed.message if code > 1 else f"{executed.error}: {executed.message}"
        return replace(executed, message=words, run_dir=run.path)
    shutil.rmtree(run.work, ignore_errors=True)
    if is_published and run.path != out:
        folders.publish_folder(run.path, out)
    if is_published and study.out is None:
        point_latest(out)
    return Outcome(run_dir=out)


def write_report(run: RunFolder) -> Path:
    """Write the report, and note its hash and those of the notebooks, by which a later change shows."""
    try:
        return reports.write_report(run.path)
    finally:
        files = [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.is_file() else [])]
        run.update(files={str(it.relative_to(run.path)): file_entry(it)["sha256"] for it in files})


def point_latest(target: Path) -> None:
    """Let ``latest`` beside the run folder lead to it."""
    link, staged = target.with_name("latest"), target.with_name(f".latest-{os.getpid()}")
    with disk_errors(link):
        staged.unlink(missing_ok=True)
        staged.symlink_to(target.name)
        staged.rename(link)


def summary_lines(run: RunFolder, *, seconds: float) -> Iterator[str]:
    """Yield what was read, accepted and rejected, and what it took."""
    values = run.read()
    if totals := values.get("totals"):
        ledger = reports.read_fates(run)
        yield f"Read {counted(totals['contents'], 'content')} in {counted(totals['chunks'], 'chunk')}"
        yield f"Accepted {counted(totals['accepted'], 'pair')}"
        for state in ("rejected", "failed", "skipped"):
            reasons = ledger.reason[ledger.state == state].value_counts()
            words = ", ".join(f"{reason} {number}" for reason, number in reasons.items())
            yield f"{state.capitalize()} {totals[state]}" + (f": {words}" if words else "")
    forecast = [row for step, row in values.get("forecast", {}).items() if step != REFINED]
    if any(row["requests"] for row in forecast):
        yield f"Forecast: {forecast_words(add_up(forecast))}"
    minutes, rest = divmod(round(seconds), 60)
    yield f"{spent_words(values.get('asked', {}))}, " + (f"{minutes} min " if minutes else "") + f"{rest} s"


def closing_lines(run: RunFolder) -> Iterator[str]:
    """Yield what the dataset is, whether it is ready to train on, what to open and what to do next."""
    values = run.read()
    verdict = reports.verdict_of(values, reports.dataset_rows(run, reports.VERDICT))
    yield f"{values['dataset_name']}: {' '.join(verdict.sentences[1:])}"
    yield verdict.sentences[0]
    yield "Open: " + " and ".join(display_path(it) for it in (run.report, run.pairs) if it.exists())
    yield f"Next: {verdict.next_step}"


class RunLog:
    """What one run says, on the terminal and in log.txt; a line of ``progress`` replaces the one before."""

    def __init__(self, run: RunFolder, *, environ: Mapping[str, str], say: Say, progress: Say) -> None:
        self.run, self._say, self._progress = run, say, progress
        self._secrets = secret_values(environ)
        self._line, self._section, self._count = "", "", 0

    def say(self, line: str) -> None:
        """Print a line on the terminal and keep it."""
        self._say(redact(line, *self._secrets))
        self.keep(line)

    def keep(self, text: str) -> None:
        """Write a text into log.txt only, with the time."""
        with disk_errors(self.run.log), self.run.log.open("a", encoding="utf-8") as file:
            file.write(f"{now()} {redact(text, *self._secrets)}\n")

    def enter(self, section: str) -> None:
        """Show with the next `tick` what is done now."""
        self._section = section

    def tick(self) -> None:
        """Print what the kernel has written into run.json since the last look, and how far it is."""
        values: dict[str, Any] = {}
        with suppress(LlmTwinError):
            values = self.run.read()
        for line in values.get("notes", [])[self._count :]:
            self._count += 1
            self.say(line)
        if progress := values.get("progress"):
            failed = f", {progress['failed']} failed" if progress["failed"] else ""
            answered = " answered" * (progress["what"] != pipeline.VECTORS)
            line = f"{progress['what']}: {progress['answered']:,} of {progress['total']:,}{answered}{failed}"
            if line != self._line:
                self._line = line
                self._progress(line)
        if section := self._section:
            self._section = ""
            self._progress(section)


@contextmanager
def counted_signals() -> Iterator[list[int]]:
    """Yield the list of signals that come meanwhile: the first asks to end well, the next to end at once.

    A terminal that closes may say so twice, which is one signal, and none under nohup.
    """
    signals: list[int] = []

    def count(number: int, frame: object) -> None:
        if number != signal.SIGHUP or not signals:
            signals.append(number)

    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute_notebook(
    notebook: Path,
    *,
    run: RunFolder,
    parameters: Mapping[str, Any],
    environ: Mapping[str, str],
    signals: list[int],
    tick: Callable[[], None] = lambda: None,
    keep: Say = lambda text: None,
    enter: Say = lambda section: None,
) -> Outcome:
    """Execute a notebook into the run folder's ``notebooks``, also when it fails.

    ``environ`` is the kernel's; its secrets are taken out of everything that is kept. ``signals`` grows when
    one comes: the first is passed on, the kernel is ended at the second or after the drain. ``tick`` is
    called a few times a second meanwhile, ``keep`` takes what cells print, ``enter`` each section's heading.
    """
    staged, target = run.work / notebook.name, run.notebooks / notebook.name
    # A kernel that dies leaves no notebook; what an earlier run left would be taken for this one's.
    staged.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    kernels: list[Any] = []
    results: list[Outcome] = []
    _keep_output(keep)
    with (
        warnings.catch_warnings(action="ignore"),
        _kernel_lock(run) as lock,
        tempfile.TemporaryFile(dir=run.work) as log,
    ):
        streams = {"stdout": log.fileno(), "stderr": log.fileno(), "cwd": str(PROJECT_ROOT)}
        kernel = _kernel_class(kernels, env=dict(environ), pass_fds=(lock.fileno(),), **streams)
        work = (notebook, staged, parameters, kernel, signals, enter)
        worker = threading.Thread(target=lambda: results.append(_papermill(*work)), daemon=True)
        worker.start()
        deadline = math.inf
        while worker.is_alive() and len(signals) < 2 and time.monotonic() < deadline:
            worker.join(POLL_SECONDS)
            tick()
            if signals and deadline == math.inf:
                deadline = time.monotonic() + DRAIN_SECONDS
                _send(signal.SIGINT, kernels)
        if worker.is_alive():
            _send(signal.SIGKILL, kernels)
        worker.join(5)
        log.seek(0)
        if words := log.read().decode(errors="replace").strip()[-MAX_KERNEL_LOG:]:
            keep(f"kernel: {words}")
    executed = results[0] if results else Outcome("DeadKernelError", "the kernel is gone")
    if signals:
        executed = Outcome("Interrupted", "stopped; everything answered is stored, the same command goes on")
    secrets = secret_values(environ)
    # What ended it goes first: a full disk tears the staged notebook as well.
    with suppress(Exception) if executed.error else nullcontext():
        _store_notebook(staged, target, secrets)
    words, traceback = (redact(text, *secrets) for text in (executed.message, executed.traceback))
    return Outcome(executed.error, words, traceback)


def _papermill(
    notebook: Path, staged: Path, parameters: Mapping[str, Any], kernel: type, signals: list[int], enter: Say
) -> Outcome:
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook as execute
    from papermill.exceptions import PapermillExecutionError

    def begin(*, cell: Any, **_: object) -> None:
        if signals:
            raise RuntimeError("stopped")
        if heading := re.match("## (.+)", cell.source):
            enter(f"Notebook {notebook.stem[0]}: {heading[1]}")

    try:
        executed = execute(
            str(notebook), str(staged), dict(parameters), kernel_name="python3", cwd=str(PROJECT_ROOT),
            progress_bar=False, request_save_on_cell_execute=False, log_output=True, coalesce_streams=True,
            kernel_manager_class=kernel, shutdown_kernel="immediate", on_cell_start=begin,
        )  # fmt: skip
    except PapermillExecutionError as error:
        return Outcome(error.ename, error.evalue, "\n".join(error.traceback or []))
    except DeadKernelError:
        return Outcome("DeadKernelError", f"the kernel died in {notebook.name}; its memory may have run out")
    except OSError as error:
        return Outcome("DiskFailed", f"{staged}: cannot write ({error.strerror}); free space, then run again")
    except Exception as error:
        return Outcome(type(error).__name__, str(error))
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    exits = any(output.get("ename") == "SystemExit" for cell in cells for output in cell.outputs)
    if exits or not all(cell.execution_count for cell in cells if cell.source.strip()):
        return Outcome("RunIncomplete", f"{notebook.name} ended before its last cell (a cell called exit?)")
    return Outcome()


def _kernel_class(kernels: list[Any], **options: Any) -> type:
    """Return a kernel manager that joins ``kernels`` as it starts this very Python with these options."""
    from ipykernel.kernelspec import make_ipkernel_cmd
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class RunKernel(AsyncKernelManager):  # type: ignore[misc]
        # A remark about TCP without encryption is about networks; these ports are on loopback.
        kernel_spec = KernelSpec(argv=make_ipkernel_cmd(extra_arguments=["--log-level=ERROR"]))

        async def start_kernel(self, **more: Any) -> None:
            await super().start_kernel(**options, **more)
            kernels.append(self)

    return RunKernel


@contextmanager
def _kernel_lock(run: RunFolder) -> Iterator[IO[bytes]]:
    """Hold what every kernel of this run inherits, so that it is free only when the last one is gone."""
    with disk_errors(run.work), (run.work / "kernel.lock").open("ab") as file:
        if not locked(file, seconds=GONE_SECONDS):
            raise RunLocked(f"{run.path}: a kernel of an earlier run is still there")
        yield file


def _send(number: signal.Signals, kernels: list[Any]) -> None:
    for kernel in kernels:
        with suppress(Exception):  # it may be gone already
            asyncio.run(kernel.signal_kernel(number))


def _keep_output(keep: Say) -> None:
    """Hand what papermill logs to ``keep``, and keep third parties' remarks out of the terminal."""
    room = MAX_OUTPUT

    def emit(record: logging.LogRecord) -> None:
        nonlocal room
        text = record.getMessage().strip()
        if text and room > 0:
            keep(text[:room])
        room -= len(text)

    for name in ("traitlets", "jupyter_client", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    papermill, handler = logging.getLogger("papermill"), logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    papermill.setLevel(logging.INFO)
    papermill.propagate = False
    papermill.handlers = [handler]


def _store_notebook(staged: Path, target: Path, secrets: list[str]) -> None:
    """Put the executed notebook in its place, without secrets and with outputs of bounded length."""
    if not staged.exists():
        return
    import nbformat

    notebook = nbformat.read(staged, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if len(output.get("text", "")) > MAX_OUTPUT:
                output["text"] = output["text"][:1000] + "\n[...]\n" + output["text"][-MAX_OUTPUT // 2 :]
    notebook.metadata.get("papermill", {}).update(input_path=target.name, output_path=target.name)
    folders.write_atomically(target, redact(nbformat.writes(notebook) + "\n", *secrets))
    staged.unlink()
