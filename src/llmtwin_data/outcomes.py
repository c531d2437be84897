"""Tables about what a run made: pairs, measures, rejections, costs and files."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .alarms import Alarm
from .curation import Decision
from .displays import Display, format_usd, join_displays, show_note
from .generation import GenerationReport, LedgerRow
from .measures import Measures
from .pairs import Pair

if TYPE_CHECKING:
    import pandas

# Measures worth a picture, by the words that stand over it; the params that limit them.
DRAWN = {
    "grounding": "grounding",
    "copied_instruction": "copied",
    "genericness": "genericness",
    "characters": "characters",
    "tokens": "tokens",
}
LIMITS = {"min_grounding": ("grounding", 0.0), "max_copied": ("copied", 1.0)}
WHY_REJECTED = {
    "ungrounded": "another content fits the instruction better, or none does",
    "copied": "the instruction quotes its content, so that the answer stands in the question",
    "generic": "the instruction fits many contents",
    "duplicate": "the same pair stands in the dataset already",
    "near_duplicate": "nearly the same pair stands in the dataset already",
    "language": "the instruction is not in the language asked for",
    "length": "the instruction is too short or too long",
    "too_long": "instruction and content exceed max_pair_tokens",
    "not_self_contained": "the instruction points at a text that its reader does not see",
    "secret": "the instruction holds a key or password",
    "boundary": "the instruction repeats the prompt's frame",
    "judge": "the judge's score is below min_judge_score",
    "review": "a person rejected it",
    "leak": "its content stands too close to one on the other side of the split",
    "tied": "it ties contents that the previous dataset put on different sides",
}


def generation_frame(report: GenerationReport) -> pandas.DataFrame:
    """Say what one call of generation did."""
    import pandas

    rows = {
        "instructions asked for": report.questions,
        "answered before, not paid again": report.answered_before,
        "answered now": report.answered,
        "failed for good": report.failed,
        "still pending": report.pending,
        "requests sent": report.requests,
        "most requests in flight": report.max_in_flight,
        "prompt tokens": report.prompt_tokens,
        "completion tokens": report.completion_tokens,
        "cost": f"{format_usd(report.cost_usd)} USD",
        "time": f"{report.seconds:,.1f} s",
    }
    return pandas.DataFrame({"what": list(rows), "value": list(map(_comma, rows.values()))})


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
        rows.append((f"{state}: {reason}" if reason else state, left, -count))
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
            "reason": reason,
            "meaning": WHY_REJECTED.get(reason, ""),
            "pairs": n,
            "share of all": n / len(pairs),
        }
        for reason, n in counts.most_common()
    ]
    return pandas.DataFrame(rows)


def rejected_examples(decisions: Sequence[Decision], *, most: int = 1) -> list[int]:
    """Choose the first few pairs of each reason, by their places."""
    chosen: defaultdict[str, list[int]] = defaultdict(list)
    for place, decision in enumerate(decisions):
        if not decision.accepted and len(chosen[decision.reason]) < most:
            chosen[decision.reason].append(place)
    return [place for places in chosen.values() for place in places]


def ranked(measures: Sequence[Measures], decisions: Sequence[Decision]) -> list[int]:
    """Order the accepted pairs by their places, the best grounded and least copied first."""
    accepted = [place for place, decision in enumerate(decisions) if decision.accepted]
    return sorted(accepted, key=lambda place: (-_merit(measures[place]), place))


def pair_notes(measure: Measures, decision: Decision | None = None) -> dict[str, object]:
    """Give the few numbers that stand over a pair when it is shown."""
    notes: dict[str, object] = {}
    if decision and not decision.accepted:
        notes["rejected:"] = f"{decision.reason} {decision.value}".strip()
    grounding = "cannot be measured" if measure.grounding is None else f"{measure.grounding:.2f}"
    return notes | {"grounding": grounding, "copied": f"{100 * measure.copied_instruction:.0f} %"}


def pair_frame(pairs: Sequence[Pair], measures: Sequence[Measures], sides: Sequence[str]) -> pandas.DataFrame:
    """Give one row a pair with what a split is judged by."""
    import pandas

    rows = [
        (pair.id, side, pair.chunk.data_type, pair.chunk.author, measure.language)
        for pair, measure, side in zip(pairs, measures, sides, strict=True)
    ]
    return pandas.DataFrame(rows, columns=["id", "side", "data_type", "author", "language"])


def show_alarms(alarms: Sequence[Alarm]) -> Display:
    """Show each alarm as a box with what was seen, what was expected and its examples."""
    if not alarms:
        return show_note("No alarm: nothing about these pairs as a whole looks wrong.", level="good")
    return join_displays(_alarm_box(alarm) for alarm in alarms)


def certificate_frame(certificate: Mapping[str, Any]) -> pandas.DataFrame:
    """Lay out what the split proves about itself."""
    import pandas

    rows = [(key.replace("_", " "), _comma(value)) for key, value in certificate.items() if value != ""]
    return pandas.DataFrame(rows, columns=["statement", "value"])


def forecast_check(forecast: pandas.DataFrame, report: GenerationReport) -> pandas.DataFrame:
    """Put what was forecast beside what was needed; answers stored before cost nothing in either."""
    import pandas

    names = ("requests", "prompt_tokens", "completion_tokens")
    rows = [
        (name.replace("_", " "), _total(forecast, name), getattr(report, name))
        for name in names
        if name in forecast
    ]
    costs = [str(name) for name in forecast.columns if "cost" in str(name)]
    rows += [(f"{name.replace('_', ' ')}, USD", _total(forecast, name), report.cost_usd) for name in costs]
    return pandas.DataFrame(rows, columns=["what", "forecast", "actual"])


def files_frame(dataset: Path) -> pandas.DataFrame:
    """List the published files as the manifest knows them."""
    import pandas

    manifest = dataset / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.exists() else {}
    rows = [
        (name, file.get("rows"), file["bytes"], file["sha256"][:12]) for name, file in sorted(files.items())
    ]
    return pandas.DataFrame(rows, columns=["file", "rows", "bytes", "sha256 begins"])


def _total(forecast: pandas.DataFrame, name: str) -> float | None:
    values = forecast[name].tolist()
    return None if any(value is None or value != value for value in values) else sum(values)


def _alarm_box(alarm: Alarm) -> Display:
    text = f"{alarm.name}: seen {alarm.seen}; expected {alarm.expected}."
    examples = " ".join(f"“{example}”" for example in alarm.examples)
    return show_note(f"{text} Examples: {examples}" if examples else text, level=_level(alarm))


def _level(alarm: Alarm) -> str:
    return "bad" if alarm.level == "alarm" else "warning"


def _merit(measure: Measures) -> float:
    lead = 0.0 if measure.grounding_margin is None else measure.grounding_margin
    return lead - measure.copied_instruction - measure.genericness


def _comma(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_comma(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_comma, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
