"""Where a long text is cut: at paragraph ends, else sentence ends, into pieces of about even length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import regex

from llmtwin_data.languages.sentences import grapheme_boundary, sentence_ends

_BLANK_LINE = regex.compile(r"\n[ \t\r]*\n\s*\Z")
# Inside a sentence too long for a chunk: after blanks, or after a comma of a script without blanks.
_WORD_END = regex.compile(r"(?:\s++|[，、；：,;:]\s*+)(?![\p{M}\u200d\ufe0e\ufe0f\p{Emoji_Modifier}])")

# How far from the even length, as a share of the longest chunk, a cut may lie to avoid such a place.
_PARAGRAPH, _SENTENCE, _WORD, _CHARACTER = 0.0, 0.15, 0.5, 0.75


def even_cuts(text: str, *, max_chars: int) -> list[int]:
    """Choose the cuts inside a text: as few as can be, each near to an even share of what is left.

    A sentence that is itself too long is cut at words, and a word that is too long between graphemes.
    """
    if len(text) <= max_chars:
        return []
    ends, costs = _possible_ends(text, max_chars=max_chars)
    needed = _chunks_needed(ends, max_chars=max_chars)
    cuts: list[int] = []
    start, left = 0, needed[0]
    while left > 1:
        share = (len(text) - start) / left
        first, last = bisect_right(ends, start), bisect_right(ends, start + max_chars)
        allowed = (at for at in range(first, last) if needed[at + 1] <= left - 1)
        best = min(allowed, key=lambda at: (abs(ends[at] - start - share) + costs[at] * max_chars, ends[at]))
        start, left = ends[best], left - 1
        cuts.append(start)
    return cuts


def _chunks_needed(ends: list[int], *, max_chars: int) -> list[int]:
    """Give how few chunks hold the rest of the text, for a rest that begins at each possible end."""
    begins = [0, *ends]
    needed = [0] * len(begins)
    for at in range(len(ends) - 1, -1, -1):
        furthest = bisect_right(begins, begins[at] + max_chars) - 1
        needed[at] = 1 + needed[furthest]
    return needed


def _possible_ends(text: str, *, max_chars: int) -> tuple[list[int], list[float]]:
    """Give where a chunk may end, in order, and the cost of each; no two are too far apart."""
    ends: list[int] = []
    costs: list[float] = []
    start = 0
    for end in sentence_ends(text):
        for inner, cost in _ends_inside(text, start, end, max_chars=max_chars):
            ends.append(inner)
            costs.append(cost)
        ends.append(end)
        costs.append(_PARAGRAPH if _BLANK_LINE.search(text, max(start, end - 40), end) else _SENTENCE)
        start = end
    return ends, costs


def _ends_inside(text: str, start: int, end: int, *, max_chars: int) -> Iterator[tuple[int, float]]:
    """Give the ends inside a sentence that is too long: of its words, or of pieces of a word too long."""
    if end - start <= max_chars:
        return
    words = [match.end() for match in _WORD_END.finditer(text, start, end) if start < match.end() < end]
    for word_end in [*words, end]:
        while word_end - start > max_chars:
            pieces = -(-(word_end - start) // max_chars)
            boundary = grapheme_boundary(text, start + -(-(word_end - start) // pieces), since=start)
            # One grapheme longer than a chunk has to be cut somewhere.
            start = boundary if boundary > start else start + max_chars
            yield start, _CHARACTER
        if word_end < end:
            yield word_end, _WORD
        start = word_end
