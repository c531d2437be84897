"""Addresses of Qdrant servers."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from llmtwin_data.errors import ParamsError


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
