"""Take forgotten texts out of the store: their words, their answers, where they came from; a hash stays."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from llmtwin_data.answers.tables import insert, sealed, unsealed
from llmtwin_data.languages import windows

# Words in a row that no file of the store may share with a forgotten text.
QUOTED_WORDS = 20
MARK = "[forgotten]"
# Characters; a string of a raw answer that is longer and no JSON may spell out an answer in its own way.
SHORT = 60
BATCH = 500


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was taken out: ``places`` are (collection, content id, start, end), ``texts`` what stood there."""

    places: frozenset[tuple[str, str, int, int]]
    keys: frozenset[str]
    text_sha256: frozenset[str]
    requests: int
    texts: frozenset[str] = field(repr=False)

    @property
    def contents(self) -> tuple[tuple[str, str], ...]:
        """Give collection and content id of each, sorted."""
        return tuple(sorted({place[:2] for place in self.places}))


def forget_marks(*, author: str, link: str, collection: str, content_id: str) -> frozenset[str]:
    """Give the hashes under which a content of this origin may have been forgotten."""
    named = [("author", author), ("link", link), ("content", content_id)]
    named.append(("place", f"{collection}/{content_id}" if collection and content_id else ""))
    return frozenset(hashlib.sha256(f"{kind}\0{name}".encode()).hexdigest() for kind, name in named if name)


def text_hash(text: str) -> str:
    """Give the hash that stands for a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def erase(
    db: sqlite3.Connection, *, author: str, link: str, content_id: str, collection: str, texts: Iterable[str]
) -> ForgetReport:
    """Take out, inside the caller's transaction, what came from there and every text among the given ones."""
    given = frozenset(texts)
    named = {"author": author, "link": link, "content_id": content_id, "collection": collection}
    origins = list(origins_of(db, **named))
    places = {(row[0], row[1], row[2], row[3]) for row in origins}
    hashes = {row[4] for row in origins}
    hashes |= {text_hash(text) for text in given}
    given |= frozenset(_stored_texts(db, hashes))
    quotes = _windows_of(given)
    # What quotes so much is forgotten as well, or the next run would bring the words back.
    hashes |= set(_texts_quoting(db, quotes))
    keys = _keys_of(db, hashes) | _keys_quoting(db, quotes)
    requests = _scrub_requests(db, hashes, quotes)
    marks = set(forget_marks(**named))
    if collection and content_id.isdecimal():
        marks -= forget_marks(author="", link="", collection="", content_id=content_id)
    # A number is the id of a content in every other source as well, and would be skipped there.
    for place, found in {place[:2] for place in places if not place[1].isdecimal()}:
        marks |= forget_marks(author="", link="", collection=place, content_id=found)
    tombstones = [sealed("forgotten", (mark,)) for mark in sorted(marks | hashes)]
    db.executemany(insert("forgotten"), tombstones)
    for key in keys:
        db.execute("DELETE FROM answers WHERE key=?", (key,))
        db.execute("DELETE FROM origins WHERE key=?", (key,))
    blanks = [sealed("texts", (digest, None)) for digest in sorted(hashes)]
    db.executemany(insert("texts", "REPLACE"), blanks)
    return ForgetReport(frozenset(places), frozenset(keys), frozenset(hashes), requests, given)


def origins_of(
    db: sqlite3.Connection, *, author: str, link: str, content_id: str, collection: str
) -> Iterator[tuple[str, str, int, int, str, str | None]]:
    """Give the pieces from there, each once: collection, content id, start, end, hash, text if it is kept."""
    sql = (
        "SELECT DISTINCT collection, content_id, start, stop, text_sha256, text FROM origins "
        "LEFT JOIN texts ON sha256=text_sha256 WHERE (?1!='' AND author=?1) OR (?2!='' AND link=?2) "
        "OR (?3!='' AND content_id=?3 AND ?4 IN ('', collection)) ORDER BY 1, 2, 3, 4, length(text)"
    )
    yield from db.execute(sql, (author, link, content_id, collection))


def _stored_texts(db: sqlite3.Connection, hashes: AbstractSet[str]) -> Iterator[str]:
    for digest in hashes:
        for (text,) in db.execute("SELECT text FROM texts WHERE sha256=? AND text IS NOT NULL", (digest,)):
            yield text


def _windows_of(texts: Iterable[str]) -> set[int]:
    return {window for text in texts for window in windows(text, size=QUOTED_WORDS)}


def _texts_quoting(db: sqlite3.Connection, quotes: AbstractSet[int]) -> Iterator[str]:
    for digest, text in db.execute("SELECT sha256, text FROM texts WHERE text IS NOT NULL"):
        if _quotes(text, quotes):
            yield digest


def _keys_of(db: sqlite3.Connection, hashes: AbstractSet[str]) -> set[str]:
    sql = "SELECT key FROM origins WHERE text_sha256=?"
    return {key for digest in hashes for (key,) in db.execute(sql, (digest,))}


def _keys_quoting(db: sqlite3.Connection, quotes: AbstractSet[int]) -> set[str]:
    return {
        key for key, said in db.execute("SELECT key, said || value FROM answers") if _quotes(said, quotes)
    }


def _scrub_requests(db: sqlite3.Connection, hashes: AbstractSet[str], quotes: AbstractSet[int]) -> int:
    """Blank in every raw answer what was said of a forgotten text; the rest of it stays."""
    scrubbed = []
    for row in db.execute("SELECT * FROM requests"):
        forgotten = {number for number, digest in enumerate(json.loads(row[2]), 1) if digest in hashes}
        raw = _scrubbed(row[4], forgotten) if forgotten else row[4]
        raw = MARK if _quotes(raw, quotes) else raw
        skeleton = "[]" if forgotten and _quotes(row[3], quotes) else row[3]
        if (raw, skeleton) != (row[4], row[3]):
            scrubbed.append(sealed("requests", (*row[:3], skeleton, raw, *unsealed("requests", row)[5:])))
    db.executemany(insert("requests", "REPLACE"), scrubbed)
    return len(scrubbed)


def _scrubbed(raw: str, numbers: AbstractSet[int]) -> str:
    try:
        return json.dumps(_without(json.loads(raw), numbers), ensure_ascii=False)
    except (ValueError, RecursionError):
        return MARK


def _without(value: Any, numbers: AbstractSet[int]) -> Any:
    if isinstance(value, list):
        return [_without(item, numbers) for item in value]
    if isinstance(value, str):
        return _scrubbed(value, numbers) if value[:1] in ("{", "[") or len(value) > SHORT else value
    if not isinstance(value, dict):
        return value
    if str(value.get("content")) in map(str, numbers):
        return {"content": value["content"], "instruction": MARK}
    return {key: _without(item, numbers) for key, item in value.items()}


def _quotes(text: str, quotes: AbstractSet[int]) -> bool:
    return bool(quotes) and any(
        not quotes.isdisjoint(windows(part, size=QUOTED_WORDS)) for part in _parts(text)
    )


def _parts(text: str) -> Iterator[str]:
    """Give every string that a text of JSON holds, strings of JSON inside strings too; else the text."""
    try:
        value = json.loads(text) if text[:1] in '{["' else text
    except (ValueError, RecursionError):
        value = text.replace("\\n", "\n").replace('\\"', '"')
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if item is text or item[:1] not in "{[":
                yield item
            else:
                yield from _parts(item)
        elif isinstance(item, dict | list):
            stack.extend(item.values() if isinstance(item, dict) else item)
