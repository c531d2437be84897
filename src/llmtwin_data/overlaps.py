"""Windows of words that texts share, and near-copies: the ground of copies, boilerplate and leaks."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from llmtwin_data.texts import WINDOW_WORDS, mixed, normal_form, placed_windows, sentence_ends, windows, words

# Share of the smaller text's windows that makes it a near-copy of the other.
NEAR_COPY = 0.5
BLOCK_TEXTS, BLOCK_HASHES = 1000, 1 << 20

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SharedWindows:
    """For texts numbered from 0: how many windows each has, and who holds those that several texts share.

    Windows with the same holders, as those of a footer have, are one entry with the ``weight`` of all.
    ``entries[text_starts[t]:text_starts[t + 1]]`` are the entries of text ``t``;
    ``holders[entry_starts[e]:entry_starts[e + 1]]`` are the texts that hold entry ``e``, ascending.
    """

    sizes: Places
    weights: Places
    text_starts: Places
    entries: Places
    entry_starts: Places
    holders: Places

    def counts(self, text: int) -> tuple[Places, Places]:
        """Return the texts that share windows with this one, ascending, and how many each."""
        mine = self.entries[self.text_starts[text] : self.text_starts[text + 1]]
        starts, ends = self.entry_starts[mine], self.entry_starts[mine + 1]
        lists = [self.holders[start:end] for start, end in zip(starts, ends, strict=True)]
        together = np.concatenate(lists) if lists else np.empty(0, dtype=np.int64)
        meeting, at = np.unique(together, return_inverse=True)
        weights = np.repeat(self.weights[mine], ends - starts)
        return meeting, np.bincount(at, weights=weights, minlength=len(meeting)).astype(np.int64)

    def shared(self) -> Places:
        """Count each text's windows that some other text has too."""
        texts = np.repeat(np.arange(len(self.sizes)), np.diff(self.text_starts))
        weights = self.weights[self.entries]
        return np.bincount(texts, weights=weights, minlength=len(self.sizes)).astype(np.int64)

    def held_by(self, texts: NDArray[np.bool_]) -> SharedWindows:
        """Keep only these texts as holders; every text still knows its windows."""
        kept, total = texts[self.holders], len(self.weights)
        held = np.repeat(np.arange(total), np.diff(self.entry_starts))[kept]
        return replace(self, entry_starts=_starts(held, total), holders=self.holders[kept])

    def containments(
        self, texts: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> Iterator[tuple[int, Places, Shares, Shares]]:
        """Yield each of the texts with those others that share windows with it.

        Beside their numbers stand two shares, above 0.0 and up to 1.0: of the text's windows, and of theirs.
        """
        held = self.held_by(others)
        for text in np.flatnonzero(texts).tolist():
            meeting, counts = held.counts(text)
            yield text, meeting, counts / self.sizes[text], counts / self.sizes[meeting]

    def merged(self, groups: Places) -> SharedWindows:
        """Return the same for the groups that the texts belong to; ``groups`` numbers them from 0."""
        total, factor = int(groups.max(initial=-1)) + 1, max(len(self.weights), 1)
        texts = np.repeat(np.arange(len(self.sizes)), np.diff(self.text_starts))
        keys, seen = np.unique(groups[texts] * factor + self.entries, return_counts=True)
        owners, entries = np.divmod(keys, factor)
        sizes = np.bincount(groups, weights=self.sizes, minlength=total)
        twice = np.bincount(owners, weights=(seen - 1) * self.weights[entries], minlength=total)
        return _shared((sizes - twice).astype(np.int64), owners, entries, self.weights)


def shared_windows(texts: Iterable[str]) -> SharedWindows:
    """Find the windows of eight words that more than one of the texts holds."""
    hashes, sizes = window_hashes(texts, size=WINDOW_WORDS)
    several, kept = _repeated(hashes), [np.empty(0, dtype=np.int64)]
    for at in range(0, len(hashes) if len(several) else 0, BLOCK_HASHES):
        block = hashes[at : at + BLOCK_HASHES]
        kept.append(at + np.flatnonzero(several[np.searchsorted(several[:-1], block)] == block))
    places = np.concatenate(kept)
    owners = np.searchsorted(np.cumsum(sizes), places, side="right")
    windows_of = np.searchsorted(several, hashes[places])
    return _shared(sizes, owners, windows_of, np.ones(len(several), dtype=np.int64))


def _repeated(hashes: Hashes, least: int = 2) -> Hashes:
    """Return what stands there so many times, ascending."""
    in_order = np.sort(hashes, axis=None)
    return np.unique(in_order[least - 1 :][in_order[least - 1 :] == in_order[: 1 - least]])


def window_hashes(texts: Iterable[str], *, size: int) -> tuple[Hashes, Places]:
    """Hash the distinct windows of ``size`` words of each text; fewer words make one window.

    Returns the hashes of one text after the other, and how many each has; a text without a word has none.
    """
    hashes, sizes = array("Q"), array("q")
    for text in texts:
        hashes.extend(its := windows(text, size=size))
        sizes.append(len(its))
    return np.asarray(hashes), np.asarray(sizes)


def _shared(sizes: Places, owners: Places, windows: Places, weights: Places) -> SharedWindows:
    """Index pairs of text and window both ways, those windows as one entry that the same texts hold."""
    marks = np.zeros(len(weights), dtype=np.uint64)
    # Mixed twice, so that only equal sets of owners have equal sums.
    np.add.at(marks, windows, mixed(mixed(owners.astype(np.uint64) + np.uint64(1))))
    _, standing, entry_of = np.unique(marks, return_index=True, return_inverse=True)
    weights = np.bincount(entry_of, weights=weights, minlength=len(standing)).astype(np.int64)
    stands = np.zeros(len(marks), dtype=bool)
    stands[standing] = True
    kept = stands[windows]
    owners, entries = owners[kept], entry_of[windows[kept]]
    by_entry = np.argsort(entries, kind="stable")
    return SharedWindows(
        sizes=sizes,
        weights=weights,
        text_starts=_starts(owners, len(sizes)),
        entries=entries,
        entry_starts=_starts(entries[by_entry], len(weights)),
        holders=owners[by_entry],
    )


def _starts(ascending: Places, total: int) -> Places:
    return np.searchsorted(ascending, np.arange(total + 1))


# Two texts are compared by the pairs of neighbouring words that they share.
SHINGLE_WORDS = 2
# 21 bands of 6 rows: at a similarity of 0.8 one pair in 600 is missed, at 0.3 one in 70 is compared in vain.
BANDS, ROWS = 21, 6
SEED = 42
# The share of equal digests is the similarity give or take 0.04: nearly four times that is allowed for.
SLACK = 0.15
# More texts share a band only by boilerplate; copies among them share rarer bands as well.
MOST_OF_A_BAND = 50


class NearCopies:
    """Texts, numbered from 0, each to be compared with those that are kept by then.

    ``texts``: read twice in order and here and there later; they may stay on disk. ``threshold``: least
    Jaccard similarity of the sets of neighbouring word pairs, 0.0 to 1.0. Texts of equal normal form are
    always copies; 1.0 and more finds only those.
    """

    def __init__(self, texts: Sequence[str], *, threshold: float) -> None:
        self._texts, self._threshold = texts, threshold
        self._forms = [hash(normal_form(text)) for text in texts]
        self._equal: dict[int, int] = {}
        self._kept: defaultdict[int, list[int]] = defaultdict(list)  # texts by band
        digests = _digests(texts if threshold < 1 else ())
        bands = _bands(digests)
        shared = np.isin(bands, _repeated(bands))
        # Few texts share a band with another; the digests of the others are let go.
        rows = np.flatnonzero(shared.any(axis=1)).tolist()
        self._digests, self._row_of = digests[rows], {text: row for row, text in enumerate(rows)}
        self._bands, self._shared = bands[rows], shared[rows]  # as lists they take 1 kB a text
        self._shingles = lru_cache(maxsize=1024)(lambda text: _shingles(texts[text]))

    def find(self, text: int) -> tuple[int, bool] | None:
        """Return the kept text that this one copies, and whether they are equal; None for an original."""
        equal = self._equal.get(self._forms[text])
        if equal is not None and normal_form(self._texts[equal]) == normal_form(self._texts[text]):
            return equal, True
        near = sorted({kept for band in self._bands_of(text) for kept in self._kept.get(band, ())})
        if not near:
            return None
        # The digests of copies agree nearly as often as their shingles; the likeliest first.
        its = self._digests[[self._row_of[kept] for kept in near]]
        agreement = np.mean(its == self._digests[self._row_of[text]], axis=1)
        mine = self._shingles(text)
        for at in np.argsort(-agreement, kind="stable"):
            if agreement[at] < self._threshold - SLACK:
                return None
            other = self._shingles(near[at])
            if len(mine & other) / max(len(mine | other), 1) >= self._threshold:
                return near[at], False
        return None

    def keep(self, text: int) -> None:
        """Compare later texts with this one too."""
        self._equal.setdefault(self._forms[text], text)
        for band in self._bands_of(text):
            if len(self._kept[band]) < MOST_OF_A_BAND:
                self._kept[band].append(text)

    def _bands_of(self, text: int) -> list[int]:
        row = self._row_of.get(text)
        bands: list[int] = [] if row is None else self._bands[row][self._shared[row]].tolist()
        return bands


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[int | None]:
    """Return for each text the earlier, kept text that it nearly copies, or None where it is kept itself.

    Texts and threshold are those of `NearCopies`.
    """
    copies, originals = NearCopies(texts, threshold=threshold), list[int | None]()
    for text in range(len(texts)):
        copy = copies.find(text)
        if copy is None:
            copies.keep(text)
        originals.append(copy and copy[0])
    return originals


def _digests(texts: Sequence[str]) -> NDArray[np.uint32]:
    blocks = [np.empty((0, BANDS * ROWS), dtype=np.uint32)]
    for at in range(0, len(texts), BLOCK_TEXTS):  # the rows are lists of Python numbers
        hashes, sizes = window_hashes(texts[at : at + BLOCK_TEXTS], size=SHINGLE_WORDS)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, SEED)
        blocks.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(blocks)


