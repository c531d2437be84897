"""One call to an endpoint: deadline, bounded body, no redirect or proxy, named problems; the pace of all."""

from __future__ import annotations

import asyncio
import json
import math
import re
import resource
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from llmtwin_data.params import redact

Kind = Literal[
    "key",
    "billing",
    "model",
    "address",
    "redirect",
    "tls",
    "request",
    "filtered",
    "too_long",
    "rate",
    "overload",
    "server",
    "network",
    "answer",
]
BILLING_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "payment_required"}
TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum context|reduce the length|too many tokens"
    r"|(prompt|input|request)\b.{0,40}too (long|large)|exceeds? .{0,60}(context|token)",
    re.IGNORECASE,
)
SERVER_STATUS = {408, 409, 425}
OVERLOAD_STATUS = {503, 529}
# Who answers so may be in between, or still at work: the request may yet be served and charged.
UNSURE_STATUS = {200, 408, 409, 425, 502, 504}


@dataclass(frozen=True, slots=True)
class Problem:
    """One word for what to do, one for the ledger, and what the server said."""

    kind: Kind
    reason: str
    detail: str = ""
    param: str = ""  # the request field that the server names, if any
    wait: float | None = None  # seconds it asks to wait


class Said(NamedTuple):
    """What an error body says."""

    message: str
    code: str
    param: str


def problem_of(status: int, headers: Mapping[str, str], text: str, *, fault: str = "") -> Problem | None:
    """Name the problem of a reply; None for status 200, whose body is read elsewhere."""
    if fault:
        return Problem("tls" if fault == "tls" else "network", fault, text[:300])
    if status == 200:
        return None
    if 300 <= status < 400:
        return Problem("redirect", f"http_{status}", headers.get("Location", "")[:200])
    said = read_error(text)
    kind = _kind_of(status, said)
    reason = {"too_long": "too_long", "filtered": "filtered"}.get(kind, f"http_{status}")
    return Problem(kind, reason, said.message, said.param, retry_after(headers))


def read_error(text: str) -> Said:
    """Read the error body of any OpenAI-like server, one line of at most 300 characters."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    error = body.get("error", body) if isinstance(body, dict) else body
    message, code, param = error, "", ""
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        code = str((error["code"] if isinstance(error.get("code"), str) else error.get("type")) or "")
        param = str(error.get("param") or "")
    words = message if isinstance(message, str) else json.dumps(message, default=str)
    return Said(" ".join(words[:600].split())[:300], code, param)


def _kind_of(status: int, said: Said) -> Kind:
    too_long = status == 413 or said.code == "context_length_exceeded" or TOO_LONG.search(said.message)
    named = "model" in f"{said.message} {said.code}".lower()
    kinds: list[tuple[Any, Kind]] = [
        (status == 402 or said.code in BILLING_CODES, "billing"),
        (status in (401, 403), "key"),
        (status == 404, "model" if named else "address"),
        (status == 429, "rate"),
        (status in OVERLOAD_STATUS, "overload"),
        (status >= 500 or status in SERVER_STATUS, "server"),
        (too_long, "too_long"),
        (said.code == "content_filter", "filtered"),
        (status >= 400, "request"),
    ]
    return next((kind for holds, kind in kinds if holds), "answer")


MAX_BODY_BYTES = 8 * 1024 * 1024
# Files the process holds besides its connections: store, spool, kernel sockets.
OTHER_FILES = 40
# Seconds before each try to reach an endpoint at all.
FIRST_TRIES = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request; status 0 and a problem in one word where no whole answer did."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    problem: str = ""
    sent: bool = True  # False: certainly not received, so certainly not charged


def allowed_connections(wanted: int) -> int:
    """Return how many connections the limit on open files leaves room for, at least one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else max(1, min(wanted, limit - OTHER_FILES))


def unreachable(base_url: str, *, connect_seconds: float = 2.0) -> str:
    """Return why nothing can be sent to this address, tried three times; empty if it can. Sends nothing."""
    host, port = _place_of(base_url)
    fault: OSError | None = None
    for pause in FIRST_TRIES:
        time.sleep(pause)
        try:
            with socket.create_connection((host, port), timeout=connect_seconds) as plain:
                if base_url.startswith("https:"):
                    ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
            return ""
        except OSError as error:
            fault = error
        if isinstance(fault, ssl.SSLError):
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

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def post(self, body: bytes, *, idempotency_key: str, timeout_seconds: float) -> Reply:
        """Send a body and return what came back, whatever it is; never raises for what the network does."""
        clock = asyncio.get_running_loop().time
        started, headers = clock(), {"Idempotency-Key": idempotency_key}
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                text = (await _read_body(response)).decode("utf-8-sig", "replace")
        except (aiohttp.ClientError, OSError, zlib.error, _BodyRefused) as error:
            problem, sent = _name_of(error)
            words = str(error) if sent else _fault_words(error, self.base_url)
            return Reply(0, {}, redact(words, self._api_key, shapes=True), clock() - started, problem, sent)
        return Reply(response.status, response.headers, redact(text, self._api_key), clock() - started)


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


