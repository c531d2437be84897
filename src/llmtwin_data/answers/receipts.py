"""What the store keeps of a question: its answer, the requests paid for it, and how to trace them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal

from llmtwin_data.answers.erasure import MARK
from llmtwin_data.answers.tables import is_sealed, sealed, unsealed

TEXT_SLOT = re.compile(r"\{\{sha256:([0-9a-f]{64})\}\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The final word on one question; ``values`` are the chosen instructions, or score and reason."""

    key: str
    state: Literal["ok", "failed"]
    values: tuple[str, ...]
    reason: str = ""
    value: str = ""
    requests: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    model: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """One request as it went out and came back; ``skeleton`` names each text by its sha256."""

    id: str
    recipe_sha256: str
    texts: tuple[str, ...]
    skeleton: str
    raw: str
    status: int
    outcome: str
    attempt: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    model: str
    system_fingerprint: str = ""
    seconds: float = 0.0
    at: str = ""
    batch_id: str = ""
    reasoning_tokens: int | None = None  # of the completion's, hidden ones; None where nobody says


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch at the provider: ``lines`` is JSON, custom id to whatever finds its questions again."""

    id: str
    endpoint: str
    state: str
    lines: str
    file_id: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """How one answer came to be; a forgotten text is None in ``texts`` and marked in ``messages``."""

    answer: Answer
    request: PaidRequest
    texts: tuple[str | None, ...]
    messages: list[dict[str, str]]
    recipe: dict[str, Any]


TABLES = {
    kind: (table, attrgetter(*(field.name for field in fields(kind))))
    for kind, table in ((Answer, "answers"), (PaidRequest, "requests"), (StoredBatch, "batches"))
}


def row_of(record: Answer | PaidRequest | StoredBatch) -> tuple[Any, ...]:
    """Give the row that a record is stored as, in the table of its kind."""
    table, values = TABLES[type(record)]
    return sealed(table, tuple(map(_storable, values(record))))


def answer_of(row: tuple[Any, ...]) -> Answer:
    """Give the answer of a row."""
    return Answer(*_unpacked("answers", row))


def trace(db: sqlite3.Connection, key: str) -> Trace | None:
    """Give the request behind an answer, its prompt rebuilt from the stored texts."""
    found = db.execute("SELECT * FROM answers WHERE key=?", (key,)).fetchone()
    if found is None or not is_sealed("answers", found):
        return None
    answer = answer_of(found)
    row = db.execute("SELECT * FROM requests WHERE id=?", (answer.request_id,)).fetchone()
    if row is None or not is_sealed("requests", row):
        return None
    request = PaidRequest(*_unpacked("requests", row))
    texts = {digest: _text(db, digest) for digest in request.texts}
    recipe = db.execute("SELECT json FROM recipes WHERE sha256=?", (request.recipe_sha256,)).fetchone()
    return Trace(
        answer=answer,
        request=request,
        texts=tuple(texts[digest] for digest in request.texts),
        messages=list(_filled(request.skeleton, texts)),
        recipe=json.loads(recipe[0]) if recipe else {},
    )


def totals(db: sqlite3.Connection) -> dict[str, Any]:
    """Count what is stored: answers by state and reason, requests by outcome, tokens and cost by model."""
    models: dict[str, dict[str, Any]] = defaultdict(Counter)
    for model, state, count in db.execute("SELECT model, state, count(*) FROM answers GROUP BY 1, 2"):
        models[model][state] += count
    paid = "count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_usd), sum(cost_usd IS NULL)"
    names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "cost_unknown")
    for model, *sums in db.execute(f"SELECT model, {paid} FROM requests GROUP BY 1"):
        models[model].update(dict(zip(names, (value or 0 for value in sums), strict=True)))
    whole = db.execute(f"SELECT {paid} FROM requests").fetchone()
    return {
        "answers": _counted(db, "SELECT state, count(*) FROM answers GROUP BY 1"),
        "failed": _counted(db, "SELECT reason, count(*) FROM answers WHERE state='failed' GROUP BY 1"),
        "outcomes": _counted(db, "SELECT outcome, count(*) FROM requests GROUP BY 1"),
        "batches": _counted(db, "SELECT state, count(*) FROM batches GROUP BY 1"),
        "texts": db.execute("SELECT count(text) FROM texts").fetchone()[0],
        "forgotten": db.execute("SELECT count(*) FROM forgotten").fetchone()[0],
        "models": {model: dict(counts) for model, counts in sorted(models.items())},
    } | dict(zip(names, (value or 0 for value in whole), strict=True))


def _storable(value: Any) -> Any:
    # SQLite holds no lone surrogate; in what a model wrote it becomes a question mark.
    if isinstance(value, tuple):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    # Nor a NaN, nor a number of more than 64 bits, whatever an endpoint says that it used.
    return value if value is None or abs(value) < 2**62 else None


def _unpacked(table: str, row: Sequence[Any]) -> list[Any]:
    values = list(unsealed(table, row))
    values[2] = tuple(json.loads(row[2]))
    return values


def _text(db: sqlite3.Connection, digest: str) -> str | None:
    row = db.execute("SELECT * FROM texts WHERE sha256=?", (digest,)).fetchone()
    return row[1] if row and is_sealed("texts", row) else None


def _filled(skeleton: str, texts: dict[str, str | None]) -> Iterator[dict[str, str]]:
    def words(found: re.Match[str]) -> str:
        text = texts.get(found.group(1))
        return f"{MARK} {found.group(1)}" if text is None else text

    for message in json.loads(skeleton):
        yield message | {"content": TEXT_SLOT.sub(words, message["content"])}


def _counted(db: sqlite3.Connection, sql: str) -> dict[str, int]:
    return dict(db.execute(sql).fetchall())
