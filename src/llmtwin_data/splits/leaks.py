"""Chunks of one side that share half of their windows with a chunk of the other side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmtwin_data.measures.overlaps import NEAR_COPY, Places, SharedWindows

# Rows drawn to see what a random split would have leaked.
DRAWN = 500

Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leaks:
    """Chunks to leave out with the containment that says why; ``max_containment`` is of all that stay."""

    chunks: dict[int, float]
    checked_pairs: int
    max_containment: float


def find_leaks(windows: SharedWindows, sides: Sequence[str]) -> Leaks:
    """Find the chunks to reject so that no test chunk shares half of its or a train chunk's windows with it.

    A test chunk with half of its own windows in one train chunk goes. A train chunk with half of its windows
    in a longer test chunk that stays goes: a footer alone must not cost every letter that ends in it.
    """
    side, leaking, checked = np.array(sides, dtype="U5"), dict[int, float](), 0
    train = windows.held_by(side == "train")
    for chunk in map(int, np.flatnonzero(side == "test")):
        others, of_chunk, of_others = _meet(train, chunk)
        checked += len(others)
        if of_chunk.max(initial=0) >= NEAR_COPY:
            leaking[chunk] = float(of_chunk.max())
            continue
        for place in np.flatnonzero(of_others >= NEAR_COPY):
            leaking[int(others[place])] = float(of_others[place])
    side[list(leaking)] = ""
    train = windows.held_by(side == "train")
    worst = [_worst(train, chunk) for chunk in map(int, np.flatnonzero(side == "test"))]
    shares = {chunk: round(share, 4) for chunk, share in sorted(leaking.items())}
    return Leaks(shares, checked, round(max(worst, default=0.0), 4))


def leaking_tests(windows: SharedWindows, *, train: set[int], test: set[int]) -> set[int]:
    """Give every test chunk that has a chunk of containment 0.5 or more in train; one may be in both."""
    held = windows.held_by(np.isin(np.arange(len(windows.sizes)), list(train)))
    return {chunk for chunk in test if _worst(held, chunk) >= NEAR_COPY}


def random_leak_share(windows: SharedWindows, content_of: Places, *, seed: int) -> float:
    """Give the share of test chunks with a sibling or near-copy in train, had rows been drawn at random."""
    total = len(content_of)
    drawn = np.random.default_rng(seed).permutation(total)[: min(max(total // 10, 1), DRAWN)]
    in_train = np.ones(total, dtype=bool)
    in_train[drawn] = False
    train = windows.held_by(in_train)
    siblings = set(content_of[in_train].tolist())
    leaks = sum(
        content_of[chunk] in siblings or _worst(train, chunk) >= NEAR_COPY for chunk in drawn.tolist()
    )
    return round(leaks / max(len(drawn), 1), 4)


def _meet(train: SharedWindows, chunk: int) -> tuple[Places, Shares, Shares]:
    """Give the train chunks that share windows, and the shares of the chunk's and of their own windows."""
    counts = train.counts(chunk)
    others = np.flatnonzero(counts)
    return others, counts[others] / train.sizes[chunk], counts[others] / train.sizes[others]


def _worst(train: SharedWindows, chunk: int) -> float:
    _, of_chunk, of_others = _meet(train, chunk)
    return float(np.maximum(of_chunk, of_others).max(initial=0.0))
