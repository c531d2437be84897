"""What a run says of itself while it goes on: a bar and lines, also in run.json for the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmtwin_data.folders import RunFolder

# Seconds between two entries in run.json; each is a durable write.
_STATE_EVERY = 2.0
# Seconds between two drawings of the bar, so that a log of any length stays small (N11).
_DRAW_EVERY = 1.0


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
    """Say a line once in a run, here and, through run.json, on the driver's terminal."""
    from tqdm.auto import tqdm

    fields = run.read()
    told = fields.get("told", [])
    if line in told:
        return
    if fields:
        run.update(told=[*told, line])
    if aloud:
        tqdm.write(line)
