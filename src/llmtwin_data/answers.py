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
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked
from llmtwin_data.folders import disk_errors, sync
from llmtwin_data.prompts import Question, Recipe
from llmtwin_data.texts import forget_marks, text_sha256, windows

# Identifies the file as ours among all SQLite files ("LTWN").
APPLICATION_ID = 0x4C54574E
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE answers (key TEXT, state TEXT, said TEXT, reason TEXT, value TEXT, requests INTEGER,
    prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL, model TEXT, request_id TEXT,
    seal TEXT, PRIMARY KEY (key));
CREATE TABLE origins (key TEXT, collection TEXT, content_id TEXT, start INTEGER, stop INTEGER, author TEXT,
    link TEXT, text_sha256 TEXT, seal TEXT, PRIMARY KEY (key, collection, content_id, start, stop));
CREATE TABLE requests (id TEXT, recipe_sha256 TEXT, texts TEXT, skeleton TEXT, raw TEXT, status INTEGER,
    outcome TEXT, attempt INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL,
    model TEXT, system_fingerprint TEXT, seconds REAL, at TEXT, batch_id TEXT, seal TEXT,
    reasoning_tokens INTEGER, PRIMARY KEY (id));
CREATE TABLE texts (sha256 TEXT, text TEXT, seal TEXT, PRIMARY KEY (sha256));
CREATE TABLE recipes (sha256 TEXT, json TEXT, seal TEXT, PRIMARY KEY (sha256));
CREATE TABLE batches (id TEXT, endpoint TEXT, state TEXT, lines TEXT, file_id TEXT, at TEXT, seal TEXT,
    PRIMARY KEY (id));
