"""One call of ask: lazily, once, within budget and limits, and ending well."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import endpoint as scripted
import pytest
from asking import QUICK, ask_about, asking, endpoint_at, open_store, question, recipe_for, stop_at

from llmtwin_data.engine import ask
from llmtwin_data.errors import BudgetReached, Interrupted, ParamsError
from llmtwin_data.prices import Price

TESTS = Path(__file__).parent


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as store:
        yield store


def test_everything_is_answered_and_counted(store):
    with scripted.serve() as server:
        outcome = ask_about(range(100), server.base_url, store)

    assert outcome.wrong() == []
    assert (outcome.report.answered, outcome.report.requests, outcome.report.pending) == (100, 13, 0)
    assert sum(answer.prompt_tokens for answer in outcome.answers.values()) == outcome.report.prompt_tokens
    total = sum(answer.cost_usd for answer in outcome.answers.values())
    assert total == pytest.approx(outcome.report.cost_usd, rel=1e-6)


def test_a_second_run_sends_nothing(store):
    with scripted.serve() as server:
        ask_about(range(100), server.base_url, store)
        again = ask_about(range(100), server.base_url, store)
        stats = server.stats()

    assert (again.report.answered_before, again.report.requests) == (100, 0)
    assert stats["requests"] == 13


def test_a_new_text_never_makes_its_mates_be_asked_again(store):
    with scripted.serve() as server:
        ask_about([1, 2, 3], server.base_url, store)
        ask_about([1, 9, 2, 3], server.base_url, store)
        stats = server.stats()

    assert stats["texts_paid_total"] == 4


def test_equal_texts_are_paid_once(store):
    with scripted.serve() as server:
        outcome = ask_about([1, 2, 1, 1], server.base_url, store)
        stats = server.stats()

    assert (outcome.report.repeated, outcome.report.questions) == (2, 2)
    assert stats["texts_paid_total"] == 2


def test_questions_are_read_as_they_are_needed(store):
    endpoint = endpoint_at("http://127.0.0.1:9/v1")
    read = []

    def endless():
        while True:
            read.append(1)
            yield question(len(read), recipe_for(endpoint))

    with (
        scripted.serve(script=[{"when": {}, "do": {"status": 401}}]) as server,
        pytest.raises(Exception, match="key"),
    ):
        ask(endless(), endpoint=endpoint_at(server.base_url), answers=store, asking=asking())

    assert len(read) < 1_000


@pytest.mark.parametrize(("k", "candidates"), [(3, 1), (1, 4), (2, 2)])
def test_several_instructions_and_candidates(store, k, candidates):
    with scripted.serve() as server:
        outcome = ask_about(range(16), server.base_url, store, recipe={"k": k, "candidates": candidates})
        stats = server.stats()

    assert outcome.wrong() == []
    assert {len(answer.values) for answer in outcome.answers.values()} == {k}
    assert stats["requests"] == 2


def test_candidates_are_asked_one_by_one_where_n_is_unknown(store):
    with scripted.serve(refuse_fields=["n"]) as server:
        outcome = ask_about(range(8), server.base_url, store, recipe={"candidates": 3})
        stats = server.stats()

    assert len(outcome.good()) == 8
    assert stats["requests"] == 4


def test_no_more_than_concurrency_is_in_flight(store):
    with scripted.serve(latency_ms=20) as server:
        outcome = ask_about(range(200), server.base_url, store, batch_size=1, concurrency=16)
        stats = server.stats()

    assert stats["max_in_flight"] == outcome.report.max_in_flight == 16


def test_the_budget_is_not_crossed_and_what_was_bought_is_kept(store):
    price = Price(1000.0, 1000.0, "test")
    with scripted.serve() as server:
        first = ask_about(range(200), server.base_url, store, price=price, max_cost_usd=20.0)
        second = ask_about(range(200), server.base_url, store, price=price)

    assert isinstance(first.error, BudgetReached)
    assert 0 < first.report.cost_usd <= 20.0
    assert 0 < len(first.good()) < 200
    assert second.report.answered_before == len(first.good())


def test_a_limit_needs_a_price(store):
    with pytest.raises(ParamsError, match="usd_per_million"):
        ask(
            [],
            endpoint=endpoint_at("http://h/v1"),
            answers=store,
            asking=asking(price=Price(None, None, "unknown"), max_cost_usd=1.0),
        )


def test_requests_per_minute_are_kept(store):
    with scripted.serve() as server:
        ask_about(range(6), server.base_url, store, batch_size=1, requests_per_minute=1200)
        arrivals = server.arrivals()

    assert arrivals[-1] - arrivals[0] >= 5 * 0.05 - 0.01


def test_progress_runs_in_the_callers_thread(store):
    threads = []
    with scripted.serve() as server:
        ask_about(
            range(100),
            server.base_url,
            store,
            on_tick=lambda done, failed: threads.append(threading.current_thread()),
        )

    assert set(threads) == {threading.current_thread()}


def test_it_works_inside_a_running_loop(store):
    import asyncio

    async def cell():
        return ask_about(range(8), server.base_url, store)

    with scripted.serve() as server:
        outcome = asyncio.run(cell())

    assert len(outcome.good()) == 8


def test_a_source_that_breaks_ends_it_with_what_was_received_stored(store):
    def broken(recipe):
        yield from (question(number, recipe) for number in range(80))
        raise OSError("gone")

    with scripted.serve() as server:
        where, reports = endpoint_at(server.base_url), []
        with pytest.raises(OSError, match="gone"):
            ask(
                broken(recipe_for(where)),
                endpoint=where,
                answers=store,
                asking=asking(batch_size=1),
                on_report=reports.append,
            )
        paid = server.stats()["paid_total"]

    assert store.totals()["answers"]["ok"] == reports[0].answered == paid > 0


def test_a_stop_drains_what_is_in_flight_and_stores_it(store):
    with scripted.serve(latency_ms=400) as server:
        outcome = ask_about(range(400), server.base_url, store, batch_size=1, **stop_at(server, 10))
        sent = server.stats()["requests"]
        time.sleep(0.5)
        stats = server.stats()

    assert isinstance(outcome.error, Interrupted)
    assert stats["requests"] == sent == len(outcome.good())
    assert 0 < sent < 400


def test_what_does_not_come_back_in_the_drain_is_kept_as_unknown(store):
    script = [{"when": {"request": {"from": 2, "to": 9}}, "do": {"silence": True}}]
    with scripted.serve(script=script) as server:
        patience = replace(QUICK, drain=0.3)
        outcome = ask_about(
            range(100), server.base_url, store, batch_size=1, patience=patience, **stop_at(server, 9)
        )

    assert isinstance(outcome.error, Interrupted)
    assert outcome.report.maybe_paid == 8
    assert outcome.report.seconds < QUICK.drain


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import asking
with asking.open_store(Path(sys.argv[3])) as store:
    print("ready", flush=True)
    found = asking.ask_about(range(1000), sys.argv[2], store, batch_size=1)
    print(type(found.error).__name__, len(found.good()), flush=True)
"""


@pytest.mark.parametrize("signals", [["INT"], ["TERM"], ["INT", "INT"]], ids="_".join)
def test_signals_end_a_run_in_good_order(tmp_path, signals):
    silent = (
        [{"when": {"request": {"from": 9, "to": 16}}, "do": {"silence": True}}] if len(signals) > 1 else []
    )
    with scripted.serve(script=silent, latency_ms=200) as server:
        command = [sys.executable, "-c", SCRIPT, str(TESTS), server.base_url, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            while server.stats()["requests"] < 10:
                time.sleep(0.05)
            for name in signals:
                os.kill(process.pid, getattr(signal, f"SIG{name}"))
                time.sleep(0.3)
            started = time.monotonic()
            said = process.stdout.readline().split()
        took = time.monotonic() - started
        sent = server.stats()

    assert said[0] == "Interrupted"
    assert took < QUICK.drain
    assert sent["paid_total"] - int(said[1]) <= (8 if len(signals) > 1 else 0)
