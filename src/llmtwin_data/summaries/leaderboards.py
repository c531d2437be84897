"""Prompts, models and languages ranked on the same contents, with a paired bootstrap over contents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmtwin_data.chunks import Chunk, Span
from llmtwin_data.curation import Decision
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.judging import Verdict
from llmtwin_data.measures import Measures
from llmtwin_data.summaries.displays import format_usd

if TYPE_CHECKING:
    import pandas

# Resamples; the ends of a 95 % interval move by less than half a point between seeds at this number.
DRAWS = 4000
INTERVAL = (2.5, 97.5)
# Numbers held at once; a sample of more than 5,000 contents is resampled less often.
MOST_DRAWN = 20_000_000
# What may vary between trials, by its word in the params.
FACTORS = {
    "prompt": "prompt",
    "model": "model",
    "language": "instruction_language",
    "batch_size": "batch_size",
}
USABLE, TOKENS = "usable, %", "tokens per accepted pair"
# A judge's verdicts are no part of it.
COST = "instructions of 1,000 accepted pairs, USD"
Values = NDArray[np.float64]
# Each measure as what every content adds to it, and what the sum is divided by.
Scores = dict[str, tuple[Values, Values]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One prompt, model and language tried on the sample: what came back, what it is worth, what it cost.

    ``given`` is what a params file says to get the same.
    """

    prompt: str
    model: str
    language: str
    batch_size: int
    chunks: tuple[Chunk, ...]
    pairs: tuple[Pair, ...]
    measures: tuple[Measures, ...]
    decisions: tuple[Decision, ...]
    ledger: tuple[LedgerRow, ...]
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


def leaderboard(trials: Sequence[Trial], *, seed: int) -> pandas.DataFrame:
    """Rank the trials by usable pairs; each measure stands beside the ends of its 95 % interval.

    Returns
    -------
    pandas.DataFrame
        ``trial``, then for each measure ``name``, ``name low``, ``name high``, not a number where unknown,
        and ``name of``: how many contents there are, and how many of them tell.

    Notes
    -----
    Every draw takes the same contents of every trial, and all instructions of a content together, for they
    are no independent witnesses. A cost per accepted pair is drawn as a whole, cost and pairs together.
    """
    ranked = rank(trials)
    scores = map(scores_of, ranked)
    return board_of(dict(zip(names_of(ranked), scores, strict=True)), seed=seed)


def board_of(scores: Mapping[str, Scores], *, seed: int) -> pandas.DataFrame:
    """Give the board of these scores by name: ``trial``, and four columns a measure."""
    import pandas

    return pandas.DataFrame([{"trial": name} | _board_row(found, seed) for name, found in scores.items()])


def readable_board(board: pandas.DataFrame) -> pandas.DataFrame:
    """Turn the board for people: a column for each trial, a row for each measure with its interval."""
    import pandas

    names = [str(name).removesuffix(" low") for name in board.columns if str(name).endswith(" low")]
    rows = board.to_dict("records")
    columns = {str(row["trial"]): [_readable(row, name) for name in names] for row in rows}
    return pandas.DataFrame({"measure": names} | columns if rows else {})


def usable(trial: Trial) -> Values:
    """Give for each content the share of its instructions that were accepted, 0.0 where none was."""
    worth = _by_content(trial, [float(decision.accepted) for decision in trial.decisions])
    return np.array(list(map(sum, worth)), float) / _asked(trial)


