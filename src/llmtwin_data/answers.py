"""The durable store of answers: one SQLite file that nothing paid for is lost from or asked again."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked
from llmtwin_data.folders import disk_errors, locked, now, sync
from llmtwin_data.prompts import Question, Recipe
from llmtwin_data.texts import forget_marks, text_sha256, windows

# Identifies the file as ours among all SQLite files ("LTWN").
APPLICATION_ID = 0x4C54574E
SCHEMA_VERSION = 2
# What leads from a version to the next. (Stores of before have a `seal` in every table, and one is used.)
UPGRADES = {1: "ALTER TABLE requests ADD COLUMN reasoning_tokens INTEGER;"}
WAIT_SECONDS = 30.0
BACKUP_SECONDS = 600.0
# Words in a row that no answer may share with a forgotten text.
QUOTED_WORDS = 20
LEAST_USD = 1e-9  # less is what sums of floats differ by
FORGOTTEN = "[forgotten]"
LATEST_REQUESTS = 1_000
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
    """The request behind an answer; a forgotten text is None in ``texts`` and marked in ``messages``."""

    request: PaidRequest
    texts: tuple[str | None, ...]
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was taken out: ``places`` are (collection, content id, start, end), ``texts`` what stood there."""

    places: frozenset[tuple[str, str, int, int]]
    keys: frozenset[str]
    text_sha256: frozenset[str]
    texts: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """What is to be forgotten; a content by its point id, and its collection where one is named."""

    author: str = ""
    link: str = ""
    content_id: str = ""
    collection: str = ""


def _columns(kind: type) -> list[str]:
    return ["said" if column.name == "values" else column.name for column in fields(kind)]


_TABLES = {
    "answers": [*_columns(Answer), "seal"],
    "origins": ["key", "collection", "content_id", "start", "stop", "author", "link", "text_sha256"],
    "requests": _columns(PaidRequest),
    "batches": _columns(StoredBatch),
    "texts": ["sha256", "text"],
    "recipes": ["sha256", "json"],
    "forgotten": ["hash"],
}
_KEYS = {"origins": "key, collection, content_id, start, stop"}  # of others the first column
SCHEMA = "".join(
    f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({_KEYS.get(table, columns[0])}));"
    for table, columns in _TABLES.items()
)
_ORIGINS_OF = (
    "SELECT DISTINCT collection, content_id, start, stop, text_sha256, text FROM origins "
    "LEFT JOIN texts ON sha256=text_sha256 WHERE (:author!='' AND author=:author) "
    "OR (:link!='' AND link=:link) "
    "OR (:content_id!='' AND content_id=:content_id AND :collection IN ('', collection)) "
    "ORDER BY 1, 2, 3, 4, length(text)"
)


