"""The seam to Qdrant: one protocol, an embedded engine behind a folder and a server behind a URL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

PointId = int | str


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
    """Open a Qdrant server by its URL or the embedded engine by its folder."""
    raise NotImplementedError


def source_address(qdrant: str, *, environ: Mapping[str, str]) -> str:
    """Resolve where contents are."""
    raise NotImplementedError
