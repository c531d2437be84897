"""Points as both engines know them: ids, filters, names of collections."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llmtwin_data.errors import ParamsError, SourceError

PointId = int | str
Payload = dict[str, Any]

# The course writes cleaned_content, its handbook content.
TEXT_FIELDS = ("cleaned_content", "content")
# The course writes author_id or owner_id, the handbook author_full_name as well.
AUTHOR_FIELDS = ("author_id", "owner_id", "author_full_name")

_NAME = re.compile(r"\w[\w.-]{0,63}")
_BATCH_CHARS = 4_000_000  # a server takes requests of at most 32 MB


def check_collection_name(name: str) -> str:
    """Give the name back, or raise ParamsError where it could leave the folder it becomes a part of."""
    if not _NAME.fullmatch(name):
        raise ParamsError(
            f"collection {name[:80]!r}: expected 1 to 64 letters, digits, '_', '-' or '.', beginning "
            "with neither '-' nor '.'; correct the name"
        )
    return name


def missing_collection(name: str, names: Sequence[str], *, address: str) -> SourceError:
    """Make the error for a collection that is not there, with the names most like it."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(near) + "?"
    elif names:
        hint = f"it has {', '.join(sorted(names)[:10])}"
    else:
        hint = "it has none; load one with: llmtwin-data load FILE.jsonl --collection " + name
    return SourceError(f"collection {name!r} is not at {address}; {hint}")


def point_filter(engine: Any, *, authors: Sequence[str], platforms: Sequence[str]) -> Any:
    """Build a filter from the classes of ``engine``; both engines name and combine them alike.

    Notes
    -----
    Authors are strings in some payloads and integers in others, so "2" is looked for as both.
    """
    must = []
    if authors:
        values: list[list[Any]] = [[str(author) for author in authors]]
        values.append([int(author) for author in values[0] if _is_integer(author)])
        must.append(
            engine.Filter(
                should=[
                    engine.FieldCondition(key=field, match=engine.MatchAny(any=alternatives))
                    for field in AUTHOR_FIELDS
                    for alternatives in values
                    if alternatives
                ]
            )
        )
    if platforms:
        match = engine.MatchAny(any=[str(platform) for platform in platforms])
        must.append(engine.FieldCondition(key="platform", match=match))
    return engine.Filter(must=must) if must else None


def batches(
    points: Iterable[tuple[PointId, Payload]], *, size: int
) -> Iterator[list[tuple[PointId, Payload]]]:
    """Group points for writing, by number and by the length of their texts."""
    batch: list[tuple[PointId, Payload]] = []
    chars = 0
    for point in points:
        batch.append(point)
        chars += sum(len(value) for value in point[1].values() if isinstance(value, str))
        if len(batch) == size or chars > _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _is_integer(text: str) -> bool:
    # Qdrant's integers have 64 bits; "02" is another author than 2.
    return bool(re.fullmatch(r"-?(0|[1-9]\d{0,17})", text)) and text.isascii()
