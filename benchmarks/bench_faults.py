"""A rate-limit burst, one request in twenty that goes wrong, and a soak in which nearly one in four does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from setting import ask_all, bench, options, show, wrong_pairs

BURST = [{"when": {"seconds": {"to": 6}}, "do": {"status": 429, "headers": {"Retry-After": "6"}}}]
# Half a percent each; of a first-match list, each fraction holds those before it.
KINDS = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "0.2"}},
    {"reset": True},
    {"cut": 60},
    {"html": True},
    {"drop": 1},
    {"order": "reverse"},
    {"swap": [1, 2]},
    {"finish": "length", "keep": 4},
)
MORE_KINDS = (
    {"status": 502, "html": True},
    {"status": 529},
    {"status": 408},
    {"nest": 900},
    {"empty": True},
    {"error_object": True},
    {"no_choices": True},
    {"empty_choices": True},
    {"null_content": True},
    {"wrap": "prose"},
    {"raw": "I am sorry, but as a model I would rather talk about the weather."},
    {"extra": 1},
)
MIXED = [{"when": {"fraction": 0.005 * (n + 1)}, "do": do} for n, do in enumerate(KINDS)]
EVERY_KIND = [*KINDS, *MORE_KINDS]
SOAK = [{"when": {"fraction": 0.23 * (n + 1) / 22}, "do": do} for n, do in enumerate(EVERY_KIND)]


def run(name: str, count: int, script: list, **settings: object) -> list[object]:
    """Ask under a script and, for the ratio, without one."""
    size = settings.get("batch_size", 8)
    with bench(latency_ms=50) as (server, endpoint, store):
        ask_all(count, endpoint, store, **settings)
        clean = server.stats()["requests"]
    with bench(latency_ms=50, script=script) as (server, endpoint, store):
        report, took = ask_all(count, endpoint, store, **settings)
        stats = server.stats()
        wrong = wrong_pairs(count, endpoint, store)
    ratio = stats["requests"] / clean
    return [
        name,
        count,
        size,
        report.answered,
        wrong,
        stats["requests"],
        ratio,
        stats["paid_twice"],
        took.wall,
    ]


class Watch(threading.Thread):
    """Memory (MiB) and open files of this process, each second until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended, self.seen = threading.Event(), []

    def run(self) -> None:
        """Look once a second."""
        while not self.ended.wait(1):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len([*Path("/proc/self/fd").iterdir()])
            self.seen.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))


def soak(count: int) -> list[object]:
    """Ask while nearly every fourth request is spoiled in one of 22 ways; show what was held."""
    watch = Watch()
    watch.start()
    row = run("soak: 23 % in 22 kinds", count, SOAK, concurrency=64)
    watch.ended.set()
    watch.join()
    looks = [watch.seen[len(watch.seen) * n // 6] for n in (1, 3, 5)]
    show("Soak, what was held", ("MiB", "open files"), looks)
    return row


def main() -> None:
    """Print a row a script."""
    given = options(questions=8_000)
    rows = [
        run("429 with Retry-After: 6 for 6 s", 40, BURST, batch_size=1, concurrency=16),
        run("5 % mixed faults", given.questions, MIXED, concurrency=32),
        soak(given.questions * 5 // 2),
    ]
    columns = ("fault", "chunks", "batch", "answered", "wrong", "requests", "times clean", "paid twice", "s")
    show("Faults", columns, rows)


if __name__ == "__main__":
    main()
