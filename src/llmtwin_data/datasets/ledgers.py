"""The ledger: one row per chunk and instruction, with its state, its reason and what its answer cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from llmtwin_data.chunks import Chunk
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import write_atomically
from llmtwin_data.generation import LedgerRow, Pair

STATES = ("accepted", "rejected", "failed", "skipped", "pending")
KEYS = tuple(field.name for field in fields(LedgerRow))
NUMBERS = ("start", "end", "k", "requests", "prompt_tokens", "completion_tokens")
TEXTS = ("content_id", "state", "reason", "value", "collection")
Span = tuple[str, str, int, int]
Place = tuple[str, str, int, int, int]


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> str:
    """Write the rows as JSON lines, whole or not at all; give the file's sha256."""
    data = b"".join(_line(row) for row in rows)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_ledger(path: Path) -> list[LedgerRow]:
    """Read every row, in order.

    Raises
    ------
    DiskFailed
        The file cannot be read, or a line is not a ledger row; the message names the line.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> Iterator[tuple[int, LedgerRow]]:
    """Read rows with their line numbers, counted from 1."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, _row(line)
    except (OSError, TypeError, ValueError) as error:
        raise DiskFailed(
            f"{path.name}, line {number}: expected a ledger row with the keys {KEYS}, {error}"
        ) from error


def ledger_totals(rows: Iterable[LedgerRow]) -> dict[str, int]:
    """Count contents, chunks (skipped ones too) and the rows of each state: the ``totals`` of run.json."""
    contents: set[tuple[str, str]] = set()
    spans: set[Span] = set()
    states: Counter[str] = Counter()
    for row in rows:
        contents.add((row.collection, row.content_id))
        spans.add(span_of(row))
        states[row.state] += 1
    return {"contents": len(contents), "chunks": len(spans)} | {state: states[state] for state in STATES}


def fates_sha256(rows: Sequence[LedgerRow]) -> str:
    """Hash where every row ended, not what it cost: a retry after a fault changes the cost only."""
    digest = hashlib.sha256()
    for row in rows:
        fate = [*place_of(row), row.state, row.reason, row.value]
        digest.update(json.dumps(fate, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def span_of(row: LedgerRow) -> Span:
    """Give the chunk that the row is about."""
    return row.collection, row.content_id, row.start, row.end


def place_of(row: LedgerRow) -> Place:
    """Give what no two rows share: the chunk and the number of the instruction."""
    return row.collection, row.content_id, row.start, row.end, row.k


def row_id(place: Place) -> str:
    """Give the id that a dataset row of this place has."""
    collection, content_id, start, end, k = place
    chunk = Chunk(
        content_id=content_id, collection=collection, start=start, end=end,
        text="", data_type="", author="", platform="", link="",
    )  # fmt: skip
    return Pair(chunk=chunk, k=k, instruction="", prompt="", prompt_sha256="", model="", answer_key="").id


def _line(row: LedgerRow) -> bytes:
    values = dict(zip(KEYS, astuple(row), strict=True))
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _row(line: bytes) -> LedgerRow:
    values = json.loads(line)
    if not isinstance(values, dict) or tuple(values) != KEYS:
        raise ValueError(f"found {list(values) if isinstance(values, dict) else type(values).__name__}")
    wrong = [name for name in NUMBERS if type(values[name]) is not int]
    wrong += [name for name in TEXTS if type(values[name]) is not str]
    if wrong:
        raise ValueError(f"found another type in {wrong}")
    return LedgerRow(**values)
