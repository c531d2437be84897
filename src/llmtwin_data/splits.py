"""Train and test by group, so that no test pair has a sibling or a near-copy in train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data.cluster import workers_of
from llmtwin_data.contents import KEY, content_names, with_columns
from llmtwin_data.curation import COPIES
from llmtwin_data.overlaps import NEAR_COPY, SharedWindows, shared_windows
from llmtwin_data.params import Params
from llmtwin_data.texts import Places

# Rows drawn to see what a random split would have leaked.
DRAWN = 500


class Sides(dict[str, str]):
    """Side by content; pandas copies ``attrs`` at every step, which at 100,000 contents takes 0.2 s each."""

    def __deepcopy__(self, _: object) -> Sides:
        return self


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
    rows = ledger.loc[ledger.state == "accepted", [*KEY, "link"]]
    chunks, chunk_of = rows.drop_duplicates(KEY), rows.groupby(KEY, sort=False).ngroup()
    texts = cast("Sequence[str]", ledger.content[chunks.index].array)
    windows = shared_windows(texts, workers=workers_of(len(texts), settings.cluster))
    content_of, names = pd.factorize(content_names(chunks))
    kept = [previous.get(name, "") if settings.test_fraction else "" for name in names]
    groups, tied, crossed = _group(content_of, chunks.link.tolist(), windows, np.array(kept))
    table = pd.DataFrame({"name": names, "group": groups, "kept": kept, "crossed": crossed})
    contents = _choose(table, settings)
    sides = contents[content_of]
    leaks = find_leaks(windows, sides)
    fates = pd.DataFrame({"side": sides, "state": "rejected", "reason": "", "value": ""}, dtype="str")
    fates.loc[fates.side == "", ["reason", "value"]] = "tied", "train and test"
    fates.loc[[*leaks.chunks], ["side", "reason"]] = "", "leak"
    fates.loc[[*leaks.chunks], "value"] = [f"{share:.4f}" for share in leaks.chunks.values()]
    by_row = fates.iloc[chunk_of].set_axis(chunk_of.index)
    table = with_columns(ledger.assign(side=""), by_row[["side"]])
    table = with_columns(table, by_row[by_row.side == ""])
    known = dict(previous) | {name: its for name, its in zip(names, contents, strict=True) if its}
    table.attrs["sides"] = Sides(known | _sides_of_copies(ledger, known))
    # Of the groups as the texts alone make them: a certificate is the same whatever was published before.
    sizes = np.unique(tied, return_counts=True)[1].tolist()
    table.attrs["certificate"] = {
        "contents": len(names),
        "groups": len(sizes),
        "largest_group": max(sizes, default=0),
        "train_chunks": int((fates.side == "train").sum()),
        "test_chunks": int((fates.side == "test").sum()),
        "checked_pairs": leaks.checked_pairs,
        "max_containment": leaks.max_containment,
        "leaks_rejected": len(leaks.chunks),
        "tied": int((fates.reason == "tied").sum()),
        "random_leak_share": _random_leak_share(windows, content_of, seed=settings.seed),
        "note": "fewer than two groups: all in train" if len(sizes) < 2 else "",
    }
    return table


def _group(
    content_of: Places, links: Sequence[str], windows: SharedWindows, kept: NDArray[np.str_]
) -> tuple[Places, Places, NDArray[np.bool_]]:
    """Return for each content its group, its group as if no side were kept, and whether it has to go.

    Contents with a kept side tie new ones to them, but never join one another: their sides stay. An old one
    of test that a changed link or text ties to an old one of train goes.
    """
    linked = pd.DataFrame({"link": links, "content": content_of}).drop_duplicates()
    linked = linked[(linked.link != "") & linked.link.duplicated(keep=False)]
    linked = linked.assign(kept=kept[linked.content])
    ties = linked.merge(linked.drop_duplicates(["link", "kept"]), on="link")
    near = _near(windows.merged(content_of), np.unique(kept, return_inverse=True)[1])
    one, other = np.concatenate((ties[["content_x", "content_y"]].to_numpy().T, near), axis=1)
    joined, crossed = (kept[one] == "") | (kept[other] == ""), np.zeros(len(kept), dtype=bool)
    for first, second in ((one, other), (other, one)):
        crossed[first[(kept[first] == "test") & (kept[second] == "train")]] = True
    return _joined(len(kept), one[joined], other[joined]), _joined(len(kept), one, other), crossed


def _near(windows: SharedWindows, kept: Places) -> NDArray[np.int64]:
    """Return pairs of contents of which one shares half of its windows with the other.

    Not all of them, which may be many: each content stands with one of those near it for each number in
    ``kept``, and so much more that contents which are tied over some others are so over these as well.
    """
    sizes, contents, numbers = windows.sizes, np.arange(len(kept)), int(kept.max(initial=0)) + 1
    # The smallest of each kind with each number stands for it: what is near another is near this one.
    order = np.lexsort((-contents, -sizes))  # the last of each kind stays
    smallest = np.full((len(windows.kind_starts) - 1, numbers), -1)
    smallest[windows.kinds[:, order], kept[order]] = order
    most = np.zeros(smallest.shape, dtype=np.int64)
    nearest, inside, pairs = np.full(smallest.shape, -1), np.full(smallest.shape, -1), list[Places]()
    shared = windows.shared()
    near = (shared > 0) & (shared >= NEAR_COPY * sizes)
    for kinds, others, counts, _ in windows.meetings(near, np.ones(len(kept), dtype=bool)):
        for number, its in product(range(numbers), repeat=2):
            one, other = smallest[kinds, number], smallest[others, its]
            close = (one >= 0) & (other >= 0) & (counts >= NEAR_COPY * sizes[one])
            pairs.append(np.stack((one[close], other[close])))
            inside[others[close], number] = one[close]
        for its in range(numbers):
            held = np.flatnonzero(smallest[others, its] >= 0)
            held = held[np.lexsort((counts[held], kinds[held]))]  # the last of each kind stays
            most[kinds[held], its] = counts[held]
            nearest[kinds[held], its] = smallest[others[held], its]
    for kinds, its in product(windows.kinds, range(numbers)):
        close = contents[(sizes > 0) & (most[kinds, its] >= np.maximum(NEAR_COPY * sizes, 1))]
        pairs.append(np.stack((close, nearest[kinds[close], its])))
        holding = contents[inside[kinds, its] >= 0]
        pairs.append(np.stack((holding, inside[kinds[holding], its])))
    return np.concatenate(pairs, axis=1)


def _joined(count: int, one: Places, other: Places) -> Places:
    """Return for each number the least that pairs of them tie it to."""
    least = np.arange(count)
    while (least[one] != least[other]).any():
        lower = np.minimum(least[one], least[other])
        np.minimum.at(least, least[one], lower)
        np.minimum.at(least, least[other], lower)
        while (least[least] != least).any():
            least = least[least]
    return least


def _choose(contents: pd.DataFrame, settings: Params) -> NDArray[np.object_]:
    """Return each content's side: the one it has, else its group's; none where that ties both sides.

    Needs ``name``, ``group``, ``kept`` (the side it has) and ``crossed`` (whether it has to go).
    """
    sided = contents.assign(train=contents.kept == "train", test=contents.kept == "test")
    groups = sided.groupby("group").agg(
        name=("name", "min"), count=("name", "size"), train=("train", "any"), test=("test", "any")
    )
    sides = np.select([groups.train & groups.test, groups.train], ["", "train"], "test")
    side: dict[Any, str] = dict(zip(groups.index, sides.tolist(), strict=True))
    fresh = groups[~groups.train & ~groups.test]
    named = (f"{settings.seed}\0{name}".encode("utf-8", "surrogatepass") for name in fresh.name)
    fresh = fresh.assign(rank=[hashlib.sha256(name).hexdigest() for name in named]).sort_values("rank")
    most = min(round(settings.test_fraction * len(sided)), len(sided) - 1) if settings.test_fraction else -1
    filled = sided.test.sum() - sided.crossed.sum()
    for group, count in fresh["count"].items():
        in_test = filled + count <= most
        filled += count * in_test
        side[group] = "test" if in_test else "train"
    if not filled and most >= 0 and len(fresh) and len(groups) > 1:
        side[fresh["count"].idxmin()] = "test"
    chosen = sided.kept.where(sided.kept != "", sided.group.map(side))
    return chosen.where(~sided.crossed, "").to_numpy(object)


@dataclass(frozen=True, slots=True)
class Leaks:
    """Chunks to leave out with the containment that says why; ``max_containment`` is of all that stay."""

    chunks: dict[int, float]
    checked_pairs: int
    max_containment: float


def find_leaks(windows: SharedWindows, sides: Sequence[str] | NDArray[np.object_]) -> Leaks:
    """Find the chunks to reject so that no test chunk shares half of its or a train chunk's windows with it.

    A test chunk with half of its own windows in one train chunk goes. A train chunk with half of its windows
    in a longer test chunk that stays goes: a footer alone must not cost every letter that ends in it.
    """
    sizes, kinds, side = np.maximum(windows.sizes, 1), windows.kinds, np.array(sides, dtype="U5")
    test, train, total = side == "test", side == "train", len(windows.kind_starts) - 1
    tests, trains = (np.bincount(kinds[:, its].ravel(), minlength=total) for its in (test, train))
    checked, most, near = 0, np.zeros(total, dtype=np.int64), [np.empty((3, 0), dtype=np.int64)]
    least = windows.least(train, sizes, nothing=sizes.max(initial=1))
    for its, others, counts, again in windows.meetings(test, train):
        checked += int(tests[its] @ (trains[others] * ~again))
        np.maximum.at(most, its, counts)
        near.append(np.stack((its, others, counts))[:, counts >= NEAR_COPY * least[others]])
    share = most[kinds].max(axis=0) / sizes
    leaking = np.where(test & (share >= NEAR_COPY), share, 0.0)
    last = -windows.least(test & (leaking == 0.0), -np.arange(len(sizes)), nothing=1)
    in_train = np.flatnonzero(train)
    order = np.argsort(kinds[:, in_train], axis=None, kind="stable")
    starts = np.searchsorted(kinds[:, in_train].ravel()[order], np.arange(total + 1))
    in_train = np.tile(in_train, 2)[order]
    # Of several test chunks that a train chunk shares half of its windows with the last says how much.
    its, others, counts = np.concatenate(near, axis=1)
    order = np.lexsort((counts, last[its]))
    for other, count in np.stack((others, counts))[:, order[last[its[order]] >= 0]].T.tolist():
        chunks = in_train[starts[other] : starts[other + 1]]
        chunks = chunks[count >= NEAR_COPY * sizes[chunks]]
        leaking[chunks] = count / sizes[chunks]
    left_out = np.flatnonzero(leaking)
    side[left_out] = ""
    worst = float(containments(windows, side).max(initial=0.0))
    shares = {chunk: round(float(leaking[chunk]), 4) for chunk in left_out.tolist()}
    return Leaks(shares, checked, round(worst, 4))


def containments(windows: SharedWindows, sides: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return for each test chunk the largest share of windows, its or theirs, with one in train, else 0.0."""
    test, train, sizes = sides == "test", sides == "train", np.maximum(windows.sizes, 1)
    least = windows.least(train, sizes, nothing=sizes.max(initial=1))
    most, theirs = np.zeros((2, len(least)))
    for its, others, counts, _ in windows.meetings(test, train):
        np.maximum.at(most, its, counts)
        np.maximum.at(theirs, its, counts / least[others])
    shares = np.maximum(most[windows.kinds] / sizes, theirs[windows.kinds])
    return np.where(test, shares.max(axis=0), 0.0)


