"""Openings: the first words of a text, by which an answer shows which text of its batch it read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmtwin_data.languages import is_spaceless, normal_form, words

# An opening stands in these first characters of its text.
HEAD_CHARS = 400
# Weight of the shortest opening: four words of 2 each, or eight characters of 1 in scripts without spaces.
LEAST_WEIGHT = 8
# Words of a copied opening that are compared; a model may copy a whole paragraph.
MOST_WORDS = 16


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a text in normal form, and their shortest opening; both empty without words."""

    line: str
    start: str
    weight: int  # of the shortest opening; less than LEAST_WEIGHT where the whole text is shorter


@lru_cache(maxsize=4096)
def head_of(text: str) -> Head:
    """Return the head of a text."""
    first = words(normal_form(text.strip()[:HEAD_CHARS]))
    weight = count = 0
    while weight < LEAST_WEIGHT and count < len(first):
        weight += _weight(first[count])
        count += 1
    return Head(_line(first), _line(first[:count]), min(weight, LEAST_WEIGHT))


def begin_alike(one: Head, other: Head) -> bool:
    """Tell whether an opening of one could be the other's; a text without words shows none."""
    return not one.start or not other.start or one.start in other.line or other.start in one.line


def holds(opening: Any, own: Head, mates: Iterable[Head]) -> bool:
    """Tell whether an opening as answered is one of this text, and of none of its batch-mates."""
    if not isinstance(opening, str) or not own.start:
        return False
    copied = words(normal_form(opening))[:MOST_WORDS]
    line = _line(copied)
    if sum(map(_weight, copied)) < own.weight or line not in own.line:
        return False
    return not any(line in mate.line for mate in mates)


def _weight(word: str) -> int:
    return 1 if is_spaceless(word) else 2


def _line(found: Sequence[str]) -> str:
    # Blanks around it, so that no word is found inside a longer one.
    return f" {' '.join(found)} " if found else ""