class AnswerStore:
    """All answers in one SQLite file; what `save` returned from survives a power cut.

    Any thread may call, any number of processes may share the file. Whoever is alone with it when opening
    checks it; if it is damaged it is set aside and the last backup takes its place, as ``notes`` says. What
    a killed process left in stores of parts is taken in then. A part is opened ``alone``, and kept so.

    Raises DiskFailed: no space, no right to write, or damaged and without a backup; ParamsError: another
    program's file, or one of a newer version; RunLocked: another process keeps it for itself.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        self.path = Path(path)
        self.retries = False  # what failed for good is to be asked again
        self.notes: list[str] = []
        self._guard = threading.RLock()
        self._is_backed_up = True
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _beside(self.path, ".lock").open("a", encoding="utf-8")
        try:
            with _storage_errors(self.path):
                if is_alone := locked(self._lock, seconds=alone * WAIT_SECONDS):
                    self.notes += _restore(self.path)
                    for left in (_beside(self.path, ".claims"), _beside(backup_of(self.path), ".new-")):
                        for leftover in _files_of(left):
                            leftover.unlink()
                elif alone or not locked(self._lock, fcntl.LOCK_SH, seconds=WAIT_SECONDS):
                    raise RunLocked(f"{self.path}: another process keeps it for itself; wait or end it")
                self._connection = _connect(self.path, alone=alone)
                self.take_in() if is_alone else self.take_in_left()
                if not alone:
                    fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            self._lock.close()
            raise
        _OPEN.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Back up what was saved since the last backup, and let go of the file, once or twice."""
        with self._guard:
            if self._lock.closed:
                return
            try:
                if not self._is_backed_up:
                    self.back_up()
            finally:
                self._connection.close()
                self._lock.close()

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Return the stored answers to these keys, failed ones too; one with a wrong checksum is dropped."""
        rows = self._read(
            f"SELECT {', '.join(_TABLES['answers'])} FROM answers "
            "WHERE key IN (SELECT value FROM json_each(?))",
            json.dumps(list(keys)),
        )
        spoiled = [(key,) for key, *row, seal in rows if _seal((key, *row)) != seal]
        if spoiled:
            with self._transaction() as db:
                db.executemany("DELETE FROM answers WHERE key=?", spoiled)
            self.notes.append(
                f"{self.path.name}: {len(spoiled)} spoiled answers were dropped, they are asked again"
            )
        return {
            key: Answer(key, state, tuple(json.loads(values)), *row)
            for key, state, values, *row, _ in rows
            if (key,) not in spoiled
        }

    def settled(self, keys: Sequence[str]) -> set[str]:
        """Return which of these keys will not be asked: the answered, and the failed unless it retries."""
        return {key for key, it in self.answers(keys).items() if it.state == "ok" or not self.retries}

    def save(
        self,
        *,
        requests: Sequence[PaidRequest] = (),
        answers: Sequence[Answer] = (),
        questions: Sequence[Question] = (),
        recipes: Sequence[Recipe] = (),
    ) -> None:
        """Store all of it in one transaction, durable on return; every ten minutes the store is backed up.

        An answer that is good stays as it is, whoever answers again; a failed one gives way.
        """
        texts = [(text_sha256(question.text), question.text) for question in questions]
        origins = [
            (q.key, q.collection, q.content_id, q.start, q.end, q.author, q.link, digest)
            for q, (digest, _) in zip(questions, texts, strict=True)
        ]
        rows = [_storable(answer) for answer in answers]
        with self._transaction() as db:
            _insert(db, "recipes", {(recipe.sha256, recipe.as_json()) for recipe in recipes})
            _insert(db, "texts", texts)
            _insert(db, "origins", origins, on_conflict="REPLACE")
            _insert(db, "requests", map(_storable, requests))
            db.executemany("DELETE FROM answers WHERE key=? AND state='failed'", [row[:1] for row in rows])
            _insert(db, "answers", [(*row, _seal(row)) for row in rows])
        self._is_backed_up = False
        backup = backup_of(self.path)
        if not backup.exists() or time.time() - backup.stat().st_mtime > BACKUP_SECONDS:
            self.back_up()

    def back_up(self) -> None:
        """Write the backup beside the store anew, whole or not at all."""
        backup = backup_of(self.path)
        staged = _beside(backup, f".new-{os.getpid()}")
        with self._guard, _storage_errors(backup):
            try:
                staged.unlink(missing_ok=True)
                with closing(sqlite3.connect(staged)) as copy:
                    copy.execute("PRAGMA journal_mode=OFF")
                    self._connection.backup(copy)
                _put_in_place(staged, backup)
                self._is_backed_up = True
            finally:
                staged.unlink(missing_ok=True)

    def claims(self) -> Claims:
        """Return what keeps two processes from asking the same question at once, to be entered and left."""
        return Claims(self.path)

    @contextmanager
    def parted(self) -> Iterator[None]:
        """Hold the stores of parts for this process; what another one left in them is taken in before.

        Raises RunLocked: another process asks in partitions, or has a part's store open.
        """
        with disk_errors(self.path):
            lock = _beside(self.path, ".parts").open("a")
        with lock:
            if not locked(lock):
                hint = "wait for it or end it, or set partitions: 1 to ask beside it"
                raise RunLocked(f"{self.path}: another process asks in partitions; {hint}")
            self.take_in()
            yield

    def take_in_left(self) -> None:
        """Take in what a process that was killed left in stores of parts."""
        if _parts_of(self.path):
            with suppress(RunLocked), self.parted():
                pass

    def new_part(self, number: int) -> Path:
        """Return the new store of a part."""
        path = self.path.with_suffix(f".part-{number}.sqlite")
        with disk_errors(path):
            _delete_part(path)
        AnswerStore(path, alone=True).close()
        return path

    def take_in(self) -> None:
        """Take in what the stores of parts hold, as `save` does, and delete them.

        One that is damaged and has no backup is set aside. Raises RunLocked: a process has one open.
        """
        with _storage_errors(self.path):
            parts = _parts_of(self.path)
            for path in parts:
                try:
                    part = AnswerStore(path, alone=True)
                except DiskFailed:
                    if not (damage := _examine(path)[0] if _size(path) else "it is empty"):
                        raise
                    aside = f"it is kept as {_set_aside(path).name}; what it held is asked again"
                    _delete_part(path)
                    self.notes.append(f"{path.name} was damaged ({damage}), and has no backup: {aside}")
                    continue
                with part:
                    self.notes += part.notes
                    part._connection.close()  # its lock is held until its files are away
                    self._copy_all(path)
                    _delete_part(path)
            if parts:
                self.back_up()

    def _copy_all(self, path: Path) -> None:
        with self._guard, _storage_errors(self.path):
            self._connection.execute("ATTACH ? AS part", (str(path),))
            try:
                with self._transaction() as db:
                    answered = "key IN (SELECT key FROM part.answers)"
                    db.execute(f"DELETE FROM main.answers WHERE state='failed' AND {answered}")
                    for table, columns in _TABLES.items():
                        names, on_conflict = ", ".join(columns), "REPLACE" if table == "origins" else "IGNORE"
                        rows = f"SELECT {names} FROM part.{table}"
                        db.execute(f"INSERT OR {on_conflict} INTO main.{table} ({names}) {rows}")
                    in_part = "SELECT ifnull(sum(cost_usd), 0) FROM part.requests"
                    if (unpaid := Note(path).spent - db.execute(in_part).fetchone()[0]) > LEAST_USD:
                        _insert(db, "requests", [_storable(_in_flight(unpaid))])
            finally:
                self._connection.execute("DETACH part")

    def save_batch(self, batch: StoredBatch) -> None:
        """Store a provider's batch, or its new state, durable on return."""
        with self._transaction() as db:
            _insert(db, "batches", [_storable(batch)], on_conflict="REPLACE")
        self._is_backed_up = False

    def batches(self, *, endpoint: str = "", state: str = "") -> list[StoredBatch]:
        """Return the stored batches, oldest first."""
        rows = self._read(
            f"SELECT {', '.join(_TABLES['batches'])} FROM batches "
            "WHERE (?1='' OR endpoint=?1) AND (?2='' OR state=?2) ORDER BY at, id",
            endpoint,
            state,
        )
        return [StoredBatch(*row) for row in rows]

    def forgotten_hashes(self) -> frozenset[str]:
        """Return the hashes of everything forgotten: texts by `text_sha256`, origins by `forget_marks`."""
        return frozenset(digest for (digest,) in self._read("SELECT hash FROM forgotten"))

    def answered(self) -> dict[tuple[str, str], list[tuple[int, int, str, str]]]:
        """Return by collection and content id start, end, `text_sha256` and key of each piece answered."""
        pieces: dict[tuple[str, str], list[tuple[int, int, str, str]]] = {}
        columns = "collection, content_id, start, stop, text_sha256, key"
        for collection, content_id, start, end, digest, key in self._read(
            f"SELECT {columns} FROM origins WHERE key IN (SELECT key FROM answers) ORDER BY 1, 2, 3, 4, 5"
        ):
            pieces.setdefault((collection, content_id), []).append((start, end, digest, key))
        return pieces

    def origins(self, origin: Origin) -> list[tuple[str, str, int, int, str | None]]:
        """Return collection, content id, start, end and text of every piece of what is named."""
        with self._guard, _storage_errors(self.path):
            return [(*row[:4], row[5]) for row in self._connection.execute(_ORIGINS_OF, asdict(origin))]

    def forget(self, origin: Origin, *, texts: Iterable[str] = ()) -> ForgetReport:
        """Take out text, answer and whole raw reply of an author, a link, a content, and the given texts.

        Hashes of them stay, by which later runs skip them, and what quotes 20 words of them goes as well.
        The WAL and the backup hold nothing of it either.

        Raises RunLocked: another run has the store open: it could write the texts again.
        """
        with self._guard:
            if not locked(self._lock):
                in_use = f"{self.path} is in use by another run"
                raise RunLocked(f"{in_use}; wait for it or end it, then do this again")
            try:
                self.take_in()
                with self._transaction() as db:
                    report = _erase(db, origin, frozenset(texts))
                with _storage_errors(self.path):
                    self._connection.execute("VACUUM")
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    damaged, backup = _beside(self.path, ".damaged"), _beside(backup_of(self.path), ".")
                    # Of parts those remain that were set aside as damaged.
                    for it in (damaged, backup, vectors_of(self.path), self.path.with_suffix(".part-")):
                        for leftover in _files_of(it):
                            leftover.unlink()
                self.back_up()
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        return report

    def trace(self, key: str) -> Trace | None:
        """Return the request behind an answer, its prompt rebuilt from the stored texts."""
        answer = self.answers([key]).get(key)
        columns = ", ".join(_TABLES["requests"])
        rows = self._read(f"SELECT {columns} FROM requests WHERE id=?", answer.request_id) if answer else []
        if not rows:
            return None
        name, recipe, sent, *rest = rows[0]
        request = PaidRequest(name, recipe, tuple(json.loads(sent)), *rest)
        among = "SELECT sha256, text FROM texts WHERE sha256 IN (SELECT value FROM json_each(?))"
        texts = dict(self._read(among, sent))

        def words(slot: re.Match[str]) -> str:
            return texts.get(slot[1]) or f"{FORGOTTEN} {slot[1]}"

        messages = [
            message | {"content": TEXT_SLOT.sub(words, message["content"])}
            for message in json.loads(request.skeleton)
        ]
        return Trace(request, tuple(texts.get(digest) for digest in request.texts), messages)

    def recipe_hashes(self) -> list[str]:
        """Return the sha256 of every recipe that was asked by."""
        return [digest for (digest,) in self._read("SELECT sha256 FROM recipes")]

    def totals(self) -> dict[str, Any]:
        """Count what is stored: answers, requests by outcome, tokens and cost by model, bytes."""

        def counts(column: str, rows: str) -> dict[str, int]:
            return dict(self._read(f"SELECT {column}, count(*) FROM {rows} GROUP BY 1"))

        names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "cost_unknown")
        sums = (
            "count(*), ifnull(sum(prompt_tokens), 0), ifnull(sum(completion_tokens), 0), "
            "ifnull(sum(cost_usd), 0), ifnull(sum(cost_usd IS NULL), 0) FROM requests"
        )
        models: dict[str, dict[str, Any]] = defaultdict(dict)
        for model, state, count in self._read("SELECT model, state, count(*) FROM answers GROUP BY 1, 2"):
            models[model][state] = count
        for model, *values in self._read(f"SELECT model, {sums} GROUP BY 1"):
            models[model] |= zip(names, values, strict=True)
        return {
            "answers": counts("state", "answers"),
            "failed": counts("reason", "answers WHERE state='failed'"),
            "outcomes": counts("outcome", "requests"),
            "batches": counts("state", "batches"),
            "texts": self._read("SELECT count(text) FROM texts")[0][0],
            "forgotten": len(self.forgotten_hashes()),
            "models": dict(sorted(models.items())),
            **dict(zip(names, self._read(f"SELECT {sums}")[0], strict=True)),
            "bytes": self.path.stat().st_size,
        }

    def hidden_tokens(self, *, endpoint: str, model: str) -> list[tuple[int, bool]]:
        """Return the hidden tokens of the latest requests to a model, and whether each lacked an answer."""
        return self._read(
            "SELECT reasoning_tokens, outcome!='ok' "
            f"FROM (SELECT * FROM requests ORDER BY rowid DESC LIMIT {LATEST_REQUESTS}) "
            "JOIN recipes ON sha256=recipe_sha256 WHERE reasoning_tokens > 0 AND CASE WHEN json_valid(json) "
            "THEN json_extract(json, '$.endpoint')=? AND json_extract(json, '$.model')=? END",
            endpoint,
            model,
        )

    def _read(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        with self._guard, _storage_errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all or nothing, durable on leaving."""
        with self._guard, _storage_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


class Note:
    """How far asking is, and what it has spent at most, in a file that outlives its process."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_suffix(".note")
        self._alone = threading.Lock()  # two threads write
        self.settled, self.failed, self.over, self.spent = 0, 0, 0, 0.0
        with suppress(OSError, ValueError):
            *counts, spent = self._path.read_text(encoding="ascii").split()
            self.settled, self.failed, self.over = map(int, counts)
            self.spent = float(spent)

    def pledge(self, usd: float) -> None:
        """Write that so much may be spent, before it is."""
        if usd > self.spent:
            self.write(spent=usd)

    def write(self, **values: Any) -> None:
        """Write these fields; it need not outlive the machine."""
        with self._alone, disk_errors(self._path):
            vars(self).update(values)
            line = f"{self.settled} {self.failed} {self.over} {self.spent!r}".ljust(80)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(file, line.encode(), 0)
            finally:
                os.close(file)


# An owner of claims shows so often that it moves, and one that did not for so long is taken for dead.
BEAT_SECONDS, STILL_SECONDS = 1.0, 10.0


class Claims:
    """The questions that this process is asking, so that no other one asks them at the same time.

    They stand in a file of their owner's, who holds a lock on it and touches it: claims end with the lock,
    and are taken over from an owner that stands still. None outlives its process, so nothing is synced.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        # Of other owners: when they last moved, since when, how far their claims are read, and these.
        self._others: dict[str, tuple[int, float, int, set[str]]] = {}
        self._over = threading.Event()
        self.renew()
        threading.Thread(target=self._beat, name="llmtwin-claims", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        Path(self._file.name).unlink(missing_ok=True)
        self._file.close()

    def renew(self) -> None:
        """Begin with no claims, also after another process took them over."""
        self._own: set[str] = set()
        with self._alone():
            self._file = _beside(self._store, f".claims-{uuid.uuid4().hex}").open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    @property
    def lost(self) -> bool:
        """Return whether another process took this one for dead, and its claims over."""
        return not os.fstat(self._file.fileno()).st_nlink

    def take(self, keys: Sequence[str]) -> set[str]:
        """Claim what nobody else is asking; return which of these questions are this process's."""
        with self._alone():
            mine, owners = Path(self._file.name), _files_of(_beside(self._store, ".claims-"))
            theirs = [self._claims_of(owner) for owner in owners if owner != mine]
            if self.lost:
                return set()
            own = {key for key in keys if not any(key in its for its in theirs)}
            self._file.write("".join(f"{key}\n" for key in own - self._own).encode())
            self._own |= own
            return own

    def release(self) -> None:
        """Let others ask what this process claimed and does not ask any more."""
        Path(self._file.name).unlink(missing_ok=True)
        self._file.close()
        self.renew()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError, ValueError):
                os.utime(self._file.fileno())

    def _claims_of(self, owner: Path) -> set[str]:
        """Return what another process is asking: nothing once it has ended, or stands still."""
        beat, since, read, keys = self._others.get(owner.name, (0, 0.0, 0, set[str]()))
        try:
            with owner.open("rb") as file:
                if (moved := os.fstat(file.fileno()).st_mtime_ns) != beat:
                    beat, since = moved, time.monotonic()
                if time.monotonic() - since > STILL_SECONDS or locked(file):
                    owner.unlink(missing_ok=True)
                    return set()
                file.seek(read)
                keys |= {*file.read().decode().split()}
                self._others[owner.name] = beat, since, file.tell(), keys
        except FileNotFoundError:
            return set()
        return keys

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time read and write claims."""
        with _storage_errors(self._store), _beside(self._store, ".claims").open("a") as lock:
            if not locked(lock, seconds=WAIT_SECONDS):
                raise RunLocked(f"{lock.name}: another process held it for {WAIT_SECONDS:.0f} s; try again")
            yield


# A notebook's kernel ends without closing its store: what was saved is backed up all the same.
_OPEN: weakref.WeakSet[AnswerStore] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for store in list(_OPEN):
        store.close()


def _storable(record: Answer | PaidRequest | StoredBatch) -> tuple[Any, ...]:
    """Return a record's values as SQLite takes them: no list, lone surrogate, NaN, or more than 64 bits."""
    values = []
    for column in fields(record):
        value = getattr(record, column.name)
        if isinstance(value, tuple):
            value = json.dumps(value, ensure_ascii=False)
        if isinstance(value, str):
            value = value if value.isascii() else value.encode("utf-8", "replace").decode()
        elif value is not None and not abs(value) < 2**62:
            value = None
        values.append(value)
    return tuple(values)


