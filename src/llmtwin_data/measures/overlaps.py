"""Windows of words that texts share, as sorted integer arrays: the ground of near-copies and of the split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from llmtwin_data.languages import WINDOW_WORDS, mixed, windows

# Share of the smaller text's windows that makes it a near-copy of the other.
NEAR_COPY = 0.5
BLOCK_TEXTS = 1000

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


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

    def counts(self, text: int) -> Places:
        """Count for every text the windows that it shares with this one."""
        mine = self.entries[self.text_starts[text] : self.text_starts[text + 1]]
        starts, ends = self.entry_starts[mine], self.entry_starts[mine + 1]
        lists = [self.holders[start:end] for start, end in zip(starts, ends, strict=True)]
        together = np.concatenate(lists) if lists else np.empty(0, dtype=np.int64)
        weights = np.repeat(self.weights[mine], ends - starts)
        return np.bincount(together, weights=weights, minlength=len(self.sizes)).astype(np.int64)

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

    def merged(self, groups: Places) -> SharedWindows:
        """Give the same for the groups that the texts belong to; ``groups`` numbers them from 0."""
        total, factor = int(groups.max(initial=-1)) + 1, max(len(self.weights), 1)
        texts = np.repeat(np.arange(len(self.sizes)), np.diff(self.text_starts))
        keys, seen = np.unique(groups[texts] * factor + self.entries, return_counts=True)
        owners, entries = np.divmod(keys, factor)
        sizes = np.bincount(groups, weights=self.sizes, minlength=total)
        twice = np.bincount(owners, weights=(seen - 1) * self.weights[entries], minlength=total)
        return _shared((sizes - twice).astype(np.int64), owners, entries, self.weights)


def shared_windows(texts: Iterable[str]) -> SharedWindows:
    """Find the windows of eight words that more than one of the texts holds."""
    blocks = list(window_hashes(texts, size=WINDOW_WORDS))
    hashes = np.concatenate([block for block, _ in blocks]) if blocks else np.empty(0, dtype=np.uint64)
    sizes = np.concatenate([sizes for _, sizes in blocks]) if blocks else np.empty(0, dtype=np.int64)
    blocks.clear()
    in_order = np.sort(hashes)
    several = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    found = np.minimum(np.searchsorted(several, hashes), max(len(several) - 1, 0))
    kept = several[found] == hashes if len(several) else np.zeros(len(hashes), dtype=bool)
    owners = np.repeat(np.arange(len(sizes)), sizes)[kept]
    return _shared(sizes, owners, found[kept], np.ones(len(several), dtype=np.int64))


def window_hashes(texts: Iterable[str], *, size: int) -> Iterator[tuple[Hashes, Places]]:
    """Hash the distinct windows of ``size`` words of each text; fewer words make one window.

    Yields blocks of texts: the hashes of one text after the other, and how many each has; a text without a
    word has none.
    """
    stream = iter(texts)
    while block := list(islice(stream, BLOCK_TEXTS)):
        rows = [windows(text, size=size) for text in block]
        sizes = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        yield np.fromiter(chain.from_iterable(rows), dtype=np.uint64, count=int(sizes.sum())), sizes


def _shared(sizes: Places, owners: Places, windows: Places, weights: Places) -> SharedWindows:
    """Index pairs of text and window both ways, those windows as one that the same texts hold."""
    entry_of, weights, first = _alike(owners, windows, weights)
    kept = first[windows]
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


def _alike(owners: Places, windows: Places, weights: Places) -> tuple[Places, Places, NDArray[np.bool_]]:
    """Give each window's entry, the entries' weights, and which window stands for its entry."""
    marks = np.zeros(len(weights), dtype=np.uint64)
    # Mixed twice, so that only equal sets of owners have equal sums.
    np.add.at(marks, windows, mixed(mixed(owners.astype(np.uint64) + np.uint64(1))))
    _, standing, entry_of = np.unique(marks, return_index=True, return_inverse=True)
    first = np.zeros(len(weights), dtype=bool)
    first[standing] = True
    together = np.bincount(entry_of, weights=weights, minlength=len(standing)).astype(np.int64)
    return entry_of, together, first


def _starts(ascending: Places, total: int) -> Places:
    return np.searchsorted(ascending, np.arange(total + 1))
