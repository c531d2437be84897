"""Where things lie: the project's root, writing whole or not at all, the run folder and its lock."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PROMPTS = PROJECT_ROOT / "params" / "prompts"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places inside one run folder, and its ``run.json``."""

    path: Path

    @property
    def work(self) -> Path:
        """Folder of what is only needed while the run goes on."""
        return self.path / ".work"

    @property
    def run_file(self) -> Path:
        """State, params, versions and totals of the run."""
        return self.path / "run.json"

    @property
    def ledger_file(self) -> Path:
        """One row per chunk and instruction."""
        return self.path / "ledger.jsonl"

    @property
    def dataset(self) -> Path:
        """The published dataset, whole or absent."""
        return self.path / "dataset"

    @property
    def notebooks(self) -> Path:
        """The notebooks as executed."""
        return self.path / "notebooks"

    @property
    def report(self) -> Path:
        """The report, one file."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What the run said while it went on."""
        return self.path / "log.txt"

    def read(self) -> dict[str, Any]:
        """Give what ``run.json`` holds, empty where there is none; DiskFailed where it is damaged."""
        if not self.run_file.exists():
            return {}
        try:
            found = json.loads(self.run_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DiskFailed(f"{self.run_file} cannot be read as JSON: {error}; remove that file") from error
        if not isinstance(found, dict):
            raise DiskFailed(f"{self.run_file} must hold an object, found {type(found).__name__}")
        return found

    def update(self, **fields: Any) -> None:
        """Write these fields into ``run.json`` beside those that are there."""
        merged = self.read() | fields
        write_atomically(self.run_file, json.dumps(merged, ensure_ascii=False, indent=1) + "\n")


class RunLock:
    """Hold a run folder for this process; a second holder gets RunLocked at once."""

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.work / "lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RunLocked(f"{self.path.parents[1]} is in use by {holder}; wait for it or end it") from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def require_clone() -> None:
    """Raise ParamsError where the package was installed without its notebooks, params and prompts."""
    if not PROMPTS.is_dir():
        raise ParamsError(
            f"llmtwin_data in {Path(__file__).parent} has no notebooks and params beside it: "
            "it runs from a clone; get one, and run make install there"
        )


def resolve(path: str | Path) -> Path:
    """Return the place of a path of ours: relative to the project's root, never to the current folder."""
    require_clone()
    return (PROJECT_ROOT / Path(path).expanduser()).resolve()


def shown(path: str | Path) -> str:
    """Give a path as files hold it: relative to the project's root where it is inside."""
    absolute = resolve(path)
    inside = absolute.is_relative_to(PROJECT_ROOT)
    return str(absolute.relative_to(PROJECT_ROOT)) if inside else str(absolute)


def told(path: str | Path) -> str:
    """Give a path as a command's lines name it: from the current folder where it is below it, else whole."""
    absolute = resolve(path)
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Translate an operating system's error at this place into DiskFailed."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "free space or choose another folder, then run the same command again"
        raise DiskFailed(f"{place}: cannot write ({reason}); {hint}") from error


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all, durable on return; DiskFailed leaves what was there."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_durably(staged, raw)
            staged.rename(path)
        finally:
            staged.unlink(missing_ok=True)
        sync_folder(path.parent)


def publish_folder(staged: Path, target: Path) -> None:
    """Put a staged folder in the target's place, whole or not at all.

    Both must lie on one file system. A target that is there is set aside first; should the
    power fail between the two renames, :func:`recover_folder` brings it back.
    """
    with disk_errors(target):
        for file in sorted(path for path in staged.rglob("*") if path.is_file()):
            _sync_file(file)
        for folder in [*(path for path in staged.rglob("*") if path.is_dir()), staged]:
            sync_folder(folder)
        aside = _aside(target)
        recover_folder(target)
        if target.exists():
            target.rename(aside)
        staged.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Finish what a publishing that was cut off left: the old folder back, or its leftovers away."""
    aside = _aside(target)
    if aside.exists() and not target.exists():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    _sync_file(folder)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.before")


def _write_durably(path: Path, raw: bytes) -> None:
    # A full disk may take only a part of a write without an error, so the count is checked (P05).
    with path.open("wb", buffering=0) as file:
        view = memoryview(raw)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
