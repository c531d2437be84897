"""The environment, read once at the edges: addresses and secrets, and how secrets are kept out of texts."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from llmtwin_data.folders import PROJECT_ROOT

# Names another file than .env of the project's root; empty reads none, as the tests do.
ENV_FILE = "LLMTWIN_ENV_FILE"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
# Shorter values would blacken ordinary words of a text.
_SHORTEST_SECRET = 6


def read_environ() -> dict[str, str]:
    """Give the process's environment over what ``.env`` sets; an empty variable counts as not set."""
    from dotenv import dotenv_values

    place = os.environ.get(ENV_FILE, str(PROJECT_ROOT / ".env"))
    stored = dotenv_values(place) if place and Path(place).is_file() else {}
    merged = {key: value for key, value in stored.items() if value} | dict(os.environ)
    return {key: value for key, value in merged.items() if value}


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Give the values that must never appear in a file, longest first."""
    found = {value for key, value in environ.items() if _SECRET_NAME.search(key)}
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def may_be_sent_key(url: str) -> bool:
    """Tell whether a key may go to an address: over https, or to this machine, whatever the service."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def withheld_key(url: str, name: str, *, environ: Mapping[str, str]) -> str:
    """Say that an address is asked without the key of this name; empty if it gets it, or there is none."""
    if "://" not in url or not environ.get(name, "").strip() or may_be_sent_key(url):
        return ""
    host = urlsplit(url).hostname
    return (
        f"{name} is not sent to {host}, which is asked without it: a key goes over https, or to this machine"
    )


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine; other names than localhost may be resolved elsewhere."""
    address = ip_of(host)
    return address.is_loopback if address else host == "localhost"


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address in any spelling: short, decimal, hex, octal, full-width, mapped; None for a name."""
    with suppress(UnicodeError, ValueError):
        host = host.encode("idna").decode()
        address = ipaddress.ip_address(host)
        return getattr(address, "ipv4_mapped", None) or address
    with suppress(OSError):
        return (
            ipaddress.IPv4Address(socket.inet_aton(host)) if re.fullmatch(r"[\da-fx.]+", host, re.I) else None
        )
    return None


def redact(text: str, secrets: Iterable[str]) -> str:
    """Give the text without these values; the mark shows nothing of them."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return text
