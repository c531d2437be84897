"""The ledger: one row per chunk and instruction, with its state, its reason and what its answer cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from llmtwin_data.chunks import Span
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import write_atomically
from llmtwin_data.generation import LedgerRow

STATES = ("accepted", "rejected", "failed", "skipped", "pending")
KEYS = tuple(field.name for field in fields(LedgerRow))
NUMBERS = ("start", "end", "k", "requests", "prompt_tokens", "completion_tokens")
TEXTS = ("content_id", "state", "reason", "value", "collection")


def write_ledger(path: Path, rows: Iterable[LedgerRow]) -> None:
    """Write the rows as JSON lines, whole or not at all."""
    write_atomically(path, b"".join(_line(row) for row in rows))


def read_ledger(path: Path) -> list[LedgerRow]:
    """Read every row, in order.

    Raises
    ------
    DiskFailed
        The file cannot be read, or a line is not a ledger row; the message names the line.
    """
    rows: list[LedgerRow] = []
    try:
        with path.open("rb") as file:
            rows.extend(map(_row, file))
    except (OSError, TypeError, ValueError) as error:
        raise DiskFailed(
            f"{path.name}, line {len(rows) + 1}: expected a ledger row with the keys {KEYS}, {error}"
        ) from error
    return rows


def ledger_totals(rows: Iterable[LedgerRow]) -> dict[str, int]:
    """Count contents, chunks (skipped ones too) and the rows of each state: the ``totals`` of run.json."""
    contents: set[tuple[str, str]] = set()
    spans: set[Span] = set()
    states: Counter[str] = Counter()
    for row in rows:
        contents.add((row.collection, row.content_id))
        spans.add(row.span)
        states[row.state] += 1
    return {"contents": len(contents), "chunks": len(spans)} | {state: states[state] for state in STATES}


def fates_sha256(rows: Sequence[LedgerRow]) -> str:
    """Hash where every row ended, not what it cost: a retry after a fault changes the cost only."""
    digest = hashlib.sha256()
    for row in rows:
        fate = [*row.place, row.state, row.reason, row.value]
        digest.update(json.dumps(fate, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


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
