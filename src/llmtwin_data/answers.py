"""The durable store of answers: one SQLite file that nothing paid for is lost from or asked again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import struct
import threading
import time
from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, TypeVar

from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked
from llmtwin_data.folders import disk_errors, sync_folder
from llmtwin_data.prompts import Question, Recipe
from llmtwin_data.texts import forget_marks, text_sha256, windows

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


Value = str | int | float | bytes | None
Pages = Mapping[int, bytes]
# Bytes; what SQLite has given new files since 2016. A header that can no longer be read is not asked.
PAGE_SIZE = 4096
WAL_HEADER, FRAME_HEADER = 32, 24
TABLE_LEAF = 0x0D
# The file format (https://sqlite.org/fileformat2.html) says how much of a long row stays in its own page.
LOCAL_MAX = PAGE_SIZE - 35
LOCAL_MIN = (PAGE_SIZE - 12) * 32 // 255 - 23
INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class FilePages(Mapping[int, bytes]):
    """The pages of a file by their number from 1, read when asked for."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb") if path.exists() else None
        self._count = -(-path.stat().st_size // PAGE_SIZE) if self._file else 0

    def __getitem__(self, number: int) -> bytes:
        if self._file is None or not 0 < number <= self._count:
            raise KeyError(number)
        return os.pread(self._file.fileno(), PAGE_SIZE, (number - 1) * PAGE_SIZE)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, self._count + 1))

    def __len__(self) -> int:
        return self._count


def read_rows(path: Path, wal: Path) -> Iterator[tuple[Value, ...]]:
    """Give every row that a leaf page of the file still spells out, then those that its WAL changes.

    Rows come in no order, old versions before new ones, and some that were deleted: the caller must
    know a good row by itself, for example by a checksum in it.
    """
    pages = FilePages(path)
    yield from _rows_of(pages, pages)
    newer = dict(_frames(wal))
    if newer:
        yield from _rows_of(newer, ChainMap(newer, pages))  # type: ignore[arg-type]


def lost_commits(wal: Path, *, valid_frames: int) -> bool:
    """Say whether a torn frame hides commits: some stand behind the last frame that SQLite takes for valid.

    One alone is what a kill in the middle of the last commit leaves, and that one never counted.
    """
    behind = list(_frame_heads(wal.read_bytes()))[valid_frames:]
    return sum(size_after_commit > 0 for _, size_after_commit, _ in behind) > 1


def _frames(wal: Path) -> Iterator[tuple[int, bytes]]:
    data = wal.read_bytes() if wal.exists() else b""
    for number, _, start in _frame_heads(data):
        yield number, data[start + FRAME_HEADER : start + FRAME_HEADER + PAGE_SIZE]


