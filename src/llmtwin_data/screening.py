"""Texts searched for secrets and personal data, also when disguised; values found are never shown."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Literal

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe0e\ufe0f\ufeff]"
)

# Letters that look like another (Unicode's confusables, those that key and address shapes need).
_LOOK_ALIKES = (
    ("аеорсхуіјѕһԁԛԝкмтвнɡӏ", "aeopcxyijshdqwkmtbhgl"),
    ("АВЕЅІЈКМНОРСТХУ", "ABESIJKMHOPCTXY"),
    ("οανρτικυχ", "oavptikux"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX"),
    ("‐‑‒–—―−⁃", "--------"),
    ("․。｡∕⁄＿", "...//_"),
)
_STYLED = (range(0xFF01, 0xFF5F), range(0x1D400, 0x1D800), range(0x2460, 0x24EA), range(0x2070, 0x2090))


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a text and what kind of thing stands there."""

    kind: str
    start: int
    end: int
    group: Literal["secret", "personal"]


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in order; those that overlap are one, named by the first, or the longer of two."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda each: (each.start, -each.end)):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
        elif finding.end > kept[-1].end:
            kept[-1] = replace(kept[-1], end=finding.end)
    return kept


def _undisguised(text: str) -> tuple[str, Sequence[int]]:
    """Return the text without what hides a key from a filter but not from a reader, and its places."""
    plain = text if text.isascii() else text.translate(_look_alikes())
    if text.isascii() or not _INVISIBLE.search(plain):
        return plain, range(len(plain))
    places = [at for at, character in enumerate(plain) if not _INVISIBLE.match(character)]
    return "".join(plain[at] for at in places), places


@functools.cache
def _look_alikes() -> dict[int, str]:
    table = {ord(seen): plain for pair in _LOOK_ALIKES for seen, plain in zip(*pair, strict=True)}
    for point in chain(*_STYLED):
        plain = unicodedata.normalize("NFKC", chr(point))
        if len(plain) == 1 and plain.isascii():
            table[point] = plain
    return table


# Every shape but a block of lines stands in a run of such characters; prose has few of them.
_RUN = re.compile(r"[A-Za-z0-9_+/=.~:@%&$!?#*-]{16,}")

