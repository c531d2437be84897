"""kill -9 at random times and go on: what is lost, and what is paid twice.

A job of 600 chunks is asked by child processes that are killed until one of them ends by itself; then the
next job begins, until there were enough kills: half of them at an endpoint that honours Idempotency-Key.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from setting import AnswerStore, Endpoint, Server, ask_all, endpoint_at, options, serve, show, wrong_pairs

CHUNKS, BATCH, IN_FLIGHT = 600, 4, 16
SETTINGS = {"latency_ms": 150, "sigma": 0.4}


def child(base_url: str, store_path: str) -> None:
    """Ask all of it; told when it is done."""
    endpoint = Endpoint(base_url, base_url, "scripted-1", "scripted-1")
    with AnswerStore(Path(store_path)) as store:
        ask_all(CHUNKS, endpoint, store, batch_size=BATCH, concurrency=IN_FLIGHT)
    print("done")


def one_job(server: Server, folder: Path, dice: random.Random) -> dict[str, int]:
    """Kill until the job is done; count what was lost and paid twice."""
    path = folder / "answers.sqlite"
    command = [sys.executable, __file__, "child", server.base_url, str(path)]
    kills = lost = 0
    known: set[str] = set()
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            process.wait(0.5 + dice.random() * 1.5)
            assert process.returncode == 0, "the child failed"
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        stored = _stored(server, path)
        lost += len(known - stored)
        known = stored
    with AnswerStore(path) as store:
        wrong = wrong_pairs(CHUNKS, endpoint_at(server), store) + (CHUNKS - store.totals()["answers"]["ok"])
    return {"kills": kills, "lost": lost, "twice": server.stats()["paid_twice"], "wrong": wrong}


def _stored(server: Server, path: Path) -> set[str]:
    if not path.exists():
        return set()
    with AnswerStore(path) as store:
        assert not store.notes, store.notes
        rows = store._file.connection.execute("SELECT key FROM answers").fetchall()
    return {key for (key,) in rows}


def main() -> None:
    """Print a row for each kind of endpoint."""
    given = options(kills=200)
    dice = random.Random(3)
    rows = []
    for honours in (False, True):
        sums = dict.fromkeys(("jobs", "kills", "lost", "twice", "wrong"), 0)
        while sums["kills"] < given.kills // 2:
            with (
                tempfile.TemporaryDirectory() as folder,
                serve(own_process=True, honour_idempotency=honours, **SETTINGS) as server,
            ):
                found = one_job(server, Path(folder), dice) | {"jobs": 1}
            sums = {name: count + found[name] for name, count in sums.items()}
        rows.append(["yes" if honours else "no", *sums.values(), sums["kills"] * IN_FLIGHT])
    columns = ("honours the key", "jobs", "kills", "answers lost", "paid twice", "wrong", "in flight at most")
    show("Kill and resume", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main()
