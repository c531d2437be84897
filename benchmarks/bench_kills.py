"""kill -9 the command at random times and go on: what is lost, what is paid twice, what the dataset becomes.

A job is `llmtwin-data run`, its process group killed until one run ends by itself; then the next job begins,
until there were enough kills: half of them at an endpoint that honours Idempotency-Key. Three in four kills
come while it asks, the others while it starts. Both halves go on at the same time.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from setting import AnswerStore, options, serve, show

# isort: split
# Beside the tests, where `setting` has shown the way.
from running import Bench, make_bench

from llmtwin_data.checks import check_run

CONTENTS, IN_FLIGHT = 160, 16
LONGEST_WAIT = 1.5  # seconds between the moment waited for and the kill
VALUES = {"batch_size": 1, "concurrency": IN_FLIGHT}
COLUMNS = ("honours the key", "jobs", "kills", "during calls", "in flight at most", "answers stored then")
OUTCOMES = ("lost", "paid twice", "findings", "other sha256")


def clean_run(folder: Path) -> tuple[bytes, int]:
    """Give the manifest of a run that nobody kills, and the port it asked: answers' keys hold it."""
    with serve(own_process=True) as server:
        bench = make_bench(folder, server, documents=CONTENTS)
        assert bench.run("--only", "3", **VALUES).returncode == 0
        return bench.manifest(), urlsplit(server.base_url).port or 0


def one_job(bench: Bench, dice: random.Random) -> dict[str, int]:
    """Kill until the job ends by itself; count the kills and what was on its way and stored at each."""
    counts = dict.fromkeys((*COLUMNS[2:], *OUTCOMES), 0)
    known: set[str] = set()
    while True:
        driver = bench.start("--only", "3", values=VALUES)
        if dice.random() < 0.75:
            wait_for_calls(bench, driver)
        try:
            errors = driver.communicate(timeout=dice.random() * LONGEST_WAIT)[1]
            assert driver.returncode == 0, errors
            break
        except subprocess.TimeoutExpired:
            asking = bench.server.stats()["in_flight"] > 0
            os.killpg(driver.pid, signal.SIGKILL)
            driver.communicate()
        stored = answers_in(bench)
        found = (1, asking, asking * IN_FLIGHT, len(stored), len(known - stored))
        for name, count in zip((*COLUMNS[2:], "lost"), found, strict=True):
            counts[name] += count
        known = stored
    counts["lost"] += len(known - answers_in(bench))
    return counts


def wait_for_calls(bench: Bench, driver: subprocess.Popen[str]) -> None:
    """Return once the driver's kernel asks, or when it has ended without a question."""
    before = bench.server.stats()["requests"]
    while driver.poll() is None and bench.server.stats()["requests"] == before:
        time.sleep(0.05)


def answers_in(bench: Bench) -> set[str]:
    """Give the keys of what is stored."""
    path = bench.folder / "answers.sqlite"
    if not path.exists():
        return set()
    with AnswerStore(path) as store:
        assert not store.notes, store.notes
        return {piece[3] for pieces in store.answered().values() for piece in pieces}


def half(honours: bool, *, kills: int) -> list[object]:
    """Give a row of the table."""
    dice, jobs = random.Random(3 + honours), 0
    sums = dict.fromkeys((*COLUMNS[2:], *OUTCOMES), 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected, port = clean_run(folder)
        while sums["kills"] < kills:
            jobs += 1
            (folder / str(jobs)).mkdir()
            settings = {"port": port, "latency_ms": 300, "honour_idempotency": honours}
            with serve(own_process=True, **settings) as server:
                bench = make_bench(folder / str(jobs), server, documents=CONTENTS)
                counts = one_job(bench, dice)
                counts["paid twice"] = server.stats()["paid_twice"]
            counts["findings"] = len(list(check_run(bench.out.path)))
            counts["other sha256"] = int(bench.manifest() != expected)
            sums = {name: count + counts[name] for name, count in sums.items()}
    return ["yes" if honours else "no", jobs, *sums.values()]


def main() -> None:
    """Print a row for each kind of endpoint."""
    kills = options(kills=200).kills
    with ProcessPoolExecutor(2) as pool:  # commands that run in a process of threads mix up what they print
        rows = list(pool.map(partial(half, kills=kills // 2), (False, True)))
    show("Kill and resume", (*COLUMNS, *OUTCOMES), rows)


if __name__ == "__main__":
    main()
