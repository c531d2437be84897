"""Rules over measures, verdicts and near-duplicates: every rejection has its reason and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmtwin_data.generation import Pair
    from llmtwin_data.judging import Verdict
    from llmtwin_data.measures import Measures


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds, named as in the params; 0, 1, 1, 0 and 0 switch the first five off."""

    min_grounding: float = 0.5
    max_copied: float = 0.5
    near_duplicate: float = 0.8
    max_pair_tokens: int = 0
    min_judge_score: int = 0
    instruction_language: str = "same"
    secrets: str = "drop"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a pair is accepted, and if not the rule's name and the value that broke it."""

    accepted: bool
    reason: str = ""
    value: str = ""


def curate(
    pairs: Sequence[Pair],
    measures: Sequence[Measures],
    *,
    rules: Rules,
    verdicts: Mapping[str, Verdict] | None = None,
    reviews: Mapping[str, Any] | None = None,
) -> list[Decision]:
    """Decide on each pair, in order; the first rule broken gives the reason."""
    raise NotImplementedError
