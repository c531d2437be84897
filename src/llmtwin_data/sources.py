"""Qdrant behind one protocol: the embedded engine in a folder, or a server at a URL."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from llmtwin_data.errors import DiskFailed, KeyRejected, ParamsError, SourceError
from llmtwin_data.folders import resolve
from llmtwin_data.params import may_be_sent_key, redact

PointId = int | str
Payload = dict[str, Any]

# The course writes cleaned_content, its handbook content.
TEXT_FIELDS = ("cleaned_content", "content")
# The course writes author_id or owner_id, the handbook author_full_name as well.
AUTHOR_FIELDS = ("author_id", "owner_id", "author_full_name")

_NAME = re.compile(r"\w[\w.-]{0,63}")
_BATCH_CHARS = 4_000_000  # a server takes requests of at most 32 MB


def check_collection_name(name: str) -> str:
    """Give the name back, or raise ParamsError where it could leave the folder it becomes a part of."""
    if not _NAME.fullmatch(name):
        raise ParamsError(
            f"collection {name[:80]!r}: expected 1 to 64 letters, digits, '_', '-' or '.', beginning "
            "with neither '-' nor '.'; correct the name"
        )
    return name


def missing_collection(name: str, names: Sequence[str], *, address: str) -> SourceError:
    """Make the error for a collection that is not there, with the names most like it."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(near) + "?"
    elif names:
        hint = f"it has {', '.join(sorted(names)[:10])}"
    else:
        hint = "it has none; load one with: llmtwin-data load FILE.jsonl --collection " + name
    return SourceError(f"collection {name!r} is not at {address}; {hint}")


def point_filter(engine: Any, *, authors: Sequence[str], platforms: Sequence[str]) -> Any:
    """Build a filter from the classes of ``engine``; both engines name and combine them alike.

    Notes
    -----
    Authors are strings in some payloads and integers in others, so "2" is looked for as both.
    """
    must = []
    if authors:
        values: list[list[Any]] = [[str(author) for author in authors]]
        values.append([int(author) for author in values[0] if _is_integer(author)])
        must.append(
            engine.Filter(
                should=[
                    engine.FieldCondition(key=field, match=engine.MatchAny(any=alternatives))
                    for field in AUTHOR_FIELDS
                    for alternatives in values
                    if alternatives
                ]
            )
        )
    if platforms:
        match = engine.MatchAny(any=[str(platform) for platform in platforms])
        must.append(engine.FieldCondition(key="platform", match=match))
    return engine.Filter(must=must) if must else None


def batches(
    points: Iterable[tuple[PointId, Payload]], *, size: int
) -> Iterator[list[tuple[PointId, Payload]]]:
    """Group points for writing, by number and by the length of their texts."""
    batch: list[tuple[PointId, Payload]] = []
    chars = 0
    for point in points:
        batch.append(point)
        chars += sum(len(value) for value in point[1].values() if isinstance(value, str))
        if len(batch) == size or chars > _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _is_integer(text: str) -> bool:
    # Qdrant's integers have 64 bits; "02" is another author than 2.
    return bool(re.fullmatch(r"-?(0|[1-9]\d{0,17})", text)) and text.isascii()


