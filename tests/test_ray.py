"""Work on Ray is the same work; needs `make ray`, so that `make test` passes it over."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

if not find_spec("ray"):
    pytest.skip("make test-ray installs it", allow_module_level=True)

from test_cluster import by_digit, dies_once, in_all, raises, with_square

from llmtwin_data import cluster
from llmtwin_data.cluster import HERE, blocks, by_row, check_cluster
from llmtwin_data.errors import ParamsError

CANARY = "sk-canary-7d1f0c2b9a"


@pytest.fixture(scope="module")
def ray():
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers are told where the tests' functions are, and have a key that they may write nowhere.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("OPENAI_API_KEY", CANARY)
        handlers = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
        workers = cluster.workers_of(cluster.FEWEST_ROWS, "local")
        assert [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)] == handlers
        yield workers
        workers._ray.shutdown()
        cluster._on_ray.cache_clear()


def test_rows_and_keys_come_back_in_their_order(ray):
    table = pd.DataFrame({"number": range(45_000)}, index=range(10, 45_010))

    pd.testing.assert_frame_equal(by_row(table, with_square, 1, workers=ray), with_square(table, 1))
    numbers = list(range(90_000))
    assert ray.shuffle(by_digit, blocks(numbers), in_all) == HERE.shuffle(by_digit, blocks(numbers), in_all)


def test_what_a_dead_worker_was_doing_is_done_again(ray, tmp_path):
    assert [*ray.map(dies_once, range(8), given=[tmp_path / "died"])] == [*range(8)]


def test_an_error_comes_back_as_it_was(ray):
    with pytest.raises(ParamsError, match="limit: found 3"):
        list(ray.map(raises, [3]))
    with pytest.raises(ParamsError, match="limit: found 3"):
        ray.shuffle(raises, [3], in_all)


def test_one_connection_serves_all_steps(ray):
    assert cluster.workers_of(cluster.FEWEST_ROWS, "local") is ray
    assert cluster.workers_of(cluster.FEWEST_ROWS - 1, "local") is HERE


def test_an_address_where_nothing_listens_is_said_with_the_next_step():
    with pytest.raises(ParamsError, match=r"^cluster: expected Ray at .* found: .* ray start --head"):
        check_cluster("127.0.0.1:1")


def test_nothing_listens_outside_this_machine_and_no_key_is_in_a_file(ray):
    import psutil

    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [it.laddr for one in family for it in one.net_connections("inet") if it.status == "LISTEN"]
    assert len(listening) > 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [*ray.map(os.getenv, ["OPENAI_API_KEY"])] == [CANARY]
    token = ray.map(os.getenv, ["RAY_AUTH_TOKEN"])
    texts = [path.read_bytes() for path in Path(ray._folder.name).rglob("*") if path.is_file()]
    assert len(texts) > 5
    assert [text for text in texts for secret in (CANARY, *token) if secret.encode() in text] == []
