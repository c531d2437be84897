"""Groups of contents that must stay on one side: same link, or half of the smaller one in the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .overlaps import SharedWindows

TIED = 0.5
# Of the texts that hold a window the first so many are compared. What half of a text shares with more texts
# than that, a footer in every letter, it shares with these too, and they are tied to one another.
MOST_HOLDERS = 500


@dataclass(frozen=True, slots=True)
class Groups:
    """Contents by number: their names, the content of each chunk, groups, and the sides that are kept.

    In a group that touches both kept sides, old contents keep theirs and new ones get none.
    """

    names: list[str]
    content_of: list[int]
    members: list[list[int]]
    kept: dict[int, str]


def group_contents(
    names: Sequence[str], links: Sequence[str], windows: SharedWindows, *, previous: Mapping[str, str]
) -> Groups:
    """Group the contents of chunks; ``names`` and ``links`` are given for each chunk.

    Contents with a kept side tie new ones to them, but never one another: their sides are settled.
    """
    numbers: dict[str, int] = {}
    content_of = [numbers.setdefault(name, len(numbers)) for name in names]
    kept = {number: previous[name] for name, number in numbers.items() if name in previous}
    ties = [*_links(content_of, links), *_tied(windows.merged(np.array(content_of, dtype=np.int64)))]
    parents = list(range(len(numbers)))
    for one, other in ties:
        if not (one in kept and other in kept):
            _join(parents, one, other)
    members = defaultdict(list)
    for content in range(len(parents)):
        members[_root(parents, content)].append(content)
    return Groups(list(numbers), content_of, list(members.values()), kept)


def _links(content_of: Sequence[int], links: Sequence[str]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for content, link in zip(content_of, links, strict=True):
        if link and first.setdefault(link, content) != content:
            yield first[link], content


def _tied(contents: SharedWindows) -> Iterator[tuple[int, int]]:
    """Yield the contents that hold half of a smaller content's windows, found from the smaller one."""
    shared = np.diff(contents.text_starts)
    for content in np.flatnonzero((shared > 0) & (shared >= TIED * contents.sizes)):
        counts = contents.counts(int(content), most=MOST_HOLDERS)
        counts[content] = 0
        smaller = np.minimum(contents.sizes, contents.sizes[content])
        for other in np.flatnonzero((counts > 0) & (counts >= TIED * smaller)):
            yield int(content), int(other)


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item
