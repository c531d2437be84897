"""The account of a run: every chunk in one final state, and what the run cost in requests and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmtwin_data.answers import AnswerStore
from llmtwin_data.chunks import Chunk
from llmtwin_data.contents import Skipped
from llmtwin_data.curation import Decision
from llmtwin_data.curation.alarms import EMPTY, Alarm
from llmtwin_data.datasets.ledgers import ledger_totals
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.folders import RunFolder, resolve, shown
from llmtwin_data.generation import GenerationReport, LedgerRow, Pair
from llmtwin_data.generation.pairs import Place
from llmtwin_data.generator.fetching import ChunkTexts
from llmtwin_data.generator.reviews import Review
from llmtwin_data.judging import Judged, Verdict
from llmtwin_data.measures import Measures, measure_pairs
from llmtwin_data.params import Params
from llmtwin_data.processes.sessions import process_costs
from llmtwin_data.splits import Split


def spread_split(split: Split, decisions: Sequence[Decision]) -> Split:
    """Give a split of the accepted pairs as one of all pairs, the others on no side."""
    places = [place for place, decision in enumerate(decisions) if decision.accepted]
    sides = [""] * len(decisions)
    for place, side in zip(places, split.sides, strict=True):
        sides[place] = side
    return replace(split, sides=sides, decisions={places[at]: found for at, found in split.decisions.items()})


def final_decisions(decisions: Sequence[Decision], split: Split) -> list[Decision]:
    """Give the last word on each pair: the rules', then the split's."""
    return [split.decisions.get(place, decision) for place, decision in enumerate(decisions)]


def edited(pair: Pair, review: Review | None) -> Pair:
    """Give the pair in the words that a person gave it."""
    return replace(pair, instruction=review.instruction) if review and review.decision == "edit" else pair


def final_rows(
    rows: Sequence[LedgerRow],
    decided: Mapping[Place, Decision],
    skipped: Iterable[Skipped],
) -> list[LedgerRow]:
    """Give one row per chunk and instruction with its final state, skipped contents last."""
    settled = [_settled(row, decided.get(row.place)) for row in rows]
    return settled + [skipped_row(item) for item in skipped]


def skipped_row(item: Skipped) -> LedgerRow:
    """Give the row of a content, or of a part of it, that was left out before any question."""
    end = item.length if item.end < 0 else item.end
    return LedgerRow(
        item.content_id, item.start, end, 1, "skipped", item.reason, item.value, collection=item.collection
    )


def totals_of(
    ledger: Sequence[LedgerRow], reports: Iterable[GenerationReport], *, contents: int
) -> dict[str, Any]:
    """Give the ``totals`` of run.json: states from the ledger, costs of this run from its reports."""
    asked = list(reports)
    costs = [report.cost_usd if report.requests else 0.0 for report in asked]
    return (
        ledger_totals(ledger)
        | {
            "contents": contents,
            "requests": sum(report.requests for report in asked),
            "tokens": sum(report.prompt_tokens + report.completion_tokens for report in asked),
            "reasoning_tokens": sum(report.reasoning_tokens for report in asked),
            "cost_usd": None if None in costs else round(sum(cost or 0.0 for cost in costs), 6),
            "generation_seconds": round(sum(report.seconds for report in asked), 3),
        }
        | process_costs()
    )


def added_report(before: Mapping[str, Any] | None, report: GenerationReport) -> dict[str, Any]:
    """Give what run.json keeps of the questions of one kind: this report on top of those before."""
    cost = report.cost_usd if report.requests else 0.0
    known = before or {"requests": 0, "tokens": 0, "cost_usd": 0.0}
    return {
        "questions": report.questions,
        "answered_before": report.answered_before,
        "requests": report.requests + known["requests"],
        "tokens": report.prompt_tokens + report.completion_tokens + known["tokens"],
        "reasoning_tokens": report.reasoning_tokens + known.get("reasoning_tokens", 0),
        "cost_usd": None if cost is None or known["cost_usd"] is None else cost + known["cost_usd"],
        "spent_usd": report.spent_usd + known.get("spent_usd", 0.0),
        "seconds": round(report.seconds + known.get("seconds", 0.0), 3),
        "stopped": report.stopped,
        "models": dict(Counter(known.get("models", {})) + Counter(report.models)),  # as answers name them
    }


def other_model(asked: str, report: GenerationReport) -> str:
    """Say that answers name another model than the one asked for; a dated version of it is the same."""
    others = sorted(name for name in report.models if name and not name.startswith(asked.rpartition("/")[2]))
    return f"Asked for the model {asked}; answers name {', '.join(others[:5])}" if others else ""


def spent_usd(fields: Mapping[str, Any]) -> float:
    """Add up what the sessions on a run folder, whose run.json is given, count towards its limit."""
    parts = (part.get("spent_usd", 0.0) for part in fields.get("asked", {}).values())
    return float(sum(parts, fields.get("spent_before", 0.0)))


def begin_asking(run: RunFolder, answers: AnswerStore) -> float:
    """Give what counts towards a run's limit so far, and note what its store was paid.

    A session that is killed while it asks leaves no report; the next one finds the note, and counts what the
    store was paid since then.
    """
    fields = run.read()
    note = fields.get("asking")
    cut = max(0.0, _paid(resolve(note["answers"])) - note["paid_usd"]) if note else 0.0
    fields["spent_before"] = fields.get("spent_before", 0.0) + cut
    asking = {"answers": shown(answers.path), "paid_usd": answers.totals()["cost_usd"]}
    run.update(spent_before=fields["spent_before"], asking=asking)
    return spent_usd(fields)


def measured(pairs: Sequence[Pair], chunks: Sequence[Chunk], *, asked_language: str) -> list[Measures]:
    """Measure pairs against the chunks that they were written for."""
    positions = {chunk.span: position for position, chunk in enumerate(chunks)}
    owners = [positions[pair.chunk.span] for pair in pairs]
    instructions = [pair.instruction for pair in pairs]
    return measure_pairs(instructions, owners, ChunkTexts(chunks), asked_language=asked_language)


def judged(
    pairs: Sequence[Pair],
    measures: Sequence[Measures],
    verdicts: Mapping[str, Verdict],
    decisions: Sequence[Decision],
) -> list[Judged]:
    """Put verdict, measure and the other rules' decision on each pair side by side."""
    rows = zip(pairs, measures, decisions, strict=True)
    none = Verdict(0, "")
    return [
        Judged(
            pair.id,
            pair.instruction,
            len(pair.chunk.text),
            measure.grounding,
            None if decision.reason == "review" else decision.accepted or decision.reason == "judge",
            **asdict(verdicts.get(pair.id, none)),
        )
        for pair, measure, decision in rows
    ]


