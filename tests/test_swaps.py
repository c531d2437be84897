"""Swaps: grounding inside one batch."""

from __future__ import annotations

import random

import pytest
from written import written

from llmtwin_data.measures import find_swapped, ground_among

DOCKER = "We cut our Docker image from two gigabytes to ninety megabytes with a multi-stage build."
BREAD = "My sourdough starter died twice before I learned to feed it at the same hour every day."
ABOUT_DOCKER = "Write a post about shrinking a Docker image with a multi-stage build."
ABOUT_BREAD = "Write a post about keeping a sourdough starter alive."


@pytest.fixture(scope="module")
def pairs():
    return written()


def batch(pairs, draw: random.Random, size: int):
    chosen = draw.sample(pairs, size)
    return [instruction for instruction, _ in chosen], [text for _, text in chosen]


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_swaps_are_found_in_95_of_100_batches(pairs, size):
    draw, found = random.Random(size), 0
    for _ in range(200):
        instructions, texts = batch(pairs, draw, size)
        one, other = draw.sample(range(size), 2)
        instructions[one], instructions[other] = instructions[other], instructions[one]
        found += {one, other} <= set(find_swapped(instructions, texts))

    assert found >= 190


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_at_most_2_of_100_right_ones_are_doubted(pairs, size):
    draw, doubted = random.Random(size), 0
    for _ in range(200):
        doubted += len(find_swapped(*batch(pairs, draw, size)))

    assert doubted <= 0.02 * 200 * size


def test_a_whole_batch_moved_by_one_is_found(pairs):
    instructions, texts = batch(pairs, random.Random(1), 8)

    assert len(find_swapped(instructions[1:] + instructions[:1], texts)) >= 7


def test_equal_texts_are_never_swapped():
    assert find_swapped([ABOUT_DOCKER, ABOUT_DOCKER], [DOCKER, DOCKER]) == []


def test_one_text_alone_is_never_swapped():
    assert find_swapped([ABOUT_BREAD], [DOCKER]) == []


@pytest.mark.parametrize(
    ("instruction", "own", "mates", "expected"),
    [
        pytest.param(ABOUT_DOCKER, DOCKER, [BREAD], 1.0, id="own fits best"),
        pytest.param("Write about trams.", DOCKER, [BREAD], 0.0, id="nothing in common"),
        pytest.param(ABOUT_DOCKER, DOCKER, [], 1.0, id="no mates"),
        pytest.param(ABOUT_DOCKER, DOCKER, [DOCKER], 1.0, id="its own copy as mate"),
        pytest.param("", DOCKER, [BREAD], 0.0, id="empty"),
    ],
)
def test_ground_among(instruction, own, mates, expected):
    assert ground_among(instruction, own, mates)[0] == expected


def test_a_mate_that_fits_better_lowers_the_ground():
    assert ground_among(ABOUT_DOCKER, BREAD, [DOCKER])[0] < 0.5
