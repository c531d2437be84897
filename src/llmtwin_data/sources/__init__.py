"""The seam to Qdrant: one protocol, an embedded engine behind a folder and a server behind a URL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import resolve
from llmtwin_data.sources.points import PointId
from llmtwin_data.sources.servers import ServerSource
from llmtwin_data.sources.shards import EmbeddedSource

__all__ = ["PointId", "Source", "open_source", "source_address"]

EMBEDDED_FOLDER = ".llmtwin/qdrant"


class Source(Protocol):
    """Collections of points, read and written the same way in the embedded engine and on a server."""

    address: str

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


def open_source(address: str, *, api_key: str = "") -> AbstractContextManager[Source]:
    """Open a Qdrant server by its URL, or the embedded engine by its folder, for a ``with`` block.

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
