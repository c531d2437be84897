"""Pairs and ledger rows made of stored answers."""

import pytest
from asking import endpoint_at, open_store, question, recipe_for

from llmtwin_data.answers import Answer
from llmtwin_data.chunks import Chunk
from llmtwin_data.generation.pairs import collect_pairs

RECIPE = recipe_for(endpoint_at("http://h/v1"), k=2)


def chunk(number, *, text="", content_id=""):
    text = text or f"text {number}"
    return Chunk(content_id or str(number), "cleaned_posts", 0, len(text), text, "posts", "ada", "x", "")


def ask_for(chunk):
    return question(0, RECIPE, text=chunk.text)


@pytest.fixture
def collected(tmp_path):
    chunks = [chunk(0), chunk(1), chunk(2), chunk(3, text="text 0")]
    cost = {"requests": 2, "prompt_tokens": 9, "completion_tokens": 3, "cost_usd": 0.01}
    with open_store(tmp_path) as store:
        store.save(
            answers=[
                Answer(ask_for(chunks[0]).key, "ok", ("one", "two"), **cost),
                Answer(ask_for(chunks[1]).key, "failed", (), reason="refused", **cost),
            ]
        )
        return collect_pairs(chunks, ask_for, store)


def test_each_answer_makes_its_pairs(collected):
    pairs, _ = collected

    told = [(pair.chunk.content_id, pair.k, pair.instruction) for pair in pairs]
    assert told == [("0", 1, "one"), ("0", 2, "two"), ("3", 1, "one"), ("3", 2, "two")]


def test_each_chunk_and_instruction_has_a_row(collected):
    _, rows = collected

    assert [(row.content_id, row.k, row.state) for row in rows] == [
        ("0", 1, "accepted"),
        ("0", 2, "accepted"),
        ("1", 1, "failed"),
        ("1", 2, "failed"),
        ("2", 1, "pending"),
        ("2", 2, "pending"),
        ("3", 1, "accepted"),
        ("3", 2, "accepted"),
    ]


def test_the_rows_add_up_to_what_was_paid(collected):
    _, rows = collected

    assert sum(row.cost_usd for row in rows) == pytest.approx(0.02)
    assert sum(row.requests for row in rows) == 4


def test_an_id_names_the_place_and_not_the_words(collected):
    pairs, _ = collected

    assert len({pair.id for pair in pairs}) == 4
    assert all(len(pair.id) == 20 for pair in pairs)
