"""What is wrong with a reply, told apart by what must be done about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmtwin_data.endpoints.pacing import retry_after

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


@dataclass(frozen=True, slots=True)
class Said:
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
    if not isinstance(error, dict):
        return Said(_one_line(error), "", "")
    message = error.get("message") or error.get("detail") or error
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    return Said(_one_line(message), str(code or ""), str(error.get("param") or ""))


def _kind_of(status: int, said: Said) -> Kind:
    if status == 402 or said.code in BILLING_CODES:
        return "billing"
    if status in (401, 403):
        return "key"
    if status == 404:
        return "model" if "model" in f"{said.message} {said.code}".lower() else "address"
    if status == 429:
        return "rate"
    if status in OVERLOAD_STATUS:
        return "overload"
    if status >= 500 or status in SERVER_STATUS:
        return "server"
    if status == 413 or said.code == "context_length_exceeded" or TOO_LONG.search(said.message):
        return "too_long"
    if said.code == "content_filter":
        return "filtered"
    return "request" if status >= 400 else "answer"


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return " ".join(text[:600].split())[:300]
