"""What a run counts, above all money before and after it is spent."""

from dataclasses import replace

import pytest
from asking import PRICE, endpoint_at, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.engine import MOST_ROOM, Batch, Room, Slot, Tally
from llmtwin_data.replies import Choice, Completion
from llmtwin_data.transport import Problem


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

    assert cost == tally.report.cost_usd == tally.spent == 0.75
    assert (tally.report.prompt_tokens, tally.report.models) == (1_000_000, {"m": 1})


def test_untold_tokens_are_spent_at_their_worst_and_leave_the_cost_unknown():
    tally = Tally(PRICE)

    tally.pay(completion(None, 5), worst=0.25)
    tally.pay_perhaps(worst=0.5)

    assert (tally.report.cost_usd, tally.spent) == (None, 0.75)
    assert (tally.report.paid_requests, tally.report.maybe_paid) == (1, 1)


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

    assert (tally.report.answered, tally.report.failed) == (1, 1)


def answered(*choices, hidden):
    return Completion(choices, 10, 10, "m", "", hidden)


CUT, WHOLE = Choice("", "cut"), Choice("x")


def test_room_is_several_times_what_was_needed_and_never_shrinks():
    room, batch = Room(), batch_of(8)
    room.give(batch)

    lacked = [room.learn(batch, answered(WHOLE, hidden=hidden)) for hidden in (0, 500, 20)]

    assert (batch.room, lacked, room.tokens) == (0, [False] * 3, 2_048)


@pytest.mark.parametrize("hidden", [1_000, 10**8, None], ids=["told", "unbelievable", "not told"])
def test_what_was_cut_by_hidden_tokens_gets_more(hidden):
    room, batch = Room(), batch_of(8)
    room.give(batch)

    assert room.learn(batch, answered(CUT, hidden=hidden))
    assert room.tokens == 8_192


def test_what_was_cut_for_its_own_length_gets_no_more():
    room = Room()
    batch = replace(batch_of(8), room=4_096)

    assert not room.learn(batch, answered(Choice("a long text", "cut"), hidden=100))


def test_hidden_tokens_are_those_of_all_choices():
    room, batch = Room(), batch_of(8, candidates=4)
    room.learn(batch, answered(WHOLE, WHOLE, WHOLE, WHOLE, hidden=400))

    assert room.tokens == 512


def test_room_has_an_end():
    room, batch = Room(), replace(batch_of(8), room=MOST_ROOM)

    assert not room.learn(batch, answered(CUT, hidden=10**6))
    assert room.tokens == MOST_ROOM


def test_a_model_that_is_asked_to_think_has_room_from_the_start():
    given = []
    for extra in ('{"reasoning_effort": "low"}', '{"reasoning_effort": "none"}', "{}"):
        batch = batch_of(8, request_extra=extra)
        Room().give(batch)
        given.append(batch.room)

    assert given == [8_192, 0, 0]


def test_a_repetition_keeps_its_room_and_the_worst_cost_counts_it():
    tally, batch = Tally(PRICE, max_cost_usd=1.0), batch_of(8)
    tally.room.give(batch)
    before = tally.worst_cost(batch)
    tally.room.grow(1_000, lacking=True)
    tally.room.give(batch)
    fresh = batch_of(8)
    tally.room.give(fresh)

    assert tally.worst_cost(batch) == before
    assert tally.worst_cost(fresh) == pytest.approx(before + 8_192 * 0.6 / 1_000_000)


TOO_HIGH = [
    "max_tokens is too large: 9192. This model supports at most 4096 completion tokens.",
    "'max_completion_tokens' must be less than or equal to 8192",
    "max_output_tokens must be in range [1, 8192]",
]


@pytest.mark.parametrize("message", TOO_HIGH)
def test_a_limit_refused_as_too_high_is_lowered_and_holds_once_it_is_taken(message):
    room, batch = Room(tokens=8_192), batch_of(8)
    room.give(batch)

    assert room.lower(batch, Problem("request", "http_400", message))
    assert batch.room == 2_048
    room.learn(batch, answered(WHOLE, hidden=300))
    fresh = batch_of(8)
    room.give(fresh)
    assert fresh.room == 2_048


def test_a_text_too_long_without_any_room_is_the_texts_own_fault():
    room, batch, long = Room(tokens=8_192), batch_of(1), Problem("too_long", "too_long", "context length")
    room.give(batch)

    assert [room.lower(batch, long) for _ in range(4)] == [True, True, True, False]
    fresh = batch_of(1)
    room.give(fresh)
    assert fresh.room == 8_192


@pytest.mark.parametrize("message", ["Unsupported parameter: 'max_tokens'", "the text is bad", "too large"])
def test_no_other_refusal_takes_room(message):
    room, batch = Room(tokens=8_192), batch_of(8)
    room.give(batch)

    assert not room.lower(batch, Problem("request", "http_400", message))
