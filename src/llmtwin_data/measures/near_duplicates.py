"""Near-copies among texts: MinHash proposes, the words that both texts share decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from llmtwin_data.languages import normal_form, words
from llmtwin_data.measures.overlaps import window_hashes

# Two texts are compared by the pairs of neighbouring words that they share.
SHINGLE_WORDS = 2
# 21 bands of 6 rows: at a similarity of 0.8 one pair in 600 is missed, at 0.3 one in 70 is compared in vain.
BANDS, ROWS = 21, 6
SEED = 42
# The share of equal digests is the similarity give or take 0.04: nearly four times that is allowed for.
SLACK = 0.15
# More texts share a band only by boilerplate; copies among them share rarer bands as well.
MOST_OF_A_BAND = 50

Digests = NDArray[np.uint32]
Shingles = set[tuple[str, ...]]


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[int | None]:
    """Give for each text the earlier, kept text that it nearly copies, or None where it is kept itself.

    Parameters
    ----------
    texts
        Read twice in order and here and there between; they may stay on disk.
    threshold
        Least Jaccard similarity of the sets of neighbouring word pairs, 0.0 to 1.0. Texts of equal normal
        form are always copies; 1.0 and more finds only those.
    """
    copies: list[int | None] = [None] * len(texts)
    for place, first in _equal(texts):
        copies[place] = first
    if threshold < 1:
        _compare(texts, copies, threshold)
    return [_last(copies, place) for place in copies]


def similarity(one: str, other: str) -> float:
    """Give the Jaccard similarity of two texts' sets of neighbouring word pairs, 0.0 to 1.0."""
    return _jaccard(_shingles(one), _shingles(other))


def _last(copies: Sequence[int | None], place: int | None) -> int | None:
    """Follow a copy of a copy to the text that is kept."""
    while place is not None and copies[place] is not None:
        place = copies[place]
    return place


def _equal(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    first: dict[int, int] = {}
    for place, text in enumerate(texts):
        form = normal_form(text)
        earlier = first.setdefault(hash(form), place)
        if earlier != place and normal_form(texts[earlier]) == form:
            yield place, earlier


def _compare(texts: Sequence[str], copies: list[int | None], threshold: float) -> None:
    """Compare each text with the kept texts of its bands, in order."""
    kept: dict[int, list[int]] = {}
    digests = _digests(texts)
    shingles = lru_cache(maxsize=1024)(lambda place: _shingles(texts[place]))
    for place, bands in _shared_bands(_bands(digests)):
        if copies[place] is not None:
            continue
        near = np.array(sorted(set[int]().union(*(kept.get(band, ()) for band in bands))), dtype=np.int64)
        likely = _likely(near, digests, place, threshold)
        copies[place] = next((e for e in likely if _jaccard(shingles(place), shingles(e)) >= threshold), None)
        if copies[place] is None:
            for held in (kept.setdefault(band, []) for band in bands):
                held += [place] if len(held) < MOST_OF_A_BAND else []


def _likely(near: NDArray[np.int64], digests: Digests, place: int, threshold: float) -> list[int]:
    """Give those whose digests agree nearly as often as those of copies would, the likeliest first."""
    agreement = np.count_nonzero(digests[near] == digests[place], axis=1) / (BANDS * ROWS)
    order = np.argsort(-agreement, kind="stable")
    return [int(near[at]) for at in order if agreement[at] >= threshold - SLACK]


def _digests(texts: Sequence[str]) -> Digests:
    blocks = [np.empty((0, BANDS * ROWS), dtype=np.uint32)]
    for hashes, sizes in window_hashes(texts, size=SHINGLE_WORDS):
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, SEED)
        blocks.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(blocks)


def _bands(digests: Digests) -> NDArray[np.uint64]:
    """Fold each text's digest into 21 numbers; similar texts have one in common."""
    rows = digests.reshape(-1, BANDS, ROWS)
    folded = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), rows.shape[:2])
    for row in range(ROWS):
        folded = (folded ^ rows[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        folded = folded ^ (folded >> np.uint64(29))
    return folded


def _shared_bands(bands: NDArray[np.uint64]) -> Iterator[tuple[int, list[int]]]:
    """Yield each text that shares a band with another, with those bands."""
    in_order = np.sort(bands, axis=None)
    several = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    shared = np.isin(bands, several)
    for place in np.flatnonzero(shared.any(axis=1)):
        yield int(place), bands[place][shared[place]].tolist()


def _shingles(text: str) -> Shingles:
    found = words(text)
    return {*pairwise(found)} or ({(found[0],)} if found else set())


def _jaccard(one: Shingles, other: Shingles) -> float:
    shared = len(one & other)
    return shared / max(len(one) + len(other) - shared, 1)
