"""Overlaps: windows of eight words that texts share, and near-copies."""

from __future__ import annotations

import random

import numpy as np
import pytest
from written import sample_texts

from llmtwin_data.overlaps import near_duplicates, shared_windows, window_hashes

ALPHABET = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa"
)
HALF = " ".join(ALPHABET.split()[:12])
OTHER = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(ALPHABET, ALPHABET.upper() + "!", 1.0, id="case and punctuation"),
        pytest.param(ALPHABET, HALF, 1.0, id="the smaller counts"),
        pytest.param(ALPHABET, OTHER, 0.0, id="nothing"),
        pytest.param("two words", "two words", 1.0, id="fewer words than a window"),
        pytest.param("昨天我們把叢集升級到新版", "昨天我們把叢集升級到舊版", 0.6, id="Chinese"),
        pytest.param("", ALPHABET, 0.0, id="empty"),
    ],
)
def test_two_texts_share_a_part_of_the_smaller_ones_windows(one, other, expected):
    windows = shared_windows([one, other])

    assert windows.counts(0)[1] / max(windows.sizes.min(), 1) == pytest.approx(expected)


def test_counts_of_shared_windows():
    windows = shared_windows([ALPHABET, HALF, OTHER])

    assert windows.sizes.tolist() == [9, 5, 5]
    assert windows.counts(1).tolist() == [5, 5, 0]


def test_holders_can_be_limited_to_some_texts():
    windows = shared_windows([ALPHABET, HALF, HALF])

    held = windows.held_by(np.array([False, False, True]))

    assert held.counts(0).tolist() == [0, 0, 5]


def test_chunks_are_merged_into_contents():
    windows = shared_windows([HALF, OTHER, ALPHABET, HALF])

    merged = windows.merged(np.array([0, 0, 1, 0]))

    assert merged.sizes.tolist() == [10, 9]
    assert merged.counts(0).tolist() == [5, 5]


def test_no_texts():
    assert shared_windows([]).sizes.tolist() == []


def test_hashes_are_the_same_in_every_process():
    (hashes, sizes), *_ = window_hashes([HALF], size=8)

    assert sizes.tolist() == [5]
    assert len(set(hashes.tolist())) == 5


REPORT = (
    "We moved our nightly report from a server that nobody owned to a small scheduled job, and for the first "
    "time in two years the numbers were there before the first meeting of the day began."
)
CLUSTER = "昨天我們把叢集升級到新版,結果排程器在半夜停了三個小時,所有的工作都卡在佇列裡,沒有任何人收到警報。"


def changed(text: str, draw: random.Random) -> str:
    """Change one word in thirty, as a second posting does."""
    words = text.split()
    for _ in range(max(1, len(words) // 30)):
        words[draw.randrange(len(words))] = draw.choice(["today", "really", "again"])
    return " ".join(words)


def made_up(draw: random.Random, count: int) -> list[str]:
    vocabulary = ["".join(draw.choices("abcdefghiklmnoprstu", k=draw.randint(2, 9))) for _ in range(4000)]
    return [" ".join(draw.choices(vocabulary, k=draw.randint(60, 160))) for _ in range(count)]


@pytest.mark.parametrize(
    "copy",
    [REPORT.upper(), f"  {REPORT}\n\n", REPORT.replace(" ", "\u00a0"), REPORT.replace("n", "n\u200b")],
    ids=["case", "blanks", "no-break spaces", "zero width"],
)
def test_equal_in_normal_form_is_a_copy_at_any_threshold(copy):
    assert near_duplicates([REPORT, copy], threshold=1.0) == [None, 0]


def test_a_changed_word_makes_a_near_copy_only_below_one():
    texts = [REPORT, REPORT.replace("nightly", "daily")]

    assert near_duplicates(texts, threshold=0.8) == [None, 0]
    assert near_duplicates(texts, threshold=1.0) == [None, None]


def test_chinese_near_copies_are_found():
    assert near_duplicates([CLUSTER, CLUSTER.replace("三個", "四個")], threshold=0.8) == [None, 0]


def test_copies_point_at_the_first():
    assert near_duplicates([REPORT, CLUSTER, REPORT + " Yes.", REPORT], threshold=0.8) == [None, None, 0, 0]


def test_99_of_100_planted_copies_are_found_and_none_is_wrong():
    draw = random.Random(7)
    texts = made_up(draw, 1000)
    copies = [changed(text, draw) for text in texts[:500]]

    found = near_duplicates(texts + copies, threshold=0.8)

    assert found[:1000] == [None] * 1000
    assert sum(kept == place for place, kept in enumerate(found[1000:])) >= 495
    assert all(kept in (None, place) for place, kept in enumerate(found[1000:]))


@pytest.mark.parametrize("texts", [[], [""], ["!!!", "???"], ["a", "b"]], ids=str)
def test_texts_without_words_are_no_copies(texts):
    assert near_duplicates(texts, threshold=0.5) == [None] * len(texts)


def test_the_copies_of_the_sample_are_found():
    texts = list(sample_texts().values())

    found = [
        kept for kept in near_duplicates(texts, threshold=0.8) if kept is not None and texts[kept].strip()
    ]

    assert len(found) == 5
