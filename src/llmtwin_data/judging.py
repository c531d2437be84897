"""The LLM judge: a verdict on a pair, asked and stored like any other question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmtwin_data.answers import AnswerStore
    from llmtwin_data.generation import Pair
    from llmtwin_data.prompts import Question, Recipe


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of one pair."""

    score: int
    reason: str


def verdict_question(pair: Pair, recipe: Recipe) -> Question:
    """Give the question that asks the judge about a pair."""
    raise NotImplementedError


def read_verdicts(pairs: Sequence[Pair], recipe: Recipe, answers: AnswerStore) -> dict[str, Verdict]:
    """Give the stored verdicts by pair id; a pair without a valid one is absent."""
    raise NotImplementedError
