"""Grounding: an instruction retrieves its chunk among all chunks."""

from __future__ import annotations

import pandas as pd
import pytest
from written import written

from llmtwin_data.measures import RETRIEVAL, best_texts
from llmtwin_data.measures import ground as ground_all

TEXTS = [
    "We cut our Docker image from two gigabytes to ninety megabytes.",
    "My sourdough starter died twice.",
    "Trams in our town run late on Mondays.",
]


def ground(instructions, texts, owners=None):
    return ground_all(instructions, texts, range(len(texts)) if owners is None else owners)[RETRIEVAL]


def test_own_chunk_is_the_best():
    found = ground(["Write about a smaller Docker image."], TEXTS, [0])

    assert found.values.tolist() == [[1.0, 1, 1.0, 0.0]]


def test_a_stray_instruction_ranks_behind():
    found = ground(["Write about a smaller Docker image."], TEXTS, [1]).iloc[0]

    assert (found.grounding, found.grounding_rank, found.grounding_margin) == (0.0, 2, -1.0)


def test_equal_chunks_count_as_one():
    instructions = ["Write about a smaller Docker image.", "Feed a sourdough starter."]

    once, twice = ground(instructions, TEXTS, [0, 1]), ground(instructions, [*TEXTS, TEXTS[0]], [3, 1])

    pd.testing.assert_frame_equal(once, twice)


def test_words_that_are_in_no_chunk_fit_all_as_well():
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]

    found = ground(["Please summarize everything."], texts, [0]).iloc[0]

    assert (found.grounding, found.genericness) == (0.0, 1.0)


def test_what_every_instruction_says_retrieves_nothing():
    texts = [f"{text} LinkedIn." if place == 2 else text for place, text in enumerate(TEXTS)]
    instructions = ["Write for LinkedIn about Docker.", "Write for LinkedIn about sourdough."]

    assert ground(instructions, texts, [0, 1]).grounding_rank.tolist() == [1, 1]


def test_written_instructions_retrieve_their_own_chunk():
    pairs = written()

    found = ground(*zip(*pairs, strict=True))

    assert sum(found.grounding_rank == 1) >= 0.9 * len(pairs)
    assert found.grounding.min() > 0.8


def test_shuffled_instructions_do_not():
    pairs = written()
    owners = [(place + len(pairs) // 2) % len(pairs) for place in range(len(pairs))]

    found = ground(*zip(*pairs, strict=True), owners)

    assert sum(found.grounding >= 0.5) <= 0.05 * len(pairs)


@pytest.mark.parametrize("texts", [[], ["one text about bees"]], ids=["no chunk", "one chunk"])
def test_few_chunks(texts):
    found = ground(["Write about bees."] * len(texts), texts)

    assert found[["grounding", "grounding_rank", "genericness"]].values.tolist() == [[1.0, 1, 0.0]] * len(
        texts
    )


def test_best_names_the_chunk_that_fits():
    assert best_texts(["sourdough starter", "nothing at all"], TEXTS) == [1, None]