def _frame_heads(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give page number, commit size and place of the frames of the WAL's present generation."""
    starts = range(WAL_HEADER, len(data) - FRAME_HEADER, FRAME_HEADER + PAGE_SIZE)
    # A whole header before frames of other salts only is a WAL that had just begun anew.
    present = data[16:24] if _is_whole(data[:WAL_HEADER]) else data[WAL_HEADER + 8 : WAL_HEADER + 16]
    for start in starts:
        if data[start + 8 : start + 16] == present:
            number, size_after_commit = struct.unpack_from(">II", data, start)
            yield number, size_after_commit, start


def _is_whole(header: bytes) -> bool:
    """Say whether a WAL's header has the checksum that the file format asks for."""
    if len(header) < WAL_HEADER:
        return False
    words = struct.unpack(">6I" if header[3] & 1 else "<6I", header[:24])
    first = second = 0
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = first + one + second & 0xFFFFFFFF
        second = second + other + first & 0xFFFFFFFF
    return struct.unpack(">II", header[24:]) == (first, second)


def _rows_of(leaves: Pages, pages: Pages) -> Iterator[tuple[Value, ...]]:
    for number, page in leaves.items():
        start = 100 if number == 1 else 0
        if len(page) > start + 8 and page[start] == TABLE_LEAF:
            count = int.from_bytes(page[start + 3 : start + 5], "big")
            pointers = page[start + 8 : start + 8 + 2 * count]
            for cell in struct.iter_unpack(">H", pointers[: len(pointers) // 2 * 2]):
                row = _spelled_out(page, cell[0], pages)
                if row is not None:
                    yield row


def _spelled_out(page: bytes, at: int, pages: Pages) -> tuple[Value, ...] | None:
    try:
        return _row(page, at, pages)
    except (IndexError, ValueError, KeyError, struct.error):
        return None


def _row(page: bytes, at: int, pages: Pages) -> tuple[Value, ...]:
    size, at = _varint(page, at)
    _, at = _varint(page, at)
    payload = _payload(page, at, size, pages)
    header_size, at = _varint(payload, 0)
    kinds = []
    while at < header_size:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    return _values(payload, header_size, kinds)


def _payload(page: bytes, at: int, size: int, pages: Pages) -> bytes:
    if size <= LOCAL_MAX:
        return page[at : at + size]
    local = LOCAL_MIN + (size - LOCAL_MIN) % (PAGE_SIZE - 4)
    local = local if local <= LOCAL_MAX else LOCAL_MIN
    parts = [page[at : at + local]]
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    for _ in range(-(-(size - local) // (PAGE_SIZE - 4))):
        overflow = pages[following]
        parts.append(overflow[4:])
        following = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)[:size]


def _values(payload: bytes, at: int, kinds: Sequence[int]) -> tuple[Value, ...]:
    values: list[Value] = []
    for kind in kinds:
        size = INTEGER_SIZES.get(kind, 8 if kind == 7 else max(0, (kind - 12) // 2))
        raw = payload[at : at + size]
        if len(raw) < size:
            raise ValueError("the row ends before its last value")
        values.append(_value(kind, raw))
        at += size
    return tuple(values)


def _value(kind: int, raw: bytes) -> Value:
    if kind in (0, 8, 9):
        return (None, 0, 1)[max(0, kind - 7)]
    if kind in INTEGER_SIZES:
        return int.from_bytes(raw, "big", signed=True)
    if kind == 7:
        return float(struct.unpack(">d", raw)[0])
    return raw.decode() if kind % 2 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


# Identifies the file as ours among all SQLite files ("LTWN").
APPLICATION_ID = 0x4C54574E
CHECK_SECONDS = 1.0  # a check that takes longer is left; what it did not reach is met when it is read
WAIT_SECONDS = 30.0


def mend(path: Path, schema: Schema) -> list[str]:
    """Salvage the file if it is damaged, and tell what was done; nobody else may have it open."""
    with disk_errors(path), storage_errors(path):
        _put_in_place(path)
        try:
            damage = _damage(path, schema)
            return [_replace(path, schema, damage)] if damage else []
        finally:
            beside(path, ".wal-kept").unlink(missing_ok=True)


def damaged_files(path: Path) -> list[Path]:
    """Give what salvages left beside the file."""
    return sorted(path.parent.glob(f"{path.name}.damaged*"))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors; damage met in use is noted, so that the next opening salvages."""
    try:
        yield
    except sqlite3.Error as error:
        if _tells_damage(error):
            beside(path, ".suspect").touch()
            hint = "run the same command again to salvage it"
            raise DiskFailed(f"{path} is damaged ({error}); {hint}") from error
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_BUSY:
            raise RunLocked(f"{path}: another process held it for {WAIT_SECONDS:.0f} s; try again") from error
        hint = "free space, then run the same command again"
        raise DiskFailed(f"{path}: cannot write ({error}); {hint}") from error


def _replace(path: Path, schema: Schema, damage: str) -> str:
    rows = _write_salvaged(path, schema)
    if not rows:
        raise DiskFailed(f"{path} is no store of ours or damaged beyond reading ({damage}); move it away")
    kept = _put_in_place(path)
    return (
        f"{path.name} was damaged ({damage}): rows were salvaged: {rows}, the damaged file is kept as {kept}"
    )


def _damage(path: Path, schema: Schema) -> str:
    """Say in a few words what is wrong with the file, empty if nothing is."""
    wal = _kept_wal(path)
    if beside(path, ".suspect").exists():
        return "met while it was read"
    if not path.exists() or not path.stat().st_size:
        return "it is empty, its WAL is not" if wal.exists() else ""
    if path.stat().st_size % PAGE_SIZE and not wal.exists():
        return "it ends inside a page"
    try:
        connection = sqlite3.connect(path, timeout=WAIT_SECONDS)
        try:
            return _lost(connection, wal) or _failed_check(connection, schema)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if _tells_damage(error):
            return str(error)
        raise


def _kept_wal(path: Path) -> Path:
    """Copy the WAL: closing the only connection takes in what holds of it, and removes it."""
    wal, kept = beside(path, "-wal"), beside(path, ".wal-kept")
    kept.unlink(missing_ok=True)
    if wal.exists() and wal.stat().st_size:
        shutil.copyfile(wal, kept)
    return kept


def _lost(connection: sqlite3.Connection, wal: Path) -> str:
    if not wal.exists():
        return ""
    _, valid_frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return "a torn frame in its WAL" if lost_commits(wal, valid_frames=max(0, valid_frames)) else ""


def _failed_check(connection: sqlite3.Connection, schema: Schema) -> str:
    deadline = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
    try:
        for check in (f"integrity_check({next(iter(schema.tables))})", "integrity_check"):
            found = connection.execute(f"PRAGMA {check}").fetchone()[0]
            if found != "ok":
                return str(found).splitlines()[0]
    except sqlite3.OperationalError as error:
        # Out of time, or another program's file, which is refused when it is opened.
        if error.sqlite_errorcode not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_ERROR):
            raise
    return ""


def _write_salvaged(path: Path, schema: Schema) -> int:
    """Write all good rows to a new file beside the damaged one, durable and complete under its name."""
    staged = beside(path, ".salvaging")
    staged.unlink(missing_ok=True)
    connection = sqlite3.connect(staged, isolation_level=None)
    try:
        connection.executescript(schema.script())
        connection.executescript(
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={schema.version}; BEGIN"
        )
        rows = sum(_keep(connection, schema, row) for row in read_rows(path, beside(path, ".wal-kept")))
        connection.execute("COMMIT")
    finally:
        connection.close()
    if rows:
        staged.rename(beside(path, ".salvaged"))
        sync_folder(path.parent)
    staged.unlink(missing_ok=True)
    return rows


def _keep(connection: sqlite3.Connection, schema: Schema, row: Sequence[Any]) -> bool:
    for table in schema.tables:
        missing = schema.stored_width(table) - len(row)  # a row may be older than a column that was added
        is_long = len(row) > schema.width(table) and missing >= 0
        if is_long and isinstance(row[schema.width(table)], str) and is_sealed(table, row):
            connection.execute(insert(table, "REPLACE"), (*row, *[None] * missing))
            return True
    return False


def _put_in_place(path: Path) -> str:
    """Put a finished salvage in the damaged file's place; the next call goes on after a crash in between."""
    salvaged = beside(path, ".salvaged")
    if not salvaged.exists():
        return ""
    number = 1 + sum(not name.name.endswith("-wal") for name in damaged_files(path))
    kept = beside(path, f".damaged-{number}")
    # The WAL goes first: SQLite would play an old one into the new file.
    for ending, new_ending in (("-wal", "-wal"), (".wal-kept", "-wal"), ("", "")):
        with suppress(FileNotFoundError):
            beside(path, ending).rename(beside(kept, new_ending))
    beside(path, "-shm").unlink(missing_ok=True)
    salvaged.rename(path)
    beside(path, ".suspect").unlink(missing_ok=True)
    sync_folder(path.parent)
    return kept.name


def _tells_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    # A failed read is damage; a failed write is a full disk or a limit.
    is_read = code in (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return is_read or (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def beside(path: Path, ending: str) -> Path:
    """Give the name of a file that goes with this one."""
    return path.with_name(path.name + ending)


@dataclass(slots=True)
class OpenFile:
    """A file in use: its connection, the lock that says so, and what had to be done to it."""

    path: Path
    connection: sqlite3.Connection
    lock: IO[str]
    notes: list[str]

    def close(self) -> None:
        """Let go of file and lock."""
        with storage_errors(self.path):
            self.connection.close()
        self.lock.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other process out for a while; RunLocked if one is in."""
        if not _take(self.lock, fcntl.LOCK_EX):
            raise RunLocked(
                f"{self.path} is in use by another run; wait for it or end it, then do this again"
            )
        try:
            yield
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_SH)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all or nothing, durable on leaving."""
        with storage_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise


def open_file(path: Path, schema: Schema) -> OpenFile:
    """Open or create the file; whoever is alone with it checks it first and mends what it can.

    Raises
    ------
    DiskFailed
        No space, no right to write, or damaged beyond reading.
    ParamsError
        Another program's file, or one of a newer version.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = beside(path, ".lock").open("a", encoding="utf-8")
    try:
        notes = mend(path, schema) if _take(lock, fcntl.LOCK_EX) else _wait(path, lock)
        with storage_errors(path):
            connection = _connect(path, schema)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except BaseException:
        lock.close()
        raise
    return OpenFile(path, connection, lock, notes)


def _connect(path: Path, schema: Schema) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    # A spoiled letter must not stop the reading; the row's seal tells.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    try:
        _refuse(connection, path, schema)
        for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cell_size_check=ON"):
            connection.execute(f"PRAGMA {setting}")
        _bring_up(connection, schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    owner, version = (_number(connection, name) for name in ("application_id", "user_version"))
    if not _is_new(connection) and owner != APPLICATION_ID:
        raise ParamsError(f"answers: expected a store of ours or a new file, found another database: {path}")
    if version > schema.version:
        known = f"schema {version}, known here: {schema.version}"
        raise ParamsError(f"{path}: written by a newer version ({known}); upgrade llmtwin_data")


def _bring_up(connection: sqlite3.Connection, schema: Schema) -> None:
    steps = range(_number(connection, "user_version"), schema.version)
    script = [schema.script()] if _is_new(connection) else [schema.steps[step] for step in steps]
    # Written also when nothing changes: a full or read-only disk must show before the first paid request.
    marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={schema.version}"
    connection.executescript(";".join(["BEGIN IMMEDIATE", *script, marks, "COMMIT"]))


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _is_new(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def _take(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(path: Path, lock: IO[str]) -> list[str]:
    deadline = time.monotonic() + WAIT_SECONDS
    while not _take(lock, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise RunLocked(f"{path}: another process keeps it for itself; wait for it or end it")
        time.sleep(0.05)
    return []


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


def erase(
    db: sqlite3.Connection, *, author: str, link: str, content_id: str, collection: str, texts: Iterable[str]
) -> ForgetReport:
    """Take out, inside the caller's transaction, what came from there and every text among the given ones."""
    given = frozenset(texts)
    named = {"author": author, "link": link, "content_id": content_id, "collection": collection}
    origins = list(origins_of(db, **named))
    places = {(row[0], row[1], row[2], row[3]) for row in origins}
    hashes = {row[4] for row in origins}
    hashes |= {text_sha256(text) for text in given}
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
        hashes = [text_sha256(question.text) for question in questions]
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
        """Give the hashes of everything forgotten: texts by `text_sha256`, origins by `forget_marks`."""
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
        return self._with(lambda: trace(self._file.connection, key))

    def totals(self) -> dict[str, Any]:
        """Count what is stored: answers, requests by outcome, tokens and cost by model, bytes."""
        return self._with(lambda: totals(self._file.connection)) | {"bytes": self.path.stat().st_size}

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
