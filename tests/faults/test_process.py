"""Kills, signals, locks and clocks: FAULTS.md, Process and machine, as far as driver and generator go."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import endpoint
import pytest
from documents import busy
from product import Failed, Study, hold_lock
from running import Bench, canaries_in, findings_of, finish, make_bench, start_python

# A whole run in one process: what a kernel does, without the seconds that a kernel takes to start.
CHILD = """
import json, sys
from product import Study
with Study(json.loads(sys.argv[1])) as study:
    study.publish()
"""
HOLDER = """
import sys, time
from product import hold_lock
with hold_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
IN_FLIGHT = 4
SLOW = [{"when": {"asks": "instructions"}, "do": {"latency_ms": 150}}]


def start_child(bench: Bench, **values: object) -> subprocess.Popen[bytes]:
    return start_python(CHILD, json.dumps(bench.study(**values)), stderr=subprocess.DEVNULL)


def generate(bench: Bench, *, version: str = "", **values: object) -> dict[str, Any]:
    """Publish, and give the totals."""
    with Study(bench.study(**values), version=version) as study:
        return study.publish()


def clean_manifest(folder: Path, **values: object) -> tuple[bytes, int]:
    """What the same params give where nothing ever fails, and the port: it is part of every answer's key."""
    folder.mkdir()
    with endpoint.serve() as server:
        bench = make_bench(folder, server)
        generate(bench, **values)
        return bench.manifest(), urlsplit(server.base_url).port or 0


def kill_until_done(bench: Bench, dice: random.Random, **values: object) -> int:
    """Kill the job at random times until it ends by itself, and count the kills."""
    kills = 0
    while True:
        child = start_child(bench, **values)
        try:
            child.wait(0.8 + dice.random() * 3.5)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
            continue
        assert child.returncode == 0
        return kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_p01_random_kills_lose_nothing_and_pay_twice_at_most_what_was_in_flight(tmp_path, request):
    dice, kills, jobs, paid_twice = random.Random(1), 0, 0, 0
    values = {"concurrency": IN_FLIGHT, "batch_size": 1}
    expected, port = clean_manifest(tmp_path / "clean", **values)

    while kills < request.config.getoption("--runs"):
        jobs += 1
        (tmp_path / str(jobs)).mkdir()
        with endpoint.serve(latency_ms=500, port=port) as server:
            bench = make_bench(tmp_path / str(jobs), server)
            kills += kill_until_done(bench, dice, **values)
            paid_twice += server.stats()["paid_twice"]
        assert bench.manifest() == expected
        assert findings_of(bench.out.path) == []

    assert paid_twice <= kills * IN_FLIGHT


def test_p02_three_kills_in_one_job_cost_nothing_where_keys_are_honoured(tmp_path):
    with endpoint.serve(script=SLOW, honour_idempotency=True) as server:
        bench = make_bench(tmp_path, server)
        for calls in (4, 8, 12):
            child = start_child(bench, concurrency=IN_FLIGHT, batch_size=1)
            bench.wait_for_requests(calls)
            child.kill()
            child.wait()
        generate(bench, concurrency=IN_FLIGHT, batch_size=1)

        assert server.stats()["paid_twice"] == 0
        assert findings_of(bench.out.path) == []


def test_p02_a_kill_takes_along_who_asks_in_partitions_and_the_next_run_goes_on(tmp_path):
    values = {"concurrency": 16, "batch_size": 1, "partitions": 2}
    with endpoint.serve(script=SLOW, honour_idempotency=True) as server:
        bench = make_bench(tmp_path, server, documents=150)
        child = start_child(bench, **values)
        bench.wait_for_requests(60)
        child.kill()
        child.wait()
        asked = 0
        while asked != (asked := server.stats()["requests"]):
            time.sleep(1)  # they look for it three times a second
        assert [*tmp_path.glob("answers.part-*")]
        generate(bench, **values)

        assert 60 <= asked < server.stats()["requests"] <= 150 + 16 + 8
        assert server.stats()["paid_twice"] == 0
        assert not [*tmp_path.glob("answers.part-*")]
        first = bench.manifest()
        generate(bench, run_dir=str(tmp_path / "other"))
        assert (tmp_path / "other" / "dataset" / "manifest.json").read_bytes() == first


