"""Processes beside Ray: from 300,000 stored answers to a dataset, and workers killed while they ask.

Both with two workers; where Ray is missing (`make ray`) its rows are. A worker is killed ten times at random
while 20,000 chunks are asked about in two partitions, and the manifest compared with that of a run which
nobody disturbs.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from bench_quality import Posts, fill, settings_in
from setting import Clock, in_own_process, options, peak_mb, serve, show

# isort: split
# Beside the tests, where `setting` has shown the way.
from running import make_bench

from llmtwin_data import cluster, pipeline
from llmtwin_data.answers import AnswerStore
from llmtwin_data.checks import check_run

KINDS = {"processes": "", "Ray": "local"}
IN_FLIGHT = 64
VALUES = {"batch_size": 1, "concurrency": IN_FLIGHT, "embedding_model": "off", "min_evidence": 0.0}


def workers_under(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the processes below this one that work on rows, and not for Ray itself."""
    for one in process.children(recursive=True):
        try:
            words = " ".join(one.cmdline())
        except psutil.Error:
            continue
        if "cluster import serve" in words or words.startswith(("ray::IDLE", "ray::Map")):
            yield one


def most_mb(process: psutil.Process) -> float:
    """Give the most memory that a process has held, what it shares with others included, in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def part(count: int, folder: str, where: str) -> None:
    """Go from the store to the dataset, and print what it took."""
    settings = replace(settings_in(folder), cluster=where, run_dir=f"{folder}/{where or 'processes'}")
    with Clock() as starting:
        cluster.workers_of(count, where)
    with Clock() as working, AnswerStore(Path(settings.answers)) as store:
        ledger = pipeline.read_chunks(Posts(count, folder), settings, store)
        ledger = pipeline.with_answers(ledger, settings, store)
        ledger = pipeline.with_measures(ledger, settings, store)
        ledger = pipeline.with_verdicts(ledger, settings, store)
        ledger = pipeline.with_decisions(ledger, settings)
        ledger = pipeline.with_sides(ledger, settings, pipeline.previous_of(ledger, settings))
        pipeline.publish(ledger, settings)
    accepted = int((ledger.state == "accepted").sum())
    worker = max(map(most_mb, workers_under(psutil.Process())), default=0.0)
    print(json.dumps([count, accepted, starting.took.wall, working.took.wall, peak_mb(), worker]))


def asked(
    folder: Path, chunks: int, kills: int, where: str, *, port: int = 0
) -> tuple[bytes, int, list[int]]:
    """Run the command with two partitions, kill workers on the way; give manifest, port and counts."""
    dice, done = random.Random(chunks), 0
    with serve(own_process=True, port=port, latency_ms=50) as server:
        bench = make_bench(folder, server, documents=chunks)
        driver = bench.start("--only", "3", values=VALUES | {"cluster": where, "partitions": 2})
        places = sorted(dice.sample(range(chunks // 20, chunks * 9 // 10), kills))
        while driver.poll() is None and done < kills:
            time.sleep(0.01)
            asking = [*workers_under(psutil.Process(driver.pid))]
            asking = [one for one in asking if "IDLE" not in one.name()]
            if asking and server.stats()["requests"] >= places[done]:
                dice.choice(asking).kill()
                done += 1
        errors = driver.communicate()[1]
        assert driver.returncode == 0, errors
        with AnswerStore(bench.folder / "answers.sqlite") as store:
            lost = chunks - sum(map(len, store.answered().values()))
        twice, findings = server.stats()["paid_twice"], len([*check_run(bench.out.path)])
        return bench.manifest(), urlsplit(server.base_url).port or 0, [done, lost, twice, findings]


def main() -> None:
    """Print two tables with a row for each kind of workers."""
    given = options(pairs=300_000, chunks=20_000, kills=10)
    kinds = {name: where for name, where in KINDS.items() if not where or find_spec("ray")}
    if len(kinds) < len(KINDS):
        print("Ray is not installed and passed over; make ray installs it")
    with tempfile.TemporaryDirectory() as folder:
        in_own_process(__file__, "fill", given.pairs, folder)
        took = {name: in_own_process(__file__, "part", given.pairs, folder, it) for name, it in kinds.items()}
    columns = ("workers", "pairs", "accepted", "start s", "seconds", "own MiB", "a worker's MiB")
    show("From stored answers to a published dataset", columns, [[name, *it] for name, it in took.items()])
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        (folder / "clean").mkdir()
        expected, port, _ = asked(folder / "clean", given.chunks, 0, "")
        for name, where in kinds.items():
            (folder / name).mkdir()
            manifest, _, counts = asked(folder / name, given.chunks, given.kills, where, port=port)
            rows.append(
                [
                    name,
                    given.chunks,
                    *counts,
                    int(manifest != expected),
                    IN_FLIGHT // 2 * 5 // 4 * given.kills,
                ]
            )
    columns = (
        "workers",
        "chunks",
        "kills",
        "lost",
        "paid twice",
        "findings",
        "other sha256",
        "in flight or unsaved then",
    )
    show("Workers killed while they ask", columns, rows)


if __name__ == "__main__":
    if sys.argv[1:2] in (["fill"], ["part"]):
        {"fill": fill, "part": part}[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
    else:
        main()