# At the beginning of a word.
_WORD_SHAPES = {
    "anthropic_key": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "openai_key": r"sk-(?=[\w-]*[A-Za-z0-9]{16})[A-Za-z0-9_-]{20,}",
    "aws_access_key": r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "hugging_face_token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "github_token": r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{30,}",
    "google_key": r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{24,}|ya29\.[A-Za-z0-9_-]{30,}",
    "slack_token": r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{16,}",
    "stripe_key": r"(?:[spr]k_(?:live|test)|whsec)_[A-Za-z0-9]{16,}",
    "npm_token": r"npm_[A-Za-z0-9]{36}",
    "llm_vendor_key": r"(?:gsk|r8|xai|pplx|nvapi|tvly|lsv2_pt)[_-][A-Za-z0-9_-]{30,}",
    "cloud_vendor_key": r"(?:dop_v1|shpat|dckr_pat|figd|pul)[_-][A-Za-z0-9_-]{24,}",
    "json_web_token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
    "password_in_url": r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@?#]*:(?P<value>[^\s/@]{3,})@(?=[A-Za-z0-9])",
}
# Anywhere, as these vendors document their keys.
_SHAPES_ANYWHERE = {
    "azure_storage_key_token": r"AccountKey=[A-Za-z0-9+/=]{88}",
    "discord_token": r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27}",
    "gitlab_token": r"(?:(?:gl(?:pat|dt|ft|soat|rt)-|GR1348941|glcbt-(?:[0-9a-fA-F]{2}_)?)[\w-]{20,50}"
    r"|glimt-[\w-]{25}|glptt-[\w-]{40}|glagent-[\w-]{50,1024}|gloas-[\w-]{64})(?!\w)",
    "mailchimp_token": r"[0-9a-z]{32}-us\d{1,2}",
    "npm_token": r"//.+/:_authToken=(?:npm_.+|[A-Fa-f0-9-]{36}.*)",
    "openai_token": r"sk-[\w-]*[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",
    "pypi_token": r"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[\w-]{70,}",
    "sendgrid_token": r"SG\.[\w-]{22}\.[\w-]{43}",
    "slack_token": r"(?i:xox[abposr]-(?:\d+-)+[a-z0-9]+|https://hooks\.slack\.com/services/T\w+/B\w+/\w+)",
    "square_oauth_token": r"sq0csp-[\w-]{43}",
    "stripe_token": r"[rs]k_live_[0-9A-Za-z]{24}",
    "telegram_token": r"\d{8,10}:[\w-]{35}",
    "twilio_token": r"(?:AC|SK)[a-z0-9]{32}",
}
_SHAPES = [(kind, re.compile(rf"(?<![A-Za-z0-9])(?:{shape})")) for kind, shape in _WORD_SHAPES.items()]
_SHAPES += [(kind, re.compile(shape)) for kind, shape in _SHAPES_ANYWHERE.items()]
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
# One of which stands in each such name; to look for them first takes a fifth of the time. They have no i, of
# which `re` knows cases that casefold does not.
_PARTS_OF_SECRET_NAMES = ("key", "token", "secret", "passw", "credent", "bearer")
# A name of something secret, a sign that gives it a value, and the value.
_ASSIGNED = re.compile(
    _SECRET_NAME + r"[\"'`*]*\s*(?:=>|:=|[:=]|\bis\b|(?<=[Bb]earer)\s)\s*[\"'`*]*"
    r"(?P<value>[A-Za-z0-9_+/=.~!@#$%^&*|-]{8,200}+)(?![(\[])"  # what goes on so is a call
)
# A bare value counts when a word like these stands shortly before it.
_NAMED_BEFORE = re.compile(
    r"(?i)\b(?:key|token|secret|password|credential|api|comet|qdrant)s?\b[^\n]{0,60}\Z"
)
_BARE = re.compile(r"(?<![A-Za-z0-9_+/=.-])[A-Za-z0-9_-]{20,80}(?![A-Za-z0-9_+/=-])")
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=])")
_WRAPPED_BEFORE = re.compile(r"[A-Za-z0-9+/]{48,}\s+\Z")  # the last line of a file in base64

_PLACEHOLDER = re.compile(
    r"(?i).*(?:your(?:own|api|key|token|secret|pass)|(?:your|my|some|insert|enter|replace|fake|sample|test)[_-]|[_-](?:here|goes)|example|placeholder"
    r"|change[_-]?(?:me|this)|redacted|dummy|foobar|1234567|abcdef|\.\.\.|x{4}|\*{4}|[<{]).*|user|pass(?:word|wd)?|secret|token|admin|\$\w+|%\w+%|x+|\*+"
)
_FILLED_IN = re.compile(r"[xX*.]{6}")
_EXPRESSION = re.compile(r"[A-Za-z_]+(?:[._-][A-Za-z_]+)*[0-9]{0,2}|\d[\d._:-]*")
_CONSTANT = re.compile(r"(?:\w+\.)*[A-Z]+(?:_[A-Z0-9]+)+")
# Words of an identifier: skip Multi Line Comment, Base 64 Url Encoder.
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_HASH_OR_ID = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
)


