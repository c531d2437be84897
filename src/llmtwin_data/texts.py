"""Texts compared and measured: words, windows, normal form, sentence ends, script, language, tokens."""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import math
import re
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from llmtwin_data.folders import disk_errors


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 content``, ``2,000 contents``, ``0 copies``."""
    if number == 1:
        return f"1 {noun}"
    ending = f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeiou" else f"{noun}s"
    return f"{number:,} {ending}"


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
_WORD_AND_SPACE = re.compile(rf"(?:[{_SPACELESS}]|[^\s{_SPACELESS}]+)\s*")
_SPACELESS_WORD = regex.compile(rf"(?V1){_SINGLE}")
_RUN = regex.compile(rf"(?V1)(?P<single>[{_SINGLE}\p{{M}}]+)|{_JOINED}[{_JOINED}\p{{M}}]*")
_KINDS = regex.compile(rf"(?V1)(?P<joined>{_JOINED}+)|(?P<single>{_SINGLE}+)|(?P<mark>\p{{M}}+)")
# What NFKC and lower case change as a whole: ASCII not at all, Hangul and graphemes by themselves.
_PIECE = regex.compile(r"[\x00-\x7f]+(?![^\x00-\x7f])|[\p{Hangul}\p{M}]+|\X")
_OTHER, _IN_WORD, _ALONE, _MARK = range(4)

_ASCII_WORD = re.compile("[a-z0-9]+")
# What else there is than Latin, Greek and Cyrillic letters without marks of their own, punctuation and emoji.
_UNUSUAL = re.compile(
    "[^\0-\u024f\u0370-\u0482\u048a-\u052f\u200b-\u205e\u2190-\u2bff\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff]"
)
# In a text without it these are the words that `_WORD` finds, in a quarter of the time.
_USUAL_WORD = re.compile(r"[^\W_]+")
_PLURAL = re.compile(r"s(?<=[^\W_]{3}s)(?<![siu]s)(?![^\W_])")
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
_LAST_OF_SCRIPTS = 0x33480  # no letter of Unicode 17 lies above, only variation selectors

# Odd 64-bit multipliers: the golden ratio's fraction (Fibonacci hashing), and a finaliser of MurmurHash3.
_BASE = 0x9E3779B97F4A7C15
_FINALISER = 0xFF51AFD7ED558CCD
# Hashed at once; more at a time do not stay in the processor's cache.
_TEXTS_AT_ONCE = 64
_PARTING = "\u4e00\n"
_POWERS = np.array([pow(_BASE, at, 1 << 64) for at in range(64)], dtype=np.uint64)

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


def words(text: str) -> list[str]:
    """Return the words in lower case; for scripts without spaces, the characters."""
    comparable = _comparable(text)
    return list(_word_pattern(comparable).findall(comparable))


def wording(text: str) -> str:
    """Return the words of a text as a line, by which two are the same word for word."""
    return " ".join(words(text))


def word_changes(before: str, after: str, *, most_chars: int = 200) -> str:
    """Return the words that differ, marked as git marks words, each with a few around it."""
    old, new = (_WORD_AND_SPACE.findall(" ".join(text.split())) for text in (before, after))
    parts = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes():
        part = ""
        for kind, first, last, start, end in group:
            removed, added = "".join(old[first:last]), "".join(new[start:end])
            marked = f"[-{removed.strip()}-]" * bool(removed) + f"{{+{added.strip()}+}}" * bool(added)
            part += removed if kind == "equal" else marked + " " * (added or removed).endswith(" ")
        parts.append(part.strip())
    changes = " ... ".join(parts) or "only space"
    return changes if len(changes) <= most_chars else f"{changes[:most_chars].rstrip()} ..."


def is_spaceless(word: str) -> bool:
    """Return whether a word is a character of a script without spaces."""
    return not word.isascii() and _SPACELESS_WORD.match(word) is not None


def terms(text: str) -> list[str]:
    """Return retrieval terms: words without a plural's s; for scripts without spaces, pairs of characters."""
    comparable, retrieved = _comparable(text), list[str]()
    if (pattern := _word_pattern(comparable)) is not _WORD:
        return list(pattern.findall(_PLURAL.sub("", comparable)))
    for match in _RUN.finditer(comparable):
        run = match[0]
        if match["single"]:
            retrieved += [run[at : at + 2] for at in range(max(1, len(run) - 1))]
        else:
            retrieved.append(_singular(run))
    return retrieved


