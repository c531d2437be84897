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

    def decide(self, decision: Literal["accept", "reject", "edit"], *, instruction: str = "") -> None:
        """Keep a decision on the present pair and go on to the next."""
        pair = self.pairs[self.place]
        wording = instruction.strip() if decision == "edit" else ""
        if decision == "edit" and wording in ("", pair.instruction):
            decision, wording = "accept", ""
        at = self.now().isoformat(timespec="seconds")
        save_review(self.path, Review(pair.id, decision, pair.instruction, wording, at=at))
        self.place += 1


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

    view, state = widgets.HTML(), widgets.Label()
    words = widgets.Textarea(layout=widgets.Layout(width="100%", height="5em"))
    buttons = {name: widgets.Button(description=name) for name in ("accept", "reject", "edit")}

    def draw() -> None:
        state.value = f"{desk.place} of {len(desk.pairs)} decided; kept in {desk.path.name}"
        view.value = (
            ""
            if desk.done
            else show_pairs([desk.pairs[desk.place]], notes=[desk.notes[desk.place]])._repr_html_()
        )
        words.value = "" if desk.done else desk.pairs[desk.place].instruction
        for button in buttons.values():
            button.disabled = desk.done

    def decide(button: Any) -> None:
        desk.decide(button.description, instruction=words.value)
        draw()

    for button in buttons.values():
        button.on_click(decide)
    draw()
    return widgets.VBox([state, view, words, widgets.HBox(list(buttons.values()))])


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