def test_p02_what_a_killed_session_paid_counts_towards_the_limit(tmp_path):
    prices = {"usd_per_million_input": 5.0, "usd_per_million_output": 20.0}
    values = {"concurrency": 1, "batch_size": 1, "max_cost_usd": 0.045} | prices
    with endpoint.serve(script=SLOW) as server:
        bench = make_bench(tmp_path, server)
        child = start_child(bench, **values)
        bench.wait_for_requests(7)
        child.kill()
        child.wait()
        with pytest.raises(Failed, match="max_cost_usd") as stopped:
            generate(bench, **values)

        assert stopped.value.exit_code == 5

        # The limit pays for 16; what was in flight when the kill came counts at its worst, as five would.
        assert 10 <= server.stats()["requests"] <= 16


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["int", "term", "hup"])
def test_p03_a_signal_drains_stores_and_ends_resumable(tmp_path, number):
    with endpoint.serve(latency_ms=400) as server:
        bench = make_bench(tmp_path, server)
        driver = bench.start("--only", "3", values={"batch_size": 1, "concurrency": 2})
        bench.wait_for_requests(3)
        if number == signal.SIGHUP:  # of a terminal, that says so twice and takes no more lines
            driver.stdout.close()
            driver.send_signal(number)
        driver.send_signal(number)
        stopped = finish(driver)
        calls = server.stats()["requests"]
        time.sleep(2)

        assert (stopped.returncode, bench.out.read()["state"]) == (130, "incomplete")
        assert len(stopped.stderr.splitlines()) <= 10
        assert server.stats()["requests"] == calls
        server.change([])
        assert bench.run("--only", "3", batch_size=1, concurrency=2).returncode == 0
        assert server.stats()["paid_twice"] == 0
        assert canaries_in(bench.out.path) == []


@pytest.mark.slow
def test_p04_a_second_signal_ends_at_once_and_stays_resumable(tmp_path):
    with endpoint.serve(script=[{"when": {}, "do": {"latency_ms": 15_000}}]) as server:
        bench = make_bench(tmp_path, server)
        driver = bench.start("--only", "3")
        bench.wait_for_requests(1)
        driver.send_signal(signal.SIGINT)
        time.sleep(1)
        began = time.monotonic()
        driver.send_signal(signal.SIGINT)
        stopped = finish(driver)

    assert stopped.returncode == 130
    assert time.monotonic() - began < busy(4)  # two on an idle machine
    assert bench.out.read()["state"] == "incomplete"


