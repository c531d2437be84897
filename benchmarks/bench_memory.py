"""Memory: of the engine from 1,000 to 100,000 chunks, and of the table from 10,000 to 100,000 contents.

Each size runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from setting import Clock, ask_all, bench, in_own_process, options, peak_mb, show, text_of

from llmtwin_data import pipeline
from llmtwin_data.answers import AnswerStore
from llmtwin_data.params import Params

PAGE_TEXTS = [text_of(number) for number in range(256)]


class Generated:
    """A source that makes its points when they are scrolled, so that only the reader's memory counts."""

    address = "generated"

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def collections(self):
        return ["cleaned_posts"]

    def count(self, collection, *, authors=(), platforms=()):
        return self.size

    def scroll(self, collection, *, offset=None, page_size=256, authors=(), platforms=(), fields):
        first = offset or 0
        last = min(self.size, first + page_size)
        points = [
            (n, {"cleaned_content": f"{PAGE_TEXTS[n % 256]} {n}", "type": "posts"})
            for n in range(first, last)
        ]
        return points, last if last < self.size else None

    def write(self, collection, points):
        raise NotImplementedError("it only reads")


def engine(count: int) -> None:
    """Ask about so many chunks, ten a request, with no latency; print the peak."""
    with bench() as (_, endpoint, store):
        report, took = ask_all(count, endpoint, store, batch_size=10, concurrency=64)
    assert report.answered == count, report
    print(json.dumps([peak_mb(), took.wall]))


def table(count: int) -> None:
    """Read so many contents into the table and look for their answers; print the peak."""
    settings = Params(endpoint="http://127.0.0.1:9/v1", model="none")
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        store = AnswerStore(Path(folder) / "answers.sqlite")
        chunks = pipeline.read_chunks(Generated(count), settings, store)
        assert len(pipeline.with_answers(chunks, settings, store)) == count
        store.close()
    print(json.dumps([peak_mb(), clock.took.wall]))


def main() -> None:
    """Print a row a size."""
    given = options(chunks=100_000, contents=100_000)
    rows = []
    for what, small, large in (("engine", 1_000, given.chunks), ("table", 10_000, given.contents)):
        (low, _), (high, seconds) = (in_own_process(__file__, what, size) for size in (small, large))
        rows.append(
            [what, small, large, low, high, high - low, (high - low) * 1024 / (large - small), seconds]
        )
    columns = ("what", "from", "to", "peak MiB", "peak MiB", "more MiB", "kB each", "seconds")
    show("Memory", columns, rows)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("engine", "table"):
        {"engine": engine, "table": table}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
