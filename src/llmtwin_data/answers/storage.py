"""One SQLite file of sealed rows, opened so that damage is noticed, and shared with care."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmtwin_data.answers.mending import APPLICATION_ID, WAIT_SECONDS, beside, mend, storage_errors
from llmtwin_data.answers.tables import Schema
from llmtwin_data.errors import ParamsError, RunLocked
from llmtwin_data.folders import disk_errors


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