def _seal(row: Iterable[Any]) -> str:
    """Return the checksum of an answer; a number counts by its value, since SQLite may store 1.0 as 1."""
    words = [v if isinstance(v, str) else str(float(v)) if isinstance(v, int | float) else "" for v in row]
    return hashlib.blake2b("\x1f".join(("answers", *words)).encode(), digest_size=8).hexdigest()


def _erase(db: sqlite3.Connection, origin: Origin, texts: frozenset[str]) -> ForgetReport:
    """Put tombstones in the place of what came from there and of every text among the given ones."""
    origins = db.execute(_ORIGINS_OF, asdict(origin)).fetchall()
    places = frozenset(row[:4] for row in origins)
    hashes = {row[4] for row in origins} | {text_sha256(text) for text in texts}
    stored = dict(db.execute("SELECT sha256, text FROM texts WHERE text IS NOT NULL"))
    texts |= {stored[digest] for digest in hashes & stored.keys()}
    quotes = {window for text in texts for window in windows(text, size=QUOTED_WORDS)}
    # What quotes so much is forgotten as well, or the next run would bring the words back.
    hashes |= {digest for digest, text in stored.items() if quotes & windows(text, size=QUOTED_WORDS)}
    keys = {key for key, digest in db.execute("SELECT key, text_sha256 FROM origins") if digest in hashes}
    for key, prompt, value in db.execute("SELECT key, said, value FROM answers"):
        if any(quotes & windows(text, size=QUOTED_WORDS) for text in (*json.loads(prompt), value)):
            keys.add(key)
    marks = set(forget_marks(**asdict(origin)))
    if origin.collection and origin.content_id.isdecimal():
        marks -= forget_marks(author="", link="", collection="", content_id=origin.content_id)
    # A number is the id of a content in every other source as well, and would be skipped there.
    for collection, content_id in {place[:2] for place in places if not place[1].isdecimal()}:
        marks |= forget_marks(author="", link="", collection=collection, content_id=content_id)
    _insert(db, "forgotten", [(mark,) for mark in sorted(marks | hashes)])
    _insert(db, "texts", [(digest, None) for digest in sorted(hashes)], on_conflict="REPLACE")
    replies = {
        request
        for request, sent in db.execute("SELECT id, texts FROM requests")
        if not hashes.isdisjoint(json.loads(sent))
    }
    replies |= {reply for key, reply in db.execute("SELECT key, request_id FROM answers") if key in keys}
    db.executemany(f"UPDATE requests SET raw='{FORGOTTEN}' WHERE id=?", [(reply,) for reply in replies])
    for table in ("answers", "origins"):
        db.executemany(f"DELETE FROM {table} WHERE key=?", [(key,) for key in keys])
    return ForgetReport(places, frozenset(keys), frozenset(hashes), texts)


