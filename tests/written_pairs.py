"""Instructions that a person wrote for 77 of the sample contents, and pairs made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llmtwin_data.chunks import Chunk
from llmtwin_data.generation import Pair
from llmtwin_data.languages import words
from llmtwin_data.measures import Measures, measure_pairs

ROOT = Path(__file__).parents[1]
WRITTEN = ROOT / "tests" / "data" / "good_instructions.jsonl"
# As params cut them; the sample's longer articles lose their end.
CHUNK_CHARS = 2000


def read_lines(path: Path) -> list[dict[str, str]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def sample_texts() -> dict[tuple[str, str], str]:
    """Give the sample's texts by collection and id."""
    texts = {}
    for name in ("posts", "articles", "repositories"):
        for row in read_lines(ROOT / "data" / "sample" / f"{name}.jsonl"):
            texts[f"cleaned_{name}", str(row["id"])] = row.get("cleaned_content") or row.get("content") or ""
    return texts


def written() -> list[tuple[str, str]]:
    """Give the written instructions, each with its text."""
    texts = sample_texts()
    rows = read_lines(WRITTEN)
    return [(row["instruction"], texts[row["collection"], row["content_id"]][:CHUNK_CHARS]) for row in rows]


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


def containment(one: str, other: str) -> float:
    """Give the eight-word windows that both texts hold over the smaller one's; no index."""
    mine, its = (
        {" ".join(told[start : start + 8]) for start in range(max(1, len(told) - 7))}
        for told in (words(one), words(other))
    )
    return len(mine & its) / min(len(mine), len(its))
