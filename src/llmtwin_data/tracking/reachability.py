"""Whether a host can be reached, decided within seconds where a library tries for half a minute."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def reachable(url: str, *, environ: Mapping[str, str], seconds: float = 5.0) -> bool:
    """Say whether the URL's host, or the proxy for it that the environment names, accepts a connection.

    Takes at most twice ``seconds``: looking up a name has no deadline of its own, so it is left behind.
    """
    target = urlsplit(_proxy(url, environ) or url)
    address = target.hostname or "", target.port or _PORTS.get(target.scheme, 443)
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_connects(address, seconds)), daemon=True)
    asking.start()
    asking.join(2 * seconds)
    return bool(answers and answers[0])


def _connects(address: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(address, timeout=seconds).close()
    except (OSError, UnicodeError):
        return False
    return True


def _proxy(url: str, environ: Mapping[str, str]) -> str:
    target = urlsplit(url)
    spared = [name.strip().lstrip(".") for name in _either("no_proxy", environ).split(",")]
    host = target.hostname or ""
    if any(name == "*" or host == name or (name and host.endswith(f".{name}")) for name in spared):
        return ""
    proxy = _either(f"{target.scheme}_proxy", environ) or _either("all_proxy", environ)
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _either(name: str, environ: Mapping[str, str]) -> str:
    return environ.get(name) or environ.get(name.upper(), "")
