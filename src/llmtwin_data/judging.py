"""The LLM judge: a verdict on a pair, asked and stored like any other question, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from llmtwin_data.contents import records_of
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import json_lines, read_json_lines, write_atomically
from llmtwin_data.prompts import CONTENT_LINE

FILE = "verdicts.jsonl"  # in the run folder
SCORES = range(1, 6)
# The lowest score that counts as a good pair where ``min_judge_score`` is off.
GOOD_SCORE = 4
Labels = Mapping[tuple[str, str], bool]

# The columns of verdicts.jsonl: a pair that the judge was asked about, beside what is known without it.
JUDGED = {
    "pair_id": "str",
    "instruction": "str",
    "characters": "int64",  # of the content
    "grounding": "float64",  # missing where it could not be measured
    "passes": "boolean",  # every rule but the judge's; missing where a person rejected it before any rule
    "score": "int64",  # 1 to 5; 0 is no valid verdict
    "reason": "str",
}


def shown_pair(data_type: str, instruction: str, content: str) -> str:
    """Return the text that a judge reads: genre and instruction on a line each, then the content."""
    return f"Genre: {data_type}\nInstruction: {' '.join(instruction.split())}{CONTENT_LINE}{content}"


def verdict_of(values: Sequence[str]) -> tuple[int, str] | tuple[None, None]:
    """Return score and reason of a stored answer, or nothing where it is no valid verdict."""
    valid = len(values) > 1 and values[0].isascii() and values[0].isdigit() and int(values[0]) in SCORES
    return (int(values[0]), values[1]) if valid else (None, None)


def judged_of(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the columns `JUDGED` of each pair of a decided table; no row where the judge said nothing."""
    pairs = ledger[ledger.instruction.notna() & bool(ledger.judge_score.notna().any())]
    passes = pairs.reason.isin(["", "judge", "leak", "tied"]).astype("boolean")
    columns = {
        "pair_id": pairs.id,
        "instruction": pairs.instruction,
        "characters": pairs.content.str.len(),
        "grounding": pairs.grounding,
        "passes": passes.mask(pairs.reason == "review"),
        "score": pairs.judge_score.fillna(0),
        "reason": pairs.judge_reason.fillna(""),
    }
    return pd.DataFrame(columns).astype(JUDGED).reset_index(drop=True)


def write_judged(path: Path, judged: pd.DataFrame) -> None:
    """Write a JSON line a pair, so that labels given later can be set beside the verdicts."""
    write_atomically(path, json_lines(records_of(judged)))


def read_judged(path: Path) -> pd.DataFrame:
    """Return what `write_judged` wrote; no file means that no judge was asked.

    Raises DiskFailed where the file cannot be read, or a line holds no verdict.
    """
    try:
        lines = read_json_lines(path) if path.exists() else []
        rows = [[line[name] for name in JUDGED] for line in lines]
        return pd.DataFrame(rows, columns=list(JUDGED)).astype(JUDGED)
    except (DiskFailed, KeyError, TypeError, ValueError) as error:
        raise DiskFailed(f"{path}: expected a verdict on each line, {error}; run notebook 3 again") from error


def compare_judge(judged: pd.DataFrame, labels: Labels, *, min_judge_score: int) -> pd.DataFrame:
    """Return what the judge keeps beside two baselines that keep as many: the longest contents, and chance.

    ``judged`` has the columns `JUDGED`; ``labels`` say by pair id and wording whether a person found the pair
    good as it was; ``min_judge_score`` 0 means `GOOD_SCORE`. A row a ``chooser``: pairs ``kept``; their
    ``passing_share`` by all other rules and mean ``grounding``; pairs ``labelled``, and ``precision`` and
    ``recall`` among those alone. Shares are 0.0 to 1.0, missing where nothing can be said.

    The longest 1,000 answers beat two judged selections in Zhao et al. 2024 (*Long Is More for Alignment*),
    so a judge that does no better than length is not worth its price. Chance is what random choices average.
    """
    least = min_judge_score or GOOD_SCORE
    words = zip(judged.pair_id, judged.instruction, strict=True)
    good = pd.Series([labels.get(each) for each in words], index=judged.index, dtype="boolean").dropna()
    everywhere, known = _weights(judged, least), _weights(judged.loc[good.index], least)
    rows = [
        {
            "chooser": name,
            "kept": round(weights.sum()),
            "passing_share": _mean(judged.passes, weights),
            "grounding": _mean(judged.grounding, weights),
            "labelled": len(good),
            "precision": _mean(good, known[name]),
            "recall": _mean(known[name], good.astype(float)),
        }
        for name, weights in everywhere.items()
        if len(judged)
    ]
    return pd.DataFrame(rows)


def _weights(judged: pd.DataFrame, least: int) -> pd.DataFrame:
    """Return how surely each chooser keeps each pair; all keep as many."""
    kept = judged.score >= least
    longest = judged.characters.rank(ascending=False, method="first") <= kept.sum()
    return pd.DataFrame({f"judge, {least} or more": kept, "longest": longest, "random": kept.mean()}).astype(
        float
    )


def _mean(values: pd.Series, weights: pd.Series) -> float | None:
    """Return the weighted mean of the values that there are."""
    values = values.dropna().astype(float)
    weights = weights[values.index]
    return round(float((values * weights).sum() / weights.sum()), 4) if weights.sum() else None
