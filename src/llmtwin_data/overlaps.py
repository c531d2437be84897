"""Windows of words that texts share, and near-copies: the ground of copies, boilerplate and leaks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from llmtwin_data.cluster import BUCKETS, HERE, Workers, blocks
from llmtwin_data.texts import (
    WINDOW_WORDS,
    Hashes,
    Places,
    mixed,
    normal_form,
    placed_windows,
    sentence_ends,
    window_hashes,
    words,
)

# Share of the smaller text's windows that makes it a near-copy of the other.
NEAR_COPY = 0.5
# Meetings looked at at once, of 50 bytes each.
BLOCK_PAIRS = 1 << 21
# Kinds of text that hold an entry from which on it is common. No result depends on it.
MOST_HOLDERS = 256


@dataclass(frozen=True, slots=True)
class SharedWindows:
    """For texts numbered from 0: how many windows each has, and who holds those that several texts share.

    Windows with the same holders, as those of a footer have, are one entry with the ``weight`` of all. Texts
    with the same entries are of one kind, and so are those with the same of the entries that very many kinds
    hold, which stand there again for that: ``kinds[:, t]`` are the two kinds of text ``t``.
    ``entries[kind_starts[k]:kind_starts[k + 1]]`` are the entries of kind ``k``;
    ``holders[entry_starts[e]:entry_starts[e + 1]]`` are the kinds that hold entry ``e``, ascending;
    ``common[e]``: whether these are very many.
    """

    sizes: Places
    kinds: Places
    weights: Places
    kind_starts: Places
    entries: Places
    entry_starts: Places
    holders: Places
    common: NDArray[np.bool_]

    def shared(self) -> Places:
        """Count each text's windows that some other text has too."""
        total = len(self.kind_starts) - 1
        kinds = np.repeat(np.arange(total), np.diff(self.kind_starts))
        counts = np.bincount(kinds, weights=self.weights[self.entries], minlength=total)
        by_text: Places = counts[self.kinds[0]].astype(np.int64)
        return by_text

    def least(self, texts: NDArray[np.bool_], values: Places, *, nothing: int) -> Places:
        """Return the least value of the texts of each kind."""
        least = np.full(len(self.kind_starts) - 1, nothing)
        for kinds in self.kinds:  # both at once numpy 2.4 does wrong
            np.minimum.at(least, kinds[texts], values[texts])
        return least

    def meetings(
        self, texts: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> Iterator[tuple[Places, Places, Places, NDArray[np.bool_]]]:
        """Yield in blocks kinds of the texts, kinds of the others, and how many windows all of those share.

        All that one kind meets is in one block. Two texts meet at most twice, by their first kinds and by
        their second: those by the first share so many, and are marked if they meet by the second as well;
        those by the second share so many or more, which is then said by the first.
        """
        total = len(self.kind_starts) - 1
        of_texts, of_others = np.zeros((2, total), dtype=bool)
        of_texts[self.kinds[:, texts]] = of_others[self.kinds[:, others]] = True
        kept = of_others[self.holders]
        starts = np.append(0, np.cumsum(kept))[self.entry_starts]
        chosen, holders = np.flatnonzero(of_texts), self.holders[kept]
        count = np.diff(self.kind_starts)[chosen]
        entries = self.entries[_ranges(self.kind_starts[chosen], count)]
        kinds = np.repeat(chosen, count)[~self.common[entries]]
        entries = entries[~self.common[entries]]
        lengths = np.diff(starts)[entries]
        # A block ends with the kind that fills it.
        blocks = np.cumsum(np.bincount(kinds, weights=lengths, minlength=total))[kinds] // BLOCK_PAIRS
        edges = [*np.flatnonzero(np.diff(blocks, prepend=-1)).tolist(), len(kinds)]
        for first, last in pairwise(edges):
            length, its = lengths[first:last], entries[first:last]
            met = holders[_ranges(starts[its], length)]
            keys, at = np.unique(np.repeat(kinds[first:last], length) * total + met, return_inverse=True)
            counts = np.bincount(at, weights=np.repeat(self.weights[its], length)).astype(np.int64)
            more = self._in_common(keys // total, keys % total)
            yield keys // total, keys % total, counts + more, more > 0

    def _in_common(self, kinds: Places, others: Places) -> Places:
        """Count the windows of common entries that each of the kinds shares with the other beside it."""
        is_common, total = self.common[self.entries], len(self.weights)
        starts, entries = np.append(0, np.cumsum(is_common))[self.kind_starts], self.entries[is_common]
        held = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * total + entries
        count = np.diff(starts)[kinds]
        its = entries[_ranges(starts[kinds], count)]
        wanted = np.repeat(others, count) * total + its
        shared = held[np.minimum(np.searchsorted(held, wanted), len(held) - 1)] == wanted
        pairs = np.repeat(np.arange(len(kinds)), count)
        counts = np.bincount(pairs, weights=self.weights[its] * shared, minlength=len(kinds))
        return counts.astype(np.int64)

    def nearest(self, texts: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[Places, Places]:
        """Return for each of the texts the other that shares the most windows with it, and how many.

        The first of several; where there is none, and for all but the texts, -1 and 0.
        """
        nobody = len(self.sizes)
        first = self.least(others, np.arange(nobody), nothing=nobody)
        nearest, most = np.full(len(first), nobody), np.zeros(len(first), dtype=np.int64)
        for kinds, met, counts, _ in self.meetings(texts, others):
            order = np.lexsort((-first[met], counts, kinds))  # the last of each kind stays
            nearest[kinds[order]], most[kinds[order]] = first[met[order]], counts[order]
        mosts = most[self.kinds] * texts
        near = np.where(mosts == mosts.max(axis=0), nearest[self.kinds], nobody).min(axis=0)
        return np.where(mosts.max(axis=0) > 0, near, -1), mosts.max(axis=0)

    def merged(self, groups: Places) -> SharedWindows:
        """Return the same for the groups that the texts belong to; ``groups`` numbers them from 0."""
        total, factor = int(groups.max(initial=-1)) + 1, max(len(self.weights), 1)
        pairs, members = np.unique(groups * len(self.kind_starts) + self.kinds[0], return_counts=True)
        owners, kinds = np.divmod(pairs, len(self.kind_starts))
        count = np.diff(self.kind_starts)[kinds]
        entries = self.entries[_ranges(self.kind_starts[kinds], count)]
        keys, at = np.unique(np.repeat(owners, count) * factor + entries, return_inverse=True)
        owners, entries = np.divmod(keys, factor)
        again = np.bincount(at, weights=np.repeat(members, count), minlength=len(keys)) - 1
        sizes = np.bincount(groups, weights=self.sizes, minlength=total)
        twice = np.bincount(owners, weights=again * self.weights[entries], minlength=total)
        return _shared((sizes - twice).astype(np.int64), owners, entries, self.weights)


def shared_windows(texts: Sequence[str] | Iterator[str], *, workers: Workers = HERE) -> SharedWindows:
    """Find the windows of eight words that more than one of the texts holds."""
    sizes, owners, windows, weights = _keys(texts, window_hashes, _shared_keys, workers)
    return _shared(sizes, owners, windows, weights)


# Of a bucket and a block of texts: how many these are, keys, ascending, and whose.
_Sketch = tuple[int, Hashes, NDArray[np.unsignedinteger]]
# How many keys each text has, and of those that several have: whose, which of them, and a value of each.
_Keys = tuple[Places, Places, Places, NDArray[Any]]


def _keys(
    texts: Sequence[str] | Iterator[str],
    keys_of: Callable[[Sequence[str]], tuple[Hashes, Places]],
    verify: Callable[[list[_Sketch]], _Keys],
    workers: Workers,
) -> _Keys:
    """Return which keys several texts have: windows, bands, or forms."""
    buckets = workers.shuffle(_sketch, blocks(texts), verify, given=[keys_of])
    sizes, owners, keys, values = zip(*buckets, strict=True)
    offsets = np.cumsum([0, *map(len, values)])
    numbered = [its + offset for its, offset in zip(keys, offsets, strict=False)]
    total: Places = np.sum(sizes, axis=0, dtype=np.int64)
    return total, np.concatenate(owners), np.concatenate(numbered), np.concatenate(values)


def _sketch(texts: Sequence[str], keys_of: Callable[[Sequence[str]], tuple[Hashes, Places]]) -> list[_Sketch]:
    keys, counts = keys_of(list(texts))
    order, total = np.argsort(keys, kind="stable"), len(counts)
    keys, owners = keys[order], np.repeat(np.arange(total, dtype=np.min_scalar_type(total)), counts)[order]
    once = np.ones(len(keys), dtype=bool)
    once[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    keys, owners = keys[once], owners[once]
    leading = keys // np.uint64(2**64 // BUCKETS)
    edges = np.searchsorted(leading, np.arange(BUCKETS + 1)).tolist()
    return [(total, keys[start:end], owners[start:end]) for start, end in pairwise(edges)]


def _several(sketches: list[_Sketch], least: int = 2) -> _Keys:
    """Return of one bucket the keys that so many texts have, ascending."""
    in_order = np.sort(np.concatenate([keys for _, keys, _ in sketches]))
    several = np.unique(in_order[least - 1 :][in_order[least - 1 :] == in_order[: 1 - least]])
    counts = [np.bincount(owners, minlength=total) for total, _, owners in sketches]
    places, having, first = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], 0
    for total, keys, owners in sketches if len(several) else ():
        place = np.searchsorted(several[:-1], keys)
        held = several[place] == keys
        places.append(place[held])
        having.append(first + owners[held].astype(np.int64))
        first += total
    return np.concatenate(counts).astype(np.uint32), np.concatenate(having), np.concatenate(places), several


def _shared_keys(sketches: list[_Sketch]) -> _Keys:
    """Return the same, those that the same texts have as one, with how many they are."""
    sizes, owners, keys, several = _several(sketches)
    numbers, standing = _alike(keys, owners, len(several))
    kept = standing[keys]
    return sizes, owners[kept], numbers[keys[kept]], np.bincount(numbers)


def _alike(things: Places, members: Places, total: int) -> tuple[Places, NDArray[np.bool_]]:
    """Number things from 0, those with the same members as one; and tell which one of each stands for all."""
    marks = np.zeros(total, dtype=np.uint64)
    # Mixed twice, so that only equal sets of members have equal sums.
    np.add.at(marks, things, mixed(mixed(members.astype(np.uint64) + np.uint64(1))))
    _, first, numbers = np.unique(marks, return_index=True, return_inverse=True)
    standing = np.zeros(total, dtype=bool)
    standing[first] = True
    return numbers, standing


def _shared(sizes: Places, owners: Places, windows: Places, weights: Places) -> SharedWindows:
    """Index pairs of text and window both ways, those windows as one entry that the same texts hold."""
    entry_of, standing = _alike(windows, owners, len(weights))
    kept = standing[windows]
    owners, entries = owners[kept], entry_of[windows[kept]]
    weights = np.bincount(entry_of, weights=weights).astype(np.int64)
    kinds, standing = _alike(owners, entries, len(sizes))
    kept = standing[owners]
    common = np.bincount(entries[kept], minlength=len(weights)) > MOST_HOLDERS
    # By the common entries alone, which stand again behind all others.
    again = common[entries]
    by_common, stands = _alike(owners[again], entries[again], len(sizes))
    both = again & stands[owners]
    holders = np.concatenate((kinds[owners[kept]], by_common[owners[both]] + standing.sum()))
    copies = len(weights) - 1 + np.cumsum(common)
    entries = np.concatenate((entries[kept], copies[entries[both]]))
    weights, common = (
        np.append(weights, weights[common]),
        np.append(common, np.zeros(common.sum(), dtype=bool)),
    )
    by_kind, by_entry = np.lexsort((entries, holders)), np.lexsort((holders, entries))
    return SharedWindows(
        sizes=sizes,
        kinds=np.stack((kinds, by_common + standing.sum())),
        weights=weights,
        kind_starts=np.searchsorted(holders[by_kind], np.arange(standing.sum() + stands.sum() + 1)),
        entries=entries[by_kind],
        entry_starts=np.searchsorted(entries[by_entry], np.arange(len(weights) + 1)),
        holders=holders[by_entry],
        common=common,
    )


def _ranges(starts: Places, lengths: Places) -> Places:
    """Return the numbers from each start on, so many as its length."""
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


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

    ``texts``: a list, or the array of a column. ``threshold``: least Jaccard similarity of the sets of
    neighbouring word pairs, 0.0 to 1.0. Texts of equal normal form are always copies; 1.0 and more finds only
    those.
    """

    def __init__(self, texts: Sequence[str], *, threshold: float, workers: Workers = HERE) -> None:
        self._texts, self._threshold = texts, threshold
        # Few texts share a form or a band with another; of the others nothing is held.
        _, owners, forms, _ = _keys(texts, _forms, _several, workers)
        self._form_of = dict(zip(owners.tolist(), forms.tolist(), strict=True))
        self._equal: dict[int, int] = {}
        _, owners, bands, _ = _keys(texts if threshold < 1 else texts[:0], _bands, _several, workers)
        order = np.argsort(owners, kind="stable")
        sharing, starts = np.unique(owners[order], return_index=True)
        self._row_of = {text: row for row, text in enumerate(sharing.tolist())}
        self._bands, self._starts = bands[order], np.append(starts, len(bands))
        self._kept: defaultdict[int, list[int]] = defaultdict(list)
        parts = ([texts[text] for text in its] for its in blocks([*self._row_of]))
        self._digests = np.concatenate([*workers.map(_digests, parts)])
        self._shingles = lru_cache(maxsize=1024)(lambda text: _shingles(texts[text]))

    def find(self, text: int) -> tuple[int, bool] | None:
        """Return the kept text that this one copies, and whether they are equal; None for an original."""
        equal = self._equal.get(self._form_of.get(text, -1))
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
        if (form := self._form_of.get(text)) is not None:
            self._equal.setdefault(form, text)
        for band in self._bands_of(text):
            if len(self._kept[band]) < MOST_OF_A_BAND:
                self._kept[band].append(text)

    def _bands_of(self, text: int) -> list[int]:
        row = self._row_of.get(text)
        if row is None:
            return []
        bands: list[int] = self._bands[self._starts[row] : self._starts[row + 1]].tolist()
        return bands


def near_duplicates(texts: Sequence[str], *, threshold: float, workers: Workers = HERE) -> list[int | None]:
    """Return for each text the earlier, kept text that it nearly copies, or None where it is kept itself.

    Texts and threshold are those of `NearCopies`.
    """
    copies, originals = NearCopies(texts, threshold=threshold, workers=workers), list[int | None]()
    for text in range(len(texts)):
        copy = copies.find(text)
        if copy is None:
            copies.keep(text)
        originals.append(copy and copy[0])
    return originals


def _forms(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """Return a hash of each text's normal form, the same in every process."""
    forms = (normal_form(text).encode("utf-8", "surrogatepass") for text in texts)
    digests = b"".join(hashlib.blake2b(form, digest_size=8).digest() for form in forms)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64), np.ones(len(texts), dtype=np.int64)


def _bands(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """Fold each text's digest into 21 numbers; similar texts have one in common."""
    rows = _digests(texts).reshape(-1, BANDS, ROWS)
    folded = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), rows.shape[:2])
    for row in range(ROWS):
        folded = mixed(folded ^ rows[:, :, row])
    return folded.reshape(-1), np.full(len(texts), BANDS)


def _digests(texts: Sequence[str]) -> NDArray[np.uint32]:
    hashes, counts = window_hashes(texts, size=SHINGLE_WORDS)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, BANDS * ROWS)


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


def common_windows(texts: Sequence[str], *, workers: Workers = HERE) -> Hashes:
    """Return the windows of eight words in `COMMON_TEXTS` texts, ascending; near-copies count as one text."""
    verify = partial(_several, least=COMMON_TEXTS)
    sizes, owners, windows, common = _keys(texts, window_hashes, verify, workers)
    shares = np.bincount(owners, minlength=len(sizes)) / np.maximum(sizes, 1)
    likely = np.flatnonzero(shares >= _MAY_BE_COPY)
    copies = near_duplicates([texts[text] for text in likely.tolist()], threshold=_COPY, workers=workers)
    again = likely[[copy is not None for copy in copies]]
    held = np.bincount(windows[~np.isin(owners, again)], minlength=len(common))
    return common[held >= COMMON_TEXTS]


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
