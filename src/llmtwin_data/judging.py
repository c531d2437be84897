"""The LLM judge: a verdict on a pair, asked and stored like any other question, and how far to trust it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import disk_errors, write_atomically
from llmtwin_data.prompts import CONTENT_LINE

if TYPE_CHECKING:
    import pandas


FILE = "verdicts.jsonl"  # in the run folder
SCORES = range(1, 6)
# The lowest score that counts as a good pair where ``min_judge_score`` is off.
GOOD_SCORE = 4
Labels = Mapping[tuple[str, str], bool]


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair that the judge was asked about, beside what is known without it; score 0 is no valid verdict."""

    pair_id: str
    instruction: str
    characters: int  # of the content
    grounding: float | None
    passes: bool | None  # every rule but the judge's; None where a person rejected it before any rule
    score: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Chooser:
    """What a way of choosing pairs keeps, and how it agrees with people; None where nothing can be said."""

    chooser: str
    kept: int
    passing_share: float | None  # of the kept, by all other rules
    grounding: float | None  # mean of the kept
    labelled: int
    precision: float | None
    recall: float | None


def shown_pair(data_type: str, instruction: str, content: str) -> str:
    """Return the text that a judge reads: genre and instruction on a line each, then the content."""
    return f"Genre: {data_type}\nInstruction: {' '.join(instruction.split())}{CONTENT_LINE}{content}"


def verdict_of(values: Sequence[str]) -> tuple[int, str] | tuple[None, None]:
    """Return score and reason of a stored answer, or nothing where it is no valid verdict."""
    valid = len(values) > 1 and values[0].isascii() and values[0].isdigit() and int(values[0]) in SCORES
    return (int(values[0]), values[1]) if valid else (None, None)


def write_judged(path: Path, judged: Sequence[Judged]) -> None:
    """Write one JSON line a pair, so that labels given later can be set beside the verdicts."""
    lines = (json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in judged)
    write_atomically(path, "".join(lines))


def read_judged(path: Path) -> list[Judged]:
    """Read what `write_judged` wrote; no file means that no judge was asked."""
    if not path.exists():
        return []
    try:
        with disk_errors(path):
            lines = path.read_text(encoding="utf-8").split("\n")
        return [Judged(**json.loads(line)) for line in lines if line]
    except (TypeError, ValueError) as error:
        raise DiskFailed(f"{path}: expected a verdict on each line, {error}; run notebook 3 again") from error


def compare_choosers(judged: Sequence[Judged], labels: Labels, *, min_judge_score: int) -> list[Chooser]:
    """Set the judge beside two baselines that keep as many pairs: the longest contents, and chance.

    Parameters
    ----------
    labels
        By pair id and wording: whether a person found the pair good as it was.
    min_judge_score
        The lowest score that the judge keeps; 0 means `GOOD_SCORE`.

    Notes
    -----
    The longest 1,000 answers beat two judged selections in Zhao et al. 2024 (*Long Is More for Alignment*),
    so a judge that does no better than length is not worth its price. Precision and recall are measured
    among the labelled pairs alone. Chance is what random choices give on average.
    """
    least = min_judge_score or GOOD_SCORE
    labelled = [each for each in judged if (each.pair_id, each.instruction) in labels]
    good = [labels[each.pair_id, each.instruction] for each in labelled]
    everywhere, known = _weights(judged, least), _weights(labelled, least)
    return [
        Chooser(
            name,
            round(sum(weights)),
            _mean([each.passes for each in judged], weights),
            _mean([each.grounding for each in judged], weights),
            len(labelled),
            _mean(good, known[name]),
            _mean(known[name], good),
        )
        for name, weights in (everywhere if judged else {}).items()
    ]


def verdict_frame(judged: Sequence[Judged]) -> pandas.DataFrame:
    """Count pairs by score, the best first, and those that have no valid verdict."""
    import pandas

    scores = [each.score for each in judged]
    rows: list[dict[str, Any]] = [
        {"score": str(score or "no valid answer"), "pairs": n, "share": n / len(scores)}
        for score in (*reversed(SCORES), 0)
        if (n := scores.count(score)) or (score and scores)
    ]
    return pandas.DataFrame(rows)


def chooser_frame(choosers: Sequence[Chooser]) -> pandas.DataFrame:
    """Lay the choosers out for people; columns about labels are there once there are labels."""
    import pandas

    frame = pandas.DataFrame([asdict(each) for each in choosers])
    if not any(each.labelled for each in choosers):
        frame = frame.drop(columns=["labelled", "precision", "recall"], errors="ignore")
    words = {"passing_share": "share that the other rules accept", "grounding": "mean grounding"}
    return frame.rename(columns=words)


def worst_judged(judged: Sequence[Judged], *, most: int) -> list[int]:
    """Give the places of the lowest valid verdicts, the lowest first."""
    places = [place for place, each in enumerate(judged) if each.score]
    return sorted(places, key=lambda place: judged[place].score)[:most]


def _weights(judged: Sequence[Judged], least: int) -> dict[str, list[float]]:
    """Give how surely each chooser keeps each pair; all keep as many."""
    kept = [float(each.score >= least) for each in judged]
    count = int(sum(kept))
    longest = {*sorted(range(len(judged)), key=lambda place: -judged[place].characters)[:count]}
    chance = count / len(judged) if judged else 0.0
    by_length = [float(place in longest) for place in range(len(judged))]
    return {f"judge, {least} or more": kept, "longest": by_length, "random": [chance] * len(judged)}


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Give the weighted mean of the values that there are."""
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = sum(weight for _, weight in pairs)
    return round(sum(value * weight for value, weight in pairs) / total, 4) if total else None
