"""Where an author, a link or a content id is known, in store and run folders, and whether it is one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from llmtwin_data.answers import AnswerStore, forget_marks
from llmtwin_data.chunks import Chunk, Span
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.datasets.remains import trial_stores
from llmtwin_data.datasets.rows import stored_sides
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder, resolve, told

FIRST_WORDS = 60  # characters
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be forgotten; a content by its point id, and its collection where one is named."""

    author: str = ""
    link: str = ""
    content: str = ""
    collection: str = ""

    @property
    def as_origin(self) -> dict[str, str]:
        """Give the name as the store knows it."""
        return {
            "author": self.author,
            "link": self.link,
            "content_id": self.content,
            "collection": self.collection,
        }

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row is one of those."""
        here = self.collection in ("", row["collection"])
        return bool(
            (self.author and row.get("author") == self.author)
            or (self.link and row.get("link") == self.link)
            or (self.content and row["content_id"] == self.content and here)
        )


@dataclass(frozen=True, slots=True)
class Mention:
    """A known piece of a content; ``run`` is None in the store, ``text`` empty where only a ledger tells."""

    span: Span
    text: str
    run: Path | None = None
    source: str = ""

    @property
    def content(self) -> tuple[str, str]:
        """Give collection and content id."""
        return self.span[0], self.span[1]

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:FIRST_WORDS]
        place = told(self.run) if self.run else "the store"
        return f"{'/'.join(self.content)} in {place}: {words or '(text not kept)'}"


def find_wanted(
    answers: AnswerStore, run_dirs: Iterable[Path], wanted: Wanted, *, named: Iterable[Path] = ()
) -> tuple[list[Mention], Wanted]:
    """Find what would be forgotten, and the name to remember it by: none where others have the same id.

    Raises
    ------
    ParamsError
        Not one thing was named, nothing is known under it, or several contents are.
    """
    name = wanted.author or wanted.link or wanted.content
    if [wanted.author, wanted.link, wanted.content].count("") != 2:
        raise ParamsError("forget: expected --author, --link or --content, and one of them only")
    if wanted.collection and not wanted.content:
        raise ParamsError("--collection: expected --content beside it, found none")
    runs = [RunFolder(path) for path in run_dirs]
    mentions = _find(answers, runs, wanted)
    for trial in trial_stores(answers.path):
        with AnswerStore(trial) as store:
            mentions += _find(store, [], wanted)
    marks = forget_marks(**wanted.as_origin)
    if not mentions and marks.isdisjoint(answers.forgotten_hashes()):
        raise ParamsError(
            f"forget: nothing is known under {name!r} in {answers.path.name} and {len(runs)} run folders; "
            "a folder outside runs/ is looked at if --runs names it"
        )
    meant = _choose(mentions, named=set(named)) if wanted.content else mentions
    if meant and wanted.content:
        wanted = replace(wanted, collection=meant[0].span[0])
    return meant, wanted if len(meant) == len(mentions) else Wanted()


def _find(answers: AnswerStore, runs: Sequence[RunFolder], wanted: Wanted) -> list[Mention]:
    """Find every piece that is wanted; a ledger's rows get their text from the store where it is certain."""
    stored = [
        Mention((collection, content_id, start, end), text or "")
        for collection, content_id, start, end, text in answers.origins(**wanted.as_origin)
    ]
    texts: dict[Span, set[str]] = defaultdict(set)
    for item in stored:
        # A judge's question stands at the same place and is longer; of a masked text the length differs.
        fits = len(item.text) == item.span[3] - item.span[2] or item.span not in texts
        if item.text and fits:
            texts[item.span].add(item.text)
    found = [mention for run in runs for mention in _of_run(run, wanted)]
    certain = {span: min(held) for span, held in texts.items() if len(held) == 1}
    whole = [item if item.text else replace(item, text=certain.get(item.span, "")) for item in found]
    return list(dict.fromkeys(whole + stored))


def _choose(mentions: Sequence[Mention], *, named: Collection[Path]) -> list[Mention]:
    """Give the mentions of the one content that is meant: ids are often numbers, which every source has.

    Raises
    ------
    ParamsError
        They are of several collections, or of several sources with different texts, and ``named`` runs do
        not say which source.
    """
    if len({item.span[0] for item in mentions}) > 1:
        raise _ambiguous(mentions, "name one with --collection NAME")
    texts: dict[str, set[str]] = defaultdict(set)
    for item in mentions:
        if item.run:
            texts[item.source] |= {item.text} - {""}
    if not any(one.isdisjoint(other) for one, other in combinations(texts.values(), 2)):
        return list(mentions)
    meant = {item.source for item in mentions if item.run in named}
    if len(meant) != 1:
        raise _ambiguous(mentions, "name a run of the one that is meant with --runs RUN_DIR")
    chosen = [item for item in mentions if item.run and item.source in meant]
    if not any(item.text for item in chosen):
        raise _ambiguous(mentions, "that run keeps no text to tell them apart by")
    return chosen


def _ambiguous(mentions: Sequence[Mention], how: str) -> ParamsError:
    lines = [f"  {item}" for item in mentions if item.run or len({m.span[0] for m in mentions}) > 1]
    more = [f"  and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    listed = "\n".join([*lines[:MOST_NAMED], *more])
    return ParamsError(
        f"--content: expected one content, found several:\n{listed}\n{how}; nothing was changed"
    )


def _of_run(run: RunFolder, wanted: Wanted) -> Iterator[Mention]:
    source = str(resolve(run.read().get("params", {}).get("qdrant") or ".llmtwin/qdrant"))
    shown = set()
    for row in _rows(run):
        if wanted.matches(row):
            span = (row["collection"], row["content_id"], row["start"], row["end"])
            shown.add(span)
            yield Mention(span, row.get("content", row.get("text", "")), run.path, source)
    for kept in read_ledger(run.ledger_file) if run.ledger_file.exists() else ():
        fate = {"collection": kept.collection, "content_id": kept.content_id}
        if wanted.matches(fate) and kept.reason != "forgotten" and kept.span not in shown:
            yield Mention(kept.span, "", run.path, source)


def _rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Give the dataset's rows, and the chunks that an unfinished run left."""
    if (run.dataset / "manifest.json").is_file():
        for rows in stored_sides(run.dataset).values():
            yield from rows
    spool = run.work / "chunks.jsonl"
    for line in spool.read_bytes().split(b"\n") if spool.is_file() else ():
        try:
            yield dict(zip(Chunk.__slots__, json.loads(line), strict=True))
        except (ValueError, TypeError):
            continue  # the last line, where writing it was cut off
