"""What asking for several contents at once does to their instructions: mix-ups and sameness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmtwin_data.generation.pairs import Pair
from llmtwin_data.languages import words
from llmtwin_data.measures import ground_among
from llmtwin_data.summaries.leaderboards import TOKENS, USABLE, Scores, Trial, board_of, scores_of

if TYPE_CHECKING:
    import pandas

MIXED, SAME = "another content of the request fits better, %", "words shared within a request, %"


def batch_effects(trials: Sequence[Trial], *, seed: int) -> pandas.DataFrame:
    """Compare batch sizes on the same contents, as a board; one size alone gives an empty one.

    Notes
    -----
    Every trial is looked at in the groups of the largest batch. What contents asked one by one show in those
    groups is the chance level: only what a larger batch shows above it comes from the batch.
    """
    size = max((trial.batch_size for trial in trials), default=1)
    compared = sorted(trials, key=lambda trial: trial.batch_size) if len(trials) > 1 else []
    return board_of({_name(trial): _effects(trial, size) for trial in compared}, seed=seed)


def _name(trial: Trial) -> str:
    return "one by one" if trial.batch_size == 1 else f"{trial.batch_size} in a request"


def _effects(trial: Trial, size: int) -> Scores:
    first = {pair.chunk: pair for pair in trial.pairs if pair.k == 1}
    known, mixed, same = np.zeros((3, len(trial.chunks)))
    for place, chunk in enumerate(trial.chunks):
        start = place - place % size
        mates = [
            first[mate] for mate in trial.chunks[start : start + size] if mate in first and mate != chunk
        ]
        if chunk in first and mates:
            pair, known[place] = first[chunk], 1
            fit = ground_among(pair.instruction, chunk.text, [mate.chunk.text for mate in mates])
            mixed[place] = 100 * (fit < 1)
            same[place] = 100 * sum(_shared(pair, mate) for mate in mates) / len(mates)
    usual = scores_of(trial)
    return {MIXED: (mixed, known), SAME: (same, known), USABLE: usual[USABLE], TOKENS: usual[TOKENS]}


def _shared(one: Pair, other: Pair) -> float:
    left, right = set(words(one.instruction)), set(words(other.instruction))
    return len(left & right) / max(1, len(left | right))
