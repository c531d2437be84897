"""The whole command, all three notebooks, one chunk a request: where time and memory go beside the asking.

The bound is that of notebook 3: ceil(requests / in flight) times the latency. CPU and peak are of driver and
kernels, as the run says of itself; the peak is the driver's and the largest kernel's together. Of the made
texts few words tell, so that evidence, which would reject nearly all, rejects none.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

from setting import Clock, options, serve, show, text_of

# isort: split
# Beside the tests, where `setting` has shown the way.
from running import Bench, load

LATENCY_MS, IN_FLIGHT = 200, 256
TUNING = 4  # requests of notebook 2, with two texts and two prompts
VALUES = {"batch_size": 1, "concurrency": IN_FLIGHT, "embedding_model": "off", "min_evidence": 0.0}


def measure(count: int) -> list[list[object]]:
    """Run the command on so many posts, and once more; give a row each."""
    rows = list[list[object]]()
    posts = [{"id": n, "cleaned_content": text_of(n), "type": "posts"} for n in range(count)]
    with tempfile.TemporaryDirectory() as name, serve(own_process=True, latency_ms=LATENCY_MS) as server:
        bench = Bench(Path(name), server)
        load(bench.folder / "qdrant", posts, file=bench.folder / "posts.jsonl")
        for again in (False, True):
            server.reset()
            began = time.monotonic()
            with Clock() as clock:
                done = bench.run(collections=["cleaned_posts"], **VALUES)
            assert done.returncode == 0, done.stderr
            asked, totals = server.arrivals()[TUNING:], bench.out.read()["totals"]
            assert totals["accepted"] == count, totals
            first, last = (asked[0], asked[-1] + LATENCY_MS / 1000) if asked else (began, began)
            bound = math.ceil(len(asked) / IN_FLIGHT) * LATENCY_MS / 1000
            rows.append([
                count, "again" if again else "new", len(asked), clock.took.wall, first - began, last - first,
                (last - first) / bound if asked else "", totals["cpu_seconds"], totals["peak_rss_mb"],
            ])  # fmt: skip
    return rows


def main() -> None:
    """Print two rows a size."""
    given = options(small=1_000, large=10_000)
    columns = (
        "posts", "run", "requests", "wall s", "before s", "asking s", "asking/bound", "CPU s", "peak MiB",
    )  # fmt: skip
    show("The command", columns, [row for size in (given.small, given.large) for row in measure(size)])


if __name__ == "__main__":
    main()
