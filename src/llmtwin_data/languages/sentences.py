"""Where a text may be cut: graphemes and sentence ends, for scripts with and without spaces."""

from __future__ import annotations

import regex

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
    "mr mrs ms dr prof st vs e.g i.e cf resp al sra srta dra ud uds mme mlle m.m p.ex p.ej bzw z.b d.h u.a "
    "vgl inkl ggf evtl sig dott ing gen rev hon"
)
_REFERENCES = "no nos nr núm fig figs art eq vol p pp pág cap sec ch ex abs ziff"
_SHORTENED = (
    "etc usw inc ltd co corp dept est approx jr sr a.m p.m u.s u.k ph.d jan feb mar apr jun jul aug sep sept "
    "oct nov dec str av env ee.uu"
)
_ALWAYS, _BEFORE_NUMBER, _BEFORE_SMALL = (
    frozenset(group.split()) for group in (_TITLES, _REFERENCES, _SHORTENED)
)


def sentence_ends(text: str) -> list[int]:
    """Give the offset after each sentence and the blanks behind it; the last is the length of the text.

    Notes
    -----
    A line's end counts as an end, since posts, lists and code have no other. Full stops of abbreviations,
    initials, numbers and list numbers do not count. Offsets count code points and never part a grapheme.
    """
    first = len(text) - len(text.lstrip())
    ends = [match.end() for match in _END.finditer(text, first) if _is_end(text, match)]
    if text and (not ends or ends[-1] != len(text)):
        ends.append(len(text))
    return ends


def graphemes(text: str) -> list[str]:
    """Cut a text into what a reader sees as one character each."""
    return _GRAPHEME.findall(text)


def grapheme_boundary(text: str, position: int, *, since: int = 0) -> int:
    """Give the last place at or before ``position`` inside no grapheme; ``since`` is known to be one."""
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
    return not _is_abbreviation(text, match.start("stop"), stop=match["stop"], following=following)


def _is_abbreviation(text: str, start: int, *, stop: str, following: str) -> bool:
    if stop.startswith(("..", "…")):
        return following.islower()
    if not stop.startswith("."):
        return False
    token_match = _LAST_TOKEN.match(text, 0, start)
    token = token_match[0] if token_match else ""
    if len(token) == 1 and token.isupper() and token != "I":
        return True
    if token.isdigit() and _opens_line(text, start - len(token)):
        return True
    word = token.lower()
    return (
        word in _ALWAYS
        or (word in _BEFORE_NUMBER and following.isdigit())
        or (word in _BEFORE_SMALL and not following.isupper())
    )


def _opens_line(text: str, position: int) -> bool:
    return not text[text.rfind("\n", 0, position) + 1 : position].strip()
