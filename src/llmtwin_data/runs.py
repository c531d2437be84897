"""The driver: one study executed from lock to report, whatever happens on the way; sweeps and the dry run."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import re
import resource
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

from llmtwin_data.endpoints import (
    address_of,
    checked_address,
    endpoint_of,
    shutdown_note,
    told_endpoint,
    unreachable_text,
)
from llmtwin_data.errors import (
    BudgetReached,
    EndpointDown,
    LlmTwinError,
    ParamsError,
    RunLocked,
    exit_code_of,
)
from llmtwin_data.folders import (
    PROJECT_ROOT,
    PROMPTS,
    RunFolder,
    disk_errors,
    display_path,
    project_path,
    publish_folder,
    recover_folder,
    run_lock,
    write_atomically,
)
from llmtwin_data.params import Params, make_params, read_mapping, redact, secret_values
from llmtwin_data.prices import REFINED, add_up, forecast_words, format_usd, spent
from llmtwin_data.prompts import load_template
from llmtwin_data.sessions import RETRY_FAILED, driver_fields, new_run_dir, now, process_costs, spent_usd
from llmtwin_data.sources import open_source, source_address
from llmtwin_data.tables import by_step
from llmtwin_data.texts import counted
from llmtwin_data.transport import unreachable

# Seconds that a new kernel waits for the one before it, which ends within one when its driver is gone.
GONE_SECONDS = 10.0


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
        patience = time.monotonic() + GONE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > patience:
                    raise RunLocked(f"{run.path}: a kernel of an earlier run is still there") from error
                time.sleep(0.05)
        yield file


# Seconds that an interrupted kernel gets: the engine's drain (pacing) and some to store and say goodbye.
DRAIN_SECONDS = 30.0
# Characters of one output that are kept; a progress bar gone wild must not fill the disk.
MAX_OUTPUT = 200_000


@dataclass(frozen=True, slots=True)
class Executed:
    """How a notebook ended; ``error`` is the class name of what ended it, empty when it ran to its end."""

    error: str = ""
    message: str = ""
    traceback: str = ""


class Stop:
    """Counts SIGINT and SIGTERM while its block runs: the first asks to end well, the next to end now."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._counted)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _counted(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class _Stopped(Exception):
    """A signal came before this cell began."""


def execute_notebook(
    notebook: Path,
    *,
    run: RunFolder,
    parameters: Mapping[str, Any],
    environ: Mapping[str, str],
    stop: Stop,
    tick: Callable[[], None] = lambda: None,
    keep: Callable[[str], None] = lambda text: None,
) -> Executed:
    """Execute a notebook into the run folder's ``notebooks``, also when it fails.

    Parameters
    ----------
    environ
        The kernel's environment; its secrets are taken out of everything that is kept.
    tick
        Called a few times a second meanwhile.
    keep
        Takes what cells print, as it comes.
    """
    staged, target = run.work / notebook.name, run.notebooks / notebook.name
    staged.unlink(missing_ok=True)
    # A kernel that dies leaves no notebook; what an earlier run left would be taken for this one's.
    target.unlink(missing_ok=True)
    kernels: list[Any] = []
    found: list[Executed] = []
    with _printed(keep), _kernel_lock(run) as lock, (run.work / "kernel.log").open("ab") as log:
        streams = {"stdout": log.fileno(), "stderr": log.fileno(), "cwd": str(PROJECT_ROOT)}
        kernel = _kernel_class(kernels, env=dict(environ), pass_fds=(lock.fileno(),), **streams)
        work = (notebook, staged, parameters, kernel, stop)
        worker = threading.Thread(target=lambda: found.append(_papermill(*work)), daemon=True)
        worker.start()
        _attend(worker, kernels, stop, tick)
        worker.join(5)
    executed = found[0] if found else Executed("DeadKernelError", "the kernel is gone")
    if stop.count:
        executed = Executed("Interrupted", "stopped; everything answered is stored, the same command goes on")
    # What ended it goes first: a full disk tears the staged notebook as well.
    with suppress(Exception) if executed.error else nullcontext():
        _keep(staged, target, secrets=secret_values(environ))
    return _cleared(executed, environ)