def checked_url(url: str) -> SplitResult:
    """Take a Qdrant URL apart, or raise ParamsError: none, or one with a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ParamsError(f"qdrant: no valid URL ({error}); expected https://host:6333") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParamsError(f"qdrant: {parts.scheme or 'no'} URL; expected http:// or https:// with a host")
    if parts.username or parts.password:
        raise ParamsError("qdrant: the URL holds a user or password; set QDRANT_API_KEY instead")
    return parts


Result = TypeVar("Result")

_DEFAULT_PORT = 6333
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONNECT_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class ServerPatience:
    """How long a server may take, before and after its first answer, and how often it is asked."""

    first_seconds: float = 14.0
    later_seconds: float = 60.0
    tries: int = 3
    pause_seconds: float = 0.5


class ServerSource:
    """Collections on a Qdrant server, through its own client."""

    def __init__(self, url: str, *, api_key: str = "", patience: ServerPatience | None = None) -> None:
        parts = checked_url(url)
        self._port = parts.port or _DEFAULT_PORT
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
        self.address = f"{parts.scheme}://{host}:{self._port}{parts.path.rstrip('/')}"
        self._place = f"{host}:{self._port}"
        self._patience = patience or ServerPatience()
        self._deadline = 0.0
        self._answered = False
        self._api_key = api_key if may_be_sent_key(self.address) else ""
        self._client = self._connect(self._api_key)

    def __enter__(self) -> ServerSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def collections(self) -> list[str]:
        """List the collections that the server shows to us, sorted."""
        found = self._asked(self._client.get_collections)
        return sorted(description.name for description in found.collections)

    def count(self, collection: str, *, authors: Sequence[str] = (), platforms: Sequence[str] = ()) -> int:
        """Count the points that pass the filters, exactly."""
        from qdrant_client import models

        name = check_collection_name(collection)
        chosen = point_filter(models, authors=authors, platforms=platforms)
        answer = self._asked(
            lambda: self._client.count(name, count_filter=chosen, exact=True), collection=name
        )
        return int(answer.count)

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
        from qdrant_client import models

        name = check_collection_name(collection)
        chosen = point_filter(models, authors=authors, platforms=platforms)
        records, following = self._asked(
            lambda: self._client.scroll(
                name,
                scroll_filter=chosen,
                limit=page_size,
                offset=offset,
                with_payload=list(fields),
                with_vectors=False,
            ),
            collection=name,
        )
        return [(record.id, record.payload or {}) for record in records], following

    def write(self, collection: str, points: Iterable[tuple[PointId, Payload]]) -> int:
        """Insert or replace points, make the collection (no vectors) when it is missing, and count them."""
        from qdrant_client import models

        name = check_collection_name(collection)
        if name not in self.collections():
            self._asked(lambda: self._client.create_collection(name, vectors_config={}))
        written = 0
        for batch in batches(points, size=500):
            made = [models.PointStruct(id=held, vector={}, payload=payload) for held, payload in batch]
            self._asked(partial(self._client.upsert, name, made, wait=True), collection=name)
            written += len(batch)
        return written

    def _connect(self, api_key: str) -> Any:
        import httpx
        from qdrant_client import QdrantClient

        return QdrantClient(
            url=self.address,
            # As a header of ours the key is sent the same, without the client's warning about loopback.
            headers={"api-key": api_key} if api_key else None,
            check_compatibility=False,
            event_hooks={"request": [self._limit_seconds]},
            # Through no proxy, while SSL_CERT_FILE is still heeded.
            trust_env=False,
            verify=httpx.create_ssl_context(),
        )

    def _limit_seconds(self, request: Any) -> None:
        """Let no request outlive the patience with its operation."""
        left = max(0.1, self._deadline - time.monotonic())
        request.extensions["timeout"] = {
            "connect": min(_CONNECT_SECONDS, left),
            "read": left if self._answered else min(left, self._patience.first_seconds / 2),
            "write": left,
            "pool": left,
        }

    def _asked(self, call: Callable[[], Result], *, collection: str = "") -> Result:
        """Ask the server up to three times; what will not change by asking again is raised at once."""
        patience = self._patience
        self._deadline = time.monotonic() + (
            patience.later_seconds if self._answered else patience.first_seconds
        )
        for attempt in range(1, patience.tries + 1):
            try:
                answer = call()
            except Exception as error:
                self._raise_if_final(error, collection=collection)
                pause = _pause(error, patience.pause_seconds * 2 ** (attempt - 1))
                if attempt == patience.tries or time.monotonic() + pause > self._deadline:
                    raise self._unreachable(error, attempt) from error
                time.sleep(pause)
            else:
                self._answered = True
                return answer
        raise AssertionError("the last try returns or raises")

    def _raise_if_final(self, error: Exception, *, collection: str) -> None:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            found = "refused the key" if self._api_key else "wants a key, and none was sent"
            raise KeyRejected(
                f"Qdrant at {self._place} {found} (HTTP {status}): set QDRANT_API_KEY to one that "
                f"may read {collection or 'its collections'}, over https or on this machine"
            ) from None
        if status == 404 and collection:
            raise missing_collection(collection, self._names(), address=self._place) from None
        if status is not None and status not in _AGAIN:
            raise SourceError(
                f"Qdrant at {self._place} answered HTTP {status}{self._reason(error)}; check "
                "QDRANT_URL and the server"
            ) from None
        if status is None and not _is_transport(error):
            raise SourceError(
                f"Qdrant at {self._place} gave an answer that is not Qdrant's ({type(error).__name__}); "
                "check QDRANT_URL"
            ) from None

    def _names(self) -> list[str]:
        try:
            return sorted(found.name for found in self._client.get_collections().collections)
        except Exception:  # the names are a courtesy within another error
            return []

    def _unreachable(self, error: Exception, attempts: int) -> SourceError:
        status = getattr(error, "status_code", None)
        cause = getattr(error, "source", error)
        found = f"HTTP {status}" if status else f"{type(cause).__name__}: {str(cause)[:120]}"
        return SourceError(
            f"Qdrant at {self._place} did not answer usefully in {attempts} tries ({found}); is it running? "
            "Check `qdrant` or QDRANT_URL"
        )

    def _reason(self, error: Exception) -> str:
        """Give the server's own words, without the key should it echo it."""
        try:
            said = str(json.loads(getattr(error, "content", b""))["status"]["error"])
        except (ValueError, KeyError, TypeError):
            return ""
        return f" ({redact(said, self._api_key)})"[:200]


