"""Words, windows and the normal form of texts, for comparing them; a content itself is never changed."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

import numpy as np
import regex

# What `normal_form` does; a dataset's manifest holds it, so change it with the function.
NORMAL_FORM = "NFKC, case folded, without invisible characters, runs of blanks as one"

# Words of a window: what two texts must share in one run for it to count.
WINDOW_WORDS = 8

# Scripts written without spaces: each character is a word (Han, kana, Thai, Lao, Tibetan, Myanmar, Khmer).
_SPACELESS = r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SPACELESS += r"\U00020000-\U0003ffff"
_SPACELESS += r"\u0e00-\u0e4f\u0e80-\u0ecf\u0f40-\u0fbc\u1000-\u104f\u1780-\u17d3"
_SINGLE = rf"[[{_SPACELESS}]--[\p{{M}}\p{{P}}]]"
_JOINED = rf"[[\p{{L}}\p{{N}}]--[{_SPACELESS}]]"
_WORD = regex.compile(rf"(?V1){_SINGLE}\p{{M}}*|{_JOINED}[{_JOINED}\p{{M}}]*")
_SPACELESS_WORD = regex.compile(rf"(?V1){_SINGLE}")
_RUN = regex.compile(rf"(?V1)(?P<single>[{_SINGLE}\p{{M}}]+)|{_JOINED}[{_JOINED}\p{{M}}]*")
_KINDS = regex.compile(rf"(?V1)(?P<joined>{_JOINED}+)|(?P<single>{_SINGLE}+)|(?P<mark>\p{{M}}+)")
_OTHER, _IN_WORD, _ALONE, _MARK = range(4)

_ASCII_WORD = re.compile("[a-z0-9]+")
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
_LAST_OF_SCRIPTS = 0x33480  # no letter of Unicode 17 lies above, only variation selectors

# Odd 64-bit multipliers: the golden ratio's fraction (Fibonacci hashing), and a finaliser of MurmurHash3.
_BASE = 0x9E3779B97F4A7C15
_FINALISER = 0xFF51AFD7ED558CCD
_POWERS = np.array([pow(_BASE, at, 1 << 64) for at in range(64)], dtype=np.uint64)

Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]


def words(text: str) -> list[str]:
    """Give the words in lower case; for scripts without spaces, the characters."""
    comparable = _comparable(text)
    return _ASCII_WORD.findall(comparable) if comparable.isascii() else _WORD.findall(comparable)


def is_spaceless(word: str) -> bool:
    """Tell whether a word is a character of a script without spaces."""
    return not word.isascii() and _SPACELESS_WORD.match(word) is not None


def terms(text: str) -> list[str]:
    """Give retrieval terms: words without a plural's s; for scripts without spaces, pairs of characters."""
    comparable = _comparable(text)
    if comparable.isascii():
        return [_singular(word) for word in _ASCII_WORD.findall(comparable)]
    found: list[str] = []
    for match in _RUN.finditer(comparable):
        run = match[0]
        if match.lastgroup:
            found += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
        else:
            found.append(_singular(run))
    return found


def windows(text: str, *, size: int = WINDOW_WORDS) -> set[int]:
    """Hash each run of ``size`` words, the same in every process; a shorter text is one window."""
    hashes = _word_hashes(_comparable(text))
    if not len(hashes):
        return set()
    count = max(1, len(hashes) - size + 1)
    rolled = np.zeros(count, dtype=np.uint64)
    for at in range(min(size, len(hashes))):
        rolled = rolled * np.uint64(_BASE) + hashes[at : at + count]
    return set(mixed(rolled).tolist())


def mixed(hashes: Hashes) -> Hashes:
    """Spread the bits of numbers, so that sums of near ones do not meet."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(_FINALISER)
    return hashes ^ (hashes >> np.uint64(33))


def normal_form(text: str) -> str:
    """Give the form in which two texts are the same, as `NORMAL_FORM` says."""
    folded = unicodedata.normalize("NFKC", _ZERO_WIDTH.sub("", text)).casefold()
    return " ".join(folded.split())


def _comparable(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "siu" else word


def _word_hashes(text: str) -> Hashes:
    """Hash all words at once: a word is the sum of its code points, each times a power of its place."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _character_kinds()[points]
    before = np.concatenate((kinds[:1] * 0, kinds[:-1]))
    opens = (kinds == _ALONE) | ((kinds == _IN_WORD) & (before != _IN_WORD) & (before != _MARK))
    starts = np.flatnonzero(opens)
    if not len(starts):
        return np.zeros(0, dtype=np.uint64)
    word_of = np.maximum(np.cumsum(opens) - 1, 0)
    places = np.minimum(np.maximum(np.arange(len(points)) - starts[word_of], 0), len(_POWERS) - 1)
    values = points * _POWERS[places] * (kinds != _OTHER)
    return mixed(np.add.reduceat(values, starts))


@functools.cache
def _character_kinds() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Tell of each code point whether it is part of a word, a word alone, or a mark on either."""
    kinds = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    numbers = {"joined": _IN_WORD, "single": _ALONE, "mark": _MARK}
    for match in _KINDS.finditer("".join(map(chr, range(_LAST_OF_SCRIPTS)))):
        kinds[match.start() : match.end()] = numbers[str(match.lastgroup)]
    return kinds
