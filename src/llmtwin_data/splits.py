"""Train and test by group, so that no test pair has a sibling or a near-copy in train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data.contents import KEY, content_names, with_columns
from llmtwin_data.curation import COPIES
from llmtwin_data.overlaps import NEAR_COPY, Places, SharedWindows, shared_windows
from llmtwin_data.params import Params


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


def with_sides(ledger: pd.DataFrame, settings: Params, previous: Mapping[str, str]) -> pd.DataFrame:
    """Return the table with ``side`` (str: train, test, empty), so that nothing in test was seen in training.

    Needs ``state``, ``content`` and ``link``. What would leak or tie both sides is rejected: ``state``,
    ``reason``, ``value``. Of the whole.

    Parameters
    ----------
    settings
        ``test_fraction`` is the share of *contents*, not of pairs, that goes to test; 0.0 puts all in train,
        whatever was before.
    previous
        "collection/content_id" to the side it has in an earlier dataset; it keeps that side.

    Returns
    -------
    pd.DataFrame
        ``attrs["sides"]`` is the side of every content, those of ``previous`` and of left out copies among
        them, and those of which every chunk was left out as a leak. ``attrs["certificate"]`` holds
        ``contents``, ``groups``, ``largest_group``, ``train_chunks``, ``test_chunks``, ``checked_pairs``
        (chunks of both sides that share any window), ``max_containment`` across the sides as published,
        ``leaks_rejected``, ``tied``, ``random_leak_share`` (test chunks with a sibling or near-copy in train,
        had rows been drawn at random) and ``note``.

    Notes
    -----
    One group are chunks of one content, contents of one link, and contents that share half of the smaller's
    8-word windows. New groups go to test in the order of their hash until the fraction is reached; one that
    ties contents of both sides is left out as ``tied``, and so is an old one of test that a changed link or
    text ties to an old one of train. A chunk that then still shares half of its windows with a chunk of the
    other side is rejected as ``leak``: ties of chunks would make one group of all who share a footer.
    """
    rows = ledger[ledger.state == "accepted"]
    chunks, places = rows.drop_duplicates(KEY), rows.groupby(KEY, sort=False).ngroup()
    windows = shared_windows(chunks.content)
    kept = previous if settings.test_fraction else {}
    groups = group_contents(content_names(chunks).tolist(), chunks.link.tolist(), windows, previous=kept)
    chosen = _choose(groups, test_fraction=settings.test_fraction, seed=settings.seed)
    by_chunk = [chosen[content] for content in groups.content_of]
    leaks = find_leaks(windows, by_chunk)
    side = places.map(dict(enumerate(by_chunk))).to_frame("side")
    left_out = {place: ("tied", "train and test") for place, its in enumerate(by_chunk) if not its}
    left_out |= {place: ("leak", f"{share:.4f}") for place, share in leaks.chunks.items()}
    rejected = pd.DataFrame.from_dict(
        {row: ("", "rejected", *left_out[place]) for row, place in places.items() if place in left_out},
        orient="index", columns=["side", "state", "reason", "value"], dtype="str",
    )  # fmt: skip
    table = with_columns(with_columns(ledger.assign(side=""), side), rejected)
    contents = {name: side for name, side in zip(groups.names, chosen, strict=True) if side}
    known = dict(previous) | contents
    table.attrs["sides"] = known | _sides_of_copies(ledger, known)
    table.attrs["certificate"] = _certificate(groups, by_chunk, leaks, windows, settings.seed)
    return table


def _sides_of_copies(ledger: pd.DataFrame, sides: Mapping[str, str]) -> dict[str, str]:
    """Return for contents left out as copies the side of what they copy, which was trained on or tested with.

    So a copy that the next dataset keeps instead is not on the other side there. One that copies contents of
    both sides is on that of train.
    """
    names, copied = content_names(ledger), ledger.reason.isin(COPIES)
    owners = dict(zip(ledger.id, names, strict=True))
    found = [
        (name, sides.get(owners[original], ""))
        for name, original in zip(names[copied], ledger.value[copied], strict=True)
    ]
    in_order = sorted(found, key=lambda item: item[1] == "train")
    return {name: side for name, side in in_order if side and name not in sides}


def _choose(groups: Groups, *, test_fraction: float, seed: int) -> list[str]:
    """Give each content its side: the one it has, else by its group."""
    sides = [groups.kept.get(content, "") for content in range(len(groups.names))]
    wanted = min(round(test_fraction * len(sides)), len(sides) - 1)
    fresh = sorted(_fresh(groups), key=lambda members: _rank(groups, members, seed))
    in_test = _for_test(groups, fresh, wanted=wanted if test_fraction else -1)
    for members in groups.members:
        kept = {groups.kept[content] for content in members if content in groups.kept}
        side = kept.pop() if len(kept) == 1 else "" if kept else "test" if members[0] in in_test else "train"
        for content in members:
            sides[content] = "" if content in groups.crossed else sides[content] or side
    return sides


def _fresh(groups: Groups) -> list[list[int]]:
    """Give the groups of which no content has a side yet."""
    return [members for members in groups.members if not any(content in groups.kept for content in members)]


def _for_test(groups: Groups, fresh: Sequence[list[int]], *, wanted: int) -> set[int]:
    """Give the first content of each new group that goes to test; at least one group, if another is left."""
    filled = sum(side == "test" for side in groups.kept.values()) - len(groups.crossed)
    chosen = set()
    for members in fresh:
        if filled + len(members) <= wanted:
            filled += len(members)
            chosen.add(members[0])
    if not filled and wanted >= 0 and fresh and len(groups.members) > 1:
        chosen.add(min(fresh, key=len)[0])
    return chosen


def _rank(groups: Groups, members: Sequence[int], seed: int) -> str:
    name = min(groups.names[content] for content in members)
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()


def _certificate(
    groups: Groups, by_chunk: Sequence[str], leaks: Leaks, windows: SharedWindows, seed: int
) -> dict[str, Any]:
    published = [side for number, side in enumerate(by_chunk) if number not in leaks.chunks]
    alone = "fewer than two groups: all in train" if len(groups.sizes) < 2 else ""
    return {
        "contents": len(groups.names),
        "groups": len(groups.sizes),
        "largest_group": max(groups.sizes, default=0),
        "train_chunks": published.count("train"),
        "test_chunks": published.count("test"),
        "checked_pairs": leaks.checked_pairs,
        "max_containment": leaks.max_containment,
        "leaks_rejected": len(leaks.chunks),
        "tied": by_chunk.count(""),
        "random_leak_share": random_leak_share(windows, np.array(groups.content_of), seed=seed),
        "note": alone,
    }