def _papermill(
    notebook: Path, staged: Path, parameters: Mapping[str, Any], kernel: type, stop: Stop
) -> Executed:
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook as execute
    from papermill.exceptions import PapermillExecutionError

    def heed(**_: object) -> None:
        if stop.count:
            raise _Stopped

    try:
        done = execute(
            str(notebook), str(staged), dict(parameters), kernel_name="python3", cwd=str(PROJECT_ROOT),
            progress_bar=False, request_save_on_cell_execute=False, log_output=True, coalesce_streams=True,
            kernel_manager_class=kernel, shutdown_kernel="immediate", on_cell_start=heed,
        )  # fmt: skip
    except PapermillExecutionError as error:
        return Executed(error.ename, error.evalue, "\n".join(error.traceback or []))
    except DeadKernelError:
        return Executed("DeadKernelError", f"the kernel died in {notebook.name}; its memory may have run out")
    except OSError as error:
        return Executed(
            "DiskFailed", f"{staged}: cannot write ({error.strerror}); free space, then run again"
        )
    except Exception as error:
        return Executed(type(error).__name__, str(error))
    return Executed() if _ran_to_its_end(done) else _exited(notebook)


def _ran_to_its_end(notebook: Any) -> bool:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = [output.get("ename") for cell in cells for output in cell.outputs]
    return "SystemExit" not in names and all(cell.execution_count for cell in cells if cell.source.strip())


def _exited(notebook: Path) -> Executed:
    return Executed("RunIncomplete", f"{notebook.name} ended before its last cell (a cell called exit?)")


def _attend(worker: threading.Thread, kernels: list[Any], stop: Stop, tick: Callable[[], None]) -> None:
    """Wait for the notebook; pass the first signal on, end the kernel at the second or after the drain."""
    deadline = float("inf")
    while worker.is_alive():
        worker.join(0.1)
        tick()
        if stop.count and deadline == float("inf"):
            deadline = time.monotonic() + DRAIN_SECONDS
            _send(signal.SIGINT, kernels)
        if stop.count > 1 or time.monotonic() > deadline:
            _send(signal.SIGKILL, kernels)
            return


def _send(number: signal.Signals, kernels: list[Any]) -> None:
    for kernel in kernels:
        with suppress(Exception):  # it may be gone already
            asyncio.run(kernel.signal_kernel(number))


def _keep(staged: Path, target: Path, *, secrets: list[str]) -> None:
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
    write_atomically(target, redact(nbformat.writes(notebook) + "\n", *secrets))
    staged.unlink()


def _cleared(executed: Executed, environ: Mapping[str, str]) -> Executed:
    secrets = secret_values(environ)
    return Executed(executed.error, redact(executed.message, *secrets), redact(executed.traceback, *secrets))


