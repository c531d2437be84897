"""Phrases that two texts share, marked in escaped HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup, escape

# Letters of a shared phrase that tell: "the most" and "a train" do not, "vector search" does. Shorter words
# are mostly grammar, in any language, but an ideograph or an acronym.
TELLING_LETTERS = 10
FEWEST_LETTERS = 4
LETTERS_A_SIGN = 3
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
IDEOGRAPH = re.compile(rf"[{CJK}]")


def mark_shared(text: str, other: str, *, telling: int = TELLING_LETTERS) -> Markup:
    """Escape a text and mark every phrase of two or more telling words that also stands in the other."""
    shared = set(pairwise(word.casefold() for word in TOKEN.findall(other)))
    runs: list[list[re.Match[str]]] = []
    for left, right in pairwise(TOKEN.finditer(text)):
        if (left.group().casefold(), right.group().casefold()) not in shared:
            continue
        if runs and runs[-1][-1] is left:
            runs[-1].append(right)
        else:
            runs.append([left, right])
    spans = [(run[0].start(), run[-1].end()) for run in runs if sum(map(_letters, run)) >= telling]
    return _wrap(text, spans)


def _letters(token: re.Match[str]) -> int:
    word = token.group()
    if IDEOGRAPH.match(word) or (word.isupper() and len(word) > 1):
        return max(LETTERS_A_SIGN, len(word))
    return len(word) if len(word) >= FEWEST_LETTERS else 0


def _wrap(text: str, spans: Sequence[tuple[int, int]]) -> Markup:
    pieces, at = Markup(""), 0
    for start, end in spans:
        pieces += escape(text[at:start]) + Markup("<mark>{}</mark>").format(text[start:end])
        at = end
    return pieces + escape(text[at:])
