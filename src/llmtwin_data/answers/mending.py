"""Notice that a store's file is damaged, and put a file of all its good rows in its place."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmtwin_data.answers.salvage import PAGE_SIZE, lost_commits, read_rows
from llmtwin_data.answers.tables import Schema, insert, is_sealed
from llmtwin_data.errors import DiskFailed, RunLocked
from llmtwin_data.folders import disk_errors, sync_folder

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
        f"{path.name} was damaged ({damage}): {rows} rows were salvaged, the damaged file is kept as {kept}"
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
