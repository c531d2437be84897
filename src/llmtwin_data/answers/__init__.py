"""The durable store of answers: one SQLite file that nothing paid for is lost from or asked again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from llmtwin_data.answers import receipts
from llmtwin_data.answers.erasure import ForgetReport, erase, forget_marks, origins_of, text_hash
from llmtwin_data.answers.mending import damaged_files, storage_errors
from llmtwin_data.answers.receipts import Answer, PaidRequest, StoredBatch, Trace, answer_of, row_of
from llmtwin_data.answers.storage import open_file
from llmtwin_data.answers.tables import SCHEMA, insert, is_sealed, sealed
from llmtwin_data.prompts import Question, Recipe

__all__ = [
    "Answer",
    "AnswerStore",
    "ForgetReport",
    "PaidRequest",
    "StoredBatch",
    "Trace",
    "forget_marks",
    "text_hash",
]

T = TypeVar("T")
# Keys looked up by one statement.
LOOKUP = 1_000
# An answer that is good stays as it is, whoever answers again; a failed one gives way.
KEEP_ANSWER = f"""{insert("answers", "ABORT")} ON CONFLICT (key) DO UPDATE SET
    state=excluded.state, said=excluded.said, reason=excluded.reason, value=excluded.value,
    requests=excluded.requests, prompt_tokens=excluded.prompt_tokens,
    completion_tokens=excluded.completion_tokens, cost_usd=excluded.cost_usd, model=excluded.model,
    request_id=excluded.request_id, seal=excluded.seal WHERE answers.state='failed'"""


class AnswerStore:
    """All answers in one SQLite file; what `save` returned from survives a power cut.

    Any thread may call, any number of processes may share the file. ``notes`` says what had to be mended.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = open_file(self.path, SCHEMA)
        self._guard = threading.RLock()
        self._recipes: set[str] = set()  # stored by this instance
        self.notes = self._file.notes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; closing twice does no harm."""
        with self._guard:
            self._file.close()

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Give the stored answers to these keys, failed ones too; a spoiled one is dropped."""
        rows = list(self._rows_of(keys))
        spoiled = {row[0] for row in rows if not is_sealed("answers", row)}
        if spoiled:
            self._drop_spoiled(spoiled)
        return {row[0]: answer_of(row) for row in rows if row[0] not in spoiled}

    def answered(self, keys: Sequence[str]) -> set[str]:
        """Give those of the keys that have a final answer, ok or failed."""
        return set(self.answers(keys))

    def save(
        self,
        *,
        requests: Sequence[PaidRequest] = (),
        answers: Sequence[Answer] = (),
        questions: Sequence[Question] = (),
        recipes: Sequence[Recipe] = (),
    ) -> None:
        """Store all of it in one transaction, durable on return."""
        hashes = [text_hash(question.text) for question in questions]
        texts = [sealed("texts", (h, q.text)) for h, q in zip(hashes, questions, strict=True)]
        origins = [_origin_row(q, h) for h, q in zip(hashes, questions, strict=True)]
        new = {recipe.sha256: recipe for recipe in recipes if recipe.sha256 not in self._recipes}
        words = [sealed("recipes", (digest, recipe.as_json())) for digest, recipe in new.items()]
        with self._guard, self._file.transaction() as db:
            db.executemany(insert("recipes"), words)
            db.executemany(insert("texts"), texts)
            db.executemany(insert("origins", "REPLACE"), origins)
            db.executemany(insert("requests"), map(row_of, requests))
            db.executemany(KEEP_ANSWER, map(row_of, answers))
        self._recipes |= new.keys()

    def save_batch(self, batch: StoredBatch) -> None:
        """Store a provider's batch, or its new state, durable on return."""
        with self._guard, self._file.transaction() as db:
            db.execute("DELETE FROM batches WHERE id=?", (batch.id,))
            db.execute(insert("batches"), row_of(batch))

    def batches(self, *, endpoint: str = "", state: str = "") -> list[StoredBatch]:
        """Give the stored batches, oldest first."""
        wanted = "(?1='' OR endpoint=?1) AND (?2='' OR state=?2)"
        rows = self._read(f"SELECT * FROM batches WHERE {wanted} ORDER BY at, rowid", (endpoint, state))
        return [StoredBatch(*row[:-1]) for row in rows]

    def forgotten_hashes(self) -> frozenset[str]:
        """Give the hashes of everything forgotten: texts by `text_hash`, origins by `forget_marks`."""
        return frozenset(digest for (digest,) in self._read("SELECT hash FROM forgotten"))

    def origins(
        self, *, author: str = "", link: str = "", content_id: str = "", collection: str = ""
    ) -> list[tuple[str, str, int, int, str | None]]:
        """Give collection, content id, start, end and text of every piece of an author, a link, a content."""
        named = {"author": author, "link": link, "content_id": content_id, "collection": collection}
        found = self._with(lambda: list(origins_of(self._file.connection, **named)))
        return [(*row[:4], row[5]) for row in found]

    def forget(
        self,
        *,
        author: str = "",
        link: str = "",
        content_id: str = "",
        collection: str = "",
        texts: Iterable[str] = (),
    ) -> ForgetReport:
        """Take out every text, answer and origin of an author, a link, a content, and the given texts.

        With ``collection`` a content is meant there only.

        Raises
        ------
        RunLocked
            Another run has the store open: it could write the texts again.
        """
        with self._guard, self._file.alone():
            with self._file.transaction() as db:
                named = {"author": author, "link": link, "content_id": content_id, "collection": collection}
                report = erase(db, **named, texts=texts)
            with storage_errors(self.path):
                db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for file in damaged_files(self.path):
                file.unlink()
        return report

    def trace(self, key: str) -> Trace | None:
        """Give the request behind an answer, its prompt rebuilt from the stored texts."""
        return self._with(lambda: receipts.trace(self._file.connection, key))

    def totals(self) -> dict[str, Any]:
        """Count what is stored: answers, requests by outcome, tokens and cost by model, bytes."""
        return self._with(lambda: receipts.totals(self._file.connection)) | {
            "bytes": self.path.stat().st_size
        }

    def hidden_tokens(self, *, endpoint: str, model: str) -> list[tuple[int, bool]]:
        """Give the hidden tokens of the latest requests to a model, and whether each lacked an answer."""
        named = (
            "CASE WHEN json_valid(json) "
            "THEN json_extract(json, '$.endpoint')=? AND json_extract(json, '$.model')=? END"
        )
        latest = f"(SELECT * FROM requests ORDER BY rowid DESC LIMIT {LOOKUP})"
        return self._read(
            f"SELECT reasoning_tokens, outcome!='ok' FROM {latest} JOIN recipes ON sha256=recipe_sha256 "
            f"WHERE reasoning_tokens > 0 AND {named}",
            (endpoint, model),
        )

    def _with(self, read: Callable[[], T]) -> T:
        with self._guard, storage_errors(self.path):
            return read()

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._with(lambda: self._file.connection.execute(sql, values).fetchall())

    def _rows_of(self, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), LOOKUP):
            part = keys[start : start + LOOKUP]
            holes = ",".join("?" * len(part))
            yield from self._read(f"SELECT * FROM answers WHERE key IN ({holes})", part)

    def _drop_spoiled(self, keys: AbstractSet[str]) -> None:
        with self._guard, self._file.transaction() as db:
            db.executemany("DELETE FROM answers WHERE key=?", [(key,) for key in keys])
        self.notes.append(f"{self.path.name}: {len(keys)} spoiled answers were dropped, they are asked again")


def _origin_row(question: Question, digest: str) -> tuple[Any, ...]:
    place = (question.collection, question.content_id, question.start, question.end)
    return sealed("origins", (question.key, *place, question.author, question.link, digest))
