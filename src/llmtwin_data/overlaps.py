"""Windows of words that texts share, as sorted integer arrays: the ground of near-copies and of the split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from .languages import windows

WINDOW_WORDS = 8
BLOCK_TEXTS = 1000

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SharedWindows:
    """For texts numbered from 0: distinct windows of each, and who holds those that several texts share.

    ``windows[text_starts[t]:text_starts[t + 1]]`` are the shared windows of text ``t``;
    ``holders[window_starts[w]:window_starts[w + 1]]`` are the texts that hold window ``w``, ascending.
    """

    sizes: Places
    text_starts: Places
    windows: Places
    window_starts: Places
    holders: Places

    def counts(self, text: int, *, most: int) -> Places:
        """Count for every text the windows shared with this one; of a window's holders the first ``most``."""
        mine = self.windows[self.text_starts[text] : self.text_starts[text + 1]]
        starts, ends = self.window_starts[mine], self.window_starts[mine + 1]
        lists = [self.holders[a:b] for a, b in zip(starts, np.minimum(ends, starts + most), strict=True)]
        together = np.concatenate(lists) if lists else np.empty(0, dtype=np.int64)
        return np.bincount(together, minlength=len(self.sizes))

    def held_by(self, texts: NDArray[np.bool_]) -> SharedWindows:
        """Keep only these texts as holders; every text still knows its windows."""
        kept = texts[self.holders]
        owned = np.repeat(np.arange(len(self.window_starts) - 1), np.diff(self.window_starts))[kept]
        starts = _starts(owned, len(self.window_starts) - 1)
        return SharedWindows(self.sizes, self.text_starts, self.windows, starts, self.holders[kept])

    def merged(self, groups: Places) -> SharedWindows:
        """Give the same for the groups that the texts belong to; ``groups`` numbers them from 0."""
        total = int(groups.max()) + 1 if len(groups) else 0
        texts = np.repeat(np.arange(len(self.sizes)), np.diff(self.text_starts))
        factor = len(self.window_starts)
        keys, seen = np.unique(groups[texts] * factor + self.windows, return_counts=True)
        owners, windows = np.divmod(keys, factor)
        sizes = np.bincount(groups, weights=self.sizes, minlength=total).astype(np.int64)
        twice = np.bincount(owners, weights=seen - 1, minlength=total).astype(np.int64)
        return _shared(sizes - twice, owners, windows)


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
    return _shared(sizes, owners, found[kept])


def containment(one: str, other: str) -> float:
    """Give the shared eight-word windows over the smaller text's windows, 0.0 to 1.0."""
    (hashes, sizes), *_ = window_hashes([one, other], size=WINDOW_WORDS)
    shared = np.intersect1d(hashes[: sizes[0]], hashes[sizes[0] :], assume_unique=True)
    return round(len(shared) / max(int(sizes.min()), 1), 4)


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


def _shared(sizes: Places, owners: Places, windows: Places) -> SharedWindows:
    """Index pairs of text and window both ways; ``owners`` ascends."""
    total = int(windows.max()) + 1 if len(windows) else 0
    by_window = np.argsort(windows, kind="stable")
    return SharedWindows(
        sizes=sizes,
        text_starts=_starts(owners, len(sizes)),
        windows=windows,
        window_starts=_starts(windows[by_window], total),
        holders=owners[by_window],
    )


def _starts(ascending: Places, total: int) -> Places:
    return np.searchsorted(ascending, np.arange(total + 1))
