"""What people decided about pairs, in one append-only file, replayed without anyone present."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from llmtwin_data.contents import places_of, records_of, row_id, rows_of, with_columns
from llmtwin_data.curation import with_decisions
from llmtwin_data.datasets import read_ledger
from llmtwin_data.embeddings import encode_packaged
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import RunFolder, disk_errors, json_lines, now, numbered_lines, write_atomically
from llmtwin_data.measures import measure_pairs
from llmtwin_data.params import Params
from llmtwin_data.tables import show, show_pairs

LABELS = "labels.jsonl"  # in the run folder
DECISIONS = ("accept", "reject", "edit")
# Texts that an edit is measured against: it must show while a person types.
OTHERS = 100
# Each with its colour, as ipywidgets calls it.
BUTTONS = {"accept": "success", "reject": "danger", "edit": "primary", "back": ""}


@dataclass(frozen=True, slots=True)
class Review:
    """One person's decision on one pair; ``seen`` is the wording that it was about."""

    pair_id: str
    decision: str  # one of DECISIONS
    seen: str
    instruction: str = ""  # the new wording of an edit
    reason: str = ""
    at: str = ""  # UTC, ISO 8601


def reviews_file(answers: Path) -> Path:
    """Return the file of decisions, beside the store of answers: both are worth a backup."""
    return answers.with_name(f"{answers.stem}.reviews.jsonl")


def read_reviews(path: Path) -> list[Review]:
    """Read every decision in the order taken; no file means none.

    Raises DiskFailed: a line is not a decision; the message names it. A last line cut by a crash is left out.
    """
    reviews = []
    rows = numbered_lines(path, appended=True) if path.exists() else ()
    for number, row in rows:
        try:
            reviews.append(Review(**row))
            if reviews[-1].decision not in DECISIONS:
                raise ValueError(reviews[-1].decision)
        except (ValueError, TypeError) as error:
            expected = f"expected a review that is one of {', '.join(DECISIONS)}, found {str(row)[:60]}"
            raise DiskFailed(f"{path.name}, line {number}: {expected}; mend or delete that line") from error
    return reviews


def save_review(path: Path, review: Review) -> None:
    """Append a decision; it is on the disk when this returns."""
    append_line(path, asdict(review))


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as one JSON line more; it is on the disk when this returns."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            # What a crash left after the last line feed is cut off.
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json_lines([values]))
            file.flush()
            os.fsync(file.fileno())


def with_reviews(ledger: pd.DataFrame, reviews: Sequence[Review]) -> pd.DataFrame:
    """Return the table with ``review``, the last decision on the wording (empty, accept, edit, reject).

    An edited ``instruction`` becomes the reviewer's. By row. A pair's id names its place in the contents:
    another prompt or model words it anew, and a decision about the old wording says nothing about the new.
    """
    latest = {(review.pair_id, review.seen): review for review in reviews}
    words = [_last_word(row.id, row.instruction, latest) for row in rows_of(ledger[["id", "instruction"]])]
    decisions = pd.Series([word.decision if word else "" for word in words], index=ledger.index, dtype="str")
    edits = pd.Series([word and word.instruction for word in words], index=ledger.index, dtype="str")
    instructions = ledger.instruction.where(decisions != "edit", edits)
    return ledger.assign(instruction=instructions, review=decisions)


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


def labels_of(reviews: Sequence[Review]) -> pd.DataFrame:
    """Return whether a person found each wording good as it was, by the last decision; their own wording is.

    Columns: ``id``, ``instruction``, ``accepted``, ``edit`` (what they made of it), ``reason``, ``at``.
    """
    names = [item.name for item in fields(Review)]
    last = pd.DataFrame(map(asdict, reviews), columns=names).drop_duplicates(["pair_id", "seen"], keep="last")
    last = last.rename(columns={"pair_id": "id"})
    own = last[last.decision == "edit"].assign(accepted=True, edit="", reason="")
    seen = last.assign(accepted=last.decision == "accept", edit=last.instruction, instruction=last.seen)
    labels = pd.concat([own, seen]).drop_duplicates(["id", "instruction"], keep="last", ignore_index=True)
    return labels[["id", "instruction", "accepted", "edit", "reason", "at"]]


def label_run(run: RunFolder, reviews: Sequence[Review]) -> pd.DataFrame:
    """Write the labels of a run's chunks into its folder, one JSON line each, and return them."""
    places = places_of(read_ledger(run.ledger_file)) if run.ledger_file.exists() else []
    labels = labels_of(reviews)
    labels = labels[labels.id.isin(list(map(row_id, places)))]
    if len(labels):
        write_atomically(run.path / LABELS, json_lines(records_of(labels)))
    return labels


def pairs_to_review(ledger: pd.DataFrame, reviews: Sequence[Review], *, most: int, seed: int) -> pd.DataFrame:
    """Return at most so many pairs of a decided ledger for a person to read, without those reviewed before.

    Strata are the rules' reasons and, for accepted pairs, thirds of the grounding margin. Each gives equally
    many, one in turn, because a reader learns most where the rules are least sure.
    """
    pairs, place = ledger[ledger.instruction.notna()], ["id", "instruction"]
    reviewed = pd.MultiIndex.from_frame(labels_of(reviews)[place])
    pairs = pairs[~pd.MultiIndex.from_frame(pairs[place]).isin(reviewed)]
    thirds = (3 * pairs.grounding_margin.clip(lower=0)).clip(upper=2) // 1
    accepted = "accepted " + thirds.astype("str")
    strata = ("rejected " + pairs.reason).where(pairs.state != "accepted", accepted.fillna("accepted"))
    shuffled = pairs.assign(stratum=strata).sample(frac=1, random_state=seed)
    order = shuffled.assign(turn=shuffled.groupby("stratum").cumcount()).sort_values(["turn", "stratum"])
    return pairs.loc[order.index[:most]]


