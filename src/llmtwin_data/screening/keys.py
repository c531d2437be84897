"""Shapes of keys, tokens and passwords in prose and code."""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from llmtwin_data.screening.findings import Finding, undisguise, without_overlaps

# Every shape but a block of lines stands in a run of such characters; prose has few of them.
_RUN = re.compile(r"[A-Za-z0-9_+/=.~:@%&$!?#*-]{16,}")

_SHAPES = [
    (kind, re.compile(rf"(?<![A-Za-z0-9])(?:{shape})"))
    for kind, shape in (
        ("anthropic_key", r"sk-ant-[A-Za-z0-9_-]{20,}"),
        (
            "openai_key",
            r"sk-(?=[\w-]*[A-Za-z0-9]{16})[A-Za-z0-9_-]{20,}",
        ),
        ("aws_access_key", r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("hugging_face_token", r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
        ("github_token", r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{30,}"),
        ("google_key", r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{24,}|ya29\.[A-Za-z0-9_-]{30,}"),
        ("slack_token", r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{16,}"),
        ("stripe_key", r"(?:[spr]k_(?:live|test)|whsec)_[A-Za-z0-9]{16,}"),
        ("npm_token", r"npm_[A-Za-z0-9]{36}"),
        ("llm_vendor_key", r"(?:gsk|r8|xai|pplx|nvapi|tvly|lsv2_pt)[_-][A-Za-z0-9_-]{30,}"),
        ("cloud_vendor_key", r"(?:dop_v1|shpat|dckr_pat|figd|pul)[_-][A-Za-z0-9_-]{24,}"),
        ("json_web_token", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
        ("password_in_url", r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@?#]*:(?P<value>[^\s/@]{3,})@(?=[A-Za-z0-9])"),
    )
]
_KEY_LINE = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
# To its end line; where that is missing, as far as lines of base64 go.
_PRIVATE_KEY = re.compile(
    rf"-----BEGIN {_KEY_LINE}"
    rf"(?:(?:(?!-----BEGIN)[\s\S]){{0,20000}}?-----END {_KEY_LINE}|[A-Za-z0-9+/=\s:,\\-]*)"
    r"|PuTTY-User-Key-File-\d"
)

_SECRET_NAME = (
    r"(?i:(?:api|access|secret|account|private|license|auth)[_ -]?(?:access[_ -]?)?(?:key|token)"
    r"|apikey|token|secret|passw(?:or)?d|credentials?|bearer)"
)
# A name of something secret, a sign that gives it a value, and the value.
_ASSIGNED = re.compile(
    _SECRET_NAME + r"[\"'`*]*\s*(?:=>|:=|[:=]|\bis\b|(?<=[Bb]earer)\s)\s*[\"'`*]*"
    r"(?P<value>[A-Za-z0-9_+/=.~!@#$%^&*|-]{8,200})"
)
# A bare value counts when a word like these stands shortly before it.
_NAMED_BEFORE = re.compile(
    r"(?i)\b(?:key|token|secret|password|credential|api|comet|qdrant)s?\b[^\n]{0,60}\Z"
)
_BARE = re.compile(r"(?<![A-Za-z0-9_+/=.-])[A-Za-z0-9_-]{20,80}(?![A-Za-z0-9_+/=-])")
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])")
_WRAPPED_BEFORE = re.compile(r"[A-Za-z0-9+/]{48,}\s+\Z")  # the last line of a file in base64

_PLACEHOLDER = re.compile(
    r"(?i).*(?:your[_-]|my[_-]|[_-]here|example[_.-]|placeholder|change_?me|redacted|dummy|\.\.\.|x{4}|\*{4}|[<{]).*"
    r"|user|pass(?:word|wd)?|secret|token|admin|\$\w+|%\w+%|x+|\*+"
)
_FILLED_IN = re.compile(r"[xX*.]{6}")
_EXPRESSION = re.compile(r"[A-Za-z_]+(?:[._-][A-Za-z_]+)*[0-9]{0,2}|\d[\d._:-]*")
_HASH_OR_ID = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
)

_VENDOR_DETECTORS = {
    "azure_storage_key": "AzureStorageKeyDetector",
    "discord": "DiscordBotTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}


def find_secrets(text: str) -> list[Finding]:
    """Find keys, tokens, private keys and passwords, in order and without overlaps.

    Shapes are those of detect-secrets' vendor plugins and our own. A bare value without a shape counts when
    its name stands before it; hashes, UUIDs, placeholders and expressions of code do not count.
    """
    plain = undisguise(text)
    found = [*_in_runs(plain.text), *_in_lines(plain.text)]
    return without_overlaps(plain.finding(kind, span, "secret") for kind, span in found)


def _in_lines(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if "PRIVATE KEY" in text or "PuTTY" in text:
        yield from (("private_key", match.span()) for match in _PRIVATE_KEY.finditer(text))
    for match in _ASSIGNED.finditer(text):
        if _looks_secret(match["value"]):
            yield "assigned_secret", match.span("value")


def _in_runs(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for run in _RUN.finditer(text):
        start, end = run.span()
        for kind, shape in [*_SHAPES, *_vendor_shapes()]:
            for match in shape.finditer(text, start, end):
                if _is_value(match):
                    yield kind, match.span()
        if end - start < 4096:  # longer runs are embedded files
            yield from _bare_values(text, start, end)


def _bare_values(text: str, start: int, end: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for match in _AWS_SECRET.finditer(text, start, end):
        inside_file = _WRAPPED_BEFORE.search(text, max(0, match.start() - 90), match.start())
        if (
            _is_random(match[0], changes=0.42)
            and "://" not in text[start : match.start()]
            and not inside_file
        ):
            yield "aws_secret_key", match.span()
    for match in _BARE.finditer(text, start, end):
        before = text[max(0, match.start() - 80) : match.start()]
        if _NAMED_BEFORE.search(before) and _is_random(match[0], changes=0.3):
            yield "named_secret", match.span()


def _is_value(match: re.Match[str]) -> bool:
    value = match.groupdict().get("value")
    if value is not None:
        return not _PLACEHOLDER.fullmatch(value)
    return not _FILLED_IN.search(match[0]) and (not match[0].islower() or any(map(str.isdigit, match[0])))


def _looks_secret(value: str) -> bool:
    """Tell a value from a placeholder, a hash, a word, a number and an expression of code."""
    value = value.rstrip(".,;:!*")
    if len(value) < 8 or _PLACEHOLDER.fullmatch(value):
        return False
    cased = any(map(str.isupper, value)) and any(map(str.islower, value))
    if len(value) >= 20 and cased and _share_of_changes(value) >= 0.35 and _entropy(value) >= 3.5:
        return True
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    return not _EXPRESSION.fullmatch(value) and digits >= 2 and letters >= 2 and _entropy(value) >= 2.75


def _is_random(value: str, *, changes: float) -> bool:
    """Tell a generated value from names, paths and hashes."""
    if _PLACEHOLDER.fullmatch(value) or _HASH_OR_ID.fullmatch(value):
        return False
    mixed = any(map(str.isdigit, value)) and any(map(str.isupper, value)) and any(map(str.islower, value))
    return mixed and _share_of_changes(value) >= changes and _entropy(value) >= 3.5


def _share_of_changes(value: str) -> float:
    """Give how often a character of another kind follows: in names seldom, in keys two times in three."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "-" for c in value]
    return sum(kind != following for kind, following in pairwise(kinds)) / len(value)


def _entropy(value: str) -> float:
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)


@functools.cache
def _vendor_shapes() -> list[tuple[str, re.Pattern[str]]]:
    shapes = []
    for module, detector in _VENDOR_DETECTORS.items():
        plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), detector)
        shapes += [(module.removesuffix("_token") + "_token", pattern) for pattern in plugin.denylist]
    return shapes
