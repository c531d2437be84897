"""Contents of a collection, read page by page in any of the payload shapes the course and its book wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtwin_data.errors import SourceError
from llmtwin_data.sources import Source
from llmtwin_data.sources.loading import NOT_ENCODABLE, load_jsonl
from llmtwin_data.sources.points import AUTHOR_FIELDS, TEXT_FIELDS, PointId

__all__ = ["SKIPPED", "Content", "Skipped", "data_type_of", "load_jsonl", "read_contents"]

LINK_FIELDS = ("link", "name")
FIELDS = (*TEXT_FIELDS, *AUTHOR_FIELDS, *LINK_FIELDS, "platform", "type")

# The reasons of `Skipped`, and what they mean to someone who did not write the reader.
SKIPPED = {
    "no_payload": "the point has no payload",
    "no_text": "the payload has no text field",
    "not_text": "the text field holds something else than text",
    "blank": "nothing but white space",
    "not_encodable": "holds a lone surrogate or NUL, which no file can carry",
    "markup_only": "nothing but markup",
    "secret": "holds a key or password",
    "personal_data": "holds personal data",
    "forgotten": "was asked to be forgotten",
}

_PAGE_CHARS = 8_000_000  # a page of longer texts makes the next one smaller

# What a text may hold without a word of its own: tags, comments, entities, Markdown images, rules.
_MARKUP = re.compile(r"<!--.*?-->|<[^<>]*>|&#?\w+;|!\[[^\]]*\]\([^)]*\)|\[URL\]", re.DOTALL)
_LETTER = re.compile(r"[^\W_]|[\u2600-\U0010ffff]")
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufeff]+"
)
_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")


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
    """A content, or the part of it from ``start`` to ``end``, that no pair is made of, and why."""

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
    """Read every content of a collection, in the engine's order of ids.

    Parameters
    ----------
    authors, platforms
        Only these, chosen by the engine; empty is all.
    limit
        Points to read at most, 0 is all.
    data_type
        The word for the kind of text, empty: from the payload or the collection's name.

    Raises
    ------
    SourceError
        The source cannot be read, or gives the same page again and again.

    Notes
    -----
    A scroll is no snapshot: a point added behind the cursor is not seen. A payload without usable text
    gives ``Skipped`` with one of no_payload, no_text, not_text, blank, not_encodable, markup_only.
    """
    offset, seen, read, before = None, set(), 0, frozenset[PointId]()
    size = page_size
    while True:
        wanted = min(size, limit - read) if limit else size
        page, offset = source.scroll(
            collection, offset=offset, page_size=wanted, authors=authors, platforms=platforms, fields=FIELDS
        )
        ids = frozenset(point_id for point_id, _ in page)
        for point_id, payload in dict(page).items():
            if point_id not in before:
                read += 1
                yield _content_of(point_id, payload, collection=collection, data_type=data_type)
        if offset is None or (limit and read >= limit):
            return
        if offset in seen:
            raise SourceError(
                f"{collection} at {source.address}: the server gave page offset {offset} twice, so reading "
                "would not end; restart the server, or export the collection and load the file"
            )
        seen.add(offset)
        before = ids
        size = _next_page_size(page, size=size, most=page_size)


def data_type_of(payload: Mapping[str, Any], collection: str, given: str) -> str:
    """Give the word for the kind of text: the given one, the payload's type, or the collection's name."""
    kind = payload.get("type")
    if given or (isinstance(kind, str) and kind.strip()):
        return given or str(kind).strip()
    return re.sub(r"^(cleaned|vector|raw)_(?=.)", "", collection)


def _content_of(
    point_id: PointId, payload: Mapping[str, Any], *, collection: str, data_type: str
) -> Content | Skipped:
    text, reason, value = _text_of(payload)
    author, link = _label(payload, AUTHOR_FIELDS), _label(payload, LINK_FIELDS)
    if reason:
        return Skipped(str(point_id), collection, len(text), reason, value, author, link)
    return Content(
        id=str(point_id),
        collection=collection,
        text=text,
        data_type=data_type_of(payload, collection, data_type),
        author=author,
        platform=_label(payload, ("platform",)),
        link=link,
    )


def _text_of(payload: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give text, reason and value: the first usable text field, else why the first present one is not."""
    if not payload:
        return "", "no_payload", ""
    given = [_as_loaded(payload[field]) for field in TEXT_FIELDS if payload.get(field) is not None]
    if not given:
        return "", "no_text", ""
    judged = [(value, *_unusable(value)) for value in given]
    value, reason, detail = next((found for found in judged if not found[1]), judged[0])
    return value if isinstance(value, str) else "", reason, detail


def _as_loaded(value: Any) -> Any:
    """Give the text that loading had to escape because no engine stores it."""
    if isinstance(value, Mapping) and isinstance(value.get(NOT_ENCODABLE), str):
        return json.loads(value[NOT_ENCODABLE])
    return value


def _unusable(value: Any) -> tuple[str, str]:
    if not isinstance(value, str):
        return "not_text", type(value).__name__
    if found := _UNENCODABLE.search(value):
        return "not_encodable", "NUL" if found[0] == "\0" else "surrogate"
    if not _INVISIBLE.sub("", value):
        return "blank", ""
    if not _LETTER.search(value) or not _LETTER.search(_MARKUP.sub("", value)):
        return "markup_only", ""
    return "", ""


def _label(payload: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Give the first present field as text; ids are strings in some collections and integers in others."""
    for field in fields:
        value = payload.get(field)
        if isinstance(value, str) and value.strip():
            return _UNENCODABLE.sub("\ufffd", value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def _next_page_size(page: Sequence[tuple[PointId, Mapping[str, Any]]], *, size: int, most: int) -> int:
    """Give the size for the next page, so that a page of long texts stays small in memory."""
    chars = sum(len(value) for _, payload in page for value in payload.values() if isinstance(value, str))
    if chars > _PAGE_CHARS:
        return max(1, size * _PAGE_CHARS // chars)
    return min(most, size * 2) if chars * 4 < _PAGE_CHARS else size