def review_of(pair: Any, decision: str, *, instruction: str = "", reason: str = "") -> Review:
    """Return the decision on a pair, a row of the ledger; an edit that changes nothing is an acceptance."""
    words = instruction.strip() if decision == "edit" else ""
    if decision == "edit" and words in ("", pair.instruction):
        decision, words = "accept", ""
    return Review(pair.id, decision, pair.instruction, words, reason.strip(), now())


def agreement(ledger: pd.DataFrame, reviews: Sequence[Review]) -> pd.DataFrame:
    """Return what the rules decide (rows) beside what people do (columns), counted."""
    latest = {(it.pair_id, words): it.decision for it in reviews for words in (it.seen, it.instruction)}
    decisions = [latest.get((row.id, row.instruction)) for row in rows_of(ledger[["id", "instruction"]])]
    decided = ledger.assign(decision=pd.Series(decisions, ledger.index)).dropna(subset="decision")
    return pd.crosstab(decided.state, decided.decision, margins=True) if len(decided) else decided[["id"]]


def measured_anew(pair: pd.DataFrame, words: str, others: Sequence[str], settings: Params) -> pd.DataFrame:
    """Return a row with another instruction, measured against some other texts, and what the rules decide."""
    columns = measure_pairs(
        [words], [0], [pair.content.iloc[0], *others],
        asked_language=settings.instruction_language,
        encode=None if settings.embedding_model == "off" else encode_packaged,
    )  # fmt: skip
    fresh = {"instruction": words, "state": "accepted", "reason": "", "value": "", "review": ""}
    return with_decisions(with_columns(pair.assign(**fresh), columns.set_axis(pair.index)), settings)


def show_review_form(pairs: pd.DataFrame, ledger: pd.DataFrame, settings: Params, *, path: Path) -> Any:
    """Return widgets to decide on one pair after the other; each decision is saved at once.

    Changed words show their measures and what the rules say of them. In the field of keys the first letter of
    a button presses it. Below stands what was decided of ``ledger`` so far. Without a person in front, as in
    papermill, it only shows the first pair.
    """
    return _Form(pairs, ledger, settings, path).box


class _Form:
    """The widgets, and the place of the pair that they show."""

    def __init__(self, pairs: pd.DataFrame, ledger: pd.DataFrame, settings: Params, path: Path) -> None:
        import ipywidgets as widgets

        self.pairs, self.ledger, self.settings, self.path, self.place = pairs, ledger, settings, path, 0
        texts = ledger.content[ledger.state != "skipped"].drop_duplicates()
        self.others = texts[:: len(texts) // OTHERS + 1].tolist()
        wide = widgets.Layout(width="auto", max_width="72em")
        self.view, self.tally, self.state = widgets.HTML(), widgets.HTML(), widgets.Label()
        self.words = widgets.Textarea(rows=3, layout=wide)
        self.why = widgets.Text(placeholder="why, if you like; it is kept with the decision", layout=wide)
        self.buttons = {
            name: widgets.Button(description=name, button_style=style) for name, style in BUTTONS.items()
        }
        self.keys = widgets.Text(placeholder="keys: a, r, e, b", layout=widgets.Layout(width="9em"))
        for button in self.buttons.values():
            button.on_click(self.press)
        self.words.observe(self.show_words, names="value")
        self.keys.observe(self.type_key, names="value")
        self.draw()
        row = widgets.HBox([*self.buttons.values(), self.keys])
        self.box = widgets.VBox([self.state, self.view, self.words, self.why, row, self.tally])

    @property
    def pair(self) -> pd.DataFrame:
        """The one row that is shown, none at the end."""
        return self.pairs[self.place : self.place + 1]

    def draw(self) -> None:
        end = "; notebook 3 heeds them in its next run" if self.pair.empty else ""
        left = f"{self.place} of {len(self.pairs)} decided, {len(self.pairs) - self.place} left"
        self.state.value = f"{left}, kept in {self.path.name}{end}"
        decided = agreement(self.ledger, read_reviews(self.path))
        self.tally.value = show(decided, "What was decided", empty="Nobody has decided yet.")._repr_html_()
        self.words.value, self.why.value = "".join(self.pair.instruction), ""
        self.show_words()

    def show_words(self, _: Any = None) -> None:
        pair, wording, words = self.pair, "".join(self.pair.instruction), self.words.value.strip()
        # Changed words can be kept or thrown away, never lost by an acceptance of what they were before.
        changed = words not in ("", wording)
        if changed and wording:
            pair = measured_anew(pair, words, self.others, self.settings)
        self.view.value = "" if pair.empty else show_pairs(pair)._repr_html_()
        disabled = {"accept": changed, "reject": False, "edit": not changed}
        for name, button in self.buttons.items():
            button.disabled = self.place == 0 if name == "back" else not wording or disabled[name]

    def press(self, button: Any) -> None:
        if (name := button.description) == "back":
            self.place -= 1
        else:
            words, why = self.words.value, self.why.value
            review = review_of(self.pairs.iloc[self.place], name, instruction=words, reason=why)
            save_review(self.path, review)
            self.place += 1
        self.draw()

    def type_key(self, change: Any) -> None:
        letter, self.keys.value = change["new"][-1:].lower(), ""
        for name, button in self.buttons.items():
            if letter and name.startswith(letter) and not button.disabled:
                self.press(button)
