"""The store's tables; every row carries a checksum, so that a good one is known wherever it is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables as name to columns, the most precious first; ``steps`` lead up from version 1."""

    version: int
    tables: Mapping[str, str]
    keys: Mapping[str, str]
    steps: Mapping[int, str] = field(default_factory=dict)

    def width(self, table: str) -> int:
        """Count the columns of a table without its seal."""
        return len(self.tables[table].split(","))

    def script(self) -> str:
        """Give the statements that make an empty file."""
        return ";".join(
            f"CREATE TABLE {name} ({columns}, seal TEXT, PRIMARY KEY ({self.keys[name]}))"
            for name, columns in self.tables.items()
        )


SCHEMA = Schema(
    version=1,
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
)


def seal(table: str, values: Iterable[Any]) -> str:
    """Give the checksum of a row; a number counts by its value, since SQLite may store 1.0 as 1."""
    told = [v if isinstance(v, str) else str(float(v)) if isinstance(v, NUMBERS) else v or "" for v in values]
    return hashlib.blake2b("\x1f".join((table, *told)).encode(), digest_size=8).hexdigest()


def sealed(table: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Give the row as it is stored."""
    return (*values, seal(table, values))


def is_sealed(table: str, row: Sequence[Any]) -> bool:
    """Say whether a stored row is what was written."""
    try:
        return bool(seal(table, row[:-1]) == row[-1])
    except TypeError:
        return False


def insert(table: str, on_conflict: str = "IGNORE") -> str:
    """Give the statement that stores a sealed row; a row with the same key stays, or is REPLACEd."""
    return f"INSERT OR {on_conflict} INTO {table} VALUES ({','.join('?' * (SCHEMA.width(table) + 1))})"
