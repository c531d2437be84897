"""Where things lie: the project's root, writing whole or not at all, the run folder and its lock."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PROMPTS = PROJECT_ROOT / "params" / "prompts"
RUNS = PROJECT_ROOT / "runs"


class RunFolder:
    """The places inside one run folder, and its ``run.json``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / ".work"  # what is only needed while the run goes on
        self.run_file = path / "run.json"
        self.ledger_file = path / "ledger.jsonl"
        self.dataset = path / "dataset"  # whole or absent
        self.notebooks = path / "notebooks"  # as executed
        self.report = path / "report.html"
        self.pairs = path / "pairs.html"  # pairs, to read
        self.log = path / "log.txt"

    def read(self) -> dict[str, Any]:
        """Return what ``run.json`` holds, empty where there is none; DiskFailed where it is damaged."""
        if not self.run_file.exists():
            return {}
        try:
            values = json.loads(self.run_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DiskFailed(f"{self.run_file} cannot be read as JSON: {error}; remove that file") from error
        if not isinstance(values, dict):
            raise DiskFailed(f"{self.run_file} must hold an object, found {type(values).__name__}")
        return values

    def update(self, **values: Any) -> None:
        """Write these fields into ``run.json`` beside those that are there."""
        merged = self.read() | values
        # A seal is of what stood there; who writes more seals it again.
        if "seal" not in values and values.keys() != {"files"}:
            merged.pop("seal", None)
        write_atomically(self.run_file, json.dumps(merged, ensure_ascii=False, indent=1) + "\n")

    def note(self, line: str, *, aloud: bool = True) -> None:
        """Write a line once in a run, here and, through ``notes`` of run.json, on the driver's terminal."""
        from tqdm.auto import tqdm

        fields = self.read()
        notes = fields.get("notes", [])
        if line in notes:
            return
        if fields:
            self.update(notes=[*notes, line])
        if aloud:
            tqdm.write(line)


def new_run_dir(stem: str, *, varied: str = "") -> Path:
    """Return a run folder that is not there yet: the params' stem, the time in UTC and what is varied."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + (f"_{varied}" if varied else "")
    names = chain([stamp], (f"{stamp}-{number}" for number in count(2)))
    parent = RUNS / stem
    return next(parent / name for name in names if not (parent / name).exists())


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def process_of(pid: int) -> dict[str, Any]:
    """Return what names a process of this machine in run.json."""
    return {"pid": pid, "host": socket.gethostname()}


@contextmanager
def run_lock(run: RunFolder) -> Iterator[None]:
    """Hold a run folder for this process; a second holder gets RunLocked at once."""
    path = run.work / "lock"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        if not locked(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunLocked(f"{run.path} is in use by {holder}; wait for it or end it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def locked(file: IO[Any], kind: int = fcntl.LOCK_EX, *, seconds: float = 0.0) -> bool:
    """Lock a file, alone or shared, if nobody else's lock forbids it for so long; return whether it is."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def require_clone() -> None:
    """Raise ParamsError where the package was installed without its notebooks, params and prompts."""
    if not PROMPTS.is_dir():
        raise ParamsError(
            f"llmtwin_data in {Path(__file__).parent} has no notebooks and params beside it: "
            "it runs from a clone; get one, and run make install there"
        )


def resolve(path: str | Path) -> Path:
    """Return the place of a path of ours: relative to the project's root, never to the current folder.

    ParamsError: it is a link that leads back to itself, or begins with a home that nobody has.
    """
    require_clone()
    try:
        return (PROJECT_ROOT / Path(path).expanduser()).resolve()
    except RuntimeError as error:
        raise ParamsError(f"{path}: expected a path that leads somewhere, found none: {error}") from error


def project_path(path: str | Path) -> str:
    """Return a path as files hold it: relative to the project's root where it is inside."""
    return display_path(path, base=PROJECT_ROOT)


def display_path(path: str | Path, *, base: Path | None = None) -> str:
    """Return a path as a command's lines name it: from the current folder where it is inside."""
    absolute, base = resolve(path), base or Path.cwd()
    return str(absolute.relative_to(base) if absolute.is_relative_to(base) else absolute)


def json_lines(rows: Iterable[Any]) -> bytes:
    """Render one object a line, UTF-8, characters as they are."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def read_json_lines(path: Path, *, appended: bool = False) -> list[dict[str, Any]]:
    """Read what `json_lines` rendered, as `numbered_lines` does."""
    return [row for _, row in numbered_lines(path, appended=appended)]


def numbered_lines(path: Path, *, appended: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read what `json_lines` rendered, each with its line's number; DiskFailed names one that is no object.

    Of a file to which lines are ``appended``, a last one that a crash cut is left out, and so are blank ones.
    """
    number = 1
    try:
        # Bytes are split at \n only; str.splitlines would also split at U+2028 inside a text.
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if appended and not (line.strip() and line.endswith(b"\n")):
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"found {type(row).__name__}")
                yield number, row
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DiskFailed(
            f"{path}: cannot be read ({reason}); bring it back, then run the same command again"
        ) from error
    except (ValueError, RecursionError) as error:
        problem = f"expected a JSON object, {error}{'; mend or delete that line' * appended}"
        raise DiskFailed(f"{path.name}, line {number}: {problem}") from error


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Translate an operating system's error at this place into DiskFailed."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "free space or choose another folder, then run the same command again"
        raise DiskFailed(f"{place}: cannot write ({reason}); {hint}") from error


def write_atomically(path: Path, data: bytes | str | Iterable[bytes]) -> None:
    """Write a file whole or not at all, durable on return; DiskFailed leaves what was there."""
    text = data.encode("utf-8") if isinstance(data, str) else data
    pieces = [text] if isinstance(text, bytes) else text
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A full disk may take only a part of a write without an error, so the count is checked (P05).
            with staged.open("wb", buffering=0) as file:
                for piece in pieces:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            staged.rename(path)
        finally:
            staged.unlink(missing_ok=True)
        sync(path.parent)


def publish_folder(staged: Path, target: Path) -> None:
    """Put a staged folder in the target's place, whole or not at all.

    Both must lie on one file system. A target that is there is set aside first; should the
    power fail between the two renames, :func:`recover_folder` brings it back.
    """
    with disk_errors(target):
        for path in [*staged.rglob("*"), staged]:
            sync(path)
        recover_folder(target)
        aside = aside_of(target)
        if target.exists():
            target.rename(aside)
        staged.rename(target)
        sync(target.parent)
        shutil.rmtree(aside, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Finish what a publishing that was cut off left: the old folder back, or its leftovers away."""
    aside = aside_of(target)
    if aside.exists() and not target.exists():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def aside_of(target: Path) -> Path:
    """Return where a folder is set aside while another takes its place."""
    return target.with_name(f".{target.name}.before")


def sync(path: Path) -> None:
    """Make a file's bytes, or the names inside a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
