"""Texts searched for secrets and personal data, also when disguised; values found are never shown."""

from __future__ import annotations

import functools
import importlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
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


@dataclass(frozen=True, slots=True)
class Undisguised:
    """A text without invisible characters and look-alikes, and where its characters stood in the original."""

    text: str
    places: tuple[int, ...] = ()  # empty: unchanged

    def finding(self, kind: str, span: tuple[int, int], group: Literal["secret", "personal"]) -> Finding:
        """Make a finding with its place in the original text."""
        start, end = span
        if self.places and end > start:
            start, end = self.places[start], self.places[end - 1] + 1
        return Finding(kind, start, end, group)


def undisguise(text: str) -> Undisguised:
    """Take off what hides a key from a filter but not from a reader: invisible padding and look-alikes."""
    if text.isascii():
        return Undisguised(text)
    plain = text.translate(_look_alikes())
    if not _INVISIBLE.search(plain):
        return Undisguised(plain)
    places = tuple(at for at, character in enumerate(plain) if not _INVISIBLE.match(character))
    return Undisguised("".join(plain[at] for at in places), places)


def without_overlaps(findings: Iterable[Finding]) -> list[Finding]:
    """Give findings in order; of two that overlap the one that begins first, then the longer, stays."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda found: (found.start, -found.end)):
        if not kept or finding.start >= kept[-1].end:
            kept.append(finding)
        elif finding.end > kept[-1].end:
            last = kept[-1]
            kept[-1] = Finding(last.kind, last.start, finding.end, last.group)
    return kept


@functools.cache
def _look_alikes() -> dict[int, str]:
    table = {
        ord(seen): plain for seens, plains in _LOOK_ALIKES for seen, plain in zip(seens, plains, strict=True)
    }
    for styled in _STYLED:
        for point in styled:
            plain = unicodedata.normalize("NFKC", chr(point))
            if len(plain) == 1 and plain.isascii():
                table[point] = plain
    return table


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


_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS",
    23: "AE GI IL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC SM",
    28: "AL CY DO GT HU LB PL",
    29: "BR PS QA UA",
    30: "JO KW MU",
    31: "MT",
}
_IBAN_LENGTHS = {
    country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()
}
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_TAIWAN_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"  # in the order of their values, 10 to 35
_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
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
_FILE_ENDING = re.compile("(?i)png|jpe?g|gif|svg|webp|css|js|ts|json|html|xml|py|md")


def find_personal_data(text: str) -> list[Finding]:
    """Find e-mail addresses, phone numbers, IBANs, cards and national ids, in order and without overlaps."""
    plain = undisguise(text)
    numbers = _SEVEN_DIGITS.search(plain.text)
    return without_overlaps(
        plain.finding(kind, match.span(), "personal")
        for kind, shape, is_valid in _PERSONAL_SHAPES
        if ("@" in plain.text if kind == "email" else numbers)
        for match in shape.finditer(plain.text)
        if is_valid(match[0])
    )


def _is_email(found: str) -> bool:
    local, _, domain = found.rpartition("@")
    # git@host is an address of a service; logo@2x.png is a file.
    return local != "git" and not _FILE_ENDING.fullmatch(domain.rpartition(".")[2])


def _is_phone(found: str) -> bool:
    return 8 <= len(_digits(found)) <= 15 and len(set(_digits(found))) > 2


def _is_iban(found: str) -> bool:
    """Check length and ISO 7064 mod 97-10."""
    iban = re.sub(r"[ -]", "", found).upper()
    if len(iban) != _IBAN_LENGTHS.get(iban[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _is_card(found: str) -> bool:
    """Check the issuer's first digits and length, and Luhn's sum."""
    digits = _digits(found)
    issued = re.fullmatch(
        r"4\d{12}(?:\d{3})?|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
        r"|6(?:011|5\d\d)\d{12}|62\d{14}|35\d{14}",
        digits,
    )
    doubled = [int(digit) * (2 if at % 2 else 1) for at, digit in enumerate(reversed(digits))]
    return (
        bool(issued) and len(set(digits)) > 1 and sum(sum(divmod(number, 10)) for number in doubled) % 10 == 0
    )


def _is_dni(found: str) -> bool:
    """Check a Spanish DNI or NIE: the letter is the number modulo 23."""
    identity = re.sub(r"[ -]", "", found).upper()
    number = identity[:-1].translate(str.maketrans("XYZ", "012"))
    return _DNI_LETTERS[int(number) % 23] == identity[-1]


def _is_taiwan_id(found: str) -> bool:
    value = _TAIWAN_LETTERS.index(found[0]) + 10
    digits = [value // 10, value % 10, *map(int, found[1:])]
    return (
        sum(digit * weight for digit, weight in zip(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), strict=True))
        % 10
        == 0
    )


def _is_resident_id(found: str) -> bool:
    """Check an id of mainland China: ISO 7064 mod 11-2."""
    total = sum(int(digit) * weight for digit, weight in zip(found, _RESIDENT_WEIGHTS, strict=False))
    return "10X98765432"[total % 11] == found[-1].upper()


def _is_cpf(found: str) -> bool:
    """Check a Brazilian CPF: two digits modulo 11."""
    digits = [int(digit) for digit in _digits(found)]
    checks = [
        sum(digit * weight for digit, weight in zip(digits, range(count + 1, 1, -1), strict=False))
        * 10
        % 11
        % 10
        for count in (9, 10)
    ]
    return digits[9:] == checks and len(set(digits)) > 1


def _is_nir(found: str) -> bool:
    """Check a French social security number: 97 minus the number modulo 97."""
    number = re.sub(r"\s", "", found).upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(number[:13]) % 97 == int(number[13:])


def _is_ssn(found: str) -> bool:
    area, group, serial = found.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _any(_: str) -> bool:
    return True


def _digits(found: str) -> str:
    return re.sub(r"\D", "", found)


_PERSONAL_SHAPES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (kind, re.compile(rf"(?<![\w./@+-])(?:{shape})(?![\w/@-]|\.\d)", re.ASCII), is_valid)
    for kind, shape, is_valid in (
        ("email", r"(?<!:)[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}", _is_email),
        ("iban", r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?", _is_iban),
        ("card", r"\d(?:[ -]?\d){12,15}", _is_card),
        ("dni", r"(?:\d{8}|[XYZxyz][ -]?\d{7})[ -]?[A-Za-z]", _is_dni),
        ("taiwan_id", r"[A-Z][1289]\d{8}", _is_taiwan_id),
        ("resident_id", r"[1-8]\d{5}(?:19|20)\d{2}(?:0\d|1[0-2])[0-3]\d{4}[\dXx]", _is_resident_id),
        ("cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", _is_cpf),
        ("nir", r"[12] ?\d\d ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d\d|2[AB])(?: ?\d{3}){2} ?\d\d", _is_nir),
        ("codice_fiscale", r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", _any),
        ("rrn", r"\d\d(?:0[1-9]|1[0-2])[0-3]\d-[1-4]\d{6}", _any),
        ("ssn", r"\d{3}-\d{2}-\d{4}", _is_ssn),
        ("phone", rf"{_PHONE_ABROAD}|(?<!\d[ -])(?:{'|'.join(_PHONES_AT_HOME)})", _is_phone),
    )
)
