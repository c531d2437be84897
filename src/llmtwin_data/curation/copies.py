"""Pairs that copy an earlier pair, by their chunk or by their instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmtwin_data.curation.decisions import Decision, rejected
from llmtwin_data.languages import words
from llmtwin_data.measures.near_duplicates import NearCopies

if TYPE_CHECKING:
    from llmtwin_data.chunks import Span
    from llmtwin_data.generation import Pair


def reject_copies(pairs: Sequence[Pair], decisions: list[Decision], *, threshold: float) -> None:
    """Reject those accepted so far that copy an earlier pair which stays; the value is that pair's id.

    A chunk copies another at the threshold. Short texts of one habit share most of their words, so that an
    instruction copies another only halfway from there to equality; punctuation is ignored.
    """
    left = [place for place, decision in enumerate(decisions) if decision.accepted]
    numbers: dict[Span, int] = {}
    chunks = [numbers.setdefault(pairs[place].chunk.span, len(numbers)) for place in left]
    texts = dict(zip(chunks, (pairs[place].chunk.text for place in left), strict=True))
    contents = NearCopies(list(texts.values()), threshold=threshold)
    spoken = [" ".join(words(pairs[place].instruction)) for place in left]
    instructions = NearCopies(spoken, threshold=(1 + threshold) / 2)
    kept: dict[int, str] = {}
    for number, (place, chunk) in enumerate(zip(left, chunks, strict=True)):
        if chunk not in kept and (copied := contents.find(chunk)):
            decisions[place] = _copy(kept[copied[0]], equal=copied[1])
        elif repeated := instructions.find(number):
            decisions[place] = _copy(pairs[left[repeated[0]]].id, equal=repeated[1])
        else:
            instructions.keep(number)
            if kept.setdefault(chunk, pairs[place].id) == pairs[place].id:
                contents.keep(chunk)


def _copy(original: str, *, equal: bool) -> Decision:
    return rejected("duplicate" if equal else "near_duplicate", original)