def _place_of(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _fault_words(error: BaseException, base_url: str) -> str:
    """Return for a person why an endpoint could not be reached."""
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
    """Return a word for a fault, and whether the endpoint may have received the request."""
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


# More in flight after each success of a slow start, at least: 1, 8, 64 in one round trip each.
SLOW_START_STEP = 7


@dataclass(frozen=True, slots=True)
class Patience:
    """Every wait of the engine, in seconds, and every limit on trying again."""

    attempts: int = 4  # useless answers or own faults of one chunk before it is given up
    backoff: float = 0.5  # first wait after a fault, doubles
    longest_backoff: float = 60.0
    longest_retry_after: float = 120.0  # above: the run ends and says until when
    breaker: int = 5  # faults in a row before only single probes are sent
    first_contact: float = 8.0  # an endpoint that never answered is given up after this
    outage: float = 600.0  # an endpoint that did answer is given up after this
    connect: float = 3.5  # so that two tries fit into first_contact
    drain: float = 20.0  # for calls in flight when the run is told to stop
    poll: float = 5.0  # between looks at a provider's batch, half as long again each time
    longest_poll: float = 60.0

    def backoff_after(self, faults: int) -> float:
        """Return the wait after this many faults in a row, at least one."""
        return min(self.longest_backoff, self.backoff * 2.0 ** min(faults - 1, 30))


def retry_after(headers: Mapping[str, str], *, wall_clock: datetime | None = None) -> float | None:
    """Return the seconds a server asks to wait, 0 or more; None if it does not say or says nonsense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, ""))
            if math.isfinite(seconds):
                return max(0.0, seconds) * unit
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (wall_clock or datetime.now(UTC))).total_seconds())


class Pace:
    """Calls in flight, by additive increase and multiplicative decrease, with a breaker.

    One call at a time until the first success, so that a wrong key or model costs one request;
    then slow start; then, after the first cut, one sixteenth of the ceiling more each round trip.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        ceiling: int,
        requests_per_minute: int = 0,
        now: Callable[[], float],
    ) -> None:
        self.patience = patience
        self.ceiling = ceiling
        self.limit = 1.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.successes = 0
        self.strikes = 0  # faults since the last success
        self.rounds = 0  # the same, a burst counted once
        self.cuts = 0
        self.reached = False  # whether anything ever got through to the endpoint
        self._now = now
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._step = max(1.0, ceiling / 16)
        self._slow_start = True
        self._last_cut = self._last_round = -math.inf
        self._first_strike = 0.0
        self._blocked_until = self._next_by_rate = -math.inf

    def wait(self) -> float:
        """Return the seconds until a call may start: 0 now, infinity when one must end first."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(0.0, max(self._blocked_until, self._next_by_rate) - self._now())

    def start(self) -> float:
        """Count a call in flight; return its start, to be handed back with what became of it."""
        now = self._now()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self._interval:
            self._next_by_rate = max(now, self._next_by_rate) + self._interval
        return now

    def end(self) -> None:
        """Free the slot of a call."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """Open up: the endpoint answered."""
        if self.strikes >= self.patience.breaker:
            self._slow_start = True  # an outage is over; it says nothing about how much it can take
        self.successes += 1
        self.strikes = self.rounds = 0
        self.reached = True
        # By its root, any ceiling is reached two round trips after the first success.
        opening = max(SLOW_START_STEP, math.sqrt(self.ceiling) - 1)
        gain = opening if self._slow_start else self._step / self.limit
        self.limit = min(float(self.ceiling), self.limit + gain)

    def doubted(self) -> None:
        """Send one call at a time: the endpoint answered, but what it says is of no use."""
        self.strikes = self.rounds = 0
        self.reached = self._slow_start = True
        self.limit = 1.0

    def overloaded(self, started: float, *, wait: float | None) -> None:
        """Cut once for a burst: only for a call that started after the last cut."""
        self._strike(started, reached=True)
        self._block(wait or 0.0)
        if started <= self._last_cut:
            return
        self.cuts += 1
        self.rounds += 1
        self._last_cut = self._now()
        self._slow_start = False
        self.limit = max(1.0, self.limit / 2) if self.rounds == 1 else 1.0
        if self.rounds > 1 and (wait or 0.0) < 1.0:
            self._block(self.patience.backoff_after(self.rounds))

    def faulted(self, started: float, *, reached: bool) -> None:
        """Count a fault of server or network; enough of them in a row leave only single probes."""
        self._strike(started, reached=reached)
        if self.successes and self.strikes < self.patience.breaker:
            return
        self.limit = 1.0
        if started > self._last_round:
            self.rounds += 1
            self._last_round = self._now()
            self._block(self.patience.backoff_after(self.rounds))

    def hopeless(self, call_seconds: float) -> bool:
        """Return whether patience would be over before one more call, as slow as the last, had ended."""
        ahead = self._now() + max(0.0, self._blocked_until - self._now()) + call_seconds
        limit = self.patience.outage if self.reached else self.patience.first_contact
        return self.strikes > 0 and ahead - self._first_strike > limit

    def seconds_struck(self) -> float:
        """Return how long nothing but faults came back."""
        return self._now() - self._first_strike if self.strikes else 0.0

    def _strike(self, started: float, *, reached: bool) -> None:
        if not self.strikes:
            self._first_strike = started
        self.strikes += 1
        self.reached = self.reached or reached

    def _block(self, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, self._now() + seconds)
