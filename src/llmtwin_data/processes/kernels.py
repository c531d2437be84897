"""Execute one notebook with papermill, in a kernel of this interpreter that cannot outlive its driver."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from llmtwin_data.environment import redact, secret_values
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, write_atomically
from llmtwin_data.processes.kernel_processes import started_kernel

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
) -> Executed:
    """Execute a notebook into the run folder's ``notebooks``, also when it fails.

    Parameters
    ----------
    environ
        The kernel's environment; its secrets are taken out of everything that is kept.
    tick
        Called a few times a second meanwhile.
    """
    staged, target = run.work / notebook.name, run.notebooks / notebook.name
    staged.unlink(missing_ok=True)
    # A kernel that dies leaves no notebook; what an earlier run left would be taken for this one's.
    target.unlink(missing_ok=True)
    with _quiet(), started_kernel(run, environ) as manager:
        found: list[Executed] = []
        work = (notebook, staged, parameters, manager, stop)
        worker = threading.Thread(target=lambda: found.append(_papermill(*work)), daemon=True)
        worker.start()
        _attend(worker, manager, stop, tick)
    worker.join(5)
    executed = found[0] if found else Executed("DeadKernelError", "the kernel is gone")
    if stop.count:
        executed = Executed("Interrupted", "stopped; everything answered is stored, the same command goes on")
    # What ended it goes first: a full disk tears the staged notebook as well.
    with suppress(Exception) if executed.error else nullcontext():
        _keep(staged, target, secrets=secret_values(environ))
    return _cleared(executed, environ)


def _papermill(
    notebook: Path, staged: Path, parameters: Mapping[str, Any], manager: Any, stop: Stop
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
            progress_bar=False, request_save_on_cell_execute=False, coalesce_streams=True,
            km=manager, on_cell_start=heed,
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


def _attend(worker: threading.Thread, manager: Any, stop: Stop, tick: Callable[[], None]) -> None:
    """Wait for the notebook; pass the first signal on, end the kernel at the second or after the drain."""
    deadline = float("inf")
    while worker.is_alive():
        worker.join(0.1)
        tick()
        if stop.count and deadline == float("inf"):
            deadline = time.monotonic() + DRAIN_SECONDS
            with suppress(Exception):
                manager.interrupt_kernel()
        if stop.count > 1 or time.monotonic() > deadline:
            return


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
    write_atomically(target, redact(nbformat.writes(notebook) + "\n", secrets))
    staged.unlink()


def _cleared(executed: Executed, environ: Mapping[str, str]) -> Executed:
    secrets = secret_values(environ)
    return Executed(executed.error, redact(executed.message, secrets), redact(executed.traceback, secrets))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep third parties' remarks about a loopback kernel out of the terminal."""
    names = ("papermill", "traitlets", "jupyter_client", "asyncio")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