def backup_of(path: Path) -> Path:
    """Return the file that a store is backed up to."""
    return path.with_suffix(".backup.sqlite")


def vectors_of(path: Path) -> Path:
    """Return the file in which vectors of texts are kept, which may be deleted."""
    return path.with_suffix(".vectors.sqlite")


def _restore(path: Path) -> list[str]:
    """Set a damaged file aside and put the backup in its place; return what is to be said of it."""
    backup = backup_of(path)
    if not (_size(path) or _size(_beside(path, "-wal")) or _size(backup)):
        return []
    damage, lost = _examine(path) if _size(path) else ("it is empty or missing", 0)
    if lost and not damage and not _size(backup):
        return [f"{path.name}: a torn WAL lost {lost} commits; what they held may be asked again"]
    if lost and not damage:
        damage = f"its WAL is torn before {lost} commits"
    if not damage and _is_part(path, backup):
        damage = "it holds less than its backup, as without its WAL"
    if not damage:
        return []
    if not _size(backup) or _examine(backup)[0]:
        hint = "move it away, and everything is asked again"
        raise DiskFailed(f"{path} is no store of ours or damaged ({damage}), and has no good backup; {hint}")
    staged = _beside(path, ".restoring")
    shutil.copyfile(backup, staged)
    saved = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(backup.stat().st_mtime))
    aside = _set_aside(path)
    _put_in_place(staged, path)
    return [
        f"{path.name} was damaged ({damage}): the backup of {saved} is in its place, the damaged file is "
        f"kept as {aside.name}; what was answered since may be asked again"
    ]


