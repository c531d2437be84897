"""What people decided about pairs, kept in one append-only file and replayed without anyone present."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pandas as pd

from llmtwin_data.contents import places_of, row_id, rows_of
from llmtwin_data.datasets import json_lines, read_ledger
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import RunFolder, disk_errors, write_atomically

LABELS = "labels.jsonl"  # in the run folder
DECISIONS = ("accept", "reject", "edit")
# Each with its colour, as ipywidgets calls it.
BUTTONS = {"accept": "success", "reject": "danger", "edit": "primary", "back": ""}


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


def with_reviews(ledger: pd.DataFrame, reviews: Sequence[Review]) -> pd.DataFrame:
    """Return the table with ``review``, the last decision on the wording (empty, accept, edit, reject).

    An edited ``instruction`` becomes the reviewer's. By row. A pair's id names its place in the contents:
    another prompt or model words it anew, and a decision about the old wording says nothing about the new.
    """
    latest = {(review.pair_id, review.seen): review for review in reviews}
    words = [
        None if not latest or pd.isna(row.instruction) else _last_word(row.id, row.instruction, latest)
        for row in rows_of(ledger[["id", "instruction"]])
    ]
    decisions = pd.Series([word.decision if word else "" for word in words], index=ledger.index, dtype="str")
    edits = pd.Series([word and word.instruction for word in words], index=ledger.index, dtype="str")
    instructions = ledger.instruction.where(decisions != "edit", edits)
    return ledger.assign(instruction=instructions, review=decisions)


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
    places = places_of(read_ledger(run.ledger_file)) if run.ledger_file.exists() else []
    ids = set(map(row_id, places))
    labels = [label for label in labels_of(reviews) if label.id in ids]
    if labels:
        write_atomically(run.path / LABELS, b"".join(json_lines(map(asdict, labels))))
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


@dataclass(slots=True)
class Desk:
    """The pairs to be reviewed, in order, and the file that decisions go to."""

    pairs: pd.DataFrame
    path: Path
    place: int = 0
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    @property
    def pair(self) -> Any:
        """The present pair, a row of the ledger."""
        return self.pairs.iloc[self.place]

    @property
    def done(self) -> bool:
        """Whether every pair has its decision."""
        return self.place >= len(self.pairs)

    def decide(
        self, decision: Literal["accept", "reject", "edit"], *, instruction: str = "", reason: str = ""
    ) -> None:
        """Keep a decision on the present pair and go on to the next."""
        pair = self.pair
        wording = instruction.strip() if decision == "edit" else ""
        if decision == "edit" and wording in ("", pair.instruction):
            decision, wording = "accept", ""
        at = self.now().isoformat(timespec="seconds")
        save_review(self.path, Review(pair.id, decision, pair.instruction, wording, reason.strip(), at))
        self.place += 1

    def back(self) -> None:
        """Show the pair before again; what is decided on it then replaces what was."""
        self.place = max(0, self.place - 1)


def open_desk(ledger: pd.DataFrame, *, path: Path, most: int, seed: int) -> Desk:
    """Choose pairs for a person to look at, those reviewed before left out.

    Parameters
    ----------
    ledger
        Needs the columns of decisions.
    most
        Pairs at most.

    Notes
    -----
    Strata are the rules' reasons and, for accepted pairs, thirds of the grounding margin; each gives equally
    many, because a reader learns most where the rules are least sure.
    """
    reviewed = reviewed_wordings(read_reviews(path))
    pairs = ledger[ledger.instruction.notna()]
    was_seen = pd.MultiIndex.from_frame(pairs[["id", "instruction"]]).isin(list(reviewed))
    return Desk(_stratified(pairs[~was_seen], most=most, seed=seed), path)


def show_desk(desk: Desk) -> Any:
    """Give the desk as widgets; without a person in front, as in papermill, it only shows the first pair."""
    import ipywidgets as widgets

    from llmtwin_data.tables import show_pairs

    wide = widgets.Layout(width="auto", max_width="72em")
    view, state = widgets.HTML(), widgets.Label()
    words = widgets.Textarea(rows=3, layout=wide)
    why = widgets.Text(placeholder="why, if you like; it is kept with the decision", layout=wide)
    buttons = {name: widgets.Button(description=name, button_style=style) for name, style in BUTTONS.items()}

    def draw() -> None:
        pair = None if desk.done else desk.pair
        end = "; notebook 3 heeds them in its next run" if desk.done else ""
        state.value = f"{desk.place} of {len(desk.pairs)} decided, kept in {desk.path.name}{end}"
        view.value = "" if pair is None else show_pairs(desk.pairs.iloc[[desk.place]])._repr_html_()
        words.value, why.value = "" if pair is None else pair.instruction, ""
        enable()

    def enable(_: Any = None) -> None:
        # Changed words can be kept or thrown away, never lost by an acceptance of what they were before.
        changed = not desk.done and words.value.strip() not in ("", desk.pair.instruction)
        allowed = {"accept": not changed, "reject": True, "edit": changed}
        for name, button in buttons.items():
            button.disabled = desk.done or not allowed[name] if name in allowed else desk.place == 0

    def press(button: Any) -> None:
        if button.description == "back":
            desk.back()
        else:
            desk.decide(button.description, instruction=words.value, reason=why.value)
        draw()

    for button in buttons.values():
        button.on_click(press)
    words.observe(enable, names="value")
    draw()
    return widgets.VBox([state, view, words, why, widgets.HBox(list(buttons.values()))])


def review_counts(reviews: Iterable[Review]) -> pd.DataFrame:
    """Return how many pairs people decided each way, by each pair's last word."""
    last = {(review.pair_id, review.seen): review.decision for review in reviews}
    counts = pd.Series(last.values(), dtype="str").value_counts().sort_index()
    return counts.rename_axis("decision").reset_index(name="pairs")


def _stratified(pairs: pd.DataFrame, *, most: int, seed: int) -> pd.DataFrame:
    """Return as many of each stratum as can be, one of each in turn."""
    thirds = (3 * pairs.grounding_margin.clip(lower=0)).clip(upper=2)
    accepted = ["accepted" if pd.isna(third) else f"accepted {int(third)}" for third in thirds]
    strata = ("rejected " + pairs.reason).where(pairs.state != "accepted", pd.Series(accepted, pairs.index))
    shuffled = pairs.sample(frac=1, random_state=seed)
    turns = shuffled.groupby(strata).cumcount()
    order = (
        pd.DataFrame({"turn": turns, "stratum": strata}).loc[shuffled.index].sort_values(["turn", "stratum"])
    )
    return pairs.loc[order.index[:most]]
