"""Near-copies among texts."""

from __future__ import annotations

import random

import pytest
from written import sample_texts

from llmtwin_data.overlaps import near_duplicates

TEXT = (
    "We moved our nightly report from a server that nobody owned to a small scheduled job, and for the first "
    "time in two years the numbers were there before the first meeting of the day began."
)
CHINESE = "昨天我們把叢集升級到新版,結果排程器在半夜停了三個小時,所有的工作都卡在佇列裡,沒有任何人收到警報。"


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
    [TEXT.upper(), f"  {TEXT}\n\n", TEXT.replace(" ", "\u00a0"), TEXT.replace("n", "n\u200b")],
    ids=["case", "blanks", "no-break spaces", "zero width"],
)
def test_equal_in_normal_form_is_a_copy_at_any_threshold(copy):
    assert near_duplicates([TEXT, copy], threshold=1.0) == [None, 0]


def test_a_changed_word_makes_a_near_copy_only_below_one():
    texts = [TEXT, TEXT.replace("nightly", "daily")]

    assert near_duplicates(texts, threshold=0.8) == [None, 0]
    assert near_duplicates(texts, threshold=1.0) == [None, None]


def test_chinese_near_copies_are_found():
    assert near_duplicates([CHINESE, CHINESE.replace("三個", "四個")], threshold=0.8) == [None, 0]


def test_copies_point_at_the_first():
    assert near_duplicates([TEXT, CHINESE, TEXT + " Yes.", TEXT], threshold=0.8) == [None, None, 0, 0]


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