def _bands(digests: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Fold each text's digest into 21 numbers; similar texts have one in common."""
    rows = digests.reshape(-1, BANDS, ROWS)
    folded = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), rows.shape[:2])
    for row in range(ROWS):
        folded = mixed(folded ^ rows[:, :, row])
    return folded


def _shingles(text: str) -> set[tuple[str, ...]]:
    """Return the pairs of neighbouring words, or the one word that there is."""
    spoken = words(text)
    return {*pairwise(spoken)} or {tuple(spoken)} - {()}


# Contents that hold a passage from which on it is boilerplate.
COMMON_TEXTS = 5
# Share of a text's windows in common from which on it may be a near-copy of others, which count as one.
_MAY_BE_COPY = 0.3
_COPY = 0.8
# Words: between common passages (a date, a name); from a passage's inner edge to the sentence end that it is
# cut at; of a passage without one that is cut between words; of the text that must be left.
_GAP, _TO_SENTENCE, _LONG, _LEFT = 5, WINDOW_WORDS, 3 * WINDOW_WORDS, WINDOW_WORDS


def common_windows(texts: Sequence[str]) -> Hashes:
    """Return the windows of eight words in `COMMON_TEXTS` texts, ascending; near-copies count as one text."""
    hashes, sizes = window_hashes(texts, size=WINDOW_WORDS)
    common = _repeated(hashes, COMMON_TEXTS)
    if not len(common):
        return common
    owners = np.repeat(np.arange(len(sizes)), sizes)
    shares = np.bincount(owners, weights=np.isin(hashes, common), minlength=len(sizes)) / np.maximum(sizes, 1)
    likely = np.flatnonzero(shares >= _MAY_BE_COPY)
    copies = near_duplicates([texts[text] for text in likely.tolist()], threshold=_COPY)
    again = likely[[copy is not None for copy in copies]]
    return _repeated(hashes[~np.isin(owners, again)], COMMON_TEXTS)