def _set_aside(path: Path) -> Path:
    before = [it for it in _files_of(_beside(path, ".damaged-")) if it.name[-1].isdigit()]
    aside = _beside(path, f".damaged-{1 + len(before)}")
    # The WAL goes first: SQLite would play an old one into the new file.
    for ending in ("-wal", ""):
        with suppress(FileNotFoundError):
            _beside(path, ending).rename(_beside(aside, ending))
    _beside(path, "-shm").unlink(missing_ok=True)
    return aside


def _files_of(beginning: Path) -> list[Path]:
    """Return the files whose names begin so; a name may hold what a pattern would read otherwise."""
    return [it for it in beginning.parent.iterdir() if it.name.startswith(beginning.name)]


def _parts_of(path: Path) -> list[Path]:
    name = re.compile(rf"{re.escape(path.stem)}\.part-\d+\.sqlite")
    return sorted(it for it in path.parent.iterdir() if name.fullmatch(it.name))


def _in_flight(usd: float) -> PaidRequest:
    """Return what stands for the calls that a killed process had in flight, at their worst cost."""
    rest: dict[str, Any] = dict.fromkeys(("prompt_tokens", "completion_tokens"))
    rest |= dict.fromkeys(("recipe_sha256", "raw", "model"), "")
    return PaidRequest(
        uuid.uuid4().hex, texts=(), skeleton="[]", status=0, outcome="unknown", attempt=0, cost_usd=usd,
        at=now(), **rest,
    )  # fmt: skip


