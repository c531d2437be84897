"""Near-copies among texts: MinHash proposes, the words that both texts share decide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from llmtwin_data.languages import mixed, normal_form, words
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


class NearCopies:
    """Texts, numbered from 0, each to be compared with those that are kept by then.

    Parameters
    ----------
    texts
        Read twice in order and here and there later; they may stay on disk.
    threshold
        Least Jaccard similarity of the sets of neighbouring word pairs, 0.0 to 1.0. Texts of equal normal
        form are always copies; 1.0 and more finds only those.
    """

    def __init__(self, texts: Sequence[str], *, threshold: float) -> None:
        self._texts, self._threshold = texts, threshold
        self._forms = [hash(normal_form(text)) for text in texts]
        self._equal: dict[int, int] = {}
        self._kept: dict[int, list[int]] = {}
        digests = _digests(texts if threshold < 1 else ())
        bands = _bands(digests)
        shared = _shared(bands)
        # Few texts share a band with another; the digests of the others are let go.
        texts_of = np.flatnonzero(shared.any(axis=1))
        self._digests, self._bands, self._shared = digests[texts_of], bands[texts_of], shared[texts_of]
        self._text_of = texts_of.tolist()
        self._row_of = {text: row for row, text in enumerate(self._text_of)}
        self._shingles = lru_cache(maxsize=1024)(lambda text: _shingles(texts[text]))

    def find(self, text: int) -> tuple[int, bool] | None:
        """Give the kept text that this one copies, and whether they are equal; None for an original."""
        equal = self._equal.get(self._forms[text])
        if equal is not None and normal_form(self._texts[equal]) == normal_form(self._texts[text]):
            return equal, True
        mine, row = self._shingles, self._row_of.get(text)
        for kept in () if row is None else self._likely(row):
            if _jaccard(mine(text), mine(kept)) >= self._threshold:
                return kept, False
        return None

    def keep(self, text: int) -> None:
        """Compare later texts with this one too."""
        self._equal.setdefault(self._forms[text], text)
        if (row := self._row_of.get(text)) is not None:
            for held in (self._kept.setdefault(band, []) for band in self._bands_of(row)):
                held += [row] if len(held) < MOST_OF_A_BAND else []

    def _bands_of(self, row: int) -> list[int]:
        bands: list[int] = self._bands[row][self._shared[row]].tolist()
        return bands

    def _likely(self, row: int) -> list[int]:
        """Give kept texts whose digests agree nearly as often as those of copies, the likeliest first."""
        near = sorted(set[int]().union(*(self._kept.get(band, ()) for band in self._bands_of(row))))
        if not near:
            return []
        digests = self._digests
        agreement = np.count_nonzero(digests[near] == digests[row], axis=1) / (BANDS * ROWS)
        order = np.argsort(-agreement, kind="stable")
        return [self._text_of[near[at]] for at in order if agreement[at] >= self._threshold - SLACK]


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[int | None]:
    """Give for each text the earlier, kept text that it nearly copies, or None where it is kept itself.

    Texts and threshold are those of `NearCopies`.
    """
    copies, found = NearCopies(texts, threshold=threshold), list[int | None]()
    for text in range(len(texts)):
        copy = copies.find(text)
        if copy is None:
            copies.keep(text)
        found.append(copy and copy[0])
    return found


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
        folded = mixed(folded ^ rows[:, :, row])
    return folded


def _shared(bands: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which bands several texts have."""
    in_order = np.sort(bands, axis=None)
    return np.isin(bands, np.unique(in_order[1:][in_order[1:] == in_order[:-1]]))


def _shingles(text: str) -> Shingles:
    found = words(text)
    return {*pairwise(found)} or ({(found[0],)} if found else set())


def _jaccard(one: Shingles, other: Shingles) -> float:
    shared = len(one & other)
    return shared / max(len(one) + len(other) - shared, 1)