def _covered(text: str, common: Hashes) -> tuple[NDArray[np.bool_], Places]:
    """Return which words stand in a common window, and where each begins; none where nothing is common."""
    if not len(common):
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64)
    hashes, starts = placed_windows(text)
    covered = np.zeros(len(starts), dtype=bool)
    for at in np.flatnonzero(np.isin(hashes, common)).tolist():
        covered[at : at + WINDOW_WORDS] = True
    return covered, starts


def common_share(text: str, common: Hashes) -> float:
    """Return the share of a text's words that stand in common windows, 0.0 to 1.0."""
    covered, _ = _covered(text, common)
    return round(float(covered.mean()), 4) if len(covered) else 0.0


def common_passages(text: str, common: Hashes) -> list[tuple[int, int]]:
    """Return where passages of common windows begin and end; up to five other words are bridged."""
    covered, starts = _covered(text, common)
    edges = [*starts.tolist(), len(text)]
    return [(edges[first], edges[last]) for first, last in _runs(covered)]


def _runs(covered: NDArray[np.bool_]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    changes = np.flatnonzero(np.diff(np.concatenate(([False], covered, [False])).astype(np.int8)))
    for first, last in changes.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] <= _GAP:
            first = runs.pop()[0]
        runs.append((first, last))
    return runs


def without_edges(text: str, common: Hashes) -> tuple[int, int]:
    """Return where a text begins and ends without the common passages at its beginning and end.

    A passage is cut at a sentence's end near its inner edge, a long one without any between words; a text of
    which less than a window would be left stays whole.
    """
    covered, starts = _covered(text, common)
    runs, count = _runs(covered), len(covered)
    if not runs:
        return 0, len(text)
    edges, ends = np.append(starts, len(text)), np.array([0, *sentence_ends(text)])
    words_before = np.searchsorted(starts, ends)  # each sentence end as the number of the word behind it
    (start, inner_end), (inner_start, end), first, last = runs[0], runs[-1], 0, count
    if start <= _GAP:
        first = max([it for it in words_before.tolist() if it <= inner_end], default=0)
        first = first if inner_end - first <= _TO_SENTENCE else inner_end * (inner_end >= _LONG)
    if count - end <= _GAP:
        last = min(it for it in words_before.tolist() if it >= inner_start)
        if last - inner_start > _TO_SENTENCE:
            last = inner_start if count - inner_start >= _LONG else count
    first = first if first >= WINDOW_WORDS else 0
    last = last if count - last >= WINDOW_WORDS else count
    if last - first < _LEFT:
        return 0, len(text)

    def place(word: int) -> int:
        there = ends[words_before == word]
        return int(there[-1]) if len(there) else int(edges[word])

    return place(first) if first else 0, place(last) if last < count else len(text)
