"""Alarms over a whole run: what was seen, what was expected, three examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmtwin_data.generation import Pair
    from llmtwin_data.measures import Measures


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something about the run as a whole that a person should see before training on it."""

    name: str
    seen: str
    expected: str
    examples: tuple[str, ...] = ()
    level: Literal["alarm", "warning"] = "alarm"


def raise_alarms(
    pairs: Sequence[Pair], measures: Sequence[Measures], *, instruction_language: str = "same"
) -> list[Alarm]:
    """Give the alarms of a run: ungrounded, collapsed, language, destroyed; one_author only warns."""
    raise NotImplementedError
