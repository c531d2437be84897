"""One process at work on a run folder: its lock, what it says and keeps in run.json, what it used."""

from __future__ import annotations

import itertools
import os
import platform
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from llmtwin_data.answers import AnswerStore
from llmtwin_data.datasets import seal_run
from llmtwin_data.engine import GenerationReport
from llmtwin_data.errors import Interrupted, QualityGate, RunIncomplete
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, project_path, resolve, run_lock

# Set for the kernel by the driver's `--retry-failed`.
RETRY_FAILED = "LLMTWIN_RETRY_FAILED"
# Seconds between two entries in run.json; each is a durable write.
_STATE_EVERY = 2.0
# Seconds between two drawings of the bar, so that a log of any length stays small (N11).
_DRAW_EVERY = 1.0


def new_run_dir(stem: str, *, varied: str = "") -> Path:
    """Return a run folder that is not there yet: the params' stem, the time in UTC and what is varied."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + (f"_{varied}" if varied else "")
    parent = PROJECT_ROOT / "runs" / stem
    names = itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def driver_fields() -> dict[str, Any]:
    """Return what run.json holds while a driver is at work."""
    return {"driver": {"pid": os.getpid(), "host": socket.gethostname()}}


def is_driven(run: RunFolder) -> bool:
    """Return whether this process is the kernel of the driver that holds the folder's lock."""
    driver = run.read().get("driver") or {}
    return driver == {"pid": os.getppid(), "host": socket.gethostname()}


@contextmanager
def recorded(run: RunFolder) -> Iterator[None]:
    """Hold the folder while the block works; an error leaves its state in run.json."""
    with nullcontext() if is_driven(run) else run_lock(run):
        try:
            yield
        except BaseException as error:
            incomplete = isinstance(error, RunIncomplete | Interrupted | KeyboardInterrupt)
            gated = "gated" if isinstance(error, QualityGate) else "failed"
            run.update(state="incomplete" if incomplete else gated)
            raise


def finish(run: RunFolder) -> None:
    """Write that the run is complete, unless a driver has still to make its report."""
    if not is_driven(run):
        seal_run(run, state="complete", ended=now())


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def process_costs(who: int = resource.RUSAGE_SELF) -> dict[str, float]:
    """Return CPU seconds and peak memory in MiB of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_rss_mb": round(used.ru_maxrss / unit, 1),
    }


@contextmanager
def shown_progress(total: int, *, run: RunFolder, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of the chunks are answered, and how many of these failed, while the block runs."""
    from tqdm.auto import tqdm

    bar: Any = tqdm(total=total, desc=what, unit="chunk", mininterval=_DRAW_EVERY, dynamic_ncols=True)
    last = time.monotonic() - _STATE_EVERY

    def step(answered: int, failed: int) -> None:
        nonlocal last
        if failed:
            bar.set_postfix(failed=failed, refresh=False)
        bar.update(answered - bar.n)
        if time.monotonic() - last >= _STATE_EVERY:
            last = time.monotonic()
            run.update(progress={"answered": answered, "failed": failed, "total": total, "what": what})

    try:
        yield step
    finally:
        bar.close()


def tell(run: RunFolder, line: str, *, aloud: bool = True) -> None:
    """Write a line once in a run, here and, through run.json, on the driver's terminal."""
    from tqdm.auto import tqdm

    fields = run.read()
    told = fields.get("told", [])
    if line in told:
        return
    if fields:
        run.update(told=[*told, line])
    if aloud:
        tqdm.write(line)


def spent_usd(fields: Mapping[str, Any]) -> float:
    """Return what all sessions on a run folder, whose run.json is given, count towards its limit."""
    parts = (part.get("spent_usd", 0.0) for part in fields.get("asked", {}).values())
    return float(sum(parts, fields.get("spent_before", 0.0)))


def begin_asking(run: RunFolder, answers: AnswerStore) -> float:
    """Return what counts towards a run's limit so far, and note what its store was paid.

    A session that is killed while it asks leaves no report; the next one finds the note, and counts what the
    store was paid since then.
    """
    fields = run.read()
    before = fields.get("spent_before", 0.0)
    if (note := fields.get("asking")) and (path := resolve(note["answers"])).exists():
        with AnswerStore(path) as store:
            before += max(0.0, store.totals()["cost_usd"] - note["paid_usd"])
    asking = {"answers": project_path(answers.path), "paid_usd": answers.totals()["cost_usd"]}
    run.update(spent_before=before, asking=asking)
    return spent_usd(fields | {"spent_before": before})


def keep_report(run: RunFolder, what: str, report: GenerationReport) -> None:
    """Count in run.json what was asked of one kind, on top of what was before."""
    asked = run.read().get("asked", {})
    before = asked.get(what, {})
    costs = [report.cost_usd if report.requests else 0.0, before.get("cost_usd", 0.0)]
    known = [cost for cost in costs if cost is not None]
    added = {
        "questions": report.questions,
        "answered_before": report.answered_before,
        "requests": report.requests + before.get("requests", 0),
        "tokens": report.prompt_tokens + report.completion_tokens + before.get("tokens", 0),
        "reasoning_tokens": report.reasoning_tokens + before.get("reasoning_tokens", 0),
        "cost_usd": sum(known) if known == costs else None,
        "spent_usd": report.spent_usd + before.get("spent_usd", 0.0),
        "seconds": round(report.seconds + before.get("seconds", 0.0), 3),
        "stopped": report.stopped,
        "models": dict(Counter(before.get("models", {})) + Counter(report.models)),  # as answers name them
    }
    run.update(asked=asked | {what: added}, asking=None)


def tell_report(run: RunFolder, model: str, report: GenerationReport) -> None:
    """Write what of a report its reader should know at once."""
    if report.too_long:
        tell(
            run,
            "batch_size: the endpoint refused batches as too long for its context; they are sent in smaller "
            "ones. A smaller batch_size or chunk_chars spares the refusals",
        )
    if report.cannot_copy:
        tell(
            run,
            "batch_size: the endpoint does not copy the first words of a text, by which an answer shows "
            "which one it read; each request holds one content. batch_size 1 spares the first ones",
        )
    # A dated version of the model asked for is the same.
    others = sorted(name for name in report.models if name and not name.startswith(model.rpartition("/")[2]))
    if others:
        tell(run, f"Asked for the model {model}; answers name {', '.join(others[:5])}")


def versions() -> dict[str, str]:
    """Return the versions that show in a result; the lock file names all others."""
    ours = ["llmtwin_data", "qdrant-client", "qdrant-edge-py", "openai", "aiohttp", "xllamacpp", "papermill"]
    known = {name: metadata.version(name) for name in [*ours, "genai-prices"]}
    return {"python": platform.python_version()} | known
