"""Train and test by group, so that no test pair has a sibling or near-copy in train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmtwin_data.curation import Decision
    from llmtwin_data.generation import Pair


@dataclass(frozen=True, slots=True)
class Split:
    """A side ("train", "test", "" left out) for each pair, why pairs were left out, and the proof."""

    sides: list[str]
    decisions: dict[int, Decision] = field(default_factory=dict)
    certificate: dict[str, Any] = field(default_factory=dict)


def split_pairs(
    pairs: Sequence[Pair], *, test_fraction: float, seed: int, previous: Mapping[str, str] | None = None
) -> Split:
    """Split pairs by groups of tied contents; ``previous`` maps "collection/content_id" to its kept side."""
    raise NotImplementedError
