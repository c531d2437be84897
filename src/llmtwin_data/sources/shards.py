"""The embedded Qdrant engine: a folder of collections, each a shard that one program opens at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from llmtwin_data.errors import DiskFailed, SourceError
from llmtwin_data.sources.points import (
    Payload,
    PointId,
    batches,
    check_collection_name,
    missing_collection,
    point_filter,
)

Answer = TypeVar("Answer")

_CONFIG = "edge_config.json"  # what the engine writes into each shard's folder
_BUSY = "WouldBlock"  # what the engine says when the write-ahead log is locked
_DISK_WORDS = ("No space left", "Read-only file system", "Permission denied", "os error 28", "os error 30")

# The engine maps what it reads into memory and lets it go only when closed.
_MAPPED_CHARS = 6_000_000
_NO_VECTOR = "none"


class EmbeddedSource:
    """Collections in a folder, read and written by the real engine in this process.

    Use it in a ``with`` block and keep that short: while it is open, no other program or notebook can open
    the collections it touched.
    """

    def __init__(self, folder: Path, *, busy_seconds: float = 3.0) -> None:
        self.address = str(folder)
        self._folder = folder
        self._busy_seconds = busy_seconds
        self._shards: dict[str, Any] = {}
        self._chars: dict[str, int] = {}

    def __enter__(self) -> EmbeddedSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._shards):
            self._close(name)

    def collections(self) -> list[str]:
        """List the collections of the folder, sorted; none when it does not exist."""
        names = [path.parent.name for path in self._folder.glob(f"*/{_CONFIG}")]
        return sorted(name for name in names if not name.startswith("."))

    def count(self, collection: str, *, authors: Sequence[str] = (), platforms: Sequence[str] = ()) -> int:
        """Count the points that pass the filters, exactly."""
        import qdrant_edge

        chosen = point_filter(qdrant_edge, authors=authors, platforms=platforms)
        request = qdrant_edge.CountRequest(exact=True, filter=chosen)
        shard = self._shard(collection)
        return int(_asked(lambda: shard.count(request), what=f"count {collection} in {self.address}"))

    def scroll(
        self,
        collection: str,
        *,
        offset: Any = None,
        page_size: int = 256,
        authors: Sequence[str] = (),
        platforms: Sequence[str] = (),
        fields: Sequence[str],
    ) -> tuple[list[tuple[PointId, Payload]], Any]:
        """Give one page of points with the named payload fields, and the next offset or None."""
        import qdrant_edge

        request = qdrant_edge.ScrollRequest(
            offset=offset,
            limit=page_size,
            filter=point_filter(qdrant_edge, authors=authors, platforms=platforms),
            with_payload=list(fields),
            with_vector=False,
        )
        shard = self._shard(collection)
        records, following = _asked(
            lambda: shard.scroll(request), what=f"read {collection} in {self.address}"
        )
        page = [(_plain_id(record.id), record.payload or {}) for record in records]
        self._forget_what_was_read(collection, page)
        return page, None if following is None else _plain_id(following)

    def write(self, collection: str, points: Iterable[tuple[PointId, Payload]]) -> int:
        """Insert or replace points, make the collection when it is missing, and count them."""
        self._create_if_missing(collection)
        shard, written, what = self._shard(collection), 0, f"write {collection} in {self.address}"
        for batch in batches(points, size=1000):
            _asked(partial(_upsert, shard, batch), what=what)
            written += len(batch)
        _asked(shard.flush, what=what)
        return written

    def _shard(self, collection: str) -> Any:
        import qdrant_edge

        if collection not in self._shards:
            path = self._folder / check_collection_name(collection)
            if not (path / _CONFIG).is_file():
                raise missing_collection(collection, self.collections(), address=self.address)
            self._shards[collection] = self._load(qdrant_edge.EdgeShard, path)
        return self._shards[collection]

    def _load(self, engine: Any, path: Path) -> Any:
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return _asked(lambda: engine.load(str(path)), what=f"open {path}")
            except SourceError as error:
                if _BUSY not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise SourceError(
                        f"{path} is open in another program or notebook; the embedded engine serves one at a "
                        "time: shut that one down, or use a Qdrant server (QDRANT_URL)"
                    ) from None
            time.sleep(0.05)

    def _create_if_missing(self, collection: str) -> None:
        """Create the shard under another name first, so that a kill leaves no half collection."""
        import qdrant_edge

        path = self._folder / check_collection_name(collection)
        if (path / _CONFIG).is_file():
            return
        staged = self._folder / f".{collection}.{os.getpid()}"
        # The engine wants a vector; a sparse one that no point has costs nothing, a dense one 32 MB mapped.
        config = qdrant_edge.EdgeConfig(sparse_vectors={_NO_VECTOR: qdrant_edge.EdgeSparseVectorParams()})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(staged, ignore_errors=True)
            _asked(lambda: qdrant_edge.EdgeShard.create(str(staged), config).close(), what=f"create {path}")
            staged.rename(path)
        except OSError as error:
            raise DiskFailed(f"cannot create {path}: {error.strerror}; choose a writable folder") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _forget_what_was_read(self, collection: str, page: list[tuple[PointId, Payload]]) -> None:
        read = sum(len(value) for _, payload in page for value in payload.values() if isinstance(value, str))
        self._chars[collection] = self._chars.get(collection, 0) + read
        if self._chars[collection] > _MAPPED_CHARS:
            self._close(collection)

    def _close(self, collection: str) -> None:
        self._chars.pop(collection, None)
        shard = self._shards.pop(collection, None)
        if shard is not None:
            with contextlib.suppress(Exception):
                shard.close()


def _upsert(shard: Any, batch: Sequence[tuple[PointId, Payload]]) -> None:
    import qdrant_edge

    points = [qdrant_edge.Point(id=point_id, vector={}, payload=payload) for point_id, payload in batch]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(points))


def _plain_id(point_id: Any) -> PointId:
    return point_id if isinstance(point_id, int) else str(point_id)


def _asked(call: Callable[[], Answer], *, what: str) -> Answer:
    """Ask the engine, and translate what it raises: bare Exceptions, type errors, and Rust's panics."""
    try:
        return call()
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if not panic and not isinstance(error, Exception):
            raise
        text = " ".join(str(error).split())[:300]
        if any(word in text for word in _DISK_WORDS):
            raise DiskFailed(f"cannot {what}: {text}; free the disk or choose another folder") from error
        raise SourceError(f"cannot {what}: {text}") from error
