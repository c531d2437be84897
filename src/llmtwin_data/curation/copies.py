"""Pairs that copy an earlier pair, by their chunk or by their instruction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmtwin_data.curation.decisions import Decision, rejected
from llmtwin_data.languages import normal_form, words
from llmtwin_data.measures.near_duplicates import near_duplicates

if TYPE_CHECKING:
    from llmtwin_data.generation import Pair


def reject_copies(
    pairs: Sequence[Pair],
    decisions: list[Decision],
    copies_of: Callable[[Sequence[Pair], float], Mapping[int, tuple[int, str]]],
    *,
    threshold: float,
) -> None:
    """Reject those accepted so far that copy an earlier one; the value is the kept pair's id."""
    left = [place for place, decision in enumerate(decisions) if decision.accepted]
    for copy, (kept, reason) in copies_of([pairs[place] for place in left], threshold).items():
        decisions[left[copy]] = rejected(reason, pairs[left[kept]].id)


def copied_contents(pairs: Sequence[Pair], threshold: float) -> dict[int, tuple[int, str]]:
    """Give the pairs whose chunk copies another: position of copy, of the kept pair, and the reason."""
    first: dict[tuple[str, str, int, int], int] = {}
    chunks = [_place(pair) for pair in pairs]
    for position, chunk in enumerate(chunks):
        first.setdefault(chunk, position)
    positions = list(first.values())
    copies = _copies([pairs[position].chunk.text for position in positions], threshold)
    of_chunk = {chunks[positions[copy]]: (positions[kept], reason) for copy, (kept, reason) in copies.items()}
    return {position: of_chunk[chunk] for position, chunk in enumerate(chunks) if chunk in of_chunk}


def copied_instructions(pairs: Sequence[Pair], threshold: float) -> dict[int, tuple[int, str]]:
    """Give the pairs whose instruction copies another, as `copied_contents` does; punctuation is ignored."""
    return _copies([" ".join(words(pair.instruction)) for pair in pairs], threshold)


def _copies(texts: Sequence[str], threshold: float) -> dict[int, tuple[int, str]]:
    found = {}
    for copy, kept in enumerate(near_duplicates(texts, threshold=threshold)):
        if kept is not None:
            equal = normal_form(texts[copy]) == normal_form(texts[kept])
            found[copy] = kept, "duplicate" if equal else "near_duplicate"
    return found


def _place(pair: Pair) -> tuple[str, str, int, int]:
    chunk = pair.chunk
    return chunk.collection, chunk.content_id, chunk.start, chunk.end
