"""Phrases that two texts share, marked in escaped HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup, escape

# A shared phrase is two words in a row; one of them must be long enough to mean something.
MEANING_CHARS = 4
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
IDEOGRAPH = re.compile(rf"[{CJK}]")


def mark_shared(text: str, other: str, *, meaning: int = MEANING_CHARS) -> Markup:
    """Escape a text and mark every phrase of two or more words that also stands in the other."""
    shared = _phrases(other, meaning)
    tokens = list(TOKEN.finditer(text))
    spans: list[tuple[int, int]] = []
    for left, right in pairwise(tokens):
        if _phrase(left.group(), right.group(), meaning) in shared:
            start = spans.pop()[0] if spans and spans[-1][1] >= left.start() else left.start()
            spans.append((start, right.end()))
    return _wrap(text, spans)


def _phrases(text: str, meaning: int) -> set[tuple[str, str]]:
    words = TOKEN.findall(text)
    found = (_phrase(left, right, meaning) for left, right in pairwise(words))
    return {phrase for phrase in found if phrase is not None}


def _phrase(left: str, right: str, meaning: int) -> tuple[str, str] | None:
    telling = max(len(left), len(right)) >= meaning or IDEOGRAPH.match(left) or IDEOGRAPH.match(right)
    return (left.casefold(), right.casefold()) if telling else None


def _wrap(text: str, spans: Sequence[tuple[int, int]]) -> Markup:
    pieces, at = Markup(""), 0
    for start, end in spans:
        pieces += escape(text[at:start]) + Markup("<mark>{}</mark>").format(text[start:end])
        at = end
    return pieces + escape(text[at:])
