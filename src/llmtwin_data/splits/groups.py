"""Groups of contents that must stay on one side: same link, or half of the smaller one in the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from llmtwin_data.measures.overlaps import NEAR_COPY, Places, SharedWindows


@dataclass(frozen=True, slots=True)
class Groups:
    """Contents by number: their names, the content of each chunk, groups, and the sides that are kept.

    In a group that touches both kept sides, old contents keep theirs and new ones get none. ``crossed`` are
    old contents of test that a changed link or text ties to an old one of train. ``sizes`` are those of the
    groups as the texts alone make them, so that a certificate is the same whatever was published before.
    """

    names: list[str]
    content_of: list[int]
    members: list[list[int]]
    kept: dict[int, str]
    crossed: set[int]
    sizes: list[int]


def group_contents(
    names: Sequence[str], links: Sequence[str], windows: SharedWindows, *, previous: Mapping[str, str]
) -> Groups:
    """Group the contents of chunks; ``names`` and ``links`` are given for each chunk.

    Contents with a kept side tie new ones to them, but never join one another: their sides are settled.
    """
    numbers: dict[str, int] = {}
    content_of = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    kept = {number: previous[name] for name, number in numbers.items() if name in previous}
    old = {side: np.isin(np.arange(len(numbers)), _on(kept, side)) for side in ("train", "test")}
    settled, crossed = old["train"] | old["test"], set[int]()
    labels, tied = np.arange(len(numbers)), np.arange(len(numbers))
    for content, others in chain(_linked(content_of, links), _tied(windows.merged(content_of))):
        if old["test"][content] and old["train"][others].any():
            crossed.add(content)
        elif old["train"][content]:
            crossed.update(others[old["test"][others]].tolist())
        free = others[~settled[others]] if settled[content] else others
        _join(labels, np.append(free, content))
        _join(tied, np.append(others, content))
    members: dict[int, list[int]] = {}
    for content, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(content)
    sizes = np.unique(tied, return_counts=True)[1].tolist()
    return Groups(list(numbers), content_of.tolist(), list(members.values()), kept, crossed, sizes)


def _join(labels: Places, contents: Places) -> None:
    joined = np.unique(labels[contents])
    if len(joined) > 1:
        labels[np.isin(labels, joined)] = joined[0]


def _on(kept: Mapping[int, str], side: str) -> list[int]:
    return [content for content, its in kept.items() if its == side]


def _linked(content_of: Places, links: Sequence[str]) -> Iterator[tuple[int, Places]]:
    of_link: dict[str, list[int]] = {}
    for content, link in zip(content_of.tolist(), links, strict=True):
        of_link.setdefault(link, []).append(content)
    of_link.pop("", None)
    yield from ((content, np.array(found)) for found in of_link.values() for content in dict.fromkeys(found))


def _tied(contents: SharedWindows) -> Iterator[tuple[int, Places]]:
    """Yield contents with those that share half of the smaller one's windows, found from the smaller one."""
    shared = contents.shared()
    for content in np.flatnonzero((shared > 0) & (shared >= NEAR_COPY * contents.sizes)):
        counts = contents.counts(int(content))
        smaller = np.minimum(contents.sizes, contents.sizes[content])
        yield int(content), np.flatnonzero((counts > 0) & (counts >= NEAR_COPY * smaller))
