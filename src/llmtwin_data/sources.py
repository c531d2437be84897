"""Qdrant behind one class: the embedded engine in a folder, or a server at a URL."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from llmtwin_data.errors import DiskFailed, KeyRejected, LlmTwinError, ParamsError, SourceError
from llmtwin_data.folders import disk_errors, publish_folder, recover_folder, resolve
from llmtwin_data.params import is_metadata, may_be_sent_key, redact, shown_url

PointId = int | str
Point = tuple[PointId, dict[str, Any]]
Result = TypeVar("Result")

# The course writes cleaned_content, its handbook content, LangChain page_content.
TEXT_FIELDS = ("cleaned_content", "content", "page_content")
# The course writes author_id or owner_id, the handbook author_full_name as well.
AUTHOR_FIELDS = ("author_id", "owner_id", "author_full_name")
EMBEDDED_FOLDER = ".llmtwin/qdrant"

_NAME = re.compile(r"\w[\w.-]{0,63}")
# Qdrant's integers have 64 bits; "02" is another author than 2.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_MOST_EXACT = 2**53  # below it a float is one integer
_BATCH_POINTS = 1000
_BATCH_CHARS = 4_000_000  # a server takes requests of at most 32 MB

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONNECT_SECONDS = 4.0
_PAUSES = (0.5, 1.0)  # seconds before the second and the third try

_CONFIG = "edge_config.json"  # what the engine writes into each shard's folder
_LOADING = ".loading"  # ends the name of the collection that marks one on a server as not whole
_MARGIN = 4_000_000  # bytes that the engine may need beside the texts
_BUSY = "WouldBlock"  # what the engine says when the write-ahead log is locked
_DISK_WORDS = ("No space left", "Read-only file system", "Permission denied", "os error 28", "os error 30")
# The engine maps what it reads and writes into memory and lets it go only when closed.
_MAPPED_CHARS = 6_000_000


class Source(ABC):
    """Collections of points, read and written alike in the embedded engine and on a server.

    Use it in a ``with`` block; the next block opens it again.
    """

    address: str
    _models: Any  # the classes of a filter, which both engines name and combine alike

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @abstractmethod
    def collections(self) -> list[str]:
        """Return the names of the collections, sorted."""

    def count(self, collection: str, *, authors: Sequence[str] = (), platforms: Sequence[str] = ()) -> int:
        """Count the points that pass the filters, exactly."""
        return self._count(_checked(collection), self._filter(authors, platforms))

    def scroll(
        self,
        collection: str,
        *,
        offset: Any = None,
        page_size: int = 256,
        authors: Sequence[str] = (),
        platforms: Sequence[str] = (),
        fields: Sequence[str] | None,
    ) -> tuple[list[Point], Any]:
        """Return one page of points with the named payload fields or all, and the next offset or None."""
        chosen = self._filter(authors, platforms)
        named = True if fields is None else list(fields)
        records, following = self._scroll(
            _checked(collection), chosen, offset=offset, limit=page_size, with_payload=named
        )
        return _points_of(records), None if following is None else _plain_id(following)

    def retrieve(self, collection: str, ids: Sequence[PointId], *, fields: Sequence[str]) -> list[Point]:
        """Return those of the points that there are, also of a collection that is not whole."""
        return _points_of(self._retrieve(_checked(collection), list(ids), list(fields)))

    @abstractmethod
    def write(self, collection: str, points: Iterable[Point]) -> int:
        """Insert or replace points, make the collection (no vectors) when it is missing, and count them."""

    def _write(self, name: str, points: Iterable[Point]) -> int:
        written, chars = 0, 0
        batch: list[Point] = []
        self._create(name)
        for point in points:
            batch.append(point)
            chars += _chars([point])
            if len(batch) == _BATCH_POINTS or chars > _BATCH_CHARS:
                self._upsert(name, batch)
                written, batch, chars = written + len(batch), [], 0
        if batch:
            self._upsert(name, batch)
        return written + len(batch)

    def _filter(self, authors: Sequence[str], platforms: Sequence[str]) -> Any:
        def any_of(field: str, values: Sequence[Any]) -> Any:
            return self._models.FieldCondition(key=field, match=self._models.MatchAny(any=[*values]))

        def equals(field: str, number: int) -> Any:
            one = getattr(self._models, "RangeFloat", None) or self._models.Range
            return self._models.FieldCondition(key=field, range=one(gte=number, lte=number))

        # Authors are strings in some payloads and numbers in others, so "2" is looked for as both.
        numbers = [int(author) for author in authors if _INTEGER.fullmatch(author)]
        wrote = [any_of(field, it) for field in AUTHOR_FIELDS for it in (authors, numbers) if it]
        wrote += [equals(field, it) for field in AUTHOR_FIELDS for it in numbers if abs(it) < _MOST_EXACT]
        must = [self._models.Filter(should=wrote)] if wrote else []
        must += [any_of("platform", platforms)] if platforms else []
        return self._models.Filter(must=must) if must else None

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _count(self, name: str, chosen: Any) -> int: ...

    @abstractmethod
    def _scroll(self, name: str, chosen: Any, **page: Any) -> tuple[list[Any], Any]: ...

    @abstractmethod
    def _retrieve(self, name: str, ids: list[PointId], fields: list[str]) -> list[Any]: ...

    @abstractmethod
    def _create(self, name: str) -> None: ...

    @abstractmethod
    def _upsert(self, name: str, points: Sequence[Point]) -> None: ...


def open_source(address: str, *, api_key: str = "") -> Source:
    """Open a Qdrant server by its URL, or the embedded engine by its folder, to be used in ``with`` blocks.

    A server that is neither this machine nor asked over https is asked without the key.

    Raises ParamsError: the address is neither, or holds a password.
    """
    if "://" in address:
        return ServerSource(address, api_key=api_key)
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", address):
        raise ParamsError(f"qdrant: {address!r} is no URL and no folder; did you mean http://{address}?")
    return EmbeddedSource(resolve(address))


def source_address(qdrant: str, *, environ: Mapping[str, str]) -> str:
    """Return where contents are: the parameter, else ``QDRANT_URL``, else the project's embedded folder."""
    address = qdrant or environ.get("QDRANT_URL", "").strip() or EMBEDDED_FOLDER
    return address if "://" in address else str(resolve(address))