def find_secrets(text: str) -> list[Finding]:
    """Find keys, tokens, private keys and passwords, in order and without overlaps.

    A bare value without a shape counts when its name stands before it; hashes, UUIDs, placeholders and
    expressions of code do not count.
    """
    plain, places = _undisguised(text)
    spans = [span for run in _RUN.finditer(plain) for span in _secrets_of_run(plain, *run.span())]
    if "PRIVATE KEY" in plain or "PuTTY" in plain:
        spans += [("private_key", match.span()) for match in _PRIVATE_KEY.finditer(plain)]
    if any(map(plain.casefold().__contains__, _PARTS_OF_SECRET_NAMES)):
        assigned = (match for match in _ASSIGNED.finditer(plain) if _looks_secret(match["value"]))
        spans += [("assigned_secret", match.span("value")) for match in assigned]
    return without_overlaps(
        Finding(kind, places[start], places[end - 1] + 1, "secret") for kind, (start, end) in spans
    )


def _secrets_of_run(text: str, start: int, end: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for kind, shape in _SHAPES:
        for match in shape.finditer(text, start, end):
            value = match.groupdict().get("value")
            wordy = match[0].islower() and not any(map(str.isdigit, match[0]))
            filled_in = wordy or _FILLED_IN.search(match[0])
            if not (filled_in if value is None else _PLACEHOLDER.fullmatch(value)):
                yield kind, match.span()
    if end - start >= 4096:  # an embedded file
        return
    for match in _AWS_SECRET.finditer(text, start, end):
        inside_file = _WRAPPED_BEFORE.search(text, max(0, match.start() - 90), match.start())
        inside_address = "://" in text[start : match.start()]
        if not inside_address and not inside_file and _is_random(match[0], changes=0.42):
            yield "aws_secret_key", match.span()
    for match in _BARE.finditer(text, start, end):
        before = text[max(0, match.start() - 80) : match.start()]
        if _NAMED_BEFORE.search(before) and _is_random(match[0], changes=0.3):
            yield "named_secret", match.span()


def _looks_secret(value: str) -> bool:
    """Return whether a value is no placeholder, hash, word, number or expression of code."""
    value = value.rstrip(".,;:!*")
    if len(value) < 8 or _PLACEHOLDER.fullmatch(value) or _is_identifier(value):
        return False
    cased = any(map(str.isupper, value)) and any(map(str.islower, value))
    if len(value) >= 20 and cased and _share_of_changes(value) >= 0.35 and _entropy(value) >= 3.5:
        return True
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    return not _EXPRESSION.fullmatch(value) and digits >= 2 and letters >= 2 and _entropy(value) >= 2.75


def _is_random(value: str, *, changes: float) -> bool:
    """Return whether a value is generated, not a name, a path or a hash."""
    if _PLACEHOLDER.fullmatch(value) or _HASH_OR_ID.fullmatch(value) or _is_identifier(value):
        return False
    mixed = any(map(str.isdigit, value)) and any(map(str.isupper, value)) and any(map(str.islower, value))
    return mixed and _share_of_changes(value) >= changes and _entropy(value) >= 3.5


def _is_identifier(value: str) -> bool:
    """Return whether it is a constant, or words of four characters on average; in keys they have two."""
    return bool(_CONSTANT.fullmatch(value)) or 16 <= len(value) >= 4 * len(_PARTS.findall(value))


def _share_of_changes(value: str) -> float:
    """Return how often a character of another kind follows: in names seldom, in keys two times in three."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "-" for c in value]
    return sum(kind != following for kind, following in pairwise(kinds)) / len(value)


def _entropy(value: str) -> float:
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares)


_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"  # in the order of their values, 10 to 35
_PHONE_ABROAD = r"\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}"
_PHONES_AT_HOME = (  # as people group them
    r"\(0?\d{2,4}\) ?\d{3,4}[ -]\d{3,4}",  # (415) 555-0132
    r"\d{3}[ .-]\d{3}[.-]\d{4}",  # 415-555-0132
    r"09\d{2}[ -]?\d{3}[ -]?\d{3}",  # Taiwan, mobile
    r"0\d{1,3}[ -]\d{3,4}[ -]\d{4}",  # Taiwan, Japan, Korea, United Kingdom
    r"0[1-9](?:[ .-]\d\d){4}",  # France
    r"[6789]\d\d(?:(?:[ -]\d{3}){2}|(?:[ -]\d\d){3})",  # Spain
)
# Every number below has as many, so close together; most texts have not, and need not be searched.
_SEVEN_DIGITS = re.compile(r"\d(?:\D{0,3}\d){6}", re.ASCII)
# The issuer's first digits with their length.
_CARD = re.compile(
    r"4\d{12}(?:\d{3})?|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|6(?:011|5\d\d)\d{12}|62\d{14}|35\d{14}"
)
_FILE_ENDING = re.compile("(?i)png|jpe?g|gif|svg|webp|css|js|ts|json|html|xml|py|md")


def find_personal_data(text: str) -> list[Finding]:
    """Find e-mail addresses, phone numbers, IBANs, cards and national ids, in order and without overlaps."""
    plain, places = _undisguised(text)
    numbers = _SEVEN_DIGITS.search(plain)
    return without_overlaps(
        Finding(kind, places[match.start()], places[match.end() - 1] + 1, "personal")
        for kind, shape, is_valid in _personal_shapes()
        if ("@" in plain if kind == "email" else numbers)
        for match in shape.finditer(plain)
        if is_valid(match[0])
    )


@functools.cache
def _personal_shapes() -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """Return each kind with its shape and its check; python-stdnum reads a file when it is imported."""
    from stdnum import iban, luhn
    from stdnum.br import cpf
    from stdnum.es import nif
    from stdnum.fr import nir
    from stdnum.iso7064 import mod_11_2
    from stdnum.us import ssn

    def is_card(number: str) -> bool:
        digits = re.sub(r"\D", "", number)
        return len(set(digits)) > 1 and bool(_CARD.fullmatch(digits)) and luhn.is_valid(digits)

    email = r"(?<!:)[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}"
    resident_id = r"[1-8]\d{5}(?:19|20)\d{2}(?:0\d|1[0-2])[0-3]\d{4}[\dXx]"
    iban_shape = r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?"
    nir_shape = r"[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d\d|2[AB])(?: ?\d{3}){2} ?\d\d"
    shapes: list[tuple[str, str, Callable[[str], bool]]] = [
        ("email", email, _is_email),
        ("iban", iban_shape, lambda number: iban.is_valid(number, check_country=False)),
        ("card", r"\d(?:[ -]?\d){12,15}", is_card),
        ("dni", r"(?:\d{8}|[XYZxyz][ -]?\d{7})[ -]?[A-Za-z]", nif.is_valid),
        ("taiwan_id", r"[A-Z][1289]\d{8}", _is_taiwan_id),
        ("resident_id", resident_id, lambda number: mod_11_2.is_valid(number.upper())),
        ("cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", lambda number: len(set(number)) > 3 and cpf.is_valid(number)),
        ("nir", nir_shape, nir.is_valid),
        ("codice_fiscale", r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", bool),
        ("rrn", r"\d\d(?:0[1-9]|1[0-2])[0-3]\d-[1-4]\d{6}", bool),
        ("ssn", r"\d{3}-\d{2}-\d{4}", ssn.is_valid),
        ("phone", rf"{_PHONE_ABROAD}|(?<!\d[ -])(?:{'|'.join(_PHONES_AT_HOME)})", _is_phone),
    ]
    return [
        (kind, re.compile(rf"(?<![\w./@+-])(?:{shape})(?![\w/@-]|\.\d)", re.ASCII), is_valid)
        for kind, shape, is_valid in shapes
    ]


def _is_email(address: str) -> bool:
    # git@host is an address of a service; logo@2x.png is a file.
    return not address.startswith("git@") and not _FILE_ENDING.fullmatch(address.rpartition(".")[2])


def _is_phone(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def _is_taiwan_id(number: str) -> bool:
    value = _TAIWAN_LETTERS.index(number[0]) + 10
    digits = [value // 10, value % 10, *map(int, number[1:])]
    weights = (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1)
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=True)) % 10 == 0
