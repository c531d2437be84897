"""Work over rows is the same wherever it is done."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from running import start_python

from llmtwin_data import cluster, overlaps
from llmtwin_data.cluster import BUCKETS, HERE, Processes, blocks, by_row, check_cluster
from llmtwin_data.errors import ParamsError
from llmtwin_data.overlaps import common_windows, near_duplicates, shared_windows


def with_square(block, plus):
    return pd.DataFrame({"square": block.number**2 + plus}, index=block.index)


def dies_once(part, path):
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def raises(part):
    raise ParamsError(f"limit: found {part}")


def by_digit(part):
    print("printed in between")
    return [[number for number in part if number % BUCKETS == bucket] for bucket in range(BUCKETS)]


def in_all(sketches):
    return sum(map(len, sketches))


@pytest.fixture(scope="module")
def processes():
    return Processes(2)


@pytest.mark.parametrize("where", ["here", "processes"])
def test_rows_and_keys_come_back_in_their_order(where, processes):
    workers = HERE if where == "here" else processes
    table = pd.DataFrame({"number": range(4_500)}, index=range(10, 4_510))
    table.attrs["sides"] = "what is of the whole stays here"
    assert [(len(block), block.attrs) for block in blocks(table)] == [(2_000, {}), (2_000, {}), (500, {})]
    assert [*map(len, blocks(iter(range(4_500))))] == [2_000, 2_000, 500]
    assert [*blocks(iter([]))] == [*blocks([])] == [[]]
    expected = with_square(table, 1)
    pd.testing.assert_frame_equal(by_row(table, with_square, 1, workers=workers), expected)
    buckets = workers.shuffle(by_digit, blocks(list(range(4_500))), in_all)
    assert buckets == [len(range(bucket, 4_500, BUCKETS)) for bucket in range(BUCKETS)]


def test_windows_and_copies_are_the_same_wherever_and_in_whatever_blocks(processes, monkeypatch):
    draw = random.Random(7)
    texts = [" ".join(draw.choices([f"w{number}" for number in range(40)], k=30)) for _ in range(60)]
    texts += [f"{text} {texts[0]}" for text in texts[:40]] + [f"Well, {text}!" for text in texts[:9]]

    def found(workers):
        windows = shared_windows(texts, workers=workers)
        common, copies = (
            common_windows(texts, workers=workers),
            near_duplicates(texts, threshold=0.7, workers=workers),
        )
        return [*(getattr(windows, each.name).tolist() for each in fields(windows)), common.tolist(), copies]

    here = found(HERE)
    assert len(set(here[-1])) > 3
    assert len(here[-2])
    for rows, buckets in ((7, 2), (1_000, 64)):
        monkeypatch.setattr(overlaps, "blocks", partial(blocks, size=rows))
        for module in (overlaps, cluster):
            monkeypatch.setattr(module, "BUCKETS", buckets)
        assert found(HERE) == here
    monkeypatch.undo()
    monkeypatch.setattr(overlaps, "blocks", partial(blocks, size=9))
    assert found(processes) == here


def test_what_a_dead_process_was_doing_is_done_again(processes, tmp_path):
    assert [*processes.map(dies_once, range(8), given=[tmp_path / "died"])] == [*range(8)]


def sleeps(part, path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


STARTER = """
import sys
from pathlib import Path
from test_cluster import sleeps
from llmtwin_data.cluster import Processes
list(Processes(1).map(sleeps, [1], given=[Path(sys.argv[1])]))
"""


def test_a_process_ends_with_its_starter_in_the_middle_of_its_work(tmp_path):
    starter = start_python(STARTER, tmp_path / "child")
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    starter.kill()
    starter.wait()
    child = Path("/proc", (tmp_path / "child").read_text(), "exe")
    wait_until(lambda: not child.exists())


def test_a_process_does_nothing_for_a_starter_that_ended_before_it_began(tmp_path):
    gone = start_python("")
    gone.wait()
    serve = f"from llmtwin_data.cluster import serve; serve({gone.pid})"
    child = start_python(serve, stdin=subprocess.PIPE)
    pickle.dump((pickle.dumps((sleeps, (tmp_path / "child",))), pickle.dumps(1)), child.stdin)
    child.stdin.flush()
    assert child.wait(30) == 1


class Unsendable(Exception):
    def __init__(self, *, status):
        super().__init__(f"status {status}")


def raises_unsendable(part):
    raise Unsendable(status=part)


def test_a_process_says_what_an_error_says_that_cannot_be_sent(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('a file of the current folder')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="Unsendable: status 500"):
        list(Processes(1).map(raises_unsendable, [500]))


def wait_until(true, *, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_error_comes_back_as_it_was(processes):
    with pytest.raises(ParamsError, match="limit: found 3"):
        list(processes.map(raises, [3]))


def test_a_missing_ray_is_said_with_the_next_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ParamsError, match=r"^cluster: expected Ray for local, .* run make ray$"):
        check_cluster("local")
    check_cluster("")
