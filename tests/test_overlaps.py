"""Overlaps: windows of eight words that texts share."""

from __future__ import annotations

import numpy as np
import pytest

from llmtwin_data.overlaps import shared_windows, window_hashes

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
