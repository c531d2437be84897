"""A Qdrant server's REST face on loopback: the client's own in-memory engine behind it, faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient, models


@dataclass
class Fault:
    """What to answer instead, ``times`` times, after ``after`` requests whose path holds ``path``."""

    path: str
    status: int = 200
    body: Any = None
    times: int = 1
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hang_up: bool = False


@dataclass
class Seen:
    method: str
    path: str
    body: Any
    api_key: str


class QdrantServer:
    """State of the stand-in: its engine, the requests it saw, the faults it still has to make."""

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.before_answer: Callable[[Seen], None] = lambda seen: None
        self.api_key = ""
        self.extra: dict[str, Any] = {}
        self.url = ""
        self._lock = threading.Lock()

    def put(self, points: Iterable[tuple[int | str, dict[str, Any]]]) -> None:
        """Write points into ``cleaned_posts`` without a request."""
        if not self.engine.collection_exists("cleaned_posts"):
            self.engine.create_collection("cleaned_posts", vectors_config={})
        made = [models.PointStruct(id=n, vector={}, payload=payload) for n, payload in points]
        if made:
            self.engine.upsert("cleaned_posts", made)

    def scrolls(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.path.endswith("/scroll")]

    def answer(self, seen: Seen) -> tuple[int, Any, dict[str, str]] | None:
        """Give status, body and headers; None is to hang up."""
        with self._lock:
            self.requests.append(seen)
            self.before_answer(seen)
            if fault := self._next_fault(seen):
                time.sleep(fault.seconds)
                return None if fault.hang_up else (fault.status, fault.body, fault.headers)
            if self.api_key and seen.api_key != self.api_key:
                return 403, {"status": {"error": "forbidden"}}, {}
            return self._healthy(seen)

    def _next_fault(self, seen: Seen) -> Fault | None:
        for fault in self.faults:
            if fault.path in seen.path and fault.times:
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def _healthy(self, seen: Seen) -> tuple[int, Any, dict[str, str]]:
        parts = seen.path.split("?")[0].strip("/").split("/")
        name = parts[1] if len(parts) > 1 else ""
        if seen.method == "PUT" and len(parts) == 2:
            return _ok(self.engine.create_collection(name, vectors_config={}))
        if seen.method == "DELETE":
            return _ok(self.engine.delete_collection(name))
        if len(parts) == 1:
            return _ok(
                {"collections": [{"name": held.name} for held in self.engine.get_collections().collections]}
            )
        if not self.engine.collection_exists(name):
            return 404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}}, {}
        action = {"points": self._upsert, "scroll": self._scroll, "count": self._count}[parts[-1]]
        return _ok(action(name, seen.body))

    def _upsert(self, name: str, body: Any) -> Any:
        if "ids" in body:
            records = self.engine.retrieve(name, body["ids"], with_payload=body["with_payload"])
            return [{"id": record.id, "payload": record.payload} for record in records]
        self.engine.upsert(name, [models.PointStruct(**point) for point in body["points"]])
        return {"operation_id": 0, "status": "completed"}

    def _scroll(self, name: str, body: Any) -> Any:
        found, following = self.engine.scroll(
            name,
            scroll_filter=models.Filter(**body["filter"]) if body.get("filter") else None,
            limit=body["limit"],
            offset=body.get("offset"),
            with_payload=body["with_payload"],
        )
        points = [{"id": record.id, "payload": record.payload, **self.extra} for record in found]
        return {"points": points, "next_page_offset": following}

    def _count(self, name: str, body: Any) -> Any:
        chosen = models.Filter(**body["filter"]) if body.get("filter") else None
        return {"count": self.engine.count(name, count_filter=chosen).count}


@contextmanager
def qdrant_server() -> Iterator[QdrantServer]:
    """Serve on a free port until the block ends."""
    server = QdrantServer()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            answer = server.answer(Seen(self.command, self.path, body, self.headers.get("api-key", "")))
            if answer is None:
                self.close_connection = True
                return
            status, content, headers = answer
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {
                "content-type": "application/json",
                "content-length": str(len(data)),
                **headers,
            }.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _reply  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        server.engine.close()


def _ok(result: Any) -> tuple[int, Any, dict[str, str]]:
    return 200, {"usage": None, "time": 0.0, "status": "ok", "result": result}, {}
