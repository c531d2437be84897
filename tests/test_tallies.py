"""What a run counts, above all money before and after it is spent."""

import pytest
from asking import PRICE, endpoint_at, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.endpoints.completions import Choice, Completion
from llmtwin_data.generation.slots import Batch, Slot
from llmtwin_data.generation.tallies import Tally


def batch_of(count, **recipe):
    questions = [
        question(number, recipe_for(endpoint_at("http://h/v1"), **recipe)) for number in range(count)
    ]
    return Batch([Slot(one, one.key) for one in questions])


def completion(prompt, written):
    return Completion((Choice("x"),), prompt, written, "m", "")


def test_a_paid_request_counts_its_tokens_and_cost():
    tally = Tally(PRICE)

    cost = tally.pay(completion(1_000_000, 1_000_000), worst=9.0)

    assert cost == tally.cost_usd == tally.spent == 0.75
    assert (tally.prompt_tokens, tally.models) == (1_000_000, {"m": 1})


def test_untold_tokens_are_spent_at_their_worst_and_leave_the_cost_unknown():
    tally = Tally(PRICE)

    tally.pay(completion(None, 5), worst=0.25)
    tally.pay_perhaps(worst=0.5)

    assert (tally.cost_usd, tally.spent) == (None, 0.75)
    assert (tally.paid_requests, tally.maybe_paid) == (1, 1)


def test_what_is_in_flight_counts_against_the_limit():
    tally = Tally(PRICE, max_cost_usd=1.0, spent=0.5)
    tally.reserved = 0.25

    assert (tally.affords(0.25), tally.affords(0.3)) == (True, False)


@pytest.mark.parametrize(
    ("batch", "larger"),
    [
        (batch_of(1), batch_of(8)),
        (batch_of(1), batch_of(1, candidates=3)),
        (batch_of(1), Batch(batch_of(1).slots, stretch=1)),
    ],
    ids=["more texts", "candidates", "room for a cut answer"],
)
def test_the_worst_cost_grows_with_what_may_be_written(batch, larger):
    tally = Tally(PRICE, max_cost_usd=1.0)

    assert 0 < tally.worst_cost(batch) < tally.worst_cost(larger)


def test_without_a_limit_nothing_is_weighed():
    assert Tally(PRICE).worst_cost(batch_of(1)) == 0.0


def test_failed_answers_are_settled_too():
    tally = Tally(PRICE)

    tally.settle([Answer("a", "ok", ("x",)), Answer("b", "failed", (), "refused")])

    assert (tally.answered, tally.failed) == (1, 1)
