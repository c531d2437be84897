"""Instructions that a person wrote for 77 of the sample contents, and what two texts have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
WRITTEN = ROOT / "tests" / "data" / "good_instructions.jsonl"
# As params cut them; the sample's longer articles lose their end.
CHUNK_CHARS = 2000
# A character of a script without blanks is a word of its own.
WORD = re.compile(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+")


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


def containment(one: str, other: str) -> float:
    """Give the eight-word windows that both texts hold over the smaller one's; no index."""
    mine, its = (
        {" ".join(told[start : start + 8]) for start in range(max(1, len(told) - 7))}
        for told in (WORD.findall(text.lower()) for text in (one, other))
    )
    return len(mine & its) / min(len(mine), len(its))