@pytest.mark.slow
def test_p05_a_full_disk_ends_with_8_and_the_same_command_goes_on(bench):
    limit = (96 * 1024, resource.RLIM_INFINITY)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    try:
        driver = bench.start("--only", "3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    full = finish(driver)

    assert full.returncode == 8
    assert "Traceback" not in full.stderr
    assert bench.run("--only", "3").returncode == 0
    assert findings_of(bench.out.path) == []


def test_p09_an_out_folder_that_cannot_be_ends_with_8_before_any_call(bench):
    bench.out.path.write_text("a file")
    refused = bench.run()

    assert refused.returncode == 8
    assert bench.server.stats()["requests"] == 0


def test_p10_a_second_run_in_the_folder_ends_at_once_and_names_the_first(bench):
    with hold_lock(bench.out.path):
        second = bench.run()

    assert second.returncode == 7
    assert f"process {os.getpid()} on {socket.gethostname()}" in second.stderr


def test_p11_a_killed_holder_leaves_no_lock(tmp_path):
    holder = start_python(HOLDER, tmp_path, stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()

    with pytest.raises(Failed, match=f"process {holder.pid}") as refused, hold_lock(tmp_path):
        pass
    assert refused.value.exit_code == 7
    holder.kill()
    holder.wait()
    with hold_lock(tmp_path):
        pass


@pytest.mark.parametrize("jump", [86_400, -86_400], ids=["forward", "back"])
def test_p12_a_clock_that_jumps_changes_nothing(bench, monkeypatch, jump):
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (jump if next(calls) > 3 else 0))
    with Study(bench.study()) as study:
        assert study.ask()["seconds"] >= 0
        assert study.publish()["accepted"] == 24


@pytest.mark.slow
def test_p13_a_killed_kernel_is_a_failed_run_and_the_same_command_completes_it(tmp_path):
    expected, port = clean_manifest(tmp_path / "clean")
    with endpoint.serve(latency_ms=1500, port=port) as server:
        bench = make_bench(tmp_path, server)
        driver = bench.start("--only", "3")
        bench.wait_for_requests(1)
        kernel = subprocess.check_output(["pgrep", "-P", str(driver.pid)], text=True).split()[0]
        os.kill(int(kernel), signal.SIGKILL)
        failed = finish(driver)

        assert failed.returncode != 0
        assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("failed", False)
        assert bench.run("--only", "3").returncode == 0
    assert bench.manifest() == expected


def test_p14_few_file_handles_are_enough_or_named(bench):
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n" + CHILD
    given, pipes = json.dumps(bench.study(batch_size=1)), {"stdout": -1, "stderr": -1, "text": True}
    done = finish(start_python(code, given, **pipes))

    assert done.returncode == 0, done.stderr[-500:]
    assert findings_of(bench.out.path) == []


def test_p15_a_network_that_comes_back_is_waited_for(tmp_path):
    gone = [{"when": {"request": {"from": 3, "to": 8}}, "do": {"reset": True}}]
    with endpoint.serve(script=gone) as server:
        bench = make_bench(tmp_path, server)
        totals = generate(bench, batch_size=1, concurrency=2)

    assert totals["accepted"] == 24
    assert findings_of(bench.out.path) == []


def test_p17_an_incomplete_run_goes_on_in_another_place(tmp_path):
    with endpoint.serve(script=SLOW) as server:
        bench = make_bench(tmp_path, server)
        child = start_child(bench, batch_size=1, concurrency=2)
        bench.wait_for_requests(6)
        child.kill()
        child.wait()
        bench.out.path.rename(tmp_path / "moved")
        generate(bench, batch_size=1, concurrency=2, run_dir=str(tmp_path / "moved"))

    assert findings_of(tmp_path / "moved") == []


def test_p18_a_run_folder_of_another_kind_is_refused_in_one_line(bench):
    bench.out.path.mkdir()
    bench.out.run_file.write_text('{"state": "complete", "format": 0}')
    refused = bench.run()

    assert refused.returncode == 2
    assert "expected a run of these params" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert bench.server.stats()["requests"] == 0


def test_p19_another_version_of_the_package_asks_nothing_again(bench):
    generate(bench)
    asked, first = bench.server.stats()["requests"], bench.manifest()
    shutil.rmtree(bench.out.path)
    generate(bench, version="99.0")

    assert (bench.server.stats()["requests"], bench.manifest()) == (asked, first)


@pytest.mark.slow
def test_p01_a_killed_driver_takes_its_kernel_along_and_the_next_run_starts(tmp_path):
    with endpoint.serve(latency_ms=700) as server:
        bench = make_bench(tmp_path, server)
        driver = bench.start("--only", "3", values={"batch_size": 1, "concurrency": 2})
        bench.wait_for_requests(3)
        driver.kill()
        driver.communicate()
        time.sleep(1.5)  # a kernel looks for its driver once a second
        calls = server.stats()["requests"]
        time.sleep(3)

        assert server.stats()["requests"] == calls
        assert bench.out.read()["state"] == "running"
        assert bench.run("--only", "3", batch_size=1, concurrency=2).returncode == 0
        assert server.stats()["paid_twice"] <= 2
    assert findings_of(bench.out.path) == []


def two_benches(
    folder: Path, server: endpoint.Server, *, documents: tuple[int, int] = (24, 24)
) -> list[Bench]:
    """Two collections with the same texts, as far as both go."""
    benches = []
    for name, count in zip(("one", "two"), documents, strict=True):
        (folder / name).mkdir()
        benches.append(make_bench(folder / name, server, documents=count))
    return benches


def start_both(folder: Path, benches: list[Bench], **values: object) -> list[subprocess.Popen[bytes]]:
    values |= {"answers": str(folder / "answers.sqlite"), "concurrency": IN_FLIGHT}
    return [start_child(bench, **values) for bench in benches]


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 1},
        {"batch_size": 5, "candidates": 2, "judge_model": "judge", "embedding_model": "vectors"},
    ],
    ids=["instructions", "with verdicts and vectors"],
)
def test_p20_two_runs_at_once_ask_each_question_once(tmp_path, values):
    with endpoint.serve(latency_ms=100) as server:
        benches = two_benches(tmp_path, server)
        codes = [child.wait(100) for child in start_both(tmp_path, benches, **values)]
        stats = server.stats()

    assert codes == [0, 0]
    assert benches[0].manifest() == benches[1].manifest()
    assert stats["texts_paid_total"] == stats["texts_paid_distinct"] >= 24


def test_p20_what_only_one_of_two_runs_asks_does_not_wait(tmp_path):
    with endpoint.serve(latency_ms=100) as server:
        benches = two_benches(tmp_path, server, documents=(16, 32))
        codes = [child.wait(100) for child in start_both(tmp_path, benches, batch_size=1)]
        stats = server.stats()

    assert codes == [0, 0]
    assert stats["texts_paid_total"] == stats["texts_paid_distinct"] == 32


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_p20_what_a_killed_or_stopped_run_was_asking_is_taken_over(tmp_path, blow):
    with endpoint.serve(latency_ms=1000) as server:
        benches = two_benches(tmp_path, server)
        values = {"answers": str(tmp_path / "answers.sqlite"), "concurrency": IN_FLIGHT, "batch_size": 1}
        first = start_child(benches[0], **values)
        benches[0].wait_for_requests(1 + IN_FLIGHT)
        first.send_signal(blow)
        second = start_child(benches[1], **values)
        code = second.wait(100)
        stats = server.stats()
        first.send_signal(signal.SIGCONT)
        first.wait(100)
        later = server.stats()

    assert code == 0
    assert stats["texts_paid_distinct"] == 24
    assert stats["texts_paid_total"] <= 24 + IN_FLIGHT
    assert later["requests"] == stats["requests"]
    if blow == signal.SIGSTOP:
        assert benches[0].manifest() == benches[1].manifest()
