"""What asking for several contents at once does to their instructions: mix-ups and sameness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from llmtwin_data.generation.pairs import Pair
from llmtwin_data.languages import words
from llmtwin_data.measures import ground_among
from llmtwin_data.summaries.leaderboards import Trial

if TYPE_CHECKING:
    import pandas

MIXED, SAME = "a batch-mate fits better, %", "words that batch-mates share, %"
EFFECTS = (MIXED, SAME, "prompt tokens per content")


def batch_effects(trials: Sequence[Trial]) -> pandas.DataFrame:
    """Compare batch sizes on the same contents; one size alone gives an empty table.

    Notes
    -----
    Every trial is looked at in the groups of the largest batch. What contents asked one by one show in those
    groups is the chance level: only what a larger batch shows above it comes from the batch.
    """
    import pandas

    size = max((trial.batch_size for trial in trials), default=1)
    compared = sorted(trials, key=lambda trial: trial.batch_size) if len(trials) > 1 else []
    rows = [_effects(trial, size) for trial in compared]
    return pandas.DataFrame(rows, columns=["batch size", "contents", *EFFECTS])


def _effects(trial: Trial, size: int) -> dict[str, float]:
    groups = _groups(trial, size)
    mixed = [ground_among(p.instruction, p.chunk.text, _mates(p, g)) < 1 for g in groups for p in g]
    same = [_shared(one, other) for group in groups for one, other in combinations(group, 2)]
    return {
        "batch size": trial.batch_size,
        "contents": len(trial.chunks),
        MIXED: 100 * sum(mixed) / max(1, len(mixed)),
        SAME: 100 * sum(same) / max(1, len(same)),
        "prompt tokens per content": sum(row.prompt_tokens for row in trial.ledger)
        / max(1, len(trial.chunks)),
    }


def _groups(trial: Trial, size: int) -> list[list[Pair]]:
    first = {(p.chunk.collection, p.chunk.content_id, p.chunk.start): p for p in trial.pairs if p.k == 1}
    ordered = [first.get((c.collection, c.content_id, c.start)) for c in trial.chunks]
    batches = (ordered[start : start + size] for start in range(0, len(ordered), size))
    return [[pair for pair in batch if pair is not None] for batch in batches]


def _mates(pair: Pair, group: Sequence[Pair]) -> list[str]:
    return [mate.chunk.text for mate in group if mate is not pair]


def _shared(one: Pair, other: Pair) -> float:
    left, right = set(words(one.instruction)), set(words(other.instruction))
    return len(left & right) / max(1, len(left | right))
