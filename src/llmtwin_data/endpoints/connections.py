"""One HTTP session to one endpoint: a single deadline, bounded bodies, no redirects, no keys in texts."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

MAX_BODY_BYTES = 8 * 1024 * 1024
# Files the process holds besides its connections: store, spool, kernel sockets.
OTHER_FILES = 40
# Seconds before each try to reach an endpoint at all.
FIRST_TRIES = (0.0, 0.5, 1.0)
SECRET = re.compile(r"\b(?:sk|qd|cm|rk|pk|hf|gsk|xai)[-_][A-Za-z0-9_-]{6,}|(?<=Bearer )[^\s\"']+")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request; status 0 and a problem in one word where no whole answer did."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    problem: str = ""
    sent: bool = True  # False: certainly not received, so certainly not charged


def redact(text: str, *secrets: str) -> str:
    """Replace the secrets given, and whatever has the shape of a key."""
    return SECRET.sub("[key]", without_keys(text, *secrets))


def without_keys(text: str, *secrets: str) -> str:
    """Replace the secrets given, also where JSON spells some of their characters as escapes."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[key]")
        text = _spellings(secret).sub("[key]", text) if "\\u" in text or "\\/" in text else text
    return text


def allowed_connections(wanted: int) -> int:
    """Give how many connections the limit on open files leaves room for, at least one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else max(1, min(wanted, limit - OTHER_FILES))


def unreachable(base_url: str, *, connect_seconds: float = 2.0) -> str:
    """Say why nothing can be sent to this address, tried three times; empty if it can. Sends nothing."""
    fault: OSError | None = None
    for pause in FIRST_TRIES:
        time.sleep(pause)
        fault = _try_to_connect(base_url, connect_seconds)
        if fault is None or isinstance(fault, ssl.SSLError):
            break
    return _fault_words(fault, base_url) if fault else ""


class Connection:
    """Posts chat requests; open with ``async with``."""

    def __init__(self, base_url: str, *, api_key: str, concurrency: int, connect_seconds: float) -> None:
        self.base_url = base_url
        self._url = URL(f"{base_url}/chat/completions")
        self._api_key = api_key
        self._concurrency = concurrency
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Connection:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, body: bytes, *, idempotency_key: str, timeout_seconds: float) -> Reply:
        """Send a body and give what came back, whatever it is; never raises for what the network does."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(timeout_seconds):
                status, headers, text = await self._exchange(body, idempotency_key)
        except (aiohttp.ClientError, OSError, zlib.error, _BodyRefused) as error:
            problem, sent = _name_of(error)
            words = str(error) if sent else _fault_words(error, self.base_url)
            return Reply(0, {}, redact(words, self._api_key), clock() - started, problem, sent)
        return Reply(status, headers, without_keys(text, self._api_key), clock() - started)

    async def _exchange(self, body: bytes, idempotency_key: str) -> tuple[int, Mapping[str, str], str]:
        headers = {"Idempotency-Key": idempotency_key}
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False
        ) as response:
            raw = await _read_body(response)
            return response.status, response.headers, raw.decode("utf-8-sig", "replace")


@lru_cache(maxsize=8)
def _spellings(secret: str) -> re.Pattern[str]:
    # JSON within JSON doubles the backslashes.
    return re.compile("".join(rf"\\{{0,8}}(?:{re.escape(char)}|u(?i:{ord(char):04x}))" for char in secret))


class _BodyRefused(Exception):
    pass


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise _BodyRefused(f"content encoding {encoding[:20]!r} was not asked for")
    inflate = None if encoding == "identity" else zlib.decompressobj(wbits=47)
    parts: list[bytes] = []
    room = MAX_BODY_BYTES
    async for part in response.content.iter_any():
        data = inflate.decompress(part, room + 1) if inflate else part
        room -= len(data)
        if room < 0:
            raise _BodyRefused(f"body larger than {MAX_BODY_BYTES} bytes")
        parts.append(data)
        if inflate and inflate.eof and inflate.unused_data:
            raise _BodyRefused("more after the end of the compressed body")
    if inflate and parts and not inflate.eof:
        raise aiohttp.ClientPayloadError("compressed body is cut")
    return b"".join(parts)


def _try_to_connect(base_url: str, seconds: float) -> OSError | None:
    parts, (host, port) = urlsplit(base_url), _place_of(base_url)
    try:
        with socket.create_connection((host, port), timeout=seconds) as plain:
            if parts.scheme == "https":
                ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
    except OSError as error:
        return error
    return None


def _place_of(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _fault_words(error: BaseException, base_url: str) -> str:
    """Say for a person why an endpoint could not be reached."""
    host, port = _place_of(base_url)
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {host} port {port} cannot be trusted: {cause.verify_message.rstrip('.')}"
    if isinstance(cause, ssl.SSLError):
        return f"{host} port {port} does not speak TLS: {cause.reason or cause}"
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return f"the host name {host} (port {port}) is not known to DNS"
    if isinstance(cause, ConnectionRefusedError):
        return f"nothing listens at {host} port {port}: the connection is refused"
    if isinstance(cause, TimeoutError):
        return f"{host} port {port} does not answer"
    return f"{host} port {port} cannot be reached: {getattr(cause, 'strerror', None) or cause}"


def _name_of(error: BaseException) -> tuple[str, bool]:
    """Give a word for a fault, and whether the endpoint may have received the request."""
    names: list[tuple[type[BaseException], str, bool]] = [
        (aiohttp.ClientConnectorCertificateError, "tls", False),
        (aiohttp.ClientSSLError, "tls", False),
        (aiohttp.ClientConnectorDNSError, "dns", False),
        (aiohttp.ConnectionTimeoutError, "connect_timeout", False),
        (aiohttp.ClientConnectorError, "refused_connection", False),
        (_BodyRefused, "unusable_body", True),
        (TimeoutError, "timeout", True),
        (aiohttp.ClientPayloadError, "cut_body", True),
        (aiohttp.ClientResponseError, "bad_http", True),
    ]
    return next(((name, sent) for kind, name, sent in names if isinstance(error, kind)), ("reset", True))