@contextmanager
def _printed(keep: Callable[[str], None]) -> Iterator[None]:
    """Hand what papermill logs to ``keep``, and keep third parties' remarks out of the terminal."""
    room = MAX_OUTPUT

    def emit(record: logging.LogRecord) -> None:
        nonlocal room
        text = record.getMessage().strip()
        if text and room > 0:
            keep(text[:room])
        room -= len(text)

    handler = logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    levels = {"papermill": logging.INFO, "traitlets": logging.CRITICAL, "jupyter_client": logging.CRITICAL}
    loggers = {logging.getLogger(name): level for name, level in (levels | {"asyncio": 50}).items()}
    before = {logger: (logger.level, logger.propagate) for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    papermill = logging.getLogger("papermill")
    papermill.propagate = False
    papermill.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        papermill.removeHandler(handler)
        for logger, (level, propagate) in before.items():
            logger.setLevel(level)
            logger.propagate = propagate


# Seconds between two looks at the progress that the kernel writes.
_LOOK_EVERY = 1.0
# Characters of a kernel's own words that are kept; they come from libraries and can be many.
_MOST_OF_KERNEL = 20_000


class RunLog:
    """The voice of one run; ``say`` gets whole lines, ``progress`` a line that replaces the one before."""

    def __init__(
        self,
        run: RunFolder,
        *,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        progress: Callable[[str], None],
    ) -> None:
        self._run, self._say, self._progress = run, say, progress
        self._secrets = secret_values(environ)
        self._looked, self._shown, self._told = 0.0, "", 0

    def say(self, line: str) -> None:
        """Say a line on the terminal and keep it."""
        line = redact(line, *self._secrets)
        self._say(line)
        self.keep(line)

    def keep(self, text: str) -> None:
        """Keep a text in log.txt only, with the time."""
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with disk_errors(self._run.log), self._run.log.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {redact(text, *self._secrets)}\n")

    def keep_kernel(self) -> None:
        """Keep the end of what the kernel wrote past its notebook, and empty that."""
        path = self._run.work / "kernel.log"
        text = path.read_text(encoding="utf-8", errors="replace").strip()[-_MOST_OF_KERNEL:]
        path.write_bytes(b"")
        if text:
            self.keep(f"kernel: {text}")

    def tick(self) -> None:
        """Show how far the kernel is, and say what it told, at most once a second."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._looked = time.monotonic()
        line = _progress_line(self.catch_up().get("progress"))
        if line != self._shown:
            self._shown = line
            self._progress(line)

    def catch_up(self) -> dict[str, Any]:
        """Say what the kernel told since the last look, and give what run.json holds."""
        try:
            fields = self._run.read()
        except LlmTwinError:
            return {}
        new = fields.get("told", [])[self._told :]
        for line in new:
            self.say(line)
        self._told += len(new)
        return fields


def _progress_line(progress: Any) -> str:
    if not progress:
        return ""
    failed = f", {progress['failed']} failed" if progress["failed"] else ""
    return f"{progress['what']}: {progress['answered']} of {progress['total']} answered{failed}"


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that is asked for, and the one that is worked in; the same unless one is to be replaced."""

    target: Path
    work: Path

    @property
    def run(self) -> RunFolder:
        """The folder that is worked in."""
        return RunFolder(self.work)

    @property
    def replaces(self) -> bool:
        """Whether a complete run stands in the target until this one is complete."""
        return self.work != self.target


def place_of(settings: Params, out: Path) -> Place:
    """Give the place of a run that is to end in ``out``; call it while its lock is held.

    Raises
    ------
    ParamsError
        Something else than a run is there, or a run of other params.
    """
    with disk_errors(out):
        there = {path.name for path in out.iterdir()} if out.exists() else set()
    fields = RunFolder(out).read()
    if not fields:
        if there - {".work"}:
            raise ParamsError(
                f"{out}: expected a run folder or nothing, found {', '.join(sorted(there)[:3])}"
            )
        return Place(out, out)
    _check_same(settings, fields.get("given"), out)
    if fields.get("state") != "complete":
        return Place(out, out)
    staged = _staged(out)
    if staged.exists() and RunFolder(staged).read().get("given") != settings.given():
        shutil.rmtree(staged)
    return Place(out, staged)


def recover_run(out: Path) -> None:
    """Finish a replacement that was cut off between its two renames; call it before the lock is taken.

    Raises
    ------
    RunLocked
        It is not cut off, but at work.
    """
    aside, staged = out.with_name(f".{out.name}.before"), _staged(out)
    if not aside.exists():
        return
    # The lock of the folder that is set aside has moved with it.
    with disk_errors(out), run_lock(RunFolder(aside)):
        if out.exists() and {path.name for path in out.iterdir()} <= {".work"}:
            shutil.rmtree(out)
        if not out.exists() and RunFolder(staged).read().get("state") == "complete":
            staged.rename(out)
        recover_folder(out)


def check_out(out: Path) -> Path:
    """Give the real place of ``--out``; a link that leads elsewhere is refused by name."""
    real = out.resolve()
    if out.is_symlink() and real.parent != out.absolute().parent.resolve():
        raise ParamsError(f"--out {out} is a link to {real}; give that folder itself, if it is meant")
    return real


def mark_dead(folder: Path) -> list[Path]:
    """Mark the runs in a folder that a killed driver left as running; they are incomplete."""
    dead = []
    for path in sorted(file.parent for file in folder.glob("*/run.json")):
        run = RunFolder(path)
        # Another run holds its lock; a damaged one is none of ours.
        with suppress(LlmTwinError):
            if run.read().get("state") == "running":
                with run_lock(run):
                    run.update(state="incomplete", driver=None)
                dead.append(path)
    return dead


def replace_target(place: Place) -> None:
    """Put a complete run where the one before it stood."""
    if place.replaces:
        publish_folder(place.work, place.target)


def point_latest(target: Path) -> None:
    """Let ``latest`` beside the run folder lead to it."""
    link, staged = target.with_name("latest"), target.with_name(".latest")
    with disk_errors(link):
        staged.unlink(missing_ok=True)
        staged.symlink_to(target.name)
        staged.rename(link)


def _staged(out: Path) -> Path:
    return out.with_name(f".{out.name}.next")


def _check_same(settings: Params, given: object, out: Path) -> None:
    asked = settings.given()
    if given == asked:
        return
    known = given if isinstance(given, dict) else {}
    differing = sorted(key for key in {*known, *asked} if known.get(key) != asked.get(key))
    if differing == ["max_cost_usd"]:
        return  # no answer depends on it, and a run that it has stopped goes on with a higher one
    raise ParamsError(
        f"--out {out}: expected a run of these params, found one that differs in {', '.join(differing[:5])}; "
        "choose another folder, or remove this one"
    )


def summary_lines(run: RunFolder, *, seconds: float) -> Iterator[str]:
    """Say where the report is, what was read, accepted and rejected, and what it took."""
    fields = run.read()
    yield f"Report: {display_path(run.report)}"
    if fields.get("totals"):
        yield from _fates(run, fields["totals"])
    forecast = [row for step, row in fields.get("forecast", {}).items() if step != REFINED]
    if any(row["requests"] for row in forecast):
        yield f"Forecast: {forecast_words(add_up(forecast))}"
    asked = fields.get("asked", {})
    yield (_requests(asked) if asked else "0 requests sent") + f", {_time(seconds)}"


def _fates(run: RunFolder, totals: dict[str, Any]) -> Iterator[str]:
    from llmtwin_data.datasets import read_ledger

    ledger = read_ledger(run.ledger_file)
    yield f"Read {counted(totals['contents'], 'content')} in {counted(totals['chunks'], 'chunk')}"
    yield f"Accepted {counted(totals['accepted'], 'pair')}"
    for state in ("rejected", "failed", "skipped"):
        counts = Counter(ledger.reason[ledger.state == state])
        told = ", ".join(f"{reason} {number}" for reason, number in counts.most_common())
        yield f"{state.capitalize()} {totals[state]}" + (f": {told}" if told else "")
    if totals.get("pending"):
        yield f"Pending {totals['pending']}"


def _requests(asked: dict[str, dict[str, Any]]) -> str:
    total = spent(asked.values())
    if not total["requests"]:
        return "0 requests sent: every answer was already stored"
    cost = "cost unknown" if total["cost_usd"] is None else f"{total['cost_usd']:.4f} USD"
    return f"{counted(total['requests'], 'request')} sent, {counted(total['tokens'], 'token')}, {cost}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Runs of one sweep; each is a whole run, so more is rather a mistake.
MOST_RUNS = 64


@dataclass(frozen=True, slots=True)
class Study:
    """One run to be made: its params and what it varies, and how the command line wants it done."""

    stem: str
    settings: Params
    varied: str = ""
    notebooks: tuple[int, ...] = (1, 2, 3)  # the fourth is for a person who reviews pairs
    out: Path | None = None  # a new folder under runs/<stem> where none is given
    retry_failed: bool = False

    @property
    def whole(self) -> bool:
        """Whether all notebooks are executed that a driver executes."""
        return self.notebooks == (1, 2, 3)

    @property
    def name(self) -> str:
        """Name it among others: its file's stem, and what it varies."""
        return f"{self.stem} {self.varied}".strip()


def studies_of(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> list[Study]:
    """Give the one study of a params file, or those of a sweep file, every combination one.

    A sweep file holds ``params``, the path of a params file beside it or from the project's root, and
    ``vary``, lists of values by key.

    Raises
    ------
    ParamsError
        As for params; every combination is checked before the first run.
    """
    values = read_mapping(path)
    if "vary" not in values:
        return [Study(path.stem, make_params(values, place=str(path), overrides=overrides))]
    base = read_mapping(_base_of(path, values))
    given = list(overrides)
    return [
        Study(path.stem, make_params(base | choice, place=str(path), overrides=given), _words(choice))
        for choice in _choices(path, values["vary"])
    ]


def _base_of(path: Path, values: dict[str, Any]) -> Path:
    if set(values) != {"params", "vary"} or not isinstance(values["params"], str):
        raise ParamsError(
            f"{path}: a sweep file has the keys params (a path) and vary, found {sorted(values)}"
        )
    beside = path.parent / values["params"]
    return beside if beside.is_file() else PROJECT_ROOT / values["params"]


def _choices(path: Path, vary: Any) -> Iterator[dict[str, Any]]:
    lists = vary if isinstance(vary, dict) else {}
    if not lists or not all(isinstance(items, list) and items for items in lists.values()):
        raise ParamsError(f"{path}: vary must hold lists of values by key, such as temperature: [0.0, 0.7]")
    combinations = list(itertools.product(*lists.values()))
    if len(combinations) > MOST_RUNS:
        raise ParamsError(f"{path}: expected at most {MOST_RUNS} combinations, found {len(combinations)}")
    for combination in combinations:
        yield dict(zip(lists, combination, strict=True))


def _words(choice: dict[str, Any]) -> str:
    """Say what a study varies, in characters that any file system takes."""
    words = "_".join(f"{key}-{value}" for key, value in choice.items())
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:80].strip("-")


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def check_before(settings: Params, *, environ: Mapping[str, str]) -> None:
    """Raise for what would only show after the kernel has started, or after money is spent.

    Raises
    ------
    ParamsError
        A parameter, template, address, model or manifest is not what it must be.
    KeyRejected
        The endpoint needs a key that is not set.
    SourceError
        A collection is not there.
    """
    for name in {settings.prompt, *settings.prompts}:
        load_template(name, folder=PROMPTS, kind="instructions")
    for model in {settings.model, settings.judge_model, *settings.models}:
        checked_address(settings.endpoint, model=model, environ=environ)
    if settings.previous:
        from llmtwin_data.lineage import previous_sides

        previous_sides(settings, "")
    if settings.min_judge_score and not settings.judge_model:
        raise ParamsError(
            "min_judge_score: expected 0 without a judge_model, for there is no verdict to compare"
        )
    if settings.max_cost_usd:
        from llmtwin_data import pipeline, tuning

        endpoint = endpoint_of(settings.endpoint, model=settings.model, environ=environ)
        for variant in [settings, *tuning.variants_of(settings)]:
            pipeline.check_prices(variant, endpoint)
    address = source_address(settings.qdrant, environ=environ)
    with open_source(address, api_key=environ.get("QDRANT_API_KEY", "")) as source:
        for name in settings.collections:
            source.count(name)


def tell_forecast(
    study: Study, *, environ: Mapping[str, str], say: Callable[[str], None], name: str = ""
) -> Iterator[dict[str, Any]]:
    """Say what the run would ask, in the notebooks that it executes, and what that would cost.

    Give their sum once that is said, before the limit is looked at.

    Raises
    ------
    ParamsError
        ``max_cost_usd`` does not pay for the first request, or cannot hold because the price is unknown.
    BudgetReached
        It is lower than the forecast, so that the run would stop there.
    """
    from llmtwin_data import pipeline, tuning

    settings = study.settings
    check_before(settings, environ=environ)
    with tempfile.TemporaryDirectory() as folder:
        # The limit is looked at once everything is shown.
        free = replace(settings, run_dir=folder)
        resolved, source, endpoint, store = pipeline.open_study(free, environ=environ)
        chunks = pipeline.read_chunks(source, resolved, forgotten=store.forgotten_hashes())
        if 3 in study.notebooks and 2 not in study.notebooks:
            forecast = pipeline.forecast(chunks, resolved, endpoint, store)
        else:
            forecast = tuning.forecast_run(chunks, resolved, endpoint, store)
        say(name + told_endpoint(endpoint.identity, endpoint.model))
        if note := shutdown_words(settings, environ=environ):
            say(note)
        say(by_step(forecast).astype(object).fillna("unknown").to_string())
        yield add_up(forecast)
        pipeline.check_limit(chunks, resolved, endpoint, store)
        store.close()
    lowest = float(forecast.cost_usd_low.fillna(0.0).sum())
    if settings.max_cost_usd and lowest > settings.max_cost_usd:
        found = f"expected at least the forecast's {format_usd(lowest)} USD, found {settings.max_cost_usd:g}"
        raise BudgetReached(f"max_cost_usd: {found}; the run would stop there, to go on with a higher limit")
    say("Dry run: nothing was sent")


def proxy_note(environ: Mapping[str, str]) -> str:
    """Say which proxy variables are set, since none is used; empty if none is."""
    found = [name for name in PROXY_VARIABLES if environ.get(name) or environ.get(name.lower())]
    return f"{', '.join(found)} set, but not used: requests go straight to the endpoint" if found else ""


def shutdown_words(settings: Params, *, environ: Mapping[str, str]) -> str:
    """Say which of the models that are asked are about to be shut down; empty if none is."""
    judges = {settings.judge_model} if settings.judge_model else set()
    return shutdown_note(settings.endpoint, {settings.model, *judges, *settings.models}, environ=environ)


def unreachable_endpoint(settings: Params, *, environ: Mapping[str, str]) -> str:
    """Say why the endpoint cannot be asked; empty if it can, or if every answer is stored already."""
    address = address_of(settings.endpoint, environ)
    fault = "" if address == "embedded" else unreachable(address)
    return unreachable_text(address, fault) if fault and _must_ask(settings, environ) else ""


def _must_ask(settings: Params, environ: Mapping[str, str]) -> bool:
    from llmtwin_data import pipeline

    try:
        with tempfile.TemporaryDirectory() as folder:
            settings, source, endpoint, store = pipeline.open_study(
                replace(settings, run_dir=folder), environ=environ
            )
            chunks = pipeline.read_chunks(source, settings, forgotten=store.forgotten_hashes())
            return bool(pipeline.forecast(chunks, settings, endpoint, store).requests.sum())
    except LlmTwinError as error:  # what else is wrong, the notebooks say in its place
        return error.exit_code == EndpointDown.exit_code


NOTEBOOKS = PROJECT_ROOT / "notebooks"
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
    settings = study.settings
    check_before(settings, environ=environ)
    out = check_out(study.out) if study.out else new_run_dir(study.stem, varied=study.varied)
    began, used = time.monotonic(), _used()
    recover_run(out)
    with Stop() as stop, run_lock(RunFolder(out)):
        place = place_of(settings, out)
        if place.replaces and 3 not in study.notebooks:
            raise ParamsError(f"--out {out}: found a complete run, which --only 3 replaces; choose another")
        log = RunLog(place.run, environ=environ, say=say, progress=progress)
        _open(place, settings, environ=environ, log=log)
        for dead in mark_dead(out.parent) if not study.out else ():
            log.say(f"{display_path(dead)} had been cut off: marked as incomplete, its answers are stored")
        executed = _execute(study, place, environ=environ, stop=stop, log=log)
        outcome = _close(executed, place, study, environ=environ, used=used, log=log)
    if outcome.exit_code == 0:
        log = RunLog(RunFolder(out), environ=environ, say=say, progress=progress)
        for line in summary_lines(RunFolder(out), seconds=time.monotonic() - began):
            log.say(line)
        if study.whole:
            log.say(_publish(out, settings, environ))
    elif study.out is None and _did_nothing(outcome):
        shutil.rmtree(out)
        with suppress(OSError):  # runs of other times are beside it
            out.parent.rmdir()
    return outcome


def _did_nothing(outcome: Outcome) -> bool:
    """Tell whether a run ended for a reason that its message names whole, before it began to ask."""
    fields = RunFolder(outcome.run_dir).read()
    return outcome.exit_code in (2, 3, 4, 5, 130) and not fields.get("asked") and not fields.get("progress")


def _open(place: Place, settings: Params, *, environ: Mapping[str, str], log: RunLog) -> None:
    place.run.work.mkdir(parents=True, exist_ok=True)
    before = place.run.read()
    # What an incomplete run has spent counts towards the limit of the run that goes on from it.
    spent_before = 0.0 if before.get("state") == "complete" else spent_usd(before)
    fields = {"state": "running", "given": settings.given(), "started": now(), "spent_before": spent_before}
    place.run.update(**fields, asked={}, progress={}, forecast={}, told=[], totals=None, manifest_sha256=None)
    place.run.update(**driver_fields())
    log.say(
        f"Run folder: {display_path(place.target)}" + (" (replaced at the end)" if place.replaces else "")
    )
    log.say(told_endpoint(address_of(settings.endpoint, environ), settings.model))
    for note in (proxy_note(environ), shutdown_words(settings, environ=environ)):
        if note:
            log.say(note)


def _execute(
    study: Study,
    place: Place,
    *,
    environ: Mapping[str, str],
    stop: Stop,
    log: RunLog,
) -> Executed:
    """Execute the notebooks one after another, up to the first that does not reach its end."""
    parameters = study.settings.given() | {"run_dir": project_path(place.work)}
    kernel_environ = dict(environ) | ({RETRY_FAILED: "1"} if study.retry_failed else {})
    if study.notebooks != (1,) and (fault := unreachable_endpoint(study.settings, environ=environ)):
        return Executed("EndpointDown", fault)
    notebooks = [
        path for path in sorted(NOTEBOOKS.glob("[1-3]_*.ipynb")) if int(path.name[0]) in study.notebooks
    ]
    for number, notebook in enumerate(notebooks, start=1):
        log.say(f"Notebook {number} of {len(notebooks)}: {notebook.stem}")
        executed = execute_notebook(
            notebook, run=place.run, parameters=parameters, environ=kernel_environ, stop=stop,
            tick=log.tick, keep=log.keep,
        )  # fmt: skip
        log.catch_up()
        log.keep_kernel()
        if executed.error:
            log.keep(f"{notebook.name}: {executed.error}: {executed.message}\n{executed.traceback}")
            return executed
    return Executed()


def _close(
    executed: Executed,
    place: Place,
    study: Study,
    *,
    environ: Mapping[str, str],
    used: Mapping[str, float],
    log: RunLog,
) -> Outcome:
    """Write state, totals and report, and put a complete run where it belongs."""
    code = exit_code_of(executed.error) if executed.error else 0
    run = place.run
    if not executed.error and study.whole and not run.read()["manifest_sha256"]:
        code, executed = 5, Executed("RunIncomplete", "the notebooks ended, but no dataset was published")
    partial = not study.whole and not run.read()["manifest_sha256"]
    state, costs = "incomplete" if partial else "complete", _costs(run, used)
    run.update(state=_STATES.get(code, "failed") if code else state, ended=now(), driver=None, **costs)
    if code and not run.read()["totals"]:
        _keep_ledger(study.settings, run, environ=environ, log=log)
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


def _keep_ledger(settings: Params, run: RunFolder, *, environ: Mapping[str, str], log: RunLog) -> None:
    """Leave a ledger that says what is answered and what is pending, where the notebooks came to none."""
    from llmtwin_data.pipeline import keep_ledger

    try:
        keep_ledger(replace(settings, run_dir=str(run.path)), environ=environ)
    except LlmTwinError as error:  # such as the one that ended the run
        log.keep(f"no ledger: {error}")


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
    from llmtwin_data.datasets import file_entry

    files = [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.is_file() else [])]
    return {str(path.relative_to(run.path)): file_entry(path)["sha256"] for path in files}


def _costs(run: RunFolder, used: Mapping[str, float]) -> dict[str, object]:
    """Give the totals with what all notebooks asked, and with what kernels and driver used since ``used``."""
    fields = run.read()
    if not fields.get("totals"):
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
