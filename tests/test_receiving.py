"""What comes back is paid, shared out and described for the store, live and from a provider's batch alike."""

import json

import pytest
from asking import PRICE, document, endpoint_at, question, recipe_for
from scripted import instruction_for

from llmtwin_data.engine import Batch, Slot, Tally, all_refused, fail_alone, receive
from llmtwin_data.replies import Choice, Completion
from llmtwin_data.transport import Problem, Reply


def sent(count):
    asked = [question(number, recipe_for(endpoint_at("http://h/v1"))) for number in range(count)]
    return Batch([Slot(one, one.key) for one in asked], worst=0.25, boundary="f0f0f0")


def completion(*docs, tokens=100):
    told = [
        {"content": doc + 1, "opening": document(doc)[:60], "instruction": instruction_for(document(doc))}
        for doc in docs
    ]
    return Completion((Choice(json.dumps({"instructions": told})),), tokens, tokens, "m-1", "")


def received(of, what, tally, **more):
    reply = Reply(200, {}, "raw text", 0.5)
    return receive(of, what, reply=reply, tally=tally, attempts=4, request_id="r-1", **more)


def test_answers_are_stored_with_the_request_that_gave_them():
    entry, again = received(sent(2), completion(0, 1), Tally(PRICE), batch_id="b-1")

    assert [answer.request_id for answer in entry.answers] == ["r-1", "r-1"]
    assert [(one.raw, one.outcome, one.batch_id) for one in entry.requests] == [("raw text", "ok", "b-1")]
    assert again == []


def test_what_is_missing_is_asked_again_and_the_request_is_paid_all_the_same():
    tally = Tally(PRICE)

    entry, again = received(sent(3), completion(0), tally)

    assert ([len(batch.slots) for batch in again], len(entry.answers)) == ([2], 1)
    assert (tally.report.paid_requests, tally.report.prompt_tokens, entry.requests[0].outcome) == (
        1,
        100,
        "partial",
    )


@pytest.mark.parametrize(("tokens", "spent", "cost"), [(100, 0.000075, 0.000075), (None, 0.25, None)])
def test_a_reply_without_tokens_counts_at_its_worst_and_costs_what_nobody_knows(tokens, spent, cost):
    tally = Tally(PRICE)

    entry, _ = received(sent(1), completion(0, tokens=tokens), tally)

    assert tally.spent == pytest.approx(spent)
    assert entry.requests[0].cost_usd == (None if cost is None else pytest.approx(cost))


def test_a_text_refused_alone_is_failed_with_what_was_said():
    entry = fail_alone(sent(1), Problem("request", "http_400", "no such thing"))

    assert [(one.state, one.reason, one.value) for one in entry.answers] == [
        ("failed", "http_400", "no such thing")
    ]
    assert entry.requests == ()


def test_a_run_whose_every_request_is_refused_names_place_and_next_step():
    error = all_refused("http://h/v1", Problem("request", "http_400", "no such thing"))

    assert error.exit_code == 5
    assert all(word in str(error) for word in ("http://h/v1", "http_400", "no such thing", "request_extra"))


def test_openings_that_were_not_asked_for_are_not_missed():
    told = [{"content": n, "instruction": instruction_for(document(n - 1))} for n in (1, 2)]
    answer = Completion((Choice(json.dumps({"instructions": told})),), 1, 1, "m-1", "")
    asked, earlier = sent(2), sent(2)
    earlier.openings = False

    assert len(received(asked, answer, Tally(PRICE))[0].answers) == 0
    assert len(received(earlier, answer, Tally(PRICE))[0].answers) == 2
