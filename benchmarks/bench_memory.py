"""Memory: of the engine from 1,000 to 100,000 chunks, and of reading from 10,000 to 1,000,000 contents.

Each size runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from setting import Clock, ask_all, bench, in_own_process, options, peak_mb, show, text_of

from llmtwin_data.chunks import ChunkSpool, split_content
from llmtwin_data.contents import Content, read_contents

PAGE_TEXTS = [text_of(number) for number in range(256)]


class Generated:
    """A source that makes its points when they are scrolled, so that only the reader's memory counts."""

    address = "generated"

    def __init__(self, size: int) -> None:
        self.size = size

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


def reading(count: int) -> None:
    """Read so many contents into a spool of chunks; print the peak."""
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        contents = read_contents(Generated(count), "cleaned_posts")
        chunks = (
            chunk for content in contents if isinstance(content, Content)
            for chunk in split_content(content, max_chars=2000)
        )  # fmt: skip
        with_chunks = ChunkSpool.write(Path(folder) / "chunks.jsonl", chunks)
        assert len(with_chunks) == count
    print(json.dumps([peak_mb(), clock.took.wall]))


def main() -> None:
    """Print a row a size."""
    given = options(chunks=100_000, contents=1_000_000)
    rows = []
    for what, small, large in (("engine", 1_000, given.chunks), ("reading", 10_000, given.contents)):
        (low, _), (high, seconds) = (in_own_process(__file__, what, size) for size in (small, large))
        rows.append(
            [what, small, large, low, high, high - low, (high - low) * 1024 / (large - small), seconds]
        )
    columns = ("what", "from", "to", "peak MiB", "peak MiB", "more MiB", "kB each", "seconds")
    show("Memory", columns, rows)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("engine", "reading"):
        {"engine": engine, "reading": reading}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
