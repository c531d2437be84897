"""The whole command, all three notebooks, one chunk a request: where time and memory go beside the asking.

The bound is that of notebook 3: ceil(requests / in flight) times the latency, from the endpoint's first
request to its last answer, pilot included. Beside it stands a plain loop that checks and stores nothing. CPU
and peak are of driver, kernels and the processes that these start; what several share is counted for each. Of
the made texts few words tell, so that evidence, which would reject nearly all, rejects none.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench_throughput import plain_loop
from setting import Clock, endpoint_at, options, serve, show, text_of, tree_costs

# isort: split
# Beside the tests, where `setting` has shown the way.
from running import Bench, load

CASES = ((64, 200), (64, 2000), (256, 200))  # in flight, latency in ms
VALUES = {"batch_size": 1, "embedding_model": "off", "min_evidence": 0.0, "quality_gate": "stop"}


def run(bench: Bench, count: int, in_flight: int, latency: float) -> list[float]:
    """Run the command; give wall, from request to answer, and that over its bound, CPU and peak."""
    bench.server.reset()
    with ThreadPoolExecutor(1) as looks, Clock() as clock:
        process = bench.start(values={"collections": ["cleaned_posts"], "concurrency": in_flight, **VALUES})
        costs = looks.submit(tree_costs, process)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    fields, arrivals = bench.out.read(), bench.server.arrivals()
    totals, requests = fields["totals"], fields["asked"]["instructions"]["requests"]
    assert totals["accepted"] == count, totals
    asked = arrivals[len(arrivals) - requests :]  # notebook 2 asks before
    seconds = asked[-1] + latency - asked[0] if asked else 0.0
    bound = math.ceil(len(asked) / in_flight) * latency
    ratio = seconds / bound if bound else 0.0
    return [clock.took.wall, seconds, ratio, *costs.result()]


def measure(count: int, in_flight: int, latency_ms: int, *, times: int) -> list[list[object]]:
    """Run the command and the plain loop so often, and the last command once more; give medians."""
    rows, plain, latency = list[list[float]](), list[float](), latency_ms / 1000
    posts = [{"id": n, "cleaned_content": text_of(n), "type": "posts"} for n in range(count)]
    bound = math.ceil(count / in_flight) * latency
    with tempfile.TemporaryDirectory() as name, serve(own_process=True, latency_ms=latency_ms) as server:
        for turn in range(times):
            (Path(name) / str(turn)).mkdir()
            bench = Bench(Path(name) / str(turn), server)
            load(bench.folder / "qdrant", posts, file=bench.folder / "posts.jsonl")
            rows.append(run(bench, count, in_flight, latency))
            plain.append(plain_loop(count, 1, in_flight, endpoint_at(server)).wall / bound)
        again = run(bench, count, in_flight, latency)
    medians = list(map(statistics.median, zip(*rows, strict=True)))
    case = [count, in_flight, f"{latency_ms} ms"]
    return [[*case, "new", *medians, statistics.median(plain)], [*case, "again", *again, ""]]


def main() -> None:
    """Print two rows a case."""
    given = options(posts=10_000, times=5, case=-1)
    cases = CASES if given.case < 0 else CASES[given.case : given.case + 1]
    columns = (
        "posts", "in flight", "latency", "run", "wall s", "asking s", "asking/bound", "CPU s", "peak MiB",
        "plain/bound",
    )  # fmt: skip
    rows = [row for case in cases for row in measure(given.posts, *case, times=given.times)]
    show(f"The command, median of {given.times}", columns, rows)


if __name__ == "__main__":
    main()