def _random_leak_share(windows: SharedWindows, content_of: Places, *, seed: int) -> float:
    """Return the share of test chunks with a sibling or near-copy in train, had rows been drawn at random."""
    total = len(content_of)
    drawn = np.random.default_rng(seed).permutation(total)[: min(max(total // 10, 1), DRAWN)]
    sides = np.full(total, "train")
    sides[drawn] = "test"
    siblings = np.isin(content_of, content_of[sides == "train"])
    leaks = (siblings | (containments(windows, sides) >= NEAR_COPY))[drawn]
    return round(float(leaks.mean()) if total else 0.0, 4)


def _sides_of_copies(ledger: pd.DataFrame, sides: Mapping[str, str]) -> dict[str, str]:
    """Return for contents left out as copies the side of what they copy, which was trained on or tested with.

    So a copy that the next dataset keeps instead is not on the other side there. One that copies contents of
    both sides is on that of train.
    """
    copies = ledger[["collection", "content_id", "value"]][ledger.reason.isin(COPIES)]
    copies = copies.assign(name=content_names(copies))
    originals = ledger[["collection", "content_id", "id"]][ledger.id.isin(copies.value)].drop_duplicates("id")
    side_of = content_names(originals).set_axis(originals.id).map(sides).dropna()
    copies = copies[~copies.name.map(sides.__contains__).astype(bool) & copies.value.isin(side_of.index)]
    # Those of train last, so that they count.
    return dict(sorted(zip(copies.name, copies.value.map(side_of), strict=True), key=lambda it: it[::-1]))
