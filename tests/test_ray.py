"""Work on Ray is the same work; needs `make ray`, so that `make test` passes it over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pytest

if not find_spec("ray"):
    pytest.skip("make test-ray installs it", allow_module_level=True)

import endpoint
from running import make_bench, start_python
from test_cluster import by_digit, dies_once, in_all, raises, with_square

from llmtwin_data import cluster, pipeline
from llmtwin_data.cluster import HERE, blocks, by_row, check_cluster
from llmtwin_data.errors import LlmTwinError, ParamsError
from llmtwin_data.folders import RunFolder

CANARY = "sk-canary-7d1f0c2b9a"
DOCUMENTS = 300
SLEEPER = """
import time
from llmtwin_data import cluster
workers = cluster.workers_of(cluster.FEWEST_ROWS, "local")
print(*workers.map(abs, [-1]), workers.folder, flush=True)
print(*workers.map(time.sleep, [60]))
"""


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


def dies(part):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_kills_each_worker_is_given_up(ray, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_DEATHS", 1)

    with pytest.raises(LlmTwinError, match=r"^Ray tried a piece of work 1 times and gave up .* set limit$"):
        list(ray.map(dies, [3]))


class Elsewhere:
    """Stands for the project on a machine that does not have it."""

    def __reduce__(self):
        return __import__, ("llmtwin_elsewhere",)


def test_a_machine_without_the_project_is_named(ray, monkeypatch):
    monkeypatch.setattr(ray, "_task", lambda *_: Elsewhere())

    with pytest.raises(LlmTwinError, match=r" on [0-9.]+: .* No module named .*; that machine needs this"):
        list(ray.map(abs, [3]))


def dies_once_in_a_bucket(sketches, *, path=Path("died")):
    return dies_once(sum(map(len, sketches)), path)


def test_a_shuffle_outlives_its_workers(ray, tmp_path):
    numbers = list(range(9_000))
    died = partial(dies_once_in_a_bucket, path=tmp_path / "died")

    assert ray.shuffle(by_digit, blocks(numbers), died) == HERE.shuffle(by_digit, blocks(numbers), in_all)


def at_work(family):
    """Give those that live, but for two agents that end in a minute, and what removes the folder."""
    for one in family:
        with suppress(psutil.Error):
            if not re.search(r"Agent|^sh|^sleep", " ".join(one.cmdline())):
                yield one


def test_it_says_nothing_and_ends_with_who_started_it(tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        process = start_python(SLEEPER, stdout=subprocess.PIPE, stderr=errors)
        result, folder = process.stdout.readline().decode().split()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len([*at_work(family)]) > 3
        process.kill()
        process.wait()

    end = time.monotonic() + 60
    while [*at_work(family)] or any(path.is_file() for path in Path(folder).rglob("*")):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (result, (tmp_path / "errors").read_text()) == ("1", "")


def test_one_connection_serves_all_steps(ray):
    assert cluster.workers_of(cluster.FEWEST_ROWS, "local") is ray
    assert cluster.workers_of(cluster.FEWEST_ROWS - 1, "local") is HERE


def test_an_address_where_nothing_listens_is_said_with_the_next_step():
    with pytest.raises(ParamsError, match=r"^cluster: expected Ray at .* found: .* ray start --head"):
        check_cluster("127.0.0.1:1")


def test_nothing_listens_outside_this_machine_and_no_key_is_in_a_file(ray):
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [it.laddr for one in family for it in one.net_connections("inet") if it.status == "LISTEN"]
    assert len(listening) > 3
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert [*ray.map(os.getenv, ["OPENAI_API_KEY"])] == [CANARY]
    token = ray.map(os.getenv, ["RAY_AUTH_TOKEN"])
    texts = [path.read_bytes() for path in Path(ray.folder).rglob("*") if path.is_file()]
    assert len(texts) > 5
    assert [text for text in texts for secret in (CANARY, *token) if secret.encode() in text] == []


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A bench whose store holds all answers, and what was published of them in one process."""
    with endpoint.serve() as server:
        bench = make_bench(tmp_path_factory.mktemp("answered"), server, documents=DOCUMENTS)
        yield bench, published(bench, "here")


def published(bench, name, **values):
    settings = bench.settings(run_dir=str(bench.folder / name), batch_size=1, **values)
    pipeline.make_dataset(settings, environ={})
    run = RunFolder(bench.folder / name)
    files = [run.ledger_file, *sorted(run.dataset.rglob("*"))]
    return {path.relative_to(run.path): path.read_bytes() for path in files if path.is_file()}


def test_the_dataset_of_the_same_answers_is_the_same_on_ray(ray, answered, monkeypatch):
    bench, expected = answered
    monkeypatch.setattr(cluster, "FEWEST_ROWS", 1)
    monkeypatch.setattr(blocks, "__defaults__", (50,))

    assert published(bench, "ray", cluster="local") == expected


@pytest.mark.parametrize("partitions", [1, 2, 4])
def test_what_is_asked_in_partitions_on_ray_makes_the_same_dataset(ray, answered, monkeypatch, partitions):
    bench, expected = answered
    monkeypatch.setattr(cluster, "FEWEST_ROWS", 100)
    before, name = bench.server.stats()["requests"], f"in-{partitions}"

    asked = {"partitions": partitions, "answers": str(bench.folder / f"{name}.sqlite")}
    assert published(bench, name, cluster="local", **asked) == expected
    assert bench.server.stats()["requests"] - before == DOCUMENTS
    texts = [path.read_bytes() for path in Path(ray.folder).rglob("*") if path.is_file()]
    assert [text for text in texts if CANARY.encode() in text] == []