def _checked(name: str) -> str:
    """Return the name, or raise ParamsError where it could leave the folder it becomes a part of."""
    if not _NAME.fullmatch(name):
        raise ParamsError(
            f"collection {name[:80]!r}: expected 1 to 64 letters, digits, '_', '-' or '.', beginning "
            "with neither '-' nor '.'; correct the name"
        )
    return name


def _missing(name: str, names: Sequence[str], *, address: str) -> SourceError:
    if near := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"it has {', '.join(names[:10])}"
    else:
        hint = f"it has none; load one with: llmtwin-data load FILE --collection {name}"
    return SourceError(f"collection {name!r} is not at {address}; {hint}")


def _plain_id(point_id: Any) -> PointId:
    return point_id if isinstance(point_id, int) else str(point_id)


def _points_of(records: Iterable[Any]) -> list[Point]:
    return [(_plain_id(record.id), record.payload or {}) for record in records]


def _chars(points: Iterable[Point]) -> int:
    return sum(len(it) for _, payload in points for it in payload.values() if isinstance(it, str))


class ServerSource(Source):
    """Collections on a Qdrant server, through its own client; a try waits ``seconds`` for an answer."""

    def __init__(self, url: str, *, api_key: str = "", seconds: float = 20.0) -> None:
        import httpx
        from qdrant_client import QdrantClient, models

        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 6333
        except ValueError:  # no port, or no IPv6 address
            host = ""
        is_web = host and parts.scheme in ("http", "https") and not is_metadata(host)
        # run.json holds the address, and so must hold no key.
        if not is_web or "@" in parts.netloc or parts.query or parts.fragment:
            raise ParamsError(
                "qdrant: expected http:// or https:// with a host, no metadata address, and no password or "
                f"query (the key is QDRANT_API_KEY); found {shown_url(url)}"
            )
        self._place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.address = f"{parts.scheme}://{self._place}{parts.path.rstrip('/')}"
        self._seconds = seconds
        self._api_key = api_key if may_be_sent_key(self.address) else ""
        self._models = models
        limits = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS)).as_dict()
        self._client = QdrantClient(
            url=self.address,
            # As a header of ours the key is sent the same, without the client's warning about loopback.
            headers={"api-key": self._api_key} if self._api_key else None,
            check_compatibility=False,
            event_hooks={"request": [lambda request: request.extensions.update(timeout=limits)]},
            # Through no proxy, while SSL_CERT_FILE is still heeded.
            trust_env=False,
            verify=httpx.create_ssl_context(),
        )

    def collections(self) -> list[str]:
        """Return the names of the collections that the server shows to us, sorted."""
        return [name for name in self._names() if not name.endswith(_LOADING)]

    def write(self, collection: str, points: Iterable[Point]) -> int:
        """Write beside a marker that goes when all is written: till then the collection cannot be read."""
        marker = _checked(collection) + _LOADING
        self._create(marker)
        written = self._write(collection, points)
        self._ask(self._client.delete_collection, marker)
        return written

    def _names(self) -> list[str]:
        return sorted(it.name for it in self._ask(self._client.get_collections).collections)

    def _close(self) -> None:
        self._client.close()

    def _count(self, name: str, chosen: Any) -> int:
        return int(self._ask(self._client.count, name, count_filter=chosen, exact=True).count)

    def _scroll(self, name: str, chosen: Any, **page: Any) -> tuple[list[Any], Any]:
        if page["offset"] is None and name + _LOADING in self._names():
            raise SourceError(
                f"collection {name!r} at {self._place} is not whole: it is being loaded, or a load was "
                f"interrupted; give the same `llmtwin-data load` again, or delete it and {name}{_LOADING}"
            )
        return self._ask(self._client.scroll, name, scroll_filter=chosen, with_vectors=False, **page)

    def _retrieve(self, name: str, ids: list[PointId], fields: list[str]) -> list[Any]:
        return self._ask(self._client.retrieve, name, ids=ids, with_payload=fields)

    def _create(self, name: str) -> None:
        if name not in self._names():
            self._ask(self._client.create_collection, name, vectors_config={})

    def _upsert(self, name: str, points: Sequence[Point]) -> None:
        made = [self._models.PointStruct(id=i, vector={}, payload=payload) for i, payload in points]
        self._ask(self._client.upsert, name, points=made, wait=True)

    def _ask(self, call: Callable[..., Result], *name: str, **given: Any) -> Result:
        """Ask the server, about a collection if one is named, again only where that may change the answer."""
        from httpx import TransportError
        from qdrant_client.common.client_exceptions import QdrantException

        for attempt, usual in enumerate((*_PAUSES, math.inf), 1):
            try:
                return call(*name, **given)
            except Exception as error:
                status, cause = getattr(error, "status_code", None), getattr(error, "source", error)
                # A lost connection or a 429 may pass; an answer of another shape will not.
                if status not in _AGAIN and not isinstance(cause, TransportError | QdrantException):
                    raise self._final(error, status, *name) from None
                pause = max(usual, getattr(error, "retry_after_s", None) or 0)
                if pause > self._seconds:
                    what = f"HTTP {status}" if status else f"{type(cause).__name__}: {str(cause)[:120]}"
                    raise SourceError(
                        f"Qdrant at {self._place} did not answer usefully in {attempt} tries ({what}); is it "
                        "running? Check `qdrant` or QDRANT_URL"
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _final(self, error: Exception, status: int | None, name: str = "") -> LlmTwinError:
        """Return what is said of an error that will not change by asking again."""
        if status in (401, 403):
            what = "refused the key" if self._api_key else "wants a key, and none was sent"
            return KeyRejected(
                f"Qdrant at {self._place} {what} (HTTP {status}): set QDRANT_API_KEY to one that may read "
                f"{name or 'its collections'}, over https or on this machine"
            )
        if status == 404 and name:
            return _missing(name, self.collections(), address=self._place)
        what = f"gave an answer that is not Qdrant's ({type(error).__name__})"
        if status:
            what = f"answered HTTP {status}"
            with suppress(ValueError, KeyError, TypeError):
                words = json.loads(getattr(error, "content", b""))["status"]["error"]
                what += f" ({redact(str(words), self._api_key)[:200]})"
        return SourceError(f"Qdrant at {self._place} {what}; check QDRANT_URL and the server")


class EmbeddedSource(Source):
    """Collections in a folder, read and written by the real engine in this process.

    While it is open, no other program or notebook can open the collections it touched: keep that short.
    """

    def __init__(self, folder: Path, *, busy_seconds: float = 3.0) -> None:
        import qdrant_edge

        self.address = str(folder)
        self._models = qdrant_edge
        self._folder = folder
        self._busy_seconds = busy_seconds
        self._shards: dict[str, Any] = {}
        self._mapped_chars = 0  # since the shards were opened

    def __enter__(self) -> Self:
        for aside in self._folder.glob(".*.before"):
            recover_folder(self._folder / aside.stem[1:])
        return self

    def collections(self) -> list[str]:
        """Return the names of the collections of the folder, sorted; none when it does not exist."""
        names = [path.parent.name for path in self._folder.glob(f"*/{_CONFIG}")]
        return sorted(name for name in names if not name.startswith("."))

    def write(self, collection: str, points: Iterable[Point]) -> int:
        """Write into a copy that takes the collection's place at the end: all is written, or nothing."""
        path = self._folder / _checked(collection)
        staged = path.with_name(f".{collection}.{os.getpid()}")
        try:
            with disk_errors(path):
                self._folder.mkdir(parents=True, exist_ok=True)
                for left in self._folder.glob(f".{collection}.[0-9]*"):
                    is_ours = left.stem == staged.stem  # not what another, called posts.2024, has set aside
                    if is_ours and (left == staged or not Path("/proc", left.suffix[1:]).exists()):
                        shutil.rmtree(left)
                if (path / _CONFIG).is_file():
                    self._shard(collection)  # no other process writes while it is open
                    self._leave_room(sum(it.stat().st_size for it in path.rglob("*")))
                    shutil.copytree(path, staged)
                written = self._write(staged.name, points)
            self._close()
            publish_folder(staged, path)
        finally:
            self._close()
            shutil.rmtree(staged, ignore_errors=True)
        return written

    def _leave_room(self, size: int) -> None:
        """Raise DiskFailed while that can be done: on a full disk the engine dies of what it has mapped."""
        free = shutil.disk_usage(self._folder).free
        if free < size + _MARGIN:
            wanted = f"expected {(size + _MARGIN) // 1_000_000} MB free, found {free // 1_000_000} MB"
            raise DiskFailed(f"{self._folder}: disk full, {wanted}; free the disk or choose another folder")

    def _close(self) -> None:
        self._mapped_chars = 0
        while self._shards:
            with suppress(Exception):
                self._shards.popitem()[1].close()

    def _count(self, name: str, chosen: Any) -> int:
        with self._engine_errors(f"count {name}"):
            return int(self._shard(name).count(self._models.CountRequest(exact=True, filter=chosen)))

    def _scroll(self, name: str, chosen: Any, **page: Any) -> tuple[list[Any], Any]:
        request = self._models.ScrollRequest(filter=chosen, with_vector=False, **page)
        with self._engine_errors(f"read {name}"):
            records, following = self._shard(name).scroll(request)
        self._let_go(_chars(_points_of(records)))
        return records, following

    def _retrieve(self, name: str, ids: list[PointId], fields: list[str]) -> list[Any]:
        with self._engine_errors(f"read {name}"):
            records = list(self._shard(name).retrieve(ids, with_payload=fields, with_vector=False))
        self._let_go(_chars(_points_of(records)))
        return records

    def _create(self, name: str) -> None:
        path, edge = self._folder / name, self._models
        if (path / _CONFIG).is_file():
            return
        self._leave_room(0)
        # The engine wants a vector; a sparse one that no point has costs nothing, a dense one 32 MB mapped.
        config = edge.EdgeConfig(sparse_vectors={"none": edge.EdgeSparseVectorParams()})
        with self._engine_errors(f"create {name}"):
            edge.EdgeShard.create(str(path), config).close()

    def _upsert(self, name: str, points: Sequence[Point]) -> None:
        self._leave_room(8 * _chars(points))  # UTF-8, in the log and in the segment
        with self._engine_errors(f"write {name}"):
            made = [self._models.Point(id=i, vector={}, payload=payload) for i, payload in points]
            self._shard(name).update(self._models.UpdateOperation.upsert_points(made))
        self._let_go(_chars(points) // 5)  # to open it takes the longer the more it holds

    def _let_go(self, chars: int) -> None:
        """Close what is open when so many characters more were read or written that they take much memory."""
        self._mapped_chars += chars
        if self._mapped_chars > _MAPPED_CHARS:
            self._close()

    def _shard(self, name: str) -> Any:
        """Return the open collection; one that another process has open is waited for."""
        path, deadline = self._folder / name, time.monotonic() + self._busy_seconds
        if name not in self._shards and not (path / _CONFIG).is_file():
            raise _missing(name, self.collections(), address=self.address)
        while name not in self._shards:
            try:
                with self._engine_errors(f"open {name}"):
                    self._shards[name] = self._models.EdgeShard.load(str(path))
            except SourceError as error:
                if _BUSY not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise SourceError(
                        f"{path} is open in another program or notebook; the embedded engine serves one at a "
                        "time: shut that one down, or use a Qdrant server (QDRANT_URL)"
                    ) from None
                time.sleep(0.05)
        return self._shards[name]

    @contextmanager
    def _engine_errors(self, what: str) -> Iterator[None]:
        """Translate what the engine raises: bare Exceptions, type errors, and Rust's panics."""
        try:
            yield
        except LlmTwinError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            text = " ".join(str(error).split())[:300]
            place = f"cannot {what} in {self.address}: {text}"
            if any(word in text for word in _DISK_WORDS):
                raise DiskFailed(f"{place}; free the disk or choose another folder") from error
            raise SourceError(place) from error
