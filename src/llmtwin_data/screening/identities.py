"""Personal data in texts: addresses and numbers that lead to a person, checked by their own check digits."""

from __future__ import annotations

import re
from collections.abc import Callable

from llmtwin_data.screening.findings import Finding, undisguise, without_overlaps

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
        for kind, shape, is_valid in _SHAPES
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


_SHAPES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = tuple(
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
