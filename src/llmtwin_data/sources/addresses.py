"""Addresses of Qdrant servers: what is one, and which may be sent a key."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from llmtwin_data.errors import ParamsError


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_url(url: str, *, has_key: bool) -> SplitResult:
    """Take a Qdrant URL apart, or raise ParamsError: none, with a password, or the key in clear."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ParamsError(f"qdrant: no valid URL ({error}); expected https://host:6333") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ParamsError(f"qdrant: {parts.scheme or 'no'} URL; expected http:// or https:// with a host")
    if parts.username or parts.password:
        raise ParamsError("qdrant: the URL holds a user or password; set QDRANT_API_KEY instead")
    if has_key and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ParamsError(
            f"qdrant: http to {parts.hostname} would send QDRANT_API_KEY in clear; use https, or a "
            "tunnel to localhost"
        )
    return parts