def _delete_part(path: Path) -> None:
    """Delete what belongs to a part's store, and then itself, by which all of it is found again."""
    for file in _files_of(path.with_name(f"{path.stem}.")):
        if file != path and ".damaged-" not in file.name:
            file.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _examine(path: Path) -> tuple[str, int]:
    """Return what is wrong with a file, empty if nothing is, and how many commits a torn WAL hides."""
    wal = _beside(path, "-wal")
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            if _is_foreign(connection):
                return "", 0  # refused when it is opened
            frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            if not _size(wal) and _size(path) % _number(connection, "PRAGMA page_size"):
                return "it ends inside a page", 0
            lost = _lost_commits(wal.read_bytes(), max(0, frames)) if _size(wal) else 0
            # What quick_check does, and a look at the keys: one that is damaged hides an answer.
            result = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
            return ("", lost) if result == "ok" else (result.splitlines()[0], 0)
    except sqlite3.DatabaseError as error:
        if not _means_damage(error):
            raise
        return str(error), 0


def _is_part(path: Path, backup: Path) -> bool:
    """Return whether a store holds some of the requests in its backup and no other; none is ever deleted."""
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as db:
            if not _size(backup) or _is_foreign(db):
                return False
            db.execute("ATTACH ? AS backup", (str(backup),))
            kept = _number(db, "SELECT count(*) FROM backup.requests")
            if not _number(db, "PRAGMA main.user_version"):  # as new, without a table
                return kept > 0
            others = "SELECT id FROM main.requests EXCEPT SELECT id FROM backup.requests"
            is_less = _number(db, "SELECT count(*) FROM main.requests") < kept
            return is_less and not _number(db, f"SELECT count(*) FROM ({others})")
    except sqlite3.DatabaseError:  # no backup to go by
        return False


