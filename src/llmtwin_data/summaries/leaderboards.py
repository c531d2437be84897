"""Prompts ranked on the same contents, with intervals from a bootstrap over contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.generation import GenerationReport, LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.judging import Verdict
from llmtwin_data.measures import Measures
from llmtwin_data.summaries.displays import format_value

if TYPE_CHECKING:
    import pandas

# Resamples; the ends of a 95 % interval move by less than half a point between seeds at this number.
DRAWS = 4000
INTERVAL = (2.5, 97.5)
# What is drawn with intervals, in this order.
BOARD_MEASURES = ("usable, %", "grounding", "copied, %", "genericness, %", "right language, %", "characters")
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt tried on the sample: what came back, what it is worth, what it cost."""

    prompt: str
    model: str
    batch_size: int
    chunks: tuple[Chunk, ...]
    pairs: tuple[Pair, ...]
    measures: tuple[Measures, ...]
    decisions: tuple[Decision, ...]
    ledger: tuple[LedgerRow, ...]
    report: GenerationReport
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


def leaderboard(trials: Sequence[Trial], *, seed: int) -> pandas.DataFrame:
    """Rank the trials by usable pairs; each measure stands beside the ends of its 95 % interval.

    Returns
    -------
    pandas.DataFrame
        ``prompt``, then for each measure ``name``, ``name low``, ``name high``; then tokens and costs.
    """
    import pandas

    rows = [_board_row(trial, seed) for trial in _ranked(trials)]
    return pandas.DataFrame(rows)


def readable_board(board: pandas.DataFrame) -> pandas.DataFrame:
    """Turn the board for people: a column for each prompt, a row for each measure with its interval."""
    import pandas

    names = [name for name in board.columns if name != "prompt" and not str(name).endswith((" low", " high"))]
    rows = board.to_dict("records")
    columns = {str(row["prompt"]): [_readable(row, str(name)) for name in names] for row in rows}
    return pandas.DataFrame({"measure": names} | columns if rows else {})


def duel(trials: Sequence[Trial], *, seed: int) -> dict[str, Any]:
    """Compare the two best trials content by content: difference of usable shares with its interval."""
    ranked = _ranked(trials)
    if len(ranked) < 2 or not ranked[0].chunks:
        return {}
    difference = usable(ranked[0]) - usable(ranked[1])
    low, high = _interval(difference, seed)
    names = {"winner": ranked[0].prompt, "other": ranked[1].prompt, "contents": len(difference)}
    return names | {"difference": _mean(difference), "low": low, "high": high}


def usable(trial: Trial) -> Values:
    """Give for each content the share of its instructions that were accepted, 0.0 where none was."""
    asked = max(1, len(trial.ledger) // max(1, len(trial.chunks)))
    worth = _by_content(trial, [float(decision.accepted) for decision in trial.decisions])
    return np.array([sum(worth.get(_place(chunk), [])) / asked for chunk in trial.chunks], float)


def side_by_side(trials: Sequence[Trial], *, most: int) -> list[tuple[Chunk, dict[str, str]]]:
    """Give the first instruction of every prompt for a few contents, spread over the sample."""
    if not trials:
        return []
    written = {
        (trial.prompt, _place(p.chunk)): p.instruction for trial in trials for p in trial.pairs if p.k == 1
    }
    chunks = trials[0].chunks
    chosen = chunks[:: max(1, len(chunks) // most)][:most]
    return [
        (chunk, {t.prompt: written.get((t.prompt, _place(chunk)), "(no usable answer)") for t in trials})
        for chunk in chosen
    ]


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda t: (-_known(_mean(usable(t))), -_known(_mean(_grounding(t))), t.prompt))


def _board_row(trial: Trial, seed: int) -> dict[str, Any]:
    answered = sum(row.state == "accepted" for row in trial.ledger)
    row: dict[str, Any] = {"prompt": trial.prompt, "contents": len(trial.chunks)}
    row["answered, %"] = 100 * answered / max(1, len(trial.ledger))
    for name, values in zip(BOARD_MEASURES, _board_values(trial), strict=True):
        row[name] = _mean(values)
        row[f"{name} low"], row[f"{name} high"] = _interval(values, seed)
    if trial.verdicts:
        row["judge score"] = _mean(np.array([verdict.score for verdict in trial.verdicts.values()], float))
    return row | _costs(trial)


def _board_values(trial: Trial) -> list[Values]:
    measures = trial.measures
    return [
        100 * usable(trial),
        _grounding(trial),
        100 * _content_means(trial, [m.copied_instruction for m in measures]),
        100 * _content_means(trial, [m.genericness for m in measures]),
        100 * _content_means(trial, [float(m.language_ok) for m in measures]),
        _content_means(trial, [float(m.characters) for m in measures]),
    ]


def _grounding(trial: Trial) -> Values:
    return _content_means(trial, [measure.grounding for measure in trial.measures])


def _costs(trial: Trial) -> dict[str, float | None]:
    accepted = max(1, sum(decision.accepted for decision in trial.decisions))
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in trial.ledger)
    costs = [row.cost_usd for row in trial.ledger]
    known = None if None in costs else sum(cost or 0.0 for cost in costs) / accepted
    return {"tokens per accepted": round(tokens / accepted), "cost per accepted, USD": known}


def _content_means(trial: Trial, values: Sequence[float | None]) -> Values:
    """Average over each content, whose instructions are no independent witnesses; unknowns left out."""
    return np.array([sum(found) / len(found) for found in _by_content(trial, values).values()], float)


def _by_content(trial: Trial, values: Sequence[float | None]) -> dict[tuple[str, str, int], list[float]]:
    found: dict[tuple[str, str, int], list[float]] = {}
    for pair, value in zip(trial.pairs, values, strict=True):
        if value is not None:
            found.setdefault(_place(pair.chunk), []).append(value)
    return found


def _place(chunk: Chunk) -> tuple[str, str, int]:
    return chunk.collection, chunk.content_id, chunk.start


def _interval(values: Values, seed: int) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), INTERVAL)
    return float(low), float(high)


def _mean(values: Values) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _known(value: float) -> float:
    return value if value == value else -1.0


def _readable(row: Mapping[Any, Any], name: str) -> str:
    digits = 2 if name == "grounding" else 0
    if f"{name} low" not in row:
        return format_value(row[name], column=name)
    if row[name] != row[name]:
        return "–"
    return f"{row[name]:.{digits}f} ({row[f'{name} low']:.{digits}f} to {row[f'{name} high']:.{digits}f})"
