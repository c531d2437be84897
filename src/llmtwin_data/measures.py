"""Numbers about instruction pairs that need no LLM: grounding, copying, genericness, language, length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmtwin_data.grounding import find_swapped, ground_among

__all__ = ["Measures", "choose_candidate", "find_swapped", "ground_among", "measure_pairs"]


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of one pair; the module's functions say how."""

    grounding: float | None
    grounding_rank: int | None
    grounding_margin: float | None
    copied_instruction: float
    copied_content: float
    genericness: float
    repeats: int
    language: str
    language_asked: str
    language_ok: bool
    characters: int
    tokens: int
    self_contained: bool


def measure_pairs(
    instructions: Sequence[str], owners: Sequence[int], texts: Sequence[str], *, asked_language: str
) -> list[Measures]:
    """Measure each instruction against the chunk it was written for and all other chunks."""
    raise NotImplementedError


def choose_candidate(candidates: Sequence[str], own: str, mates: Sequence[str]) -> int:
    """Give the position of the best candidate for the chunk ``own``, judged among its batch-mates only."""
    scores = [ground_among(candidate, own, mates) for candidate in candidates]
    return scores.index(max(scores))