def _is_transport(error: Exception) -> bool:
    """Tell what may pass when asked again: a lost connection or a 429; not an answer of another shape."""
    import httpx
    from qdrant_client.common.client_exceptions import QdrantException

    return isinstance(getattr(error, "source", error), (httpx.TransportError, QdrantException))


def _pause(error: Exception, otherwise: float) -> float:
    """Give the seconds to wait: what the server asks for, else a doubling pause."""
    asked = getattr(error, "retry_after_s", None)
    return float(max(0, asked)) if asked is not None else otherwise


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


def _asked(call: Callable[[], Result], *, what: str) -> Result:
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


EMBEDDED_FOLDER = ".llmtwin/qdrant"


class Source(Protocol):
    """Collections of points, read and written the same way in the embedded engine and on a server."""

    address: str

    def __enter__(self) -> Self:
        """Open what is read and written in the block."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Let go of it; the next block opens it again."""

    def collections(self) -> list[str]:
        """List the names of the collections, sorted."""

    def count(self, collection: str, *, authors: Sequence[str] = (), platforms: Sequence[str] = ()) -> int:
        """Count the points that pass the filters, exactly."""

    def scroll(
        self,
        collection: str,
        *,
        offset: Any = None,
        page_size: int = 256,
        authors: Sequence[str] = (),
        platforms: Sequence[str] = (),
        fields: Sequence[str],
    ) -> tuple[list[tuple[PointId, dict[str, Any]]], Any]:
        """Give one page of points with the named payload fields, and the next offset or None."""

    def write(self, collection: str, points: Iterable[tuple[PointId, dict[str, Any]]]) -> int:
        """Insert or replace points, make the collection when it is missing, and count them."""


def open_source(address: str, *, api_key: str = "") -> Source:
    """Open a Qdrant server by its URL, or the embedded engine by its folder, to be used in ``with`` blocks.

    A server that is neither this machine nor asked over https is asked without the key.

    Raises
    ------
    ParamsError
        The address is neither, or holds a password.
    """
    if "://" in address:
        return ServerSource(address, api_key=api_key)
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", address):
        raise ParamsError(f"qdrant: {address!r} is no URL and no folder; did you mean http://{address}?")
    return EmbeddedSource(resolve(address))


def source_address(qdrant: str, *, environ: Mapping[str, str]) -> str:
    """Give where contents are: the parameter, else ``QDRANT_URL``, else the project's embedded folder."""
    address = qdrant or environ.get("QDRANT_URL", "").strip() or EMBEDDED_FOLDER
    return address if "://" in address else str(resolve(address))
