"""A person's desk in JupyterLab: one pair at a time to accept, reject or edit, each decision kept at once."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmtwin_data.curation import Decision
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.generator.reviews import Review, read_reviews, reviewed_wordings, save_review
from llmtwin_data.measures import Measures
from llmtwin_data.summaries.outcomes import pair_notes
from llmtwin_data.summaries.sidebyside import show_pairs

if TYPE_CHECKING:
    import pandas

# Each with its colour, as ipywidgets calls it.
BUTTONS = {"accept": "success", "reject": "danger", "edit": "primary", "back": ""}


@dataclass(slots=True)
class Desk:
    """The pairs to be reviewed, in order, and the file that decisions go to."""

    pairs: Sequence[Pair]
    notes: Sequence[Mapping[str, object]]
    path: Path
    place: int = 0
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    @property
    def done(self) -> bool:
        """Whether every pair has its decision."""
        return self.place >= len(self.pairs)

    def decide(
        self, decision: Literal["accept", "reject", "edit"], *, instruction: str = "", reason: str = ""
    ) -> None:
        """Keep a decision on the present pair and go on to the next."""
        pair = self.pairs[self.place]
        wording = instruction.strip() if decision == "edit" else ""
        if decision == "edit" and wording in ("", pair.instruction):
            decision, wording = "accept", ""
        at = self.now().isoformat(timespec="seconds")
        save_review(self.path, Review(pair.id, decision, pair.instruction, wording, reason.strip(), at))
        self.place += 1

    def back(self) -> None:
        """Show the pair before again; what is decided on it then replaces what was."""
        self.place = max(0, self.place - 1)


def open_desk(
    pairs: Sequence[Pair],
    measures: Sequence[Measures],
    decisions: Sequence[Decision],
    *,
    path: Path,
    most: int,
    seed: int,
) -> Desk:
    """Choose pairs for a person to look at, those reviewed before left out.

    Notes
    -----
    Strata are the rules' reasons and, for accepted pairs, thirds of the grounding margin; each gives equally
    many, because a reader learns most where the rules are least sure.
    """
    reviewed = reviewed_wordings(read_reviews(path))
    open_places = [n for n, pair in enumerate(pairs) if (pair.id, pair.instruction) not in reviewed]
    chosen = _stratified(open_places, measures, decisions, most=most, seed=seed)
    notes = [pair_notes(measures[place], decisions[place]) for place in chosen]
    return Desk([pairs[place] for place in chosen], notes, path)


def show_desk(desk: Desk) -> Any:
    """Give the desk as widgets; without a person in front, as in papermill, it only shows the first pair."""
    import ipywidgets as widgets

    wide = widgets.Layout(width="auto", max_width="72em")
    view, state = widgets.HTML(), widgets.Label()
    words = widgets.Textarea(rows=3, layout=wide)
    why = widgets.Text(placeholder="why, if you like; it is kept with the decision", layout=wide)
    buttons = {name: widgets.Button(description=name, button_style=style) for name, style in BUTTONS.items()}

    def draw() -> None:
        pair = None if desk.done else desk.pairs[desk.place]
        end = "; notebook 3 heeds them in its next run" if desk.done else ""
        state.value = f"{desk.place} of {len(desk.pairs)} decided, kept in {desk.path.name}{end}"
        view.value = show_pairs([pair], notes=[desk.notes[desk.place]])._repr_html_() if pair else ""
        words.value, why.value = pair.instruction if pair else "", ""
        enable()

    def enable(_: Any = None) -> None:
        # Changed words can be kept or thrown away, never lost by an acceptance of what they were before.
        changed = not desk.done and words.value.strip() not in ("", desk.pairs[desk.place].instruction)
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


def review_frame(reviews: Iterable[Review]) -> pandas.DataFrame:
    """Count what people decided, each pair's last word."""
    import pandas

    last = {(review.pair_id, review.seen): review.decision for review in reviews}
    counts: defaultdict[str, int] = defaultdict(int)
    for decision in last.values():
        counts[decision] += 1
    return pandas.DataFrame([(name, counts[name]) for name in sorted(counts)], columns=["decision", "pairs"])


def _stratified(
    places: Sequence[int],
    measures: Sequence[Measures],
    decisions: Sequence[Decision],
    *,
    most: int,
    seed: int,
) -> list[int]:
    strata: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        strata[_stratum(measures[place], decisions[place])].append(place)
    draw = random.Random(seed)
    for name in sorted(strata):
        draw.shuffle(strata[name])
    chosen: list[int] = []
    while len(chosen) < most and any(strata.values()):
        chosen += [strata[name].pop() for name in sorted(strata) if strata[name]]
    return chosen[:most]


def _stratum(measure: Measures, decision: Decision) -> str:
    if not decision.accepted:
        return f"rejected {decision.reason}"
    margin = measure.grounding_margin
    return "accepted" if margin is None else f"accepted {min(2, int(3 * max(0.0, margin)))}"
