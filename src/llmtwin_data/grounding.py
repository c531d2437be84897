"""Does an instruction retrieve its own chunk: among batch-mates while generating, among all chunks after."""

from __future__ import annotations

from collections.abc import Sequence


def ground_among(instruction: str, own: str, mates: Sequence[str]) -> float:
    """Give own score over the best score among own chunk and batch-mates, 0.0 to 1.0."""
    return 1.0


def find_swapped(instructions: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Give the positions whose instructions look exchanged inside one batch."""
    return []
