"""One process at work on a run folder: its lock, the state it leaves in run.json, and what it used."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmtwin_data.errors import Interrupted, QualityGate, RunIncomplete
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, RunLock

# Set for the kernel by the driver's `--retry-failed`.
RETRY_FAILED = "LLMTWIN_RETRY_FAILED"


def new_run_dir(stem: str, *, varied: str = "") -> Path:
    """Give a run folder that is not there yet: the params' stem, then the time in UTC and what is varied."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + (f"_{varied}" if varied else "")
    parent = PROJECT_ROOT / "runs" / stem
    names = itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def driver_fields() -> dict[str, Any]:
    """Give what run.json holds while a driver is at work."""
    return {"driver": {"pid": os.getpid(), "host": socket.gethostname()}}


def is_driven(run: RunFolder) -> bool:
    """Tell whether this process is the kernel of the driver that holds the folder's lock."""
    driver = run.read().get("driver") or {}
    return driver == {"pid": os.getppid(), "host": socket.gethostname()}


@contextmanager
def recorded(run: RunFolder) -> Iterator[None]:
    """Hold the folder while the block works; an error leaves its state in run.json."""
    with nullcontext() if is_driven(run) else RunLock(run):
        try:
            yield
        except BaseException as error:
            run.update(state=state_after(error))
            raise


def finish(run: RunFolder) -> None:
    """Say that the run is complete, unless a driver has still to make its report."""
    if not is_driven(run):
        run.update(state="complete", ended=now())


def now() -> str:
    """Give the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def state_after(error: BaseException) -> str:
    """Give the state of a run that ended with this error."""
    if isinstance(error, RunIncomplete | Interrupted | KeyboardInterrupt):
        return "incomplete"
    return "gated" if isinstance(error, QualityGate) else "failed"


def process_costs(who: int = resource.RUSAGE_SELF) -> dict[str, float]:
    """Give CPU seconds and peak memory in MiB of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_rss_mb": round(used.ru_maxrss / unit, 1),
    }
