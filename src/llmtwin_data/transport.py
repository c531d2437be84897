"""One call through the openai client: deadline, bounded body, no redirect or proxy, named problems, pace."""

from __future__ import annotations

import asyncio
import json
import math
import re
import resource
import select
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai
from aiohttp.abc import ResolveResult
from openai._types import RequestOptions
from openai._vendor.httpx_aiohttp.transport import AiohttpTransport

from llmtwin_data.errors import (
    BillingRefused,
    EndpointDown,
    KeyRejected,
    LlmTwinError,
    ModelUnknown,
    ParamsError,
)
from llmtwin_data.params import is_metadata, may_be_sent_key, redact

Kind = Literal[
    "key", "no_key", "billing", "model", "address", "redirect", "tls", "schema", "request", "too_long",
    "filtered", "rate", "overload", "server", "slip", "network", "answer",
]  # fmt: skip
# What is wrong with a reply, by the first row that fits: its kind, the status, and words that its code, its
# field and its message hold. A new wording is a line in here.
SIGNS: tuple[tuple[Kind, str, str], ...] = (
    ("billing", "402", ""),
    ("billing", "4..", r"insufficient[_ ](quota|balance|credit|fund)|payment_required|out of credits"),
    ("billing", "4..", r"billing_(hard_limit_reached|not_active)|credit balance is too low|arrearage"),
    ("billing", "4..", r"balance is insufficient|spending limit|past invoices|余额不足|欠费"),
    ("billing", "400", r"\busage limits?\b"),
    ("rate", "400|403", r"rate.?limit|too many requests|throttl"),
    ("filtered", "403", r"moderation|flagged|content.?(filter|policy|violat)|usage guidelines|guardrail"),
    ("key", "401|403", ""),
    ("key", "400", r"(invalid|incorrect|wrong|expired|missing|no|an)[ _](api|auth\w*)[ _-]?(key|token)"),
    ("key", "400", r"(api|auth\w*)[ _-]?(key|token)\b.{0,40}\b(invalid|not valid|incorrect|expired|missing)"),
    ("key", "400", r"authentication[ _](failed|error)|authorization header"),
    ("key", "400", r"(country|location|region|territory)\b.{0,30}not supported|unsupported_country"),
    ("key", "400", r"\b(organization|account)\b.{0,20}\b(restricted|disabled|deactivated|suspended)"),
    ("model", "400|404", r"model_not_(found|available)|(no such|unknown|not a valid) model|access model"),
    ("model", "400|404", r"invalid[_ ]model\b(?! (output|response))|no models? (is |are )?loaded"),
    ("model", "400|404", r"\bmodel\b.{0,80}(do(es|) ?n[o']t exist|not (exist|found|loaded))|模型不存在"),
    ("model", "400|404", r"model_decommissioned|model\b.{0,40} (retired|decommissioned|no longer available)"),
    ("model", "400|404", r"model identifier is invalid|no endpoints found for|deployment.?not.?found"),
    ("model", "404", "model"),
    ("model", "410", ""),
    ("schema", "404", r"endpoints.{0,40}requested parameters"),
    ("address", "404|405", ""),
    ("rate", "429", ""),
    ("overload", "498|503|529", ""),
    ("schema", "5..", r"grammar|json.?schema|response_format|structured.output"),
    ("slip", "4..", r"json_validate_failed|failed_generation|tool_use_failed|output_parse_failed"),
    ("slip", "4..", r"failed to generate\b.{0,30}json|model.{0,20} (output|response)\b.{0,30}valid json"),
    ("slip", "4..", r"(output|response|generation) (did|does) not (match|adhere|conform)|json[_ ]generation"),
    ("too_long", "500", r"context (size|length|window)|max_model_len"),
    ("filtered", "424", r"blocked|guardrail"),
    ("server", "5..|408|409|424|425", ""),
    ("too_long", "413", ""),
    ("too_long", "4..", r"context.?(length|window|size|limit)|maximum (context|prompt|model|input)"),
    ("too_long", "4..", r"too many (input )?tokens|reduce the length|max_model_len|input length|超长"),
    ("too_long", "4..", r"(prompt|input|request|messages?)\b.{0,40}(too (long|large)|longer than)"),
    ("too_long", "4..", r"exceed(s|ed|ing)? .{0,60}(context|token)|(?<!_)(token|input)s?\b.{0,60}exceed"),
    ("too_long", "4..", r"string_above_max_length|`inputs`.{0,30} must (have|be) (less than|<=)"),
    ("filtered", "4..", r"content.?(filter|policy|management)|data_?inspection|responsible.?ai|flagged"),
    ("filtered", "4..", r"(inappropriate|sensitive|prohibited|harmful|unsafe).?(content|input|prompt|info)"),
    ("filtered", "4..", r"safety (system|filter)|moderation|guardrail|content exists risk|敏感|不安全"),
    ("schema", "4..", r"response[_ ](format|schema)|json[_ ]?(schema|mode|object)|output_(config|format)"),
    ("schema", "4..", r"grammar|guided|structured"),
    ("request", "4..", ""),
)


