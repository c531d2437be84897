"""Pairs made of the written instructions, and their measures."""

from __future__ import annotations

from collections.abc import Sequence

from written import written

from llmtwin_data.contents import Chunk, Pair
from llmtwin_data.measures import Measures, measure_pairs


def pair(instruction: str, text: str, number: int = 0, *, k: int = 1, start: int = 0, **fields: str) -> Pair:
    """Make a pair; fields are those of its chunk."""
    told = {"content_id": str(number), "collection": "posts", "data_type": "posts", "author": str(number % 3)}
    told |= {"platform": "linkedin", "link": ""} | fields
    chunk = Chunk(start=start, end=start + len(text), text=text, **told)
    return Pair(chunk, k, instruction, "grounded", "0" * 64, "model", f"key-{number}-{start}-{k}")


def written_pairs() -> list[Pair]:
    """Give the written instructions as pairs, one content each."""
    return [pair(instruction, text, number) for number, (instruction, text) in enumerate(written())]


def measured(pairs: Sequence[Pair], *, language: str = "same") -> list[Measures]:
    """Measure pairs against one another's chunks."""
    texts = list(dict.fromkeys(each.chunk.text for each in pairs))
    owners = [texts.index(each.chunk.text) for each in pairs]
    return measure_pairs([each.instruction for each in pairs], owners, texts, asked_language=language)
