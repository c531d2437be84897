"""Texts by number and seconds by load, for every test."""

from __future__ import annotations

import os
import random

SYLLABLES = [first + second for first in "bcdfghjkl" for second in "aeiou"]


def document(number: int) -> str:
    """Give a text that names itself and shares no word with any other."""
    dice = random.Random(number)
    words = ["".join(dice.choices(SYLLABLES, k=4)) for _ in range(12)]
    return f"DOC-{number} " + " ".join(words) + "."


def busy(seconds: float) -> float:
    """Give these seconds of an idle machine as what they may become on a busy one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
