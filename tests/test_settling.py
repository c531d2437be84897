"""What becomes of each text of a batch."""

import json
from dataclasses import replace

import pytest
from asking import document, endpoint_at, question, recipe_for
from scripted import instruction_for, opening_of

from llmtwin_data.engine import Batch, Slot, settle
from llmtwin_data.replies import Choice, Completion


def batch_of(count, **recipe):
    recipe = recipe_for(endpoint_at("http://h/v1"), **recipe)
    questions = [question(number, recipe) for number in range(count)]
    return Batch([Slot(one, one.key) for one in questions])


def completion(*choices, problem=""):
    """Give a completion whose choices map numbers to instructions, or to an opening and an instruction."""
    texts = [json.dumps({"instructions": [item(n, told) for n, told in told.items()]}) for told in choices]
    return Completion(tuple(Choice(text, problem) for text in texts), 10, 5, "m", "")


def item(number, told):
    opening, instruction = told if isinstance(told, tuple) else (opening_of(document(number - 1)), told)
    return {"content": number, "opening": opening, "instruction": instruction}


def told(*numbers):
    return {number: instruction_for(document(number - 1)) for number in numbers}


def settled(batch, completion):
    return settle(batch, completion, attempts=4, request_id="r")


def sizes(settlement):
    return [len(batch.slots) for batch in settlement.again]


def test_a_whole_answer_settles_everything():
    found = settled(batch_of(3), completion(told(1, 2, 3)))

    assert [answer.state for answer in found.answers] == ["ok"] * 3
    assert (found.outcome, found.again) == ("ok", [])


def test_what_is_missing_is_asked_once_together_then_alone():
    first = settled(batch_of(8), completion(told(1, 2, 3, 4, 5)))
    second = settled(first.again[0], completion({}))
    third = settled(first.again[0], completion({1: (opening_of(document(5)), told(6)[6])}))

    assert sizes(first) == [3]
    assert sizes(second) == [2, 1]
    assert sizes(third) == [1, 1]


def test_what_hidden_tokens_took_is_asked_again_together_as_if_for_the_first_time():
    batch = batch_of(8)
    nothing = settle(batch, completion({}, problem="cut"), attempts=1, request_id="r", roomier=True)
    some = settle(batch, completion(told(1, 2)), attempts=1, request_id="r", roomier=True)

    assert (sizes(nothing), sizes(some)) == ([8], [6])
    assert (some.again[0].again, some.again[0].stretch, some.again[0].slots[0].tries) == (0, 0, 0)


def test_a_text_alone_is_failed_after_the_last_attempt():
    batch, count = batch_of(1), 0
    while batch:
        found = settled(batch, completion({}))
        batch, count = (found.again or [None])[0], count + 1

    assert count == 4
    assert (found.answers[0].state, found.answers[0].reason) == ("failed", "missing")


def test_the_same_text_alone_is_another_attempt():
    first = settled(batch_of(1), completion({}))

    assert first.again[0].attempt == 1


def test_exchanged_instructions_are_asked_alone():
    swapped = told(1, 2, 3) | {1: instruction_for(document(1)), 2: instruction_for(document(0))}
    found = settled(batch_of(3), completion(swapped))

    assert sizes(found) == [1, 1]
    assert [answer.key for answer in found.answers] == [batch_of(3).slots[2].key]


def test_an_instruction_of_a_text_without_answer_is_not_taken_for_another():
    found = settled(batch_of(3), completion(told(1) | {2: instruction_for(document(2))}))

    assert [answer.key for answer in found.answers] == [batch_of(3).slots[0].key]


def test_the_best_grounded_candidate_is_chosen_wherever_it_stands():
    best = instruction_for(document(0))
    choices = [{1: "Write a short piece on something nice for everyone"}, {1: best}, {1: "Write"}]

    found = settled(batch_of(1, candidates=3), completion(*choices))

    assert found.answers[0].values == (best,)


@pytest.mark.parametrize(
    "reference", [(), tuple(document(number) for number in range(1, 33))], ids=["alone", "beside others"]
)
def test_of_a_text_asked_alone_one_shared_word_does_not_win(reference):
    best = instruction_for(document(0))
    choices = [{1: "Write a short piece on some DOC for everyone"}, {1: best}]

    found = settle(
        batch_of(1, candidates=2), completion(*choices),
        attempts=4, request_id="r", reference=reference,
    )  # fmt: skip

    assert found.answers[0].values == (best,)


def test_a_copied_example_is_refused_as_a_candidate():
    batch = batch_of(1, candidates=2, prompt="small")
    example = batch.slots[0].question.recipe.template.examples[0][1]
    batch.slots[0].question = replace(batch.slots[0].question, text=f"{document(0)} {example}")
    own = instruction_for(document(0))

    assert settled(batch, completion({1: example}, {1: own})).answers[0].values == (own,)


def test_missing_candidates_are_asked_for_again():
    batch = batch_of(1, candidates=3)

    found = settled(batch, completion(told(1)))

    assert found.answers == []
    assert (found.again[0].slots[0].missing(), found.again[0].slots[0].tries) == (2, 0)


def test_what_there_is_counts_when_no_more_candidates_come():
    batch = batch_of(1, candidates=3)
    batch.slots[0].found, batch.slots[0].tries = [("Write about it",)], 3

    assert settled(batch, completion({})).answers[0].state == "ok"


@pytest.mark.parametrize("problem", ["refused", "filtered"])
def test_refused_texts_are_halved_and_final_when_alone(problem):
    refused = Completion((Choice("", problem),), 1, 1, "m", "")

    assert sizes(settled(batch_of(8), refused)) == [4, 4]
    assert settled(batch_of(1), refused).answers[0].reason == problem


def test_what_shows_another_opening_is_asked_again_together_then_alone():
    other = (opening_of(document(1)), instruction_for(document(1)))
    first = settled(batch_of(8), completion(told(2, 3, 4, 5, 6, 7, 8) | {1: other}))
    second = settled(first.again[0], completion({1: ("", instruction_for(document(0)))}))

    assert (sizes(first), first.again[0].slots[0].reason) == ([1], "opening")
    assert (first.unproven, first.proven) == (1, 7)
    assert [answer.state for answer in second.answers] == ["ok"]  # alone it needs none


def test_numbers_that_are_not_ours_are_asked_again_whole_then_alone():
    first = settled(batch_of(4), completion({0: "a", 1: "b", 2: "c", 3: "d"}))
    second = settled(first.again[0], completion({0: "a", 1: "b", 2: "c", 3: "d"}))

    assert (first.answers, first.outcome, sizes(first), first.again[0].attempt) == ([], "numbers", [4], 1)
    assert (second.answers, sizes(second)) == ([], [1, 1, 1, 1])


def test_a_candidate_with_other_numbers_does_not_spoil_the_others():
    found = settled(batch_of(2, candidates=2), completion(told(1, 2), {0: "a", 1: "b"}))

    assert [slot.found for slot in found.again[0].slots] == [[(told(n)[n],)] for n in (1, 2)]


def test_an_instruction_of_another_text_under_the_right_opening_is_found_by_its_words():
    swapped = {1: (opening_of(document(0)), told(2)[2]), 2: (opening_of(document(1)), told(1)[1])}

    assert sizes(settled(batch_of(2), completion(swapped))) == [1, 1]
