"""Train and test by group, so that no test pair has a sibling or a near-copy in train."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
    rows = ledger[ledger.state == "accepted"]
    chunks, chunk_of = rows.drop_duplicates(KEY), rows.groupby(KEY, sort=False).ngroup()
    windows, (content_of, names) = shared_windows(chunks.content), pd.factorize(content_names(chunks))
    kept = [previous.get(name, "") if settings.test_fraction else "" for name in names]
    groups, tied, crossed = _group(content_of, chunks.link.tolist(), windows, np.array(kept))
    table = pd.DataFrame({"name": names, "group": groups, "kept": kept, "crossed": crossed})
    contents = _choose(table, settings)
    sides = [contents[content] for content in content_of]
    leaks = find_leaks(windows, sides)
    fates = pd.DataFrame({"side": sides, "state": "rejected", "reason": "", "value": ""}, dtype="str")
    fates.loc[fates.side == "", ["reason", "value"]] = "tied", "train and test"
    for chunk, share in leaks.chunks.items():
        fates.loc[chunk] = "", "rejected", "leak", f"{share:.4f}"
    by_row = fates.loc[chunk_of].set_axis(chunk_of.index)
    table = with_columns(ledger.assign(side=""), by_row[["side"]])
    table = with_columns(table, by_row[by_row.side == ""])
    known = dict(previous) | {name: its for name, its in zip(names, contents, strict=True) if its}
    table.attrs["sides"] = Sides(known | _sides_of_copies(ledger, known))
    published = [its for chunk, its in enumerate(sides) if chunk not in leaks.chunks]
    # Of the groups as the texts alone make them: a certificate is the same whatever was published before.
    sizes = np.unique(tied, return_counts=True)[1].tolist()
    table.attrs["certificate"] = {
        "contents": len(names),
        "groups": len(sizes),
        "largest_group": max(sizes, default=0),
        "train_chunks": published.count("train"),
        "test_chunks": published.count("test"),
        "checked_pairs": leaks.checked_pairs,
        "max_containment": leaks.max_containment,
        "leaks_rejected": len(leaks.chunks),
        "tied": published.count(""),
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
    train, test = kept == "train", kept == "test"
    groups, tied, crossed = np.arange(len(kept)), np.arange(len(kept)), np.zeros(len(kept), dtype=bool)
    linked = pd.DataFrame({"link": links, "content": content_of}).drop_duplicates()
    linked = linked[(linked.link != "") & linked.link.duplicated(keep=False)]
    by_link = ((one, its) for its in linked.groupby("link").content.unique() for one in its)
    merged = windows.merged(content_of)
    # Every near-copy is found from the smaller of the two.
    shared, everyone = merged.shared(), np.ones(len(kept), dtype=bool)
    meetings = merged.containments((shared > 0) & (shared >= NEAR_COPY * merged.sizes), everyone)
    by_text = ((one, its[np.maximum(mine, theirs) >= NEAR_COPY]) for one, its, mine, theirs in meetings)
    for content, others in chain(by_link, by_text):
        if test[content] and train[others].any():
            crossed[content] = True
        elif train[content]:
            crossed[others[test[others]]] = True
        free = others[kept[others] == ""] if kept[content] else others
        for labels, joined in ((groups, free), (tied, others)):
            together = np.unique(labels[np.append(joined, content)])
            labels[np.isin(labels, together)] = together[0]
    return groups, tied, crossed


def _choose(contents: pd.DataFrame, settings: Params) -> list[str]:
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
    return list(chosen.where(~sided.crossed, ""))


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
    leaking, checked, side = dict[int, float](), 0, np.array(sides, dtype="U5")
    for chunk, others, of_chunk, of_others in windows.containments(side == "test", side == "train"):
        checked += len(others)
        if of_chunk.max(initial=0) >= NEAR_COPY:
            leaking[chunk] = float(of_chunk.max())
        else:
            near = of_others >= NEAR_COPY
            leaking |= dict(zip(others[near].tolist(), of_others[near].tolist(), strict=True))
    side[list(leaking)] = ""
    worst = max(containments(windows, side).values(), default=0.0)
    shares = {chunk: round(share, 4) for chunk, share in sorted(leaking.items())}
    return Leaks(shares, checked, round(worst, 4))


def containments(windows: SharedWindows, sides: NDArray[np.str_]) -> dict[int, float]:
    """Return for each test chunk the largest share of windows, its or theirs, with one train chunk."""
    return {
        chunk: float(np.maximum(of_chunk, of_others).max(initial=0.0))
        for chunk, _, of_chunk, of_others in windows.containments(sides == "test", sides == "train")
    }


def _random_leak_share(windows: SharedWindows, content_of: Places, *, seed: int) -> float:
    """Return the share of test chunks with a sibling or near-copy in train, had rows been drawn at random."""
    total = len(content_of)
    drawn = np.random.default_rng(seed).permutation(total)[: min(max(total // 10, 1), DRAWN)]
    sides = np.full(total, "train")
    sides[drawn] = "test"
    siblings = np.isin(content_of, content_of[sides == "train"])
    leaks = [siblings[chunk] or share >= NEAR_COPY for chunk, share in containments(windows, sides).items()]
    return round(float(np.mean(leaks)) if leaks else 0.0, 4)


def _sides_of_copies(ledger: pd.DataFrame, sides: Mapping[str, str]) -> dict[str, str]:
    """Return for contents left out as copies the side of what they copy, which was trained on or tested with.

    So a copy that the next dataset keeps instead is not on the other side there. One that copies contents of
    both sides is on that of train.
    """
    table = ledger.assign(name=content_names(ledger))
    side_of = table.drop_duplicates("id").set_index("id").name.map(sides).dropna()
    copies = table[table.reason.isin(COPIES) & ~table.name.isin(sides) & table.value.isin(side_of.index)]
    # Those of train last, so that they count.
    return dict(sorted(zip(copies.name, copies.value.map(side_of), strict=True), key=lambda it: it[::-1]))
