"""Contents cut at sentence ends into chunks that know their offsets, kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from llmtwin_data.contents import Content


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a content, short enough for one pair; offsets count code points."""

    content_id: str
    collection: str
    start: int
    end: int
    text: str
    data_type: str
    author: str
    platform: str
    link: str
    masked: str = ""  # kinds masked, with commas


def split_content(content: Content, *, max_chars: int) -> list[Chunk]:
    """Cut a content at sentence ends into chunks of at most ``max_chars``."""
    raise NotImplementedError


def text_sha256(text: str) -> str:
    """Give the hex sha256 of a text in UTF-8."""
    raise NotImplementedError


class ChunkSpool(Sequence[Chunk]):
    """Chunks on disk in a JSONL file, read lazily."""

    @classmethod
    def write(cls, path: Path, chunks: Iterable[Chunk]) -> ChunkSpool:
        """Write chunks to a file and open it."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        raise NotImplementedError

    def texts(self) -> Iterator[str]:
        """Stream the texts in order."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