class Consequence(NamedTuple):
    """What follows from a kind, and the error, with its exit code and words, where that ends a run."""

    step: Literal["stop", "lower", "split", "slow", "retry"]
    error: type[LlmTwinError] = EndpointDown
    words: str = ""


# stop: the run ends. lower: before any success the request is said differently, then split. split: asked
# again in halves, and failed for good alone. slow: the same again, fewer at a time; a wait too long to sit
# out ends the run. retry: again after a pause.
WAIT = "asks to wait {wait:.0f} s, until {until}, {found}. Run the same command then"
FOLLOWS: dict[Kind, Consequence] = {
    "key": Consequence(
        "stop", KeyRejected, "the key in OPENAI_API_KEY was rejected, {found}. Set a valid one"
    ),
    "no_key": Consequence(
        "stop",
        KeyRejected,
        "a key is wanted and none was sent, {found}. "
        "Set OPENAI_API_KEY, which is sent over https or to this machine only",
    ),
    "billing": Consequence(
        "stop", BillingRefused, "the endpoint wants money, {found}. Everything received is stored"
    ),
    "model": Consequence("stop", ModelUnknown, "no such model, {found}.{hint}"),
    "address": Consequence("stop", ParamsError, "nothing there answers {path}, {found}.{hint}"),
    "redirect": Consequence(
        "stop", words="sent elsewhere, {found}. Contents are not sent on; name that address as endpoint"
    ),
    "tls": Consequence("stop"),
    "schema": Consequence("lower"),
    "request": Consequence("lower"),
    "too_long": Consequence("split"),
    "filtered": Consequence("split"),
    "rate": Consequence("slow", words=WAIT),
    "overload": Consequence("slow", words=WAIT),
    "server": Consequence("retry"),
    "slip": Consequence("retry"),
    "network": Consequence("retry"),
    "answer": Consequence("retry"),
}
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

    @property
    def step(self) -> str:
        """What follows from it."""
        return FOLLOWS[self.kind].step


def problem_of(status: int, headers: Mapping[str, str], text: str, *, fault: str = "") -> Problem | None:
    """Name the problem of a reply; None for status 200, whose body is read elsewhere."""
    if fault:
        return Problem("tls" if fault == "tls" else "network", fault, text[:300])
    if status == 200:
        return None
    if 300 <= status < 400:
        return Problem("redirect", f"http_{status}", headers.get("Location", "")[:200])
    message, code, param = read_error(text)
    words = f"{code} {param} {message}"
    fitting = (
        kind
        for kind, statuses, sign in SIGNS
        if re.fullmatch(statuses, str(status)) and re.search(sign, words, re.IGNORECASE)
    )
    kind: Kind = next(fitting, "answer")
    reason = str(kind) if kind in ("too_long", "filtered") else f"http_{status}"
    return Problem(kind, reason, message, param, retry_after(headers))


def read_error(text: str) -> tuple[str, str, str]:
    """Read an error body: its message in one line of at most 300 characters, its code, the field it names."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    message, code, param = error, "", ""
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error
        code = str((error["code"] if isinstance(error.get("code"), str) else error.get("type")) or "")
        param = str(error.get("param") or "")
    words = message if isinstance(message, str) else json.dumps(message, default=str)
    return " ".join(words[:600].split())[:300], code, param


# A month; what asks for more is a date written as seconds, or nonsense.
LONGEST_WAIT = 30 * 86_400.0


def retry_after(headers: Mapping[str, str], *, wall_clock: datetime | None = None) -> float | None:
    """Return the seconds a server asks to wait, 0 or more; None if it does not say or says nonsense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            if -math.inf < seconds <= LONGEST_WAIT:
                return max(0.0, seconds)
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = max(0.0, (moment - (wall_clock or datetime.now(UTC))).total_seconds())
    return seconds if seconds <= LONGEST_WAIT else None