def _lost_commits(wal: bytes, valid_frames: int) -> int:
    """Count the commits behind a torn frame: SQLite stops reading there and says nothing.

    One alone is what a kill in the middle of the last commit leaves, and that one never counted. The layout
    is that of https://sqlite.org/fileformat2.html: a frame holds its commit's size at 4 and two salts at 8.
    """
    header, first = wal[16:24], wal[40:48]
    # A WAL that had just begun anew has counted its first salt up, and holds the frames of before.
    has_begun = int.from_bytes(header[:4], "big") == int.from_bytes(first[:4], "big") + 1
    salts = {header} if has_begun else {header, first}
    frame_size = 24 + int.from_bytes(wal[8:12], "big")
    starts = range(32 + valid_frames * frame_size, len(wal) - 24, frame_size)
    commits = sum(wal[at + 8 : at + 16] in salts and any(wal[at + 4 : at + 8]) for at in starts)
    return commits if commits > 1 else 0


def _connect(path: Path, *, alone: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    # A spoiled letter must not stop the reading; the answer's seal tells.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        version = _number(connection, "PRAGMA user_version")
        if _is_foreign(connection):
            raise ParamsError(
                f"answers: expected a store of ours or a new file, found another database: {path}"
            )
        if version > SCHEMA_VERSION:
            known = f"schema {version}, known here: {SCHEMA_VERSION}"
            raise ParamsError(f"{path}: written by a newer version ({known}); upgrade llmtwin_data")
        if alone:  # then it needs no shared memory, which a network folder has not
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cell_size_check=ON"):
            connection.execute(f"PRAGMA {setting}")
        steps = [UPGRADES[step] for step in range(version, SCHEMA_VERSION)] if version else [SCHEMA]
        # Written also when nothing changes: a full or read-only disk must show before the first paid request.
        marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}"
        connection.executescript(f"BEGIN IMMEDIATE; {''.join(steps)} {marks}; COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _insert(
    db: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]], *, on_conflict: str = "IGNORE"
) -> None:
    names, slots = ", ".join(_TABLES[table]), ", ".join("?" * len(_TABLES[table]))
    db.executemany(f"INSERT OR {on_conflict} INTO {table} ({names}) VALUES ({slots})", rows)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Translate the errors of disk and SQLite; damage that is met in use is mended by the next opening."""
    try:
        with disk_errors(path):
            yield
    except sqlite3.Error as error:
        if _means_damage(error):
            hint = "run the same command again to restore the backup"
            raise DiskFailed(f"{path} is damaged ({error}); {hint}") from error
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY:
            raise RunLocked(f"{path}: another process held it for {WAIT_SECONDS:.0f} s; try again") from error
        hint = "free space, then run the same command again"
        raise DiskFailed(f"{path}: cannot write ({error}); {hint}") from error


def _means_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    # A failed read is damage; a failed write is a full disk or a limit.
    is_read = code in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return is_read or (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _put_in_place(staged: Path, path: Path) -> None:
    sync(staged)
    staged.rename(path)
    sync(path.parent)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_foreign(connection: sqlite3.Connection) -> bool:
    is_new = not _number(connection, "SELECT count(*) FROM sqlite_schema")
    return not is_new and _number(connection, "PRAGMA application_id") != APPLICATION_ID


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