CREATE TABLE forgotten (hash TEXT, seal TEXT, PRIMARY KEY (hash));
"""
# What leads from a version to the next.
UPGRADES = {1: "ALTER TABLE requests ADD COLUMN reasoning_tokens INTEGER;"}
WAIT_SECONDS = 30.0
BACKUP_SECONDS = 600.0
# Words in a row that no answer may share with a forgotten text.
QUOTED_WORDS = 20
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
    """How one answer came to be; a forgotten text is None in ``texts`` and marked in ``messages``."""

    answer: Answer
    request: PaidRequest
    texts: tuple[str | None, ...]
    messages: list[dict[str, str]]
    recipe: dict[str, Any]


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
        """Return collection and content id of each, sorted."""
        return tuple(sorted({place[:2] for place in self.places}))


def _columns(kind: type) -> list[str]:
    return ["said" if column.name == "values" else column.name for column in fields(kind)]


def _insert(table: str, columns: Sequence[str], *, on_conflict: str = "IGNORE") -> str:
    names, holes = ", ".join(columns), ", ".join("?" * len(columns))
    return f"INSERT OR {on_conflict} INTO {table} ({names}) VALUES ({holes})"


_VALUES = {kind: attrgetter(*(it.name for it in fields(kind))) for kind in (Answer, PaidRequest, StoredBatch)}
_ANSWER = ", ".join(_columns(Answer))
_REQUEST = ", ".join(_columns(PaidRequest))
_BATCH = ", ".join(_columns(StoredBatch))
_ORIGIN = ("key", "collection", "content_id", "start", "stop", "author", "link", "text_sha256")
_SAVE_ANSWER = _insert("answers", [*_columns(Answer), "seal"])
_SAVE_REQUEST = _insert("requests", _columns(PaidRequest))
_SAVE_BATCH = _insert("batches", _columns(StoredBatch), on_conflict="REPLACE")
_SAVE_ORIGIN = _insert("origins", _ORIGIN, on_conflict="REPLACE")
_SAVE_TEXT = _insert("texts", ("sha256", "text"))
_SAVE_RECIPE = _insert("recipes", ("sha256", "json"))
_ORIGINS_OF = (
    "SELECT DISTINCT collection, content_id, start, stop, text_sha256, text FROM origins "
    "LEFT JOIN texts ON sha256=text_sha256 WHERE (?1!='' AND author=?1) OR (?2!='' AND link=?2) "
    "OR (?3!='' AND content_id=?3 AND ?4 IN ('', collection)) ORDER BY 1, 2, 3, 4, length(text)"
)


class AnswerStore:
    """All answers in one SQLite file; what `save` returned from survives a power cut.

    Any thread may call, any number of processes may share the file. Whoever is alone with it when opening
    checks it; if it is damaged it is set aside and the last backup takes its place, as ``notes`` says.

    Raises
    ------
    DiskFailed
        No space, no right to write, or damaged and without a backup.
    ParamsError
        Another program's file, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._guard = threading.RLock()
        self._recipes: set[str] = set()  # stored by this instance
        self._is_backed_up = True
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _beside(self.path, ".lock").open("a", encoding="utf-8")
        try:
            with disk_errors(self.path), _storage_errors(self.path):
                if _take(self._lock, fcntl.LOCK_EX):
                    self.notes += _restore(self.path)
                else:
                    _wait(self.path, self._lock)
                self._connection = _connect(self.path)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            self._lock.close()
            raise
        _OPEN.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        wanted = "key IN (SELECT value FROM json_each(?))"
        rows = self._read(f"SELECT {_ANSWER}, seal FROM answers WHERE {wanted}", json.dumps(list(keys)))
        good = [row for row in rows if _is_sealed(row)]
        if len(good) < len(rows):
            spoiled = [(row[0],) for row in rows if not _is_sealed(row)]
            with self._transaction() as db:
                db.executemany("DELETE FROM answers WHERE key=?", spoiled)
            self.notes.append(
                f"{self.path.name}: {len(spoiled)} spoiled answers were dropped, they are asked again"
            )
        return {row[0]: Answer(*_unpacked(row[:-1])) for row in good}

    def answered(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that have a final answer, ok or failed."""
        return set(self.answers(keys))

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
        hashes = [text_sha256(question.text) for question in questions]
        origins = [
            (q.key, q.collection, q.content_id, q.start, q.end, q.author, q.link, digest)
            for q, digest in zip(questions, hashes, strict=True)
        ]
        new = {recipe.sha256: recipe for recipe in recipes if recipe.sha256 not in self._recipes}
        rows = [_stored(answer) for answer in answers]
        with self._transaction() as db:
            db.executemany(_SAVE_RECIPE, [(digest, recipe.as_json()) for digest, recipe in new.items()])
            db.executemany(
                _SAVE_TEXT, [(digest, q.text) for q, digest in zip(questions, hashes, strict=True)]
            )
            db.executemany(_SAVE_ORIGIN, origins)
            db.executemany(_SAVE_REQUEST, map(_stored, requests))
            db.executemany("DELETE FROM answers WHERE key=? AND state='failed'", [row[:1] for row in rows])
            db.executemany(_SAVE_ANSWER, [(*row, _seal(row)) for row in rows])
        self._recipes |= new.keys()
        self._is_backed_up = False
        if _age_seconds(backup_of(self.path)) > BACKUP_SECONDS:
            self.back_up()

    def back_up(self) -> None:
        """Write the backup beside the store anew, whole or not at all."""
        backup = backup_of(self.path)
        staged = _beside(backup, ".new")
        try:
            with self._guard, disk_errors(backup), _storage_errors(backup):
                staged.unlink(missing_ok=True)
                with closing(sqlite3.connect(staged)) as copy:
                    copy.execute("PRAGMA journal_mode=OFF")
                    self._connection.backup(copy)
                _put_in_place(staged, backup)
                self._is_backed_up = True
        finally:
            staged.unlink(missing_ok=True)

    def save_batch(self, batch: StoredBatch) -> None:
        """Store a provider's batch, or its new state, durable on return."""
        with self._transaction() as db:
            db.execute(_SAVE_BATCH, _stored(batch))
        self._is_backed_up = False

    def batches(self, *, endpoint: str = "", state: str = "") -> list[StoredBatch]:
        """Return the stored batches, oldest first."""
        wanted = "(?1='' OR endpoint=?1) AND (?2='' OR state=?2)"
        rows = self._read(f"SELECT {_BATCH} FROM batches WHERE {wanted} ORDER BY at, id", endpoint, state)
        return [StoredBatch(*row) for row in rows]

    def forgotten_hashes(self) -> frozenset[str]:
        """Return the hashes of everything forgotten: texts by `text_sha256`, origins by `forget_marks`."""
        return frozenset(digest for (digest,) in self._read("SELECT hash FROM forgotten"))

    def origins(
        self, *, author: str = "", link: str = "", content_id: str = "", collection: str = ""
    ) -> list[tuple[str, str, int, int, str | None]]:
        """Return collection, content id, start, end and text of every piece of what is named."""
        rows = self._read(_ORIGINS_OF, author, link, content_id, collection)
        return [(*row[:4], row[5]) for row in rows]

    def forget(
        self,
        *,
        author: str = "",
        link: str = "",
        content_id: str = "",
        collection: str = "",
        texts: Iterable[str] = (),
    ) -> ForgetReport:
        """Take out text, answer and whole raw reply of an author, a link, a content, and the given texts.

        Hashes of them stay, by which later runs skip them, and what quotes 20 words of them goes as well.
        With ``collection`` a content is meant there only. The WAL and the backup hold nothing of it either.

        Raises
        ------
        RunLocked
            Another run has the store open: it could write the texts again.
        """
        named = {"author": author, "link": link, "content_id": content_id, "collection": collection}
        with self._guard, self._alone():
            with self._transaction() as db:
                report = _erase(db, named, frozenset(texts))
            with _storage_errors(self.path):
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for file in _damaged_files(self.path):
                file.unlink()
            self.back_up()
        return report

    def trace(self, key: str) -> Trace | None:
        """Return the request behind an answer, its prompt rebuilt from the stored texts."""
        answer = self.answers([key]).get(key)
        rows = self._read(f"SELECT {_REQUEST} FROM requests WHERE id=?", answer.request_id) if answer else []
        if answer is None or not rows:
            return None
        request = PaidRequest(*_unpacked(rows[0]))
        sent = "SELECT sha256, text FROM texts WHERE sha256 IN (SELECT value FROM json_each(?))"
        texts = dict(self._read(sent, json.dumps(request.texts)))
        recipe = self._read("SELECT json FROM recipes WHERE sha256=?", request.recipe_sha256)

        def words(slot: re.Match[str]) -> str:
            text = texts.get(slot.group(1))
            return f"{FORGOTTEN} {slot.group(1)}" if text is None else text

        return Trace(
            answer=answer,
            request=request,
            texts=tuple(texts.get(digest) for digest in request.texts),
            messages=[
                message | {"content": TEXT_SLOT.sub(words, message["content"])}
                for message in json.loads(request.skeleton)
            ],
            recipe=json.loads(recipe[0][0]) if recipe else {},
        )

    def totals(self) -> dict[str, Any]:
        """Count what is stored: answers, requests by outcome, tokens and cost by model, bytes."""
        models: dict[str, dict[str, Any]] = defaultdict(Counter)
        for model, state, count in self._read("SELECT model, state, count(*) FROM answers GROUP BY 1, 2"):
            models[model][state] += count
        paid = "count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_usd), sum(cost_usd IS NULL)"
        names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "cost_unknown")
        for model, *sums in self._read(f"SELECT model, {paid} FROM requests GROUP BY 1"):
            models[model].update(dict(zip(names, (value or 0 for value in sums), strict=True)))
        whole = self._read(f"SELECT {paid} FROM requests")[0]
        failed = "SELECT reason, count(*) FROM answers WHERE state='failed' GROUP BY 1"
        return {
            "answers": dict(self._read("SELECT state, count(*) FROM answers GROUP BY 1")),
            "failed": dict(self._read(failed)),
            "outcomes": dict(self._read("SELECT outcome, count(*) FROM requests GROUP BY 1")),
            "batches": dict(self._read("SELECT state, count(*) FROM batches GROUP BY 1")),
            "texts": self._read("SELECT count(text) FROM texts")[0][0],
            "forgotten": self._read("SELECT count(*) FROM forgotten")[0][0],
            "models": {model: dict(counts) for model, counts in sorted(models.items())},
            **dict(zip(names, (value or 0 for value in whole), strict=True)),
            "bytes": self.path.stat().st_size,
        }

    def hidden_tokens(self, *, endpoint: str, model: str) -> list[tuple[int, bool]]:
        """Return the hidden tokens of the latest requests to a model, and whether each lacked an answer."""
        named = (
            "CASE WHEN json_valid(json) "
            "THEN json_extract(json, '$.endpoint')=? AND json_extract(json, '$.model')=? END"
        )
        latest = f"(SELECT * FROM requests ORDER BY rowid DESC LIMIT {LATEST_REQUESTS})"
        return self._read(
            f"SELECT reasoning_tokens, outcome!='ok' FROM {latest} JOIN recipes ON sha256=recipe_sha256 "
            f"WHERE reasoning_tokens > 0 AND {named}",
            endpoint,
            model,
        )

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process out for a while."""
        if not _take(self._lock, fcntl.LOCK_EX):
            in_use = f"{self.path} is in use by another run"
            raise RunLocked(f"{in_use}; wait for it or end it, then do this again")
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)


# A notebook's kernel ends without closing its store: what was saved is backed up all the same.
_OPEN: weakref.WeakSet[AnswerStore] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for store in list(_OPEN):
        store.close()


def _stored(record: Answer | PaidRequest | StoredBatch) -> tuple[Any, ...]:
    return tuple(map(_storable, _VALUES[type(record)](record)))


def _storable(value: Any) -> Any:
    # SQLite holds no lone surrogate; in what a model wrote it becomes a question mark.
    if isinstance(value, tuple):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    # Nor a NaN, nor a number of more than 64 bits, whatever an endpoint says that it used.
    return value if value is None or abs(value) < 2**62 else None


def _unpacked(row: Sequence[Any]) -> list[Any]:
    return [*row[:2], tuple(json.loads(row[2])), *row[3:]]


def _seal(row: Iterable[Any]) -> str:
    """Return the checksum of an answer; a number counts by its value, since SQLite may store 1.0 as 1."""
    words = [v if isinstance(v, str) else str(float(v)) if isinstance(v, int | float) else "" for v in row]
    return hashlib.blake2b("\x1f".join(("answers", *words)).encode(), digest_size=8).hexdigest()


def _is_sealed(row: Sequence[Any]) -> bool:
    return bool(_seal(row[:-1]) == row[-1])


def _erase(db: sqlite3.Connection, named: dict[str, str], texts: frozenset[str]) -> ForgetReport:
    """Put tombstones in the place of what came from there and of every text among the given ones."""
    origins = db.execute(_ORIGINS_OF, tuple(named.values())).fetchall()
    places = {row[:4] for row in origins}
    hashes = {row[4] for row in origins} | {text_sha256(text) for text in texts}
    stored = dict(db.execute("SELECT sha256, text FROM texts WHERE text IS NOT NULL"))
    texts |= {stored[digest] for digest in hashes & stored.keys()}
    quotes = {window for text in texts for window in windows(text, size=QUOTED_WORDS)}
    # What quotes so much is forgotten as well, or the next run would bring the words back.
    hashes |= {digest for digest, text in stored.items() if quotes & windows(text, size=QUOTED_WORDS)}
    keys = {key for key, digest in db.execute("SELECT key, text_sha256 FROM origins") if digest in hashes}
    for key, said, value in db.execute("SELECT key, said, value FROM answers"):
        if any(quotes & windows(text, size=QUOTED_WORDS) for text in (*json.loads(said), value)):
            keys.add(key)
    marks = set(forget_marks(**named))
    if named["collection"] and named["content_id"].isdecimal():
        marks -= forget_marks(author="", link="", collection="", content_id=named["content_id"])
    # A number is the id of a content in every other source as well, and would be skipped there.
    for collection, content_id in {place[:2] for place in places if not place[1].isdecimal()}:
        marks |= forget_marks(author="", link="", collection=collection, content_id=content_id)
    db.executemany(_insert("forgotten", ["hash"]), [(mark,) for mark in sorted(marks | hashes)])
    db.executemany(
        _insert("texts", ("sha256", "text"), on_conflict="REPLACE"), [(h, None) for h in sorted(hashes)]
    )
    doomed = [(key,) for key in sorted(keys)]
    replies = {row for key in doomed for row in db.execute("SELECT request_id FROM answers WHERE key=?", key)}
    for request, sent in db.execute("SELECT id, texts FROM requests"):
        if not hashes.isdisjoint(json.loads(sent)):
            replies.add((request,))
    db.executemany(f"UPDATE requests SET raw='{FORGOTTEN}' WHERE id=?", sorted(replies))
    for table in ("answers", "origins"):
        db.executemany(f"DELETE FROM {table} WHERE key=?", doomed)
    return ForgetReport(frozenset(places), frozenset(keys), frozenset(hashes), len(replies), texts)


def backup_of(path: Path) -> Path:
    """Return the file that a store is backed up to."""
    return path.with_suffix(".backup.sqlite")


def _restore(path: Path) -> list[str]:
    """Set a damaged file aside and put the backup in its place; return what is to be said of it."""
    backup = backup_of(path)
    has_wal = _size(_beside(path, "-wal")) > 0
    if not _size(path) and not has_wal and not _size(backup):
        return []
    damage, lost = _examine(path) if _size(path) else ("it is empty or missing", 0)
    if lost and _size(backup):
        damage = f"its WAL is torn before {lost} commits"
    if not damage:
        torn = f"{path.name}: a torn WAL lost {lost} commits; what they held may be asked again"
        return [torn] if lost else []
    if not _size(backup) or _examine(backup)[0]:
        hint = "move it away, and everything is asked again"
        raise DiskFailed(f"{path} is no store of ours or damaged ({damage}), and has no good backup; {hint}")
    staged = _beside(path, ".restoring")
    shutil.copyfile(backup, staged)
    saved = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(backup.stat().st_mtime))
    aside = _beside(path, f".damaged-{1 + len([*path.parent.glob(f'{path.name}.damaged-*[0-9]')])}")
    # The WAL goes first: SQLite would play an old one into the new file.
    for ending in ("-wal", ""):
        with suppress(FileNotFoundError):
            _beside(path, ending).rename(_beside(aside, ending))
    _beside(path, "-shm").unlink(missing_ok=True)
    _put_in_place(staged, path)
    return [
        f"{path.name} was damaged ({damage}): the backup of {saved} is in its place, the damaged file is "
        f"kept as {aside.name}; what was answered since may be asked again"
    ]


def _examine(path: Path) -> tuple[str, int]:
    """Return what is wrong with a file, empty if nothing is, and how many commits a torn WAL hides."""
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            if _is_foreign(connection):
                return "", 0  # refused when it is opened
            frames = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            wal = _beside(path, "-wal")
            if not _size(wal) and _size(path) % _number(connection, "page_size"):
                return "it ends inside a page", 0
            lost = _lost_commits(wal.read_bytes(), max(0, frames)) if _size(wal) else 0
            # What quick_check does, and a look at the keys: one that is damaged hides an answer.
            result = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
            if result != "ok":
                return result.splitlines()[0], 0
            return "", lost
    except sqlite3.DatabaseError as error:
        if not _tells_damage(error):
            raise
        return str(error), 0


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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    # A spoiled letter must not stop the reading; the answer's seal tells.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        version = _number(connection, "user_version")
        if _is_foreign(connection):
            raise ParamsError(
                f"answers: expected a store of ours or a new file, found another database: {path}"
            )
        if version > SCHEMA_VERSION:
            known = f"schema {version}, known here: {SCHEMA_VERSION}"
            raise ParamsError(f"{path}: written by a newer version ({known}); upgrade llmtwin_data")
        for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cell_size_check=ON"):
            connection.execute(f"PRAGMA {setting}")
        steps = (
            SCHEMA
            if _is_new(connection)
            else "".join(UPGRADES[step] for step in range(version, SCHEMA_VERSION))
        )
        # Written also when nothing changes: a full or read-only disk must show before the first paid request.
        marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}"
        connection.executescript(f"BEGIN IMMEDIATE; {steps} {marks}; COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors; damage that is met in use is mended by the next opening."""
    try:
        yield
    except sqlite3.Error as error:
        if _tells_damage(error):
            hint = "run the same command again to restore the backup"
            raise DiskFailed(f"{path} is damaged ({error}); {hint}") from error
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY:
            raise RunLocked(f"{path}: another process held it for {WAIT_SECONDS:.0f} s; try again") from error
        hint = "free space, then run the same command again"
        raise DiskFailed(f"{path}: cannot write ({error}); {hint}") from error


def _tells_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    # A failed read is damage; a failed write is a full disk or a limit.
    is_read = code in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return is_read or (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _put_in_place(staged: Path, path: Path) -> None:
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.rename(path)
    sync(path.parent)


def _damaged_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged*"))


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _age_seconds(path: Path) -> float:
    return time.time() - path.stat().st_mtime if path.exists() else float("inf")


def _is_new(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def _is_foreign(connection: sqlite3.Connection) -> bool:
    return not _is_new(connection) and _number(connection, "application_id") != APPLICATION_ID


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _take(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(path: Path, lock: IO[str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not _take(lock, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise RunLocked(f"{path}: another process keeps it for itself; wait for it or end it")
        time.sleep(0.05)
