"""The same through the Batch API: submitted, found again, collected."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import endpoint as scripted
import pytest
from asking import QUICK, ask_about, endpoint_at, open_store, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.errors import BillingRefused, BudgetReached, EndpointDown, Interrupted, KeyRejected
from llmtwin_data.prices import Price

TESTS = Path(__file__).parent
PATIENCE = replace(QUICK, poll=0.02, longest_poll=0.05)
FILES = "POST /v1/batches"


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as store:
        yield store


def ask_batch(docs, server, store, **settings):
    return ask_about(docs, server.base_url, store, **{"mode": "batch", "patience": PATIENCE} | settings)


def ask_and_leave(docs, server, store, **settings):
    """Submit, and stop as soon as the batches are waited for."""
    stop = Event()
    return ask_batch(docs, server, store, stop=stop, on_tick=lambda done, failed: stop.set(), **settings)


def on_line(**do):
    return {"when": {"kind": "line"}, "do": do}


def test_all_is_answered_by_one_batch_and_a_second_run_submits_nothing(store):
    with scripted.serve() as server:
        outcome = ask_batch(range(100), server, store)
        again = ask_batch(range(100), server, store)
        stats = server.stats()

    assert outcome.wrong() == []
    assert len(outcome.good()) == 100
    assert (stats["batch_lines"], stats["by_path"][FILES], stats["requests"]) == (13, 1, 0)
    assert store.totals()["batches"] == {"collected": 1, "submitted": 1}
    assert again.report.answered_before == 100


def test_a_model_that_thinks_is_given_room_in_the_next_batch(store):
    with scripted.serve(thinks=1_500) as server:
        first = ask_batch(range(32), server, store)
        outcome = ask_batch(range(80), server, store)
        stats = server.stats()

    assert (len(outcome.good()), outcome.failed()) == (80, {})
    assert 10 < stats["batch_lines"] <= 10 + 4
    assert first.report.reasoning_tokens + outcome.report.reasoning_tokens > 10_000


def test_live_and_batch_answers_are_the_same(tmp_path):
    with scripted.serve() as server:
        with open_store(tmp_path / "live") as store:
            live = ask_about(range(20), server.base_url, store)
        with open_store(tmp_path / "batch") as store:
            batch = ask_batch(range(20), server, store)

    one, other = ({doc: answer.values for doc, answer in it.answers.items()} for it in (live, batch))
    assert one == other


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_was_answered_before_the_end_is_used_and_the_rest_asked_again(store, status):
    script = [{"when": {"kind": "batch", "times": 1}, "do": {"batch_status": status, "answered": 5}}]
    with scripted.serve(script=script) as server:
        outcome = ask_batch(range(80), server, store)
        stats = server.stats()

    assert len(outcome.good()) == 80
    assert (stats["paid_total"], stats["paid_twice"]) == (10, 0)


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_a_file_without_a_line_is_believed_where_nothing_was_answered(store, status):
    do = {"batch_status": status, "answered": 0, "empty_file": "output_file_id"}
    with scripted.serve(script=[{"when": {"kind": "batch", "times": 1}, "do": do}]) as server:
        outcome = ask_batch(range(32), server, store)

    assert len(outcome.good()) == 32
    assert "open" not in states(store)


LINES = [{"status": 500}, {"status": 429}, {"drop": 3}, {"order": "reverse"}, {"raw": "no"}]
LINES += [{"wrap": "fenced"}]


@pytest.mark.parametrize("do", LINES, ids=str)
def test_faults_of_single_lines_lose_nothing(store, do):
    script = [{"when": {"kind": "line", "request": [2, 5]}, "do": do}]
    with scripted.serve(script=script) as server:
        outcome = ask_batch(range(80), server, store)

    assert outcome.wrong() == []
    assert len(outcome.good()) == 80


def test_a_key_in_a_result_is_taken_out(store, tmp_path):
    key = "sk-CANARY-0123456789"
    with scripted.serve(script=[on_line(instruction=f"Write a post that uses {key}.")]) as server:
        outcome = ask_batch(range(8), server, store, api_key=key)

    assert outcome.report.answered == 8
    assert not any(b"CANARY" in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


def test_a_poison_text_is_failed_alone(store):
    script = [{"when": {"kind": "line", "doc": 3}, "do": {"status": 400}}]
    with scripted.serve(script=script) as server:
        outcome = ask_batch(range(16), server, store)

    assert outcome.failed() == {3: "http_400"}
    assert len(outcome.good()) == 15


def test_lines_that_never_come_are_left_for_later(store):
    with scripted.serve(script=[on_line(status=500)]) as server:
        outcome = ask_batch(range(8), server, store)

    assert (outcome.report.pending, outcome.answers) == (8, {})
    assert "left" in outcome.report.stopped


def test_refusing_every_line_ends_the_run(store):
    with scripted.serve(script=[on_line(status=400)]) as server:
        outcome = ask_batch(range(80), server, store)

    assert isinstance(outcome.error, EndpointDown)
    assert outcome.answers == {}


def test_a_field_nobody_knows_is_left_out_in_the_next_round(store):
    refusal = {"status": 400, "error": {"message": "no such thing", "param": "response_format"}}
    script = [{"when": {"kind": "line", "field": "response_format"}, "do": refusal}]
    with scripted.serve(script=script) as server:
        outcome = ask_batch(range(16), server, store)

    assert len(outcome.good()) == 16
    assert outcome.report.mode == "text"


def test_a_batch_that_fails_as_a_whole_says_why(store):
    with scripted.serve(script=[{"when": {"kind": "batch"}, "do": {"batch_status": "failed"}}]) as server:
        outcome = ask_batch(range(8), server, store)

    assert isinstance(outcome.error, EndpointDown)
    assert "scripted failure" in str(outcome.error)


@pytest.mark.parametrize(
    ("status", "error"), [(401, KeyRejected), (402, BillingRefused), (404, EndpointDown)]
)
def test_a_provider_that_refuses_is_named(store, status, error):
    with scripted.serve(script=[{"when": {"kind": "files"}, "do": {"status": status}}]) as server:
        outcome = ask_batch(range(8), server, store, api_key="sk-CANARY-0123456789")

    assert isinstance(outcome.error, error)
    assert "CANARY" not in str(outcome.error)


@pytest.mark.parametrize("kind", ["files", "batches"])
def test_a_batch_that_is_gone_there_is_asked_anew_in_live_mode(store, kind):
    gone = [{"when": {"kind": kind, "times": 1}, "do": {}}, {"when": {"kind": kind}, "do": {"status": 404}}]
    with scripted.serve(script=gone) as server:
        first = ask_batch(range(8), server, store)
        live = ask_about(range(8), server.base_url, store)
        last = ask_batch(range(8), server, store)

    assert "-p mode live" in str(first.error)
    assert (len(live.good()), last.error, "open" in states(store)) == (8, None, False)


def test_a_stop_while_waiting_leaves_the_batch_for_the_next_run(store):
    with scripted.serve(batch_polls=50) as server:
        first = ask_and_leave(range(16), server, store)
        second = ask_batch(range(16), server, store)
        stats = server.stats()

    assert isinstance(first.error, Interrupted)
    assert len(second.good()) == 16
    assert (stats["by_path"][FILES], stats["paid_twice"]) == (1, 0)


def test_new_questions_join_those_that_wait(store):
    with scripted.serve(batch_polls=20) as server:
        ask_and_leave(range(16), server, store)
        second = ask_batch(range(20), server, store)
        stats = server.stats()

    assert len(second.good()) == 20
    assert (stats["texts_paid_total"], stats["texts_paid_distinct"]) == (20, 20)


def test_the_budget_holds(store):
    with scripted.serve() as server:
        outcome = ask_batch(range(200), server, store, price=Price(1000.0, 1000.0, "test"), max_cost_usd=20.0)

    assert isinstance(outcome.error, BudgetReached)
    assert 0 < outcome.report.cost_usd <= 20.0
    assert len(outcome.good()) > 0


@pytest.mark.parametrize("do", [{}, {"status": 500}, {"status": 400}, {"drop": [2]}], ids=str)
def test_a_text_that_is_gone_is_left_out_and_its_mates_are_not_paid_again(store, do):
    script = [{"when": {"kind": "line", "times": 1}, "do": do}] if do else []
    with scripted.serve(batch_polls=5, script=script) as server:
        ask_and_leave(range(4), server, store)
        second = ask_batch([0, 1, 3], server, store)
        stats = server.stats()

    assert (second.report.answered, second.wrong(), second.report.pending) == (3, [], 0)
    assert stats["texts_paid_total"] == {"{}": 4, "{'drop': [2]}": 5}.get(str(do), 3)
    assert store.totals()["texts"] == 3
    assert "open" not in store.totals()["batches"]


def test_batches_taken_up_again_hold_their_share_of_the_limit(store):
    limit = {"price": Price(1000.0, 1000.0, "test"), "max_cost_usd": 20.0}
    with scripted.serve(batch_polls=50) as server:
        ask_and_leave(range(200), server, store, **limit)
        ask_and_leave(range(200), server, store, **limit)
        submitted = server.stats()["by_path"][FILES]

    assert submitted == 1


def test_a_submission_whose_reply_is_lost_is_found_again(store):
    script = [{"when": {"kind": "batches", "times": 1}, "do": {"cut": 0}}]
    with scripted.serve(script=script) as server:
        first = ask_batch(range(8), server, store)
        second = ask_batch(range(8), server, store)
        stats = server.stats()

    assert isinstance(first.error, EndpointDown)
    assert len(second.good()) == 8
    assert (stats["by_path"][FILES], stats["paid_twice"]) == (1, 0)


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_batches as t
class Server: base_url = sys.argv[2]
with t.open_store(Path(sys.argv[3])) as store:
    t.ask_batch(range(40), Server, store)
"""