def windows(text: str, *, size: int = WINDOW_WORDS) -> set[int]:
    """Hash each run of ``size`` words, the same in every process; a shorter text is one window."""
    return set(_rolled(_word_hashes(_comparable(text))[0], size).tolist())


def window_hashes(texts: Sequence[str], *, size: int = WINDOW_WORDS) -> tuple[Hashes, Places]:
    """Return the `windows` of one text after the other, what it repeats again, and how many each has."""
    hashes, counts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for at in range(0, len(texts), _TEXTS_AT_ONCE):
        # Before each text stands a word of its own, which also takes a mark that belongs to no word.
        parted = [_PARTING + _comparable(text) for text in texts[at : at + _TEXTS_AT_ONCE]]
        of_words, starts = _word_hashes("".join(parted))
        firsts = np.searchsorted(starts, np.cumsum([0, *map(len, parted)])) + 1
        spoken = np.diff(firsts) - 1
        count = np.where(spoken, np.maximum(spoken - size + 1, 1), 0)
        places = np.repeat(firsts[:-1] - np.cumsum(count) + count, count) + np.arange(count.sum())
        # Words of the next text are rolled in where a text is shorter.
        rolled = _rolled(np.concatenate((of_words, np.zeros(size, dtype=np.uint64))), size)[places]
        for text in np.flatnonzero((spoken > 0) & (spoken < size)).tolist():
            first = firsts[text]
            rolled[count[:text].sum()] = _rolled(of_words[first : first + spoken[text]], size)[0]
        hashes.append(rolled)
        counts.append(count)
    return np.concatenate(hashes), np.concatenate(counts)


def placed_windows(text: str) -> tuple[Hashes, Places]:
    """Return the window that begins with each word, as `windows` hashes it, and where each word begins."""
    hashes, starts = _word_hashes(_comparable(text))
    if len(starts) and not text.isascii():
        # What NFKC or lower case makes longer or shorter has its words elsewhere.
        pieces = _PIECE.findall(text)
        own, comparable = (np.cumsum([0, *map(len, it)]) for it in (pieces, map(_comparable, pieces)))
        at = np.searchsorted(comparable, starts, side="right") - 1
        starts = own[at] + np.minimum(starts - comparable[at], np.diff(own)[at] - 1)
    return _rolled(hashes, WINDOW_WORDS), starts


def _rolled(hashes: Hashes, size: int) -> Hashes:
    if not len(hashes):
        return hashes
    count = max(1, len(hashes) - size + 1)
    rolled = np.zeros(count, dtype=np.uint64)
    for at in range(min(size, len(hashes))):
        rolled = rolled * np.uint64(_BASE) + hashes[at : at + count]
    return mixed(rolled)


def mixed(hashes: Hashes) -> Hashes:
    """Spread the bits of numbers, so that sums of near ones do not meet."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(_FINALISER)
    return hashes ^ (hashes >> np.uint64(33))


def normal_form(text: str) -> str:
    """Return the form in which two texts are the same, as `NORMAL_FORM` says."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", _ZERO_WIDTH.sub("", text))
    return " ".join(text.casefold().split())


def _word_pattern(text: str) -> Any:
    return _ASCII_WORD if text.isascii() else _WORD if _UNUSUAL.search(text) else _USUAL_WORD


