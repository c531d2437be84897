"""Tables about what a run made: pairs, measures, alarms and rejections."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmtwin_data.curation import REASONS, Decision
from llmtwin_data.curation.alarms import Alarm
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.measures import Measures
from llmtwin_data.summaries import told_language
from llmtwin_data.summaries.displays import Display, join_displays, show_note

if TYPE_CHECKING:
    import pandas

# Measures worth a picture, by the words that stand over it; the params that limit them.
DRAWN = {
    "grounding": "grounding",
    "copied": "copied",
    "genericness": "genericness",
    "characters": "characters",
    "tokens": "tokens",
}
LIMITS = {"min_grounding": ("grounding", 0.0), "max_copied": ("copied", 1.0)}


def waterfall(ledger: Iterable[LedgerRow]) -> pandas.DataFrame:
    """Give the steps from asked to accepted: ``step``, ``left`` after it, ``lost`` in it."""
    import pandas

    fates = Counter((row.state, row.reason) for row in ledger if row.state != "skipped")
    left = fates.total()
    rows: list[tuple[str, int, int]] = [("asked", left, 0)] if left else []
    order = {"pending": 0, "failed": 1, "rejected": 2}
    lost = sorted((order[s], -n, s, reason) for (s, reason), n in fates.items() if s in order)
    for _, count, state, reason in lost:
        left += count
        rows.append((f"{state}: {reason.replace('_', ' ')}" if reason else state, left, -count))
    return pandas.DataFrame(
        [*rows, *([("accepted", left, 0)] if rows else [])], columns=["step", "left", "lost"]
    )


def measured_frame(measures: Sequence[Measures], decisions: Sequence[Decision]) -> pandas.DataFrame:
    """Put the measures worth drawing beside whether each pair was accepted."""
    import pandas

    rows = [
        {word: getattr(measure, name) for name, word in DRAWN.items()} | {"accepted": decision.accepted}
        for measure, decision in zip(measures, decisions, strict=True)
    ]
    frame = pandas.DataFrame(rows, columns=[*DRAWN.values(), "accepted"])
    return frame.astype({"grounding": float})


def measure_limits(settings: Any) -> dict[str, float]:
    """Give the limits that are switched on, by the words of the picture."""
    given = {word: (getattr(settings, name), off) for name, (word, off) in LIMITS.items()}
    return {word: value for word, (value, off) in given.items() if value != off}


def rejected_frame(pairs: Sequence[Pair], decisions: Sequence[Decision]) -> pandas.DataFrame:
    """Count rejections by reason, with what the reason means."""
    import pandas

    counts = Counter(decision.reason for decision in decisions if not decision.accepted)
    rows = [
        {
            "reason": reason.replace("_", " "),
            "meaning": REASONS.get(reason, ""),
            "pairs": n,
            "share of all": n / len(pairs),
        }
        for reason, n in counts.most_common()
    ]
    return pandas.DataFrame(rows)


def rejected_examples(decisions: Sequence[Decision], *, most: int = 1) -> list[int]:
    """Choose the first few pairs of each reason, by their places; the commonest reason first."""
    chosen: defaultdict[str, list[int]] = defaultdict(list)
    for place, decision in enumerate(decisions):
        if not decision.accepted and len(chosen[decision.reason]) < most:
            chosen[decision.reason].append(place)
    counts = Counter(decision.reason for decision in decisions)
    return [place for reason, _ in counts.most_common() for place in chosen[reason]]


def ranked(measures: Sequence[Measures], decisions: Sequence[Decision]) -> list[int]:
    """Order the accepted pairs by their places, the best grounded and least copied first."""
    accepted = [place for place, decision in enumerate(decisions) if decision.accepted]
    return sorted(accepted, key=lambda place: (-_merit(measures[place]), place))


def pair_notes(measure: Measures, decision: Decision | None = None) -> dict[str, object]:
    """Give the few numbers that stand over a pair when it is shown."""
    notes: dict[str, object] = {}
    if decision and not decision.accepted:
        notes["rejected:"] = _why(decision)
    grounding = "cannot be measured" if measure.grounding is None else f"{measure.grounding:.2f}"
    return notes | {"grounding": grounding, "copied": f"{100 * measure.copied:.0f} %"}


def pair_frame(pairs: Sequence[Pair], measures: Sequence[Measures], sides: Sequence[str]) -> pandas.DataFrame:
    """Give one row a pair with what a split is judged by."""
    import pandas

    rows = [
        (pair.id, side, pair.chunk.data_type, pair.chunk.author, told_language(measure.language))
        for pair, measure, side in zip(pairs, measures, sides, strict=True)
    ]
    return pandas.DataFrame(rows, columns=["id", "side", "data_type", "author", "language"])


def show_alarms(alarms: Sequence[Alarm]) -> Display:
    """Show each alarm as a box with what was seen, what was expected and its examples."""
    if not alarms:
        return show_note("No alarm: nothing about these pairs as a whole looks wrong.", level="good")
    return join_displays(_alarm_box(alarm) for alarm in alarms)


def _why(decision: Decision) -> str:
    """Say reason and value; a measure stands over the pair anyway, another pair's id is cut."""
    value = "" if re.fullmatch(r"\d\.\d{4}", decision.value) else decision.value
    shown = f"of {value[:8]}" if "duplicate" in decision.reason else value
    return f"{decision.reason.replace('_', ' ')} {shown}".strip()


def _alarm_box(alarm: Alarm) -> Display:
    text = f"{alarm.name}: seen {alarm.seen}; expected {alarm.expected}."
    examples = " ".join(f"“{example}”" for example in alarm.examples)
    return show_note(f"{text} Examples: {examples}" if examples else text, level=_level(alarm))


def _level(alarm: Alarm) -> str:
    return "bad" if alarm.level == "alarm" else "warning"


def _merit(measure: Measures) -> float:
    lead = 0.0 if measure.grounding_margin is None else measure.grounding_margin
    return lead - measure.copied - measure.genericness
