"""A Qdrant server behind a URL: patient where it is slow, plain about what is wrong, silent about the key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from llmtwin_data.environment import may_be_sent_key
from llmtwin_data.errors import KeyRejected, SourceError
from llmtwin_data.sources.addresses import checked_url
from llmtwin_data.sources.points import (
    Payload,
    PointId,
    batches,
    check_collection_name,
    missing_collection,
    point_filter,
)

Answer = TypeVar("Answer")

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

    def _asked(self, call: Callable[[], Answer], *, collection: str = "") -> Answer:
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
        return f" ({said.replace(self._api_key, '[key]') if self._api_key else said})"[:200]


def _is_transport(error: Exception) -> bool:
    """Tell what may pass when asked again: a lost connection or a 429; not an answer of another shape."""
    import httpx
    from qdrant_client.common.client_exceptions import QdrantException

    return isinstance(getattr(error, "source", error), (httpx.TransportError, QdrantException))


def _pause(error: Exception, otherwise: float) -> float:
    """Give the seconds to wait: what the server asks for, else a doubling pause."""
    asked = getattr(error, "retry_after_s", None)
    return float(max(0, asked)) if asked is not None else otherwise
