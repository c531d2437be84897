"""Batches in parts, and how what a request used is shared among its texts."""

import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.engine import Batch, Slot, charge

RECIPE = recipe_for(endpoint_at("http://h/v1"))


def batch_of(count):
    return Batch([Slot(one, one.key) for one in (question(number, RECIPE) for number in range(count))])


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (5, [3, 2])])
def test_halves_hold_every_text_once(count, sizes):
    batch = batch_of(count)

    halves = batch.halves()

    assert [len(half.slots) for half in halves] == sizes
    assert [text for half in halves for text in half.texts()] == batch.texts()


def test_only_the_same_texts_asked_again_are_another_attempt():
    batch = batch_of(3)

    whole, part = batch.part(batch.slots), batch.part(batch.slots[:1])

    assert (whole.attempt, part.attempt) == (1, 0)
    assert (whole.again, part.again) == (1, 1)


@pytest.mark.parametrize(("total", "count"), [(10, 3), (0, 2), (7, 2), (1, 8)])
def test_shares_add_up(total, count):
    batch = batch_of(count)

    charge(batch, total, total, 0.0)

    assert sum(slot.prompt_tokens for slot in batch.slots) == total
    assert sum(slot.completion_tokens for slot in batch.slots) == total


def test_costs_are_shared_by_length_and_stay_unknown_once_unknown():
    batch = batch_of(2)

    charge(batch, 100, 10, 0.5)
    known = sum(slot.cost_usd for slot in batch.slots)
    charge(batch, None, None, None)

    assert known == pytest.approx(0.5)
    assert [slot.cost_usd for slot in batch.slots] == [None, None]
    assert [slot.requests for slot in batch.slots] == [2, 2]