def alarm_text(alarms: Sequence[Alarm]) -> str:
    """Say in few lines what stopped a run, and how to go on."""
    lines = [f"{alarm.name}: expected {alarm.expected}, found {alarm.seen}" for alarm in alarms[:5]]
    passable = (
        "set quality_gate: warn" if any(alarm.name != EMPTY for alarm in alarms) else "change how is asked"
    )
    return "\n".join([*lines, f"nothing is published; look at the pairs, or {passable}"])


def nothing_text(settings: Params, skipped: Iterable[Skipped]) -> str:
    """Say that collections hold nothing to ask about, and why what they hold is skipped."""
    reasons = Counter(item.reason.replace("_", " ") for item in skipped)
    told = ", ".join(f"skipped {reason} {count}" for reason, count in reasons.most_common())
    names = {name: getattr(settings, name) for name in ("collections", "authors", "platforms")}
    where = ", ".join(f"{name} {', '.join(value)}" for name, value in names.items() if value)
    return f"{where}: expected a content to ask about, found none{': ' if told else ''}{told}"


def notes_of(settings: Params, endpoint: Endpoint) -> list[str]:
    """Give what a reader of the dataset must know before all else."""
    if endpoint.identity != "embedded" or settings.model:
        return []
    return [
        "A model of 135M parameters wrote these instructions, to show the way; for training, name a real one."
    ]


def _paid(store: Path) -> float:
    if not store.exists():
        return 0.0
    with AnswerStore(store) as answers:
        return float(answers.totals()["cost_usd"])


def _settled(row: LedgerRow, decision: Decision | None) -> LedgerRow:
    if decision is None or row.state != "accepted" or decision.accepted:
        return row
    return replace(row, state="rejected", reason=decision.reason, value=decision.value)
