"""The files that people have, loaded into a collection whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from llmtwin_data.errors import SourceError
from llmtwin_data.sources import TEXT_FIELDS, Point, PointId, Source

# Under this key stands, escaped, a text that no engine can store: one with a lone surrogate.
NOT_ENCODABLE = "not_encodable"

# Lines with one id and different texts that an error names.
MOST_NAMED = 5

_LINE_IDS = uuid.UUID("6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d")
_LONGEST_LINE = 64 * 1024 * 1024  # bytes
_HIGHEST_ID = 2**64 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


def load_jsonl(source: Source, path: Path, *, collection: str) -> int:
    """Load a JSONL file, or what comes out of a pipe, into a collection; return how many contents.

    A line is a payload, plus an optional ``id`` (UUID or integer); without one the id is the uuid5 of the
    line, so that loading twice changes nothing and equal lines are one content.

    Raises
    ------
    SourceError
        The file or a line of it cannot be read, lines with one id hold different texts, or there is no line;
        the lines are named by their numbers, and nothing is loaded.
    """
    try:
        with path.open("rb") as given, _seekable(given) as file:
            count = _check(file, path.name)
            file.seek(0)
            source.write(collection, (point for _, point in _points(file, path.name)))
            return count
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}; expected a JSONL file") from error


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file that can be read twice: a pipe has its bytes once."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(file, spool)
        spool.seek(0)
        yield spool


def _check(file: BinaryIO, name: str) -> int:
    """Read every line, so that a bad one is found before any is loaded; return how many ids there are."""
    first: dict[PointId, tuple[int, bytes]] = {}
    clashes = []
    for number, (point_id, payload) in _points(file, name):
        text = json.dumps([payload.get(field) for field in TEXT_FIELDS], sort_keys=True).encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        known, held = first.setdefault(point_id, (number, digest))
        if held != digest:
            clashes.append(f"line {number} has the id of line {known} but another text")
    if clashes:
        more = f" and {len(clashes) - MOST_NAMED} more" if len(clashes) > MOST_NAMED else ""
        advice = "One would replace the other: give each text an id of its own, or none"
        raise SourceError(f"{name}: {'; '.join(clashes[:MOST_NAMED])}{more}. {advice}")
    if not first:
        raise SourceError(f"{name}: nothing to load; expected one JSON object a line, found no line")
    return len(first)


def _points(file: BinaryIO, name: str) -> Iterator[tuple[int, Point]]:
    """Yield number and point of each line with text; only a line feed ends a line, U+2028 does not."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), b""), start=1):
        if len(line) > _LONGEST_LINE:
            raise SourceError(f"{name} line {number}: longer than 64 MiB; split the text")
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        try:
            yield number, _point(line.strip())
        except ValueError as error:
            raise SourceError(f"{name} line {number}: {error}") from error


def _point(line: bytes) -> Point:
    try:
        text = line.decode("utf-8")
        payload = json.loads(text, parse_constant=_no_constant)
        reason = f"found a JSON {type(payload).__name__}"
    except (ValueError, RecursionError) as error:
        payload, reason = None, "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
    if not isinstance(payload, dict):
        raise ValueError(f"{reason}; expected one JSON object a line")
    if payload.keys().isdisjoint(TEXT_FIELDS):
        fields = ", ".join(payload)[:200] or "no field"
        raise ValueError(f"no text; expected {' or '.join(TEXT_FIELDS)}, found {fields}")
    given = payload.pop("id", None)
    return str(uuid.uuid5(_LINE_IDS, text)) if given is None else _point_id(given), _storable(payload)


def _point_id(given: Any) -> PointId:
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,20}", given):
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= _HIGHEST_ID:
        return given
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        wrong = f"id {str(given)[:60]!r} is no UUID and no whole number from 0"
        raise ValueError(f"{wrong}; leave it out, then the line itself gives one") from None


def _storable(value: Any) -> Any:
    """Escape texts with a lone surrogate, which no engine takes, so that reading can say what they are."""
    if isinstance(value, str):
        return {NOT_ENCODABLE: json.dumps(value)} if _SURROGATE.search(value) else value
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _storable(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_storable(held) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is beyond what JSON readers hold")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