def side_by_side(trials: Sequence[Trial], *, most: int) -> list[tuple[Chunk, dict[str, str]]]:
    """Give the first instruction of every trial for a few contents, spread over the sample."""
    if not trials:
        return []
    chunks = trials[0].chunks
    written = [{pair.chunk.span: pair.instruction for pair in t.pairs if pair.k == 1} for t in trials]
    named = list(zip(names_of(trials), written, strict=True))
    return [
        (chunk, {name: told.get(chunk.span, "(no usable answer)") for name, told in named})
        for chunk in chunks[:: max(1, len(chunks) // most)][:most]
    ]


def names_of(trials: Sequence[Trial]) -> list[str]:
    """Name each trial by what varies among them, such as ``grounded · gpt-6-luna · en``."""
    varied = [name for name in FACTORS if len({getattr(trial, name) for trial in trials}) > 1]
    return [" · ".join(str(getattr(trial, name)) for name in varied or ["prompt"]) for trial in trials]


def scores_of(trial: Trial) -> Scores:
    """Give what is told of a trial, in the order in which it is shown; the judge's score if one was asked."""
    ones, measures = np.ones(len(trial.chunks)), trial.measures
    accepted = usable(trial) * _asked(trial)
    tokens, costs, answered = _sums(trial)
    scores = {
        USABLE: (100 * usable(trial), ones),
        "valid answers, %": (100 * answered / _asked(trial), ones),
        "grounding": _means(trial, [m.grounding for m in measures]),
        "copied, %": _means(trial, [100 * m.copied for m in measures]),
        "generic, %": _means(trial, [100 * m.genericness for m in measures]),
        "right language, %": _means(trial, [100 * float(m.language_ok) for m in measures]),
        "length, characters": _means(trial, [float(m.characters) for m in measures]),
        TOKENS: (tokens, accepted),
        COST: (1000 * costs, accepted),
    }
    told = [trial.verdicts.get(pair.id) for pair in trial.pairs]
    judged = {"judge score, 1–5": _means(trial, [float(v.score) if v else None for v in told])}
    return scores | (judged if any(told) else {})


def rank(trials: Iterable[Trial]) -> list[Trial]:
    """Put the trial with most usable pairs first; of equal ones the better grounded, unknown comes last."""
    return sorted(trials, key=lambda trial: (-usable(trial).sum(), -_grounding(trial), trial.prompt))


def cost_of(trial: Trial) -> float | None:
    """Give the US dollars that the instructions of 1,000 accepted pairs cost; None where unknown."""
    cost = _mean(1000 * _sums(trial)[1], usable(trial) * _asked(trial))
    return None if np.isnan(cost) else cost


def interval(parts: Values, wholes: Values, seed: int) -> tuple[float, float]:
    """Give the ends of the 95 % interval of a sum of parts over a sum of wholes, drawn by content."""
    times = _draws(len(parts), seed)
    known = (whole := times @ wholes) > 0
    if not known.any():
        return float("nan"), float("nan")
    low, high = np.percentile((times @ parts)[known] / whole[known], INTERVAL)
    return float(low), float(high)


def _grounding(trial: Trial) -> float:
    mean = _mean(*_means(trial, [measured.grounding for measured in trial.measures]))
    return -1.0 if np.isnan(mean) else mean


def _board_row(scores: Scores, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, (parts, wholes) in scores.items():
        row[name] = _mean(parts, wholes)
        row[f"{name} low"], row[f"{name} high"] = interval(parts, wholes, seed)
        row[f"{name} of"] = len(wholes), int(np.count_nonzero(wholes))
    return row


def _sums(trial: Trial) -> tuple[Values, Values, Values]:
    """Add up tokens, dollars and valid answers of each content."""
    places = {chunk.span: place for place, chunk in enumerate(trial.chunks)}
    sums = np.zeros((3, len(places)))
    for row in trial.ledger:
        cost = float("nan") if row.cost_usd is None else row.cost_usd
        told = (row.prompt_tokens + row.completion_tokens, cost, row.state == "accepted")
        sums[:, places[row.collection, row.content_id, row.start, row.end]] += told
    return sums[0], sums[1], sums[2]


def _means(trial: Trial, values: Sequence[float | None]) -> tuple[Values, Values]:
    found = _by_content(trial, values)
    means = [sum(of) / len(of) if of else 0.0 for of in found]
    return np.array(means), np.array([float(bool(of)) for of in found])


def _by_content(trial: Trial, values: Sequence[float | None]) -> list[list[float]]:
    found: dict[Span, list[float]] = {chunk.span: [] for chunk in trial.chunks}
    for pair, value in zip(trial.pairs, values, strict=True):
        found[pair.chunk.span] += [] if value is None else [value]
    return list(found.values())


def _asked(trial: Trial) -> int:
    return max(1, len(trial.ledger) // max(1, len(trial.chunks)))


def _mean(parts: Values, wholes: Values) -> float:
    return float(parts.sum() / wholes.sum()) if wholes.sum() else float("nan")


@lru_cache(maxsize=2)
def _draws(contents: int, seed: int) -> Values:
    """Say how often each content is drawn, one row a resample; the same for all trials: they are paired."""
    if not contents:
        return np.zeros((0, 0))
    size = min(DRAWS, max(1, MOST_DRAWN // contents))
    return (
        np.random.default_rng(seed).multinomial(contents, [1 / contents] * contents, size=size).astype(float)
    )


def _readable(row: Mapping[Any, Any], name: str) -> str:
    if row[name] != row[name]:
        return "unknown" if name == COST else "–"
    value, low, high = (_written(row[key], name) for key in (name, f"{name} low", f"{name} high"))
    contents, known = row[f"{name} of"]
    note = f", {known} of {contents} contents" if name == "grounding" and known < contents else ""
    return value + note if value == low == high else f"{value} ({low} to {high}){note}"


def _written(value: float, name: str) -> str:
    if name == COST:
        return format_usd(value)
    return f"{value:,.2f}" if name == "grounding" else f"{value:,.1f}" if "judge" in name else f"{value:,.0f}"
