"""Work over rows is the same wherever it is done."""

from __future__ import annotations

import os
import signal

import pandas as pd
import pytest

from llmtwin_data.cluster import BUCKETS, HERE, Processes, blocks, by_row
from llmtwin_data.errors import ParamsError


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
    expected = with_square(table, 1)
    pd.testing.assert_frame_equal(by_row(table, with_square, 1, workers=workers), expected)
    buckets = workers.shuffle(by_digit, blocks(list(range(4_500))), in_all)
    assert buckets == [len(range(bucket, 4_500, BUCKETS)) for bucket in range(BUCKETS)]


def test_what_a_dead_process_was_doing_is_done_again(processes, tmp_path):
    assert [*processes.map(dies_once, range(8), given=[tmp_path / "died"])] == [*range(8)]


def test_an_error_comes_back_as_it_was(processes):
    with pytest.raises(ParamsError, match="limit: found 3"):
        list(processes.map(raises, [3]))
