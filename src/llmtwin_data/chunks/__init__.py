"""Contents cut into chunks that know their offsets; joined they are the content again."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import overload

from llmtwin_data.chunks.cuts import even_cuts
from llmtwin_data.contents import Content
from llmtwin_data.errors import DiskFailed

# Collection, content id, start and end.
Span = tuple[str, str, int, int]
_READ_AHEAD = 1024  # chunks


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

    @property
    def span(self) -> Span:
        """Where the text stands: no two chunks share it."""
        return self.collection, self.content_id, self.start, self.end


class ChunkSpool(Sequence[Chunk]):
    """A sequence of chunks that reads each from its file when it is asked for; safe for several threads."""

    def __init__(self, path: Path, offsets: array[int]) -> None:
        self.path = path
        self._offsets = offsets  # of each chunk's first byte, and of the end
        self._file = path.open("rb")

    @classmethod
    def write(cls, path: Path, chunks: Iterable[Chunk]) -> ChunkSpool:
        """Write chunks to a file, one JSON list a line, and open it; raises DiskFailed."""
        offsets = array("Q", [0])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for chunk in chunks:
                    line = json.dumps(astuple(chunk), ensure_ascii=False, separators=(",", ":")) + "\n"
                    offsets.append(offsets[-1] + file.write(line.encode()))
            return cls(path, offsets)
        except OSError as error:
            raise DiskFailed(f"cannot keep chunks in {path}: {error.strerror}; free the disk") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            return self._read(first, last) if step == 1 else [self[at] for at in range(first, last, step)]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        return self._read(at, at + 1)[0]

    def __iter__(self) -> Iterator[Chunk]:
        for first in range(0, len(self), _READ_AHEAD):
            yield from self._read(first, min(first + _READ_AHEAD, len(self)))

    def texts(self) -> Iterator[str]:
        """Stream the texts in order; each call begins anew."""
        return (chunk.text for chunk in self)

    def close(self) -> None:
        """Close the file; the chunks cannot be read after that."""
        self._file.close()

    def _read(self, first: int, last: int) -> list[Chunk]:
        if last <= first:
            return []
        start = self._offsets[first]
        # pread keeps no position, so that threads do not disturb each other.
        data = os.pread(self._file.fileno(), self._offsets[last] - start, start)
        return [Chunk(*json.loads(line)) for line in data.decode().split("\n") if line]


def split_content(content: Content, *, max_chars: int) -> list[Chunk]:
    """Cut a content at sentence ends into as few chunks of ``max_chars`` as can be; none is lost."""
    starts = [0, *even_cuts(content.text, max_chars=max_chars)]
    return [
        Chunk(
            content_id=content.id,
            collection=content.collection,
            start=start,
            end=end,
            text=content.text[start:end],
            data_type=content.data_type,
            author=content.author,
            platform=content.platform,
            link=content.link,
        )
        for start, end in zip(starts, [*starts[1:], len(content.text)], strict=True)
    ]


def text_sha256(text: str) -> str:
    """Give the hex sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
