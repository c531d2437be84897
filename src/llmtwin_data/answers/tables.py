"""The store's tables; every row carries a checksum, so that a good one is known wherever it is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables as name to columns, the most precious first; ``steps`` lead up from version 1.

    What was ``added`` to a table later, one column at most, stands behind the seal and outside it.
    """

    version: int
    tables: Mapping[str, str]
    keys: Mapping[str, str]
    steps: Mapping[int, str] = field(default_factory=dict)
    added: Mapping[str, str] = field(default_factory=dict)

    def width(self, table: str) -> int:
        """Count the columns of a table that its seal covers."""
        return len(self.tables[table].split(","))

    def stored_width(self, table: str) -> int:
        """Count its columns, the seal and what was added among them."""
        return self.width(table) + 1 + (table in self.added)

    def script(self) -> str:
        """Give the statements that make an empty file."""
        more = {name: f", {column}" for name, column in self.added.items()}
        return ";".join(
            f"CREATE TABLE {name} ({columns}, seal TEXT{more.get(name, '')}, PRIMARY KEY ({self.keys[name]}))"
            for name, columns in self.tables.items()
        )


SCHEMA = Schema(
    version=2,
    tables={
        "answers": "key TEXT, state TEXT, said TEXT, reason TEXT, value TEXT, requests INTEGER,"
        "prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL, model TEXT, request_id TEXT",
        "origins": "key TEXT, collection TEXT, content_id TEXT, start INTEGER, stop INTEGER, author TEXT,"
        "link TEXT, text_sha256 TEXT",
        "requests": "id TEXT, recipe_sha256 TEXT, texts TEXT, skeleton TEXT, raw TEXT, status INTEGER,"
        "outcome TEXT, attempt INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL,"
        "model TEXT, system_fingerprint TEXT, seconds REAL, at TEXT, batch_id TEXT",
        "texts": "sha256 TEXT, text TEXT",
        "recipes": "sha256 TEXT, json TEXT",
        "batches": "id TEXT, endpoint TEXT, state TEXT, lines TEXT, file_id TEXT, at TEXT",
        "forgotten": "hash TEXT",
    },
    keys={
        "answers": "key",
        "origins": "key, collection, content_id, start, stop",
        "requests": "id",
        "texts": "sha256",
        "recipes": "sha256",
        "batches": "id",
        "forgotten": "hash",
    },
    steps={1: "ALTER TABLE requests ADD COLUMN reasoning_tokens INTEGER"},
    added={"requests": "reasoning_tokens INTEGER"},
)


def seal(table: str, values: Iterable[Any]) -> str:
    """Give the checksum of a row; a number counts by its value, since SQLite may store 1.0 as 1."""
    told = [v if isinstance(v, str) else str(float(v)) if isinstance(v, NUMBERS) else v or "" for v in values]
    return hashlib.blake2b("\x1f".join((table, *told)).encode(), digest_size=8).hexdigest()


def sealed(table: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Give the row as it is stored."""
    width = SCHEMA.width(table)
    return (*values[:width], seal(table, values[:width]), *values[width:])


def unsealed(table: str, row: Sequence[Any]) -> tuple[Any, ...]:
    """Give the values of a stored row."""
    width = SCHEMA.width(table)
    return (*row[:width], *row[width + 1 :])


def is_sealed(table: str, row: Sequence[Any]) -> bool:
    """Say whether a stored row is what was written."""
    try:
        width = SCHEMA.width(table)
        return bool(seal(table, row[:width]) == row[width])
    except TypeError:
        return False


def insert(table: str, on_conflict: str = "IGNORE") -> str:
    """Give the statement that stores a sealed row; a row with the same key stays, or is REPLACEd."""
    return f"INSERT OR {on_conflict} INTO {table} VALUES ({','.join('?' * SCHEMA.stored_width(table))})"