@pytest.mark.parametrize("at", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/batch_1"])
def test_a_kill_never_submits_twice(tmp_path, at):
    with scripted.serve(batch_polls=1_000) as server:
        command = [sys.executable, "-c", SCRIPT, str(TESTS), server.base_url, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not server.stats()["by_path"].get(at):
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        sent = server.stats()["by_path"].get(FILES, 0)
        with open_store(tmp_path) as store:
            stopped = ask_and_leave(range(40), server, store)
        submitted = server.stats()["by_path"][FILES]

    assert isinstance(stopped.error, Interrupted)
    assert submitted == max(1, sent)


def states(store):
    return store.totals()["batches"]


def test_an_intent_that_never_arrived_is_given_up_and_asked_anew(store):
    with scripted.serve(script=[{"when": {"kind": "files", "times": 1}, "do": {"status": 404}}]) as server:
        ask_batch([1], server, store)
        outcome = ask_batch([1], server, store)

    assert outcome.good() == [1]
    assert states(store) == {"collected": 1, "submitted": 1}


def test_a_batch_stays_open_for_questions_of_others(store):
    with scripted.serve(batch_polls=5) as server:
        ask_and_leave([1, 2], server, store)
        ask_batch([3], server, store)
        between = states(store)
        ask_batch([1, 2], server, store)
        stats = server.stats()

    assert (between["open"], states(store)) == (1, {"collected": 2, "submitted": 2})
    assert stats["texts_paid_total"] == 3


def test_a_line_received_before_a_kill_is_not_waited_for_again(store):
    with scripted.serve(batch_polls=5) as server:
        ask_and_leave([1, 2], server, store)
        recipe = recipe_for(endpoint_at(server.base_url))
        store.save(answers=[Answer(question(1, recipe).key, "ok", ("Write it.",))])
        ask_batch([1, 2], server, store)

    assert states(store) == {"collected": 2, "submitted": 2}


def test_a_batch_that_an_earlier_version_sent_needs_no_openings(store):
    with scripted.serve(batch_polls=5, script=[on_line(opening="of another text")]) as server:
        ask_and_leave([1, 2], server, store)
        (before,) = store.batches(state="open")
        lines = {name: line for name, line in json.loads(before.lines).items() if line.pop("openings")}
        store.save_batch(replace(before, lines=json.dumps(lines)))
        outcome = ask_batch([1, 2], server, store)

    assert (outcome.good(), outcome.report.requests) == ([1, 2], 1)
