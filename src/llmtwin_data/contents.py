"""Contents of a collection, read page by page, and JSONL files loaded into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtwin_data.sources import Source


@dataclass(frozen=True, slots=True)
class Content:
    """One cleaned document; the point id is its only identity."""

    id: str
    collection: str
    text: str
    data_type: str
    author: str
    platform: str
    link: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A content, or the part from ``start`` to ``end`` of it, that no pair is made of, and why."""

    content_id: str
    collection: str
    length: int
    reason: str
    value: str = ""
    author: str = ""
    link: str = ""
    start: int = 0
    end: int = -1  # -1: to the end of the content


def read_contents(
    source: Source,
    collection: str,
    *,
    authors: Sequence[str] = (),
    platforms: Sequence[str] = (),
    limit: int = 0,
    data_type: str = "",
    page_size: int = 256,
) -> Iterator[Content | Skipped]:
    """Read every content of a collection in the engine's order."""
    raise NotImplementedError


def load_jsonl(source: Source, path: Path, *, collection: str) -> int:
    """Load a JSONL file into a collection and give the number of lines loaded."""
    raise NotImplementedError


def data_type_of(payload: Mapping[str, Any], collection: str, given: str) -> str:
    """Give the word for the kind of text."""
    raise NotImplementedError
