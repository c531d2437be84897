"""What people decided about pairs, kept in one append-only file and replayed without anyone present."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import RunFolder, disk_errors, write_atomically
from llmtwin_data.generation.pairs import row_id

if TYPE_CHECKING:
    from llmtwin_data.generation import Pair

LABELS = "labels.jsonl"  # in the run folder
DECISIONS = ("accept", "reject", "edit")


@dataclass(frozen=True, slots=True)
class Review:
    """One person's decision on one pair; ``seen`` is the wording that it was about."""

    pair_id: str
    decision: Literal["accept", "reject", "edit"]
    seen: str
    instruction: str = ""  # the new wording of an edit
    reason: str = ""
    at: str = ""  # UTC, ISO 8601

    @property
    def accepted(self) -> bool:
        """Whether the pair stays, as it was or edited."""
        return self.decision != "reject"


@dataclass(frozen=True, slots=True)
class Label:
    """Whether a person found a wording good as it was; ``edit`` is what they made of it."""

    id: str
    instruction: str
    accepted: bool
    edit: str = ""
    reason: str = ""
    at: str = ""


def reviews_file(answers: Path) -> Path:
    """Give the file of decisions, beside the store of answers: both are worth a backup."""
    return answers.with_name(f"{answers.stem}.reviews.jsonl")


def read_reviews(path: Path) -> list[Review]:
    """Read every decision in the order taken; no file means none.

    Raises
    ------
    DiskFailed
        A line is not a decision; the message names it. A last line cut by a crash is left out.
    """
    if not path.exists():
        return []
    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # every decision ends in a line feed, so what follows the last one was cut
    return [_parse(line, f"{path.name}, line {n}") for n, line in enumerate(whole, start=1) if line.strip()]


def save_review(path: Path, review: Review) -> None:
    """Append a decision; it is on the disk when this returns."""
    line = json.dumps(asdict(review), ensure_ascii=False).encode() + b"\n"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _drop_cut_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def reviews_of(pairs: Iterable[Pair], reviews: Sequence[Review]) -> dict[str, Review]:
    """Give the last decision on each pair by its id, where it was about the present wording.

    Notes
    -----
    A pair's id names its place in the contents. Another prompt or model words it anew, and a decision
    about the old wording says nothing about the new one.
    """
    latest = {(review.pair_id, review.seen): review for review in reviews}
    found = ((pair.id, _last_word(pair.id, pair.instruction, latest)) for pair in pairs)
    return {pair_id: review for pair_id, review in found if review is not None}


def reviewed_wordings(reviews: Sequence[Review]) -> set[tuple[str, str]]:
    """Give the pair ids with every wording that a person saw or wrote."""
    seen = {(review.pair_id, review.seen) for review in reviews}
    return seen | {(review.pair_id, review.instruction) for review in reviews if review.decision == "edit"}


def labels_of(reviews: Iterable[Review]) -> list[Label]:
    """Say of each wording whether it was good as it was, by the last decision; a person's own wording is."""
    last = {(review.pair_id, review.seen): review for review in reviews}
    own = [Label(it.pair_id, it.instruction, True, at=it.at) for it in last.values() if it.decision == "edit"]
    seen = [
        Label(it.pair_id, it.seen, it.decision == "accept", it.instruction, it.reason, it.at)
        for it in last.values()
    ]
    return list({(label.id, label.instruction): label for label in [*own, *seen]}.values())


def label_run(run: RunFolder, reviews: Iterable[Review]) -> list[Label]:
    """Write the labels of a run's chunks into its folder, one JSON line each, and give them."""
    rows = read_ledger(run.ledger_file) if run.ledger_file.exists() else []
    ids = {row_id(row.place) for row in rows}
    labels = [label for label in labels_of(reviews) if label.id in ids]
    if labels:
        lines = (json.dumps(asdict(label), ensure_ascii=False) + "\n" for label in labels)
        write_atomically(run.path / LABELS, "".join(lines))
    return labels


def _last_word(pair_id: str, wording: str, latest: Mapping[tuple[str, str], Review]) -> Review | None:
    """Follow edits of edits: what was said of the new wording holds."""
    word = latest.get((pair_id, wording))
    visited = {wording}
    while word and word.decision == "edit" and word.instruction not in visited:
        visited.add(word.instruction)
        following = latest.get((pair_id, word.instruction))
        if following is None or following.decision == "accept":
            break
        word = following
    return word


def _drop_cut_line(file: BinaryIO) -> None:
    """Cut off what a crash left after the last line feed, so that the next decision starts a line."""
    file.seek(0)
    written = file.read()
    file.truncate(written.rfind(b"\n") + 1)


def _parse(line: str, place: str) -> Review:
    try:
        values: dict[str, Any] = json.loads(line)
        review = Review(**values)
    except (ValueError, TypeError) as error:
        raise DiskFailed(
            f"{place}: expected a review, found {line[:60]!r}; mend or delete that line"
        ) from error
    if review.decision not in DECISIONS:
        raise DiskFailed(
            f"{place}: decision must be one of {', '.join(DECISIONS)}, found {review.decision!r}"
        )
    return review