MAX_BODY_BYTES = 8 * 1024 * 1024
# Files the process holds besides its connections: store, spool, kernel sockets.
OTHER_FILES = 40
# Seconds before each try to reach an endpoint at all.
FIRST_TRIES = (0.0, 0.5, 1.0)
# The client insists on a key where there is none.
NO_KEY = "none"


class AddressRefused(OSError):
    """A name that leads to where clouds hand out credentials."""


class BodyRefused(Exception):
    """A body that is not read to its end."""


# What a fault means, by the first row that fits: its name, and words for a person where nothing was sent.
UNSENT: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (AddressRefused, "dns", "{host} port {port} leads to a metadata address, which is never an LLM"),
    (ssl.SSLCertVerificationError, "tls", "the certificate of {host} port {port} cannot be trusted: {why}"),
    (ssl.SSLError, "tls", "{host} port {port} does not speak TLS: {why}"),
    (
        (socket.gaierror, aiohttp.ClientConnectorDNSError),
        "dns",
        "the host name {host} (port {port}) is not known to DNS",
    ),
    (
        ConnectionRefusedError,
        "refused_connection",
        "nothing listens at {host} port {port}: the connection is refused",
    ),
    (TimeoutError, "connect_timeout", "{host} port {port} does not answer"),
    (Exception, "refused_connection", "{host} port {port} cannot be reached: {why}"),
)
SENT: tuple[tuple[type[Exception], str], ...] = (
    (BodyRefused, "unusable_body"),
    (TimeoutError, "timeout"),
    (aiohttp.ClientPayloadError, "cut_body"),
    (aiohttp.ClientResponseError, "bad_http"),
    (Exception, "reset"),
)


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
    name = words = ""
    for pause in FIRST_TRIES:
        time.sleep(pause if name != "tls" else 0.0)
        try:
            _refuse_metadata(addresses := socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            with _first_connection(addresses, timeout=connect_seconds) as plain:
                if base_url.startswith("https:"):
                    ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
            return ""
        except OSError as error:
            name, words = _unsent(error, base_url)
    return words


def _refuse_metadata(addresses: Iterable[tuple[Any, ...]]) -> None:
    """Raise AddressRefused for a metadata address among those of a name; no other is connected to."""
    if any(is_metadata(str(address[0])) for *_, address in addresses):
        raise AddressRefused


def _first_connection(addresses: Sequence[tuple[Any, ...]], *, timeout: float) -> socket.socket:
    """Connect to one of the addresses that were looked at; the name may have others by now."""
    for *_, address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection(address[:2], timeout=timeout)
    return socket.create_connection(addresses[-1][-1][:2], timeout=timeout)


def _to_checked_address(request: httpx2.Request) -> None:
    """Send a request to an address that was looked at; the certificate must still be that of the name."""
    host, port = _place_of(str(request.url))
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    _refuse_metadata(addresses)
    # Many a server of one's own listens on IPv4 alone.
    address = min(addresses, key=lambda each: each[0] != socket.AF_INET)[-1][0]
    if address != host:
        request.extensions["sni_hostname"] = host
        request.url = request.url.copy_with(host=address)


class _CheckedResolver(aiohttp.ThreadedResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        resolved = await super().resolve(host, port, family)
        _refuse_metadata(((each["host"], each["port"]),) for each in resolved)
        return resolved


class _Connector(aiohttp.TCPConnector):
    async def _get(self, key: Any, traces: Any) -> Any:
        # What came while nobody asked would be taken for the answer to what is asked next.
        while (kept := await super()._get(key, traces)) and _has_unread(kept):
            kept.close()
        return kept


def _has_unread(kept: Any) -> bool:
    waiting = select.poll()
    waiting.register(kept.transport.get_extra_info("socket"), select.POLLIN)
    return kept.protocol.should_close or bool(waiting.poll(0))


class _Plain:
    """Sends nothing about this machine, nor what OPENAI_CUSTOM_HEADERS holds; asks for no compression."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept-Encoding": "identity", "Content-Type": "application/json"}


class Client(_Plain, openai.OpenAI):
    """What models, files and batches are asked through."""


class LiveClient(_Plain, openai.AsyncOpenAI):
    """What many requests at a time go through."""


def openai_client(base_url: str, api_key: str, *, timeout: float, max_retries: int) -> Client:
    """Return the client for what is asked now and then."""
    http = openai.DefaultHttpxClient(**_straight(), event_hooks={"request": [_to_checked_address]})
    key = _key_for(base_url, api_key)
    return Client(base_url=base_url, api_key=key, timeout=timeout, max_retries=max_retries, http_client=http)


def live_client(base_url: str, api_key: str, *, concurrency: int, connect_seconds: float) -> LiveClient:
    """Return the client for requests by the thousand; it retries nothing, and reads no endless body."""
    straight = _straight()

    def session() -> aiohttp.ClientSession:
        options: dict[str, Any] = {"limit": concurrency, "ssl": straight["verify"], "keepalive_timeout": 5.0}
        return aiohttp.ClientSession(connector=_Connector(resolver=_CheckedResolver(), **options))

    http = openai.DefaultAioHttpClient(
        **straight,
        transport=AiohttpTransport(client=session),
        timeout=httpx2.Timeout(None, connect=connect_seconds),
        event_hooks={"response": [_read_bounded]},
    )
    key = _key_for(base_url, api_key)
    return LiveClient(base_url=base_url, api_key=key, max_retries=0, http_client=http)


async def post(
    client: openai.AsyncOpenAI,
    body: bytes,
    *,
    idempotency_key: str,
    timeout_seconds: float,
    path: str = "/chat/completions",
) -> Reply:
    """Send a request; return whatever came back, and raise nothing for what the network does.

    ``path`` is what follows the base URL.
    """
    clock = asyncio.get_running_loop().time
    started, secret = clock(), "" if client.api_key == NO_KEY else client.api_key
    # What is given here need not be worked out for each request: that takes a tenth of its CPU time.
    options: RequestOptions = {
        "headers": {"Idempotency-Key": idempotency_key}
        | ({} if secret else {"Authorization": openai.Omit()}),
        "idempotency_key": idempotency_key,
        "max_retries": 0,
        "timeout": client.timeout,
        "params": {},
    }
    url = f"{str(client.base_url).rstrip('/')}{path}"
    try:
        async with asyncio.timeout(timeout_seconds):
            response = await client.post(url, content=body, cast_to=httpx2.Response, options=options)
    except openai.APIStatusError as error:
        response = error.response
    except (openai.APIConnectionError, aiohttp.ClientError, OSError, zlib.error, BodyRefused) as error:
        cause: BaseException = error
        while isinstance(cause, openai.APIConnectionError | httpx2.HTTPError) and cause.__cause__:
            cause = cause.__cause__
        sent = not isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        if sent:
            problem, words = next(name for kind, name in SENT if isinstance(cause, kind)), str(cause)
        else:
            problem, words = _unsent(cause, str(client.base_url))
        words = redact(words, secret, shapes=True)
        return Reply(0, {}, words, clock() - started, problem, sent)
    text = redact(response.content.decode("utf-8-sig", "replace"), secret)
    return Reply(response.status_code, response.headers, text, clock() - started)


def _key_for(base_url: str, api_key: str) -> str:
    return api_key if api_key and may_be_sent_key(base_url) else NO_KEY


def _straight() -> dict[str, Any]:
    # Without the environment's proxies the client would not heed SSL_CERT_FILE either.
    return {"trust_env": False, "follow_redirects": False, "verify": ssl.create_default_context()}


async def _read_bounded(response: httpx2.Response) -> None:
    """Put a body of bounded length in the place of the stream, before the client reads that to its end."""
    encoding = response.headers.pop("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise BodyRefused(f"content encoding {encoding[:20]!r} was not asked for")
    inflate = None if encoding == "identity" else zlib.decompressobj(wbits=47)
    parts: list[bytes] = []
    room = MAX_BODY_BYTES
    async for part in response.stream:  # type: ignore[union-attr]
        data = inflate.decompress(part, room + 1) if inflate else part
        room -= len(data)
        if room < 0:
            raise BodyRefused(f"body larger than {MAX_BODY_BYTES} bytes")
        parts.append(data)
        if inflate and inflate.eof and inflate.unused_data:
            raise BodyRefused("more after the end of the compressed body")
    if inflate and parts and not inflate.eof:
        raise aiohttp.ClientPayloadError("compressed body is cut")
    response.stream = httpx2.ByteStream(b"".join(parts))


def _place_of(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]


def _unsent(error: BaseException, base_url: str) -> tuple[str, str]:
    """Return a word for why an endpoint could not be reached, and words for a person."""
    host, port = _place_of(base_url)
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    reasons = (getattr(cause, name, None) for name in ("verify_message", "reason", "strerror"))
    why = str(next(filter(None, reasons), cause)).rstrip(".")
    name, words = next(row[1:] for row in UNSENT if isinstance(cause, row[0]) or isinstance(error, row[0]))
    return name, words.format(host=host, port=port, why=why)


# More in flight after each success of a slow start, at least: a pilot of 32 requests takes two round trips.
SLOW_START_STEP = 31


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


@dataclass(slots=True)
class Pace:
    """Calls in flight, by additive increase and multiplicative decrease, with a breaker.

    One call at a time until the first success, so that a wrong key or model costs one request;
    then slow start; then, after the first cut, one sixteenth of the ceiling more each round trip.
    """

    patience: Patience
    _: KW_ONLY
    ceiling: int
    now: Callable[[], float]
    requests_per_minute: int = 0
    limit: float = 1.0
    in_flight: int = 0
    most_in_flight: int = 0
    successes: int = 0
    strikes: int = 0  # faults since the last success
    rounds: int = 0  # the same, a burst counted once
    cuts: int = 0
    reached: bool = False  # whether anything ever got through to the endpoint
    slow_start: bool = True
    last_cut: float = -math.inf
    last_round: float = -math.inf
    first_strike: float = 0.0
    blocked_until: float = -math.inf
    next_by_rate: float = -math.inf

    def wait(self) -> float:
        """Return the seconds until a call may start: 0 now, infinity when one must end first."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(0.0, max(self.blocked_until, self.next_by_rate) - self.now())

    def start(self) -> float:
        """Count a call in flight; return its start, to be handed back with what became of it."""
        now = self.now()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.requests_per_minute:
            self.next_by_rate = max(now, self.next_by_rate) + 60.0 / self.requests_per_minute
        return now

    def end(self) -> None:
        """Free the slot of a call."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """Open up: the endpoint answered."""
        if self.strikes >= self.patience.breaker:
            self.slow_start = True  # an outage is over; it says nothing about how much it can take
        self.successes += 1
        self.strikes = self.rounds = 0
        self.reached = True
        # By its root, any ceiling is reached two round trips after the first success.
        opening = max(SLOW_START_STEP, math.sqrt(self.ceiling) - 1)
        gain = opening if self.slow_start else max(1.0, self.ceiling / 16) / self.limit
        self.limit = min(float(self.ceiling), self.limit + gain)

    def doubted(self) -> None:
        """Send one call at a time: the endpoint answered, but what it says is of no use."""
        self.strikes = self.rounds = 0
        self.reached = self.slow_start = True
        self.limit = 1.0

    def overloaded(self, started: float, *, wait: float | None) -> None:
        """Cut once for a burst: only for a call that started after the last cut."""
        self._strike(started, reached=True)
        self._block(wait or 0.0)
        if started <= self.last_cut:
            return
        self.cuts += 1
        self.rounds += 1
        self.last_cut = self.now()
        self.slow_start = False
        self.limit = max(1.0, self.limit / 2) if self.rounds == 1 else 1.0
        if self.rounds > 1 and (wait or 0.0) < 1.0:
            self._block(self.patience.backoff_after(self.rounds))

    def faulted(self, started: float, *, reached: bool) -> None:
        """Count a fault of server or network; enough of them in a row leave only single probes."""
        self._strike(started, reached=reached)
        if self.successes and self.strikes < self.patience.breaker:
            return
        self.limit = 1.0
        if started > self.last_round:
            self.rounds += 1
            self.last_round = self.now()
            self._block(self.patience.backoff_after(self.rounds))

    def hopeless(self, call_seconds: float) -> bool:
        """Return whether patience would be over before one more call, as slow as the last, had ended."""
        ahead = self.now() + max(0.0, self.blocked_until - self.now()) + call_seconds
        limit = self.patience.outage if self.reached else self.patience.first_contact
        return self.strikes > 0 and ahead - self.first_strike > limit

    def _strike(self, started: float, *, reached: bool) -> None:
        if not self.strikes:
            self.first_strike = started
        self.strikes += 1
        self.reached = self.reached or reached

    def _block(self, seconds: float) -> None:
        self.blocked_until = max(self.blocked_until, self.now() + seconds)
