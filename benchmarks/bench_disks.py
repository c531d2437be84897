"""Fill the disk under the command, and damage its store: what is lost, what is said, what comes of it.

A full disk is a tmpfs in a mount namespace of its own (`unshare -rm`); it ends at one of many sizes between
what a collection takes and what its run takes, and is made larger for the second run. A damaged store is that
of a killed run, its WAL beside it: bytes flipped, cut off or zeroed, in either file.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from urllib.parse import urlsplit

from bench_kills import CONTENTS, VALUES, answers_in
from setting import options, serve, show

# isort: split
# Beside the tests, where `setting` has shown the way.
from running import Bench, make_bench

from llmtwin_data.checks import check_run
from llmtwin_data.errors import LlmTwinError

ROOM = 256 * 2**20  # bytes of a disk that is not full
COLUMNS = (
    "jobs", "exit codes", "said", "answers lost", "asked again", "tracebacks", "other exits", "findings",
    "other sha256",
)  # fmt: skip


def mount(folder: Path, size: int, *how: str) -> None:
    """Put a disk of so many bytes under a folder, or change the size of the one that is there."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join((*how, f"size={size}")), "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def used(folder: Path) -> int:
    """Return the bytes that a disk holds."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def look(bench: Bench, counts: Counter[str], *, expected: bytes) -> None:
    """Count what is wrong with a run that is complete."""
    counts["findings"] += len(list(check_run(bench.out.path)))
    counts["other sha256"] += bench.manifest() != expected


def go_on(bench: Bench, counts: Counter[str]) -> int:
    """Run in this process, without notebooks; note whether damage is said, and return the exit code."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            bench.publish(**VALUES)
        return 0
    except LlmTwinError as error:
        return error.exit_code
    finally:
        counts["said"] += "damaged" in said.getvalue()


def clean_run(folder: Path) -> tuple[bytes, int]:
    """Return the manifest of a run without a fault, and the port it asked: answers' keys hold it."""
    with serve(own_process=True) as server:
        bench = make_bench(folder, server, documents=CONTENTS)
        bench.publish(**VALUES)
        return bench.manifest(), urlsplit(server.base_url).port or 0


def fill_disks(folder: Path, *, jobs: int) -> list[object]:
    """Return the row of disks that were full under the command: its exit codes, and what came of going on."""
    expected, port = clean_run(folder)
    counts: Counter[str] = Counter()
    need = 0
    for job in range(-1, jobs):  # the first has room, and says how much is needed
        disk = folder / f"disk{job}"
        disk.mkdir()
        mount(disk, ROOM)
        with ExitStack() as last, serve(own_process=True, port=port) as server:
            last.callback(subprocess.run, ["umount", str(disk)], check=True)
            bench = make_bench(disk, server, documents=CONTENTS)
            loaded = used(disk)
            if job >= 0:
                mount(disk, loaded + 4096 + (need - loaded) * job // jobs, "remount")
            full = bench.run("--only", "3", **VALUES)
            need = need or used(disk)
            mount(disk, ROOM, "remount")
            before = answers_in(bench)
            if job >= 0:
                counts[f"exit {full.returncode}"] += 1
                counts["tracebacks"] += "Traceback" in full.stderr
                # By the command once more: the first may have left half a report.
                counts["other exits"] += bench.run("--only", "3", **VALUES).returncode != 0
                counts["answers lost"] += len(before - answers_in(bench))
                look(bench, counts, expected=expected)
                counts["asked again"] += server.stats()["paid_twice"]
    return row("full disks", jobs, counts)


def kill_half_way(folder: Path, port: int) -> int:
    """Leave the store of a run that was killed when half of its answers were there; return how many are."""
    with serve(own_process=True, port=port, latency_ms=300) as server:
        bench = make_bench(folder, server, documents=CONTENTS)
        driver = bench.start("--only", "3", values=VALUES)
        bench.wait_for_requests(CONTENTS // 2)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
        shutil.copytree(folder, folder.with_name("copy"))
        return len(answers_in(Bench(folder.with_name("copy"), server)))


def spoil(store: Path, how: int, dice: random.Random) -> None:
    """Flip, cut off or zero bytes of the store, or of its WAL."""
    file = store.with_name(f"{store.name}-wal") if how % 2 and how % 5 != 4 else store
    data = bytearray(file.read_bytes())
    at, many = dice.randrange(len(data)), dice.choice((1, 100, 4096))
    if how % 5 < 2:
        data[at : at + many] = bytes(byte ^ 0xFF for byte in data[at : at + many])
    elif how % 5 == 2:
        del data[at:]
    else:
        at = 0 if how % 5 == 4 else at
        data[at : at + many] = bytes(len(data[at : at + many]))
    file.write_bytes(data)


def damage_stores(folder: Path, *, jobs: int) -> list[object]:
    """Return the row of stores that were damaged: exit codes of going on, and what was asked again."""
    dice, counts = random.Random(7), Counter[str]()
    expected, port = clean_run(folder)
    killed = folder / "killed"
    killed.mkdir()
    kept = kill_half_way(killed, port)
    for job in range(jobs):
        with serve(own_process=True, port=port) as server:
            bench = Bench(Path(shutil.copytree(killed, folder / str(job))), server)
            spoil(bench.folder / "answers.sqlite", job, dice)
            code = go_on(bench, counts)
            counts[f"exit {code}"] += 1
            if code == 0:
                look(bench, counts, expected=expected)
            counts["asked again"] += server.stats()["requests"] - (CONTENTS - kept)
    return row("damaged stores", jobs, counts)


def row(name: str, jobs: int, counts: Counter[str]) -> list[object]:
    """Return a row of the table."""
    codes = ", ".join(f"{code[5:]}: {counts[code]}" for code in sorted(counts) if code.startswith("exit "))
    return [name, jobs, codes, *(counts[column] for column in COLUMNS[2:])]


def main() -> None:
    """Print a row for stores and, where this machine lets us mount, one for disks."""
    given = options(disks=22, stores=45, inside=0)
    alone = ["unshare", "-rm"]
    if not given.inside and subprocess.run([*alone, "true"], check=False).returncode == 0:
        os.execvp(alone[0], [*alone, sys.executable, *sys.argv, "--inside", "1"])
    rows = []
    for series, jobs in ((damage_stores, given.stores), (fill_disks, given.disks * given.inside)):
        with tempfile.TemporaryDirectory() as name:
            rows += [series(Path(name), jobs=jobs)] if jobs else []
    show("Full disks and damaged stores", ("", *COLUMNS), rows)


if __name__ == "__main__":
    main()