def _comparable(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "siu" else word


def _word_hashes(text: str) -> tuple[Hashes, Places]:
    """Hash all words at once, and return where they begin; a word sums its code points times place powers."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _character_kinds()[points]
    before = np.concatenate((kinds[:1] * 0, kinds[:-1]))
    opens = (kinds == _ALONE) | ((kinds == _IN_WORD) & (before != _IN_WORD) & (before != _MARK))
    starts = np.flatnonzero(opens)
    if not len(starts):
        return np.zeros(0, dtype=np.uint64), starts
    word_of = np.maximum(np.cumsum(opens) - 1, 0)
    places = np.minimum(np.maximum(np.arange(len(points)) - starts[word_of], 0), len(_POWERS) - 1)
    values = points * _POWERS[places] * (kinds != _OTHER)
    return mixed(np.add.reduceat(values, starts)), starts


@functools.cache
def _character_kinds() -> NDArray[np.uint8]:
    """Return of each code point whether it is part of a word, a word alone, or a mark on either."""
    kinds = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    numbers = {"joined": _IN_WORD, "single": _ALONE, "mark": _MARK}
    for match in _KINDS.finditer("".join(map(chr, range(_LAST_OF_SCRIPTS)))):
        kinds[match.start() : match.end()] = numbers[str(match.lastgroup)]
    return kinds


# What is no prose: front matter, code, tags, link targets, embedded pictures, and words with a mark that only
# addresses, paths, queries and code have. What is longer than an address is a text without blanks; only
# embedded pictures are as long as they like. A line that is indented is code by a sign of it, else it may be
# a list's.
_NO_PROSE = regex.compile(
    r"""(?xsi) \A\s*---[ ]*\n.*?\n---[ ]*(?:\n|\Z)
    | (?P<fence>```|~~~).*?(?:(?P=fence)|\Z) | `[^`\n]+`
    | <(?P<tag>pre|script|style)\b[^<>]*+>.*?(?:</(?P=tag)>|\Z)
    | \{(?:%|\{<)[ -]*highlight\b.*?(?:\{(?:%|\{<)[ -]*/?[ ]*(?:end)?highlight\b[^}]*\}+|\Z) | \{%.*?%\}
    | (?<![^\n])(?:[ ]{4}|\t)(?=[^\n]*(?:[={};<>$|\\]|\w\())[^\n]*
    | <[/!]?\p{L}[^<>]*+>
    | \](?:\([^()\s]*\)|:[ ]*\S{1,300}) | data:[\w/+.-]+(?:;[\w=-]+)*,[a-z0-9+/=%_-]+(?:\s+[a-z0-9+/=]{40,})*
    | (?:\w{2,20}://|www\.)[!-~]{1,300}
    | (?<![!-~])(?=[!-~]{1,200}(?![!-~]))[!-~]*?(?:[/\\=&@{}|^$*+]|\w\.\w+\?\w|\?\w+:\w)[!-~]*+
    """
)


# What all of these have at least one of; most texts have none, and are told by one quick look.
_MAY_BE_NO_PROSE = re.compile(r"[`<\]/\\=&@{}|^$*+]|~~~|---|www\.|[:?]\w|\n(?:    |\t)")


def prose_of(text: str) -> str:
    """Return what a reader reads: blanks stand for front matter, code, tags, addresses, data."""
    return _NO_PROSE.sub(" ", text) if _MAY_BE_NO_PROSE.search(text) else text


_GRAPHEME = regex.compile(r"\X")

# Read backwards: two neighbours of which the second surely begins a grapheme (UAX 29).
_SURE_START = regex.compile(r"(?r)[\x20-\x7e\p{Han}](?=[\x20-\x7e\p{Han}])")

_CLOSERS = r"[\"'’”»)\]}*_`」』】〉》）］｝〗〞]*"
_END = regex.compile(
    # Scripts whose full stop needs no space after it.
    rf"(?P<full>[。！？｡؟۔।॥։።]+[。！？!?….]*{_CLOSERS})\s*"
    # Latin, Cyrillic, Greek: the stop counts before a space, the end, or a character of a spaceless script.
    rf"|(?P<stop>[.!?…‼⁉⁈⁇]+{_CLOSERS})(?:\s+|\Z|(?<=[!?]{_CLOSERS})(?=[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}]))"
    # A line's end is an end: headings, lists, code.
    r"|[ \t]*[\n\r\u2028\u2029]\s*"
)
_CONTINUES = regex.compile(r"[\p{M}\u200d\ufe0e\ufe0f\p{Emoji_Modifier}]")
_LAST_TOKEN = regex.compile(r"(?r)[^\s(\[\"'“«]+")

# Full stops that end no sentence (en, es, de, fr, pt, it): always, before a number, before a small letter.
_TITLES = (
    "mr mrs ms dr prof st vs e.g i.e cf resp al sr sres sra sras srta dra dña lic arq ud uds mme mlle mgr "
    "m.m exmo exma p.ex p.ej hr hrn fr frl bzw z.b d.h u.a vgl inkl ggf evtl sig dott avv ing gen rev hon "
    "capt lt sgt gov"
)
_REFERENCES = "no nos nr núm fig figs art eq vol p pp pág cap sec ch ex abs ziff"
_SHORTENED = (
    "etc usw inc ltd co corp dept est approx jr a.m p.m u.s u.k ph.d jan feb mar apr jun jul aug sep sept "
    "oct nov dec str av env ee.uu"
)
_ALWAYS, _BEFORE_NUMBER, _BEFORE_SMALL = (
    frozenset(group.split()) for group in (_TITLES, _REFERENCES, _SHORTENED)
)


def sentence_ends(text: str) -> list[int]:
    """Return the offset after each sentence and the blanks behind it; the last is the length of the text.

    A line's end counts as an end, since posts, lists and code have no other. Full stops of abbreviations,
    initials, numbers and list numbers do not count. Offsets count code points and never part a grapheme.
    """
    first = len(text) - len(text.lstrip())
    ends = [match.end() for match in _END.finditer(text, first) if _is_end(text, match)]
    if text and (not ends or ends[-1] != len(text)):
        ends.append(len(text))
    return ends


def grapheme_boundary(text: str, position: int, *, since: int = 0) -> int:
    """Return the last place at or before ``position`` inside no grapheme; ``since`` is known to be one."""
    if position <= 0 or position >= len(text):
        return max(0, min(position, len(text)))
    sure = _SURE_START.search(text, since, position)
    boundary = sure.end() if sure else since
    while (match := _GRAPHEME.match(text, boundary)) and match.end() <= position:
        boundary = match.end()
    return boundary


def _is_end(text: str, match: regex.Match[str]) -> bool:
    following = text[match.end() : match.end() + 1]
    if _CONTINUES.match(following):
        return False
    if match["full"]:
        return not (match["full"][-1] in "」』" and following in ("と", "っ"))
    if match["stop"] is None or "\n" in match[0]:
        return True
    if match["stop"].startswith(("..", "…")):
        return not following.islower()
    return not match["stop"].startswith(".") or not _is_abbreviation(text, match.start("stop"), following)


def _is_abbreviation(text: str, stop: int, following: str) -> bool:
    match = _LAST_TOKEN.match(text, 0, stop)
    token = match[0] if match else ""
    if len(token) == 1 and token.isupper() and token != "I":
        return True
    start = stop - len(token)
    if token.isdigit() and not text[text.rfind("\n", 0, start) + 1 : start].strip():  # it opens a list's line
        return True
    word = token.lower()
    return (
        word in _ALWAYS
        or (word in _BEFORE_NUMBER and following.isdigit())
        or (word in _BEFORE_SMALL and not following.isupper())
    )


# Tokens of cl100k_base for each run of such characters, and for each character in it. Fitted on 1,300
# extracts of English prose, Markdown and Python (6 % off) and posts in 12 languages (24 % off at worst;
# a post mostly of emoji 31 %).
_RATES = (
    (r"[A-Za-z]+", 0.45, 0.15),
    (r"[\u00c0-\u024f]", 0.0, 1.1),
    (r"\p{N}+", 0.9, 0.33),
    (r"\s*[\r\n]+\s*", 0.3, 0.08),
    (r"[!-/:-@\[-`{-~]+", 0.55, 0.11),
    (r"\p{Han}", 0.0, 1.3),
    (r"[\p{Hiragana}\p{Katakana}\u3000-\u303f\uff00-\uffef]", 0.0, 1.0),
    (r"\p{Hangul}", 0.0, 1.15),
    (r"[\p{Cyrillic}\p{Greek}]+", 0.5, 0.4),
    (r"[\p{Arabic}\p{Hebrew}]+", 0.3, 0.65),
    (
        r"[\p{L}\p{M}--\p{Latn}--\p{Hani}--\p{Kana}--\p{Hira}--\p{Hang}--\p{Cyrl}--\p{Grek}--\p{Arab}--\p{Hebr}]",
        0.0,
        1.0,
    ),
    (r"[^\x00-\x7f\p{L}\p{M}\p{N}\s\u3000-\u303f\uff00-\uffef]", 0.0, 2.0),
)
_LETTERS, _DIGITS, _LINES, _SIGNS = 0, 2, 3, 4
_COMPILED = [regex.compile(pattern, regex.V1) for pattern, *_ in _RATES]
# Bytes of UTF-8, blanks for all that are not of the kind: a quick way to count its runs.
_ASCII_KINDS = {
    kind: bytes(byte if byte < 128 and _COMPILED[kind].match(chr(byte)) else 32 for byte in range(256))
    for kind in (_LETTERS, _DIGITS, _SIGNS)
}
_ASCII = re.compile(r"[\0-\x7f]+")


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text for a tokenizer like cl100k_base."""
    plain, total = text.encode("utf-8", "surrogatepass"), 0.0
    beyond = "" if text.isascii() else _ASCII.sub(" ", text)
    for kind in range(len(_RATES)) if beyond else (_LETTERS, _DIGITS, _LINES, _SIGNS):
        if kind in _ASCII_KINDS and (kind != _DIGITS or not beyond):
            of_kind = plain.translate(_ASCII_KINDS[kind])
            runs, characters = len(of_kind.split()), len(of_kind) - of_kind.count(b" ")
        elif not beyond:
            runs, characters = _line_ends(plain)
        else:
            found = _COMPILED[kind].findall(text if kind in (_DIGITS, _LINES) else beyond)
            runs, characters = len(found), sum(map(len, found))
        _, for_run, for_character = _RATES[kind]
        total += for_run * runs + for_character * characters
    return max(round(total), 1 if text else 0)


def _line_ends(text: bytes) -> tuple[int, int]:
    """Return how many runs of blanks in ASCII hold the end of a line, and how long they are together."""
    first, *others = text.replace(b"\r", b"\n").split(b"\n")
    if not others:
        return 0, 0
    lines = [first.rstrip(), *map(bytes.strip, others[:-1]), others[-1].lstrip()]
    runs = sum(map(bool, lines)) - 1 + (not lines[0]) + (not lines[-1])
    return runs, len(text) - sum(map(len, lines))


_SCRIPTS = (
    "Latn Hani Hira Kana Hang Cyrl Arab Hebr Grek Deva Thai Beng Taml Telu Knda Mlym Gujr Guru Sinh Khmr "
    "Laoo Mymr Ethi Armn Geor"
)
_SCRIPT = regex.compile("|".join(rf"(?P<{code}>\p{{{code}}})" for code in _SCRIPTS.split()))

# Characters that say as much as one word: a Chinese sentence full of English names stays Chinese.
_CHARACTERS_A_WORD = {
    "Hani": 1.2, "Hira": 2.0, "Kana": 2.5, "Hang": 2.5, "Thai": 4.0, "Laoo": 4.0, "Khmr": 4.0, "Mymr": 4.0,
}  # fmt: skip
_LETTERS_A_WORD = 5.0

_ONE_LANGUAGE = {
    "Jpan": "ja", "Kore": "ko", "Hani": "zh", "Hant": "zh-Hant", "Hans": "zh-Hans", "Hebr": "he",
    "Grek": "el", "Thai": "th", "Beng": "bn", "Taml": "ta", "Telu": "te", "Knda": "kn", "Mlym": "ml",
    "Gujr": "gu", "Guru": "pa", "Sinh": "si", "Khmr": "km", "Laoo": "lo", "Mymr": "my", "Ethi": "am",
    "Armn": "hy", "Geor": "ka",
}  # fmt: skip
# Rare neighbours (Aragonese, Nigerian Pidgin, ...) win short technical texts when they are let in.
_SEVERAL_LANGUAGES = {
    "Latn": "en es de fr pt it nl ca pl sv da no fi cs ro tr id vi hu hr sk sl et lv lt sq",
    "Cyrl": "ru uk be bg sr mk kk mn",
    "Arab": "ar fa ur ps",
    "Deva": "hi mr ne sa",
}
_SURE_ENOUGH = 0.3  # 54 short instructions in 7 languages: all wrong guesses lie below, 2 right ones too
_ENOUGH_CHARACTERS = 1200
_MANY = 64  # texts from which on a step in all at once is faster

# Names of products and addresses say nothing of the language around them.
_NAME = r"\b(?:\w*[\p{Lu}\d]\w*[\p{Lu}\d]\w*|\p{Lu}+)\b"
_NAMES = regex.compile(_NAME)
_ASCII_NAMES = re.compile(r"\b(?:[a-z_]*+[A-Z\d][a-z_]*+[A-Z\d]\w*+|[A-Z]\b)", re.ASCII)  # the same
_NAMES_AND_ADDRESSES = regex.compile(rf"https?://\S+|\S+@\S+|[@#][\w-]+|`[^`\n]*`|{_NAME}")
_MAY_BE_ADDRESS = re.compile("[@#`]|//")

_CHINESE_REGIONS = {"tw": "hant", "hk": "hant", "mo": "hant", "cn": "hans", "sg": "hans"}


def script_of(text: str) -> str:
    """Return the dominant script as ISO 15924, weighed in words; Hant and Hans told apart; Zyyy when none."""
    if text.isascii():
        return "Zyyy" if text.lower() == text.upper() else "Latn"
    counts, characters = Counter[str](), Counter(text)
    for character, count in characters.items():
        counts[_script_of_character(character)] += count
    del counts[""]
    weights = {code: count / _CHARACTERS_A_WORD.get(code, _LETTERS_A_WORD) for code, count in counts.items()}
    east_asian = sum(weights.pop(code, 0.0) for code in ("Hani", "Hira", "Kana"))
    dominant = max(weights, key=lambda code: weights[code], default="Zyyy")
    if east_asian <= weights.get(dominant, 0.0):
        return "Kore" if dominant == "Hang" else dominant
    # Chinese borrows a kana now and then; the barest Japanese has one for every twelve characters.
    kana = counts["Hira"] + counts["Kana"]
    if kana > (counts["Hani"] + kana) / 12:
        return "Jpan"
    only_traditional, only_simplified = _chinese_characters()
    traditional = sum(count for character, count in characters.items() if character in only_traditional)
    simplified = sum(count for character, count in characters.items() if character in only_simplified)
    return "Hani" if traditional == simplified else "Hant" if traditional > simplified else "Hans"


def language_of(text: str) -> str:
    """Return the language as a BCP 47 tag, from the script where it decides; ``und`` when too short."""
    script = script_of(text)
    if script not in _SEVERAL_LANGUAGES:
        return _ONE_LANGUAGE.get(script, "und")
    language, probability = _identifiers()[script].classify(_without_names(text))
    return str(language) if probability >= _SURE_ENOUGH else "und"


def languages_of(texts: Sequence[str]) -> list[str]:
    """Return the `language_of` each text, of many Latin ones in half the time."""
    if len(texts) < _MANY:
        return [*map(language_of, texts)]
    latin = {text: _without_names(text) for text in texts if script_of(text) == "Latn"}
    known = dict(zip(latin, _latin_languages([*latin.values()]), strict=True))
    return [known.get(text) or language_of(text) for text in texts]


def _without_names(text: str) -> str:
    extract = text[: 2 * _ENOUGH_CHARACTERS]
    names = _ASCII_NAMES if extract.isascii() else _NAMES
    no_language = _NAMES_AND_ADDRESSES if _MAY_BE_ADDRESS.search(extract) else names
    plain = " ".join(no_language.sub(" ", extract).split())[:_ENOUGH_CHARACTERS]
    return plain or " ".join(text.split())[:_ENOUGH_CHARACTERS].lower()


def _latin_languages(texts: Sequence[str]) -> list[str]:
    """Do what the identifier's ``classify`` does, a step of its automaton in all texts at once."""
    identifier, (moves, rows, outputs) = _identifiers()["Latn"], _latin_automaton()
    encoded = [*map(identifier._encode, texts)]
    order = sorted(range(len(texts)), key=lambda at: -len(encoded[at]))
    lengths = np.array([len(encoded[at]) for at in order], dtype=np.int64)
    width = int(lengths.max(initial=0))
    padded = b"".join(encoded[at].ljust(width, b"\0") for at in order)
    columns = np.frombuffer(padded, dtype=np.uint8).reshape(len(texts), width).T
    states, features = np.zeros(len(texts), dtype=np.uint32), np.full(columns.shape, -1, dtype=np.int32)
    for step, active in enumerate(np.searchsorted(-lengths, -np.arange(width), side="left").tolist()):
        states = moves[rows[states[:active]] + columns[step, :active]]
        features[step, :active] = outputs[states]
    languages = ["und"] * len(texts)
    for at, visited in zip(order, np.ascontiguousarray(features.T), strict=True):
        visits = Counter(visited[visited >= 0].tolist())
        scores = identifier._sparse_score(visits, identifier.nb_ptc) if visits else identifier.nb_pc * 0
        scores *= 1.0 / math.sqrt(len(encoded[at]) or 1)
        np.exp(scores - scores.max(), out=scores)
        scores /= scores.sum()
        if scores.max() >= _SURE_ENOUGH:
            languages[at] = str(identifier.nb_classes[int(scores.argmax())])
    return languages


@functools.cache
def _latin_automaton() -> tuple[Any, Any, Any]:
    identifier = _identifiers()["Latn"]
    moves = np.frombuffer(identifier.tk_nextmove, dtype=np.uint32)
    return moves, np.array(identifier.tk_row, dtype=np.int64) << 8, np.array(identifier.tk_output, np.int32)


def prose_language(text: str) -> str:
    """Return the `language_of` what a reader reads of a text: names in its code say nothing of it."""
    return language_of(prose_of(text))


def language_matches(language: str, asked: str) -> bool:
    """Return whether a language is the asked one: zh is either script, und is any."""
    (base, script), (asked_base, asked_script) = _parts(language), _parts(asked)
    if "und" in (base, asked_base) or not asked:
        return True
    return base == asked_base and (script == asked_script or not script or not asked_script)


@functools.cache
def language_name(tag: str) -> str:
    """Return the English name of a BCP 47 tag's language, as CLDR has it; empty for what is no such tag."""
    from babel import Locale, parse_locale

    english = Locale("en")
    try:
        language, region, script, *variants = parse_locale(tag, sep="-")
    except ValueError:
        return ""
    if language == "zh" and _parts(tag)[1]:
        script, region = _parts(tag)[1].capitalize(), None
    # Some have a name of their own with script or region: Traditional Chinese, Brazilian Portuguese.
    own = english.languages.get(f"{language}_{script or region}")
    named = [] if own else [(script, english.scripts), (region, english.territories)]
    more = [names.get(code) for code, names in named if code] + [each for each in variants if each]
    name = own or english.languages.get(language)
    if not name or None in more or language in ("und", "mul", "zxx"):
        return ""
    return f"{name} ({', '.join(map(str, more))})" if more else str(name)


@functools.lru_cache(maxsize=1 << 15)
def _script_of_character(character: str) -> str:
    match = _SCRIPT.match(character)
    return str(match.lastgroup) if match else ""


@functools.cache
def _chinese_characters() -> tuple[frozenset[str], frozenset[str]]:
    from zhon import cedict

    traditional, simplified = frozenset(cedict.traditional), frozenset(cedict.simplified)
    return traditional - simplified, simplified - traditional


@functools.cache
def _identifiers() -> dict[str, Any]:
    """Return what tells the languages of each script that has several; the model is loaded once for all."""
    from py3langid.langid import LanguageIdentifier

    with disk_errors(Path(tempfile.gettempdir())):  # it unpacks its model there
        model = LanguageIdentifier.from_model_file("data/model.npz.xz", norm_probs=True)
    identifiers = {script: copy.copy(model) for script in _SEVERAL_LANGUAGES}
    for script, identifier in identifiers.items():
        identifier.set_languages(_SEVERAL_LANGUAGES[script].split())
        # Else its half floats are widened for each text, a third of the time that one takes.
        identifier.nb_ptc = np.ascontiguousarray(identifier.nb_ptc, dtype=np.float32)
        identifier._full_model = None  # of all languages: 28 MB
    return identifiers


def _parts(tag: str) -> tuple[str, str]:
    """Return a tag's language and, for Chinese, its script: a region decides where no script is named."""
    language, *rest = tag.replace("_", "-").lower().split("-")
    scripts = [part for part in rest if part in ("hant", "hans")]
    scripts += [_CHINESE_REGIONS[part] for part in rest if part in _CHINESE_REGIONS]
    return language, scripts[0] if scripts and language == "zh" else ""


def forget_marks(*, author: str, link: str, collection: str, content_id: str) -> frozenset[str]:
    """Return the hashes under which a content of this origin may have been forgotten."""
    named = [("author", author), ("link", link), ("content", content_id)]
    named.append(("place", f"{collection}/{content_id}" if collection and content_id else ""))
    return frozenset(hashlib.sha256(f"{kind}\0{name}".encode()).hexdigest() for kind, name in named if name)


# What moves a terminal's cursor, hides text or turns its direction; line feed, tab and \r\n are a text's own.
_UNSEEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u206f\ufff9-\ufffb]|\r(?!\n)")


def unseen_of(text: str) -> str:
    """Return the first control or bidi-override character of a text as U+202E names it, empty for none."""
    first = _UNSEEN.search(text)
    return f"U+{ord(first[0]):04X}" if first else ""


def with_escapes(text: str) -> str:
    """Return a text as a person may be shown it: control and bidi-override characters by their escapes."""
    return _UNSEEN.sub(lambda each: f"\\u{ord(each[0]):04x}", text)


def text_sha256(text: str) -> str:
    """Return the hex sha256 that stands for a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def text_number(text: str) -> int:
    """Return the leading 64 bits of a text's hash."""
    return int(text_sha256(text)[:16], 16)


def form_number(text: str) -> int:
    """Return the number that texts of equal normal form have in common, and no others."""
    return text_number(normal_form(text))
