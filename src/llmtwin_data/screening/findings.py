"""What a search in a text found and where, also when the text was disguised; what was found is not kept."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
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
