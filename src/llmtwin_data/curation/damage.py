"""Signs that a text was damaged before it reached the database; nothing is repaired."""

from __future__ import annotations

import re

import regex

from llmtwin_data.languages import language_of, script_of

# Letters; shorter texts say nothing.
FEWEST_LETTERS = 200
# Letters; in these languages so long a text without one accent does not occur.
ACCENTED = {"es": 250, "fr": 200, "de": 250, "pt": 200, "pl": 150, "cs": 150, "sv": 250, "tr": 150, "vi": 100,
            "hu": 150, "ro": 250, "da": 300, "no": 400, "sk": 150, "it": 500, "ca": 250}  # fmt: skip
# Characters that the language is read from.
LANGUAGE_CHARS = 400
# Blanks among all characters: English has 0.17, indented code more, a minified file 0.02.
FEWEST_BLANKS = 0.02
# Commas and the like for each letter: English has 0.02, dense code 0.2, what deleted letters leave has 0.6.
MOST_MARKS = 0.5
# Line breaks deleted without a blank in their place leave "end.Then it"; code such as "io.Writer" is none.
GLUED = re.compile(r"[a-z]{2}[.!?][A-Z][a-z]* [a-z]")
FEWEST_GLUED = 3
_MARKS = regex.compile(r"[,:;?!]")
_LETTERS = regex.compile(r"\p{L}")
# Code, tags, link targets, and words with a mark that only addresses, paths, queries and code have. What is
# longer than an address is a text without blanks; only embedded pictures are as long as they like.
_NO_PROSE = regex.compile(
    r"""(?xs) (?P<fence>```|~~~).*?(?:(?P=fence)|\Z) | `[^`\n]+` | <[/!]?\p{L}[^<>]*+>
    | \](?:\([^()\s]*\)|:[ ]*\S{1,300}) | data:[\w/+.-]+;base64,[\w+/=]+
    | (?:\w{2,20}://|www\.)[!-~]{1,300}
    | (?<![!-~])(?=[!-~]{1,200}(?![!-~]))[!-~]*?(?:[/\\=&@{}|^$*+]|\w\.\w+\?\w|\?\w+:\w)[!-~]*+
    """
)
_MANGLED = regex.compile(r"\ufffd|Ã[\u0080-\u00bf]|â€|\p{Latin}\?\p{Ll}")


def damage_of(text: str) -> str:
    """Name the first sign that a person should look at, or give an empty string for a whole text."""
    if "\ufffd" in text:
        return "bytes that could not be read (U+FFFD)"
    if len(GLUED.findall(_prose(text))) >= FEWEST_GLUED:
        return "sentences glued together"
    return sign_of_loss(text)


def sign_of_loss(text: str) -> str:
    """Name the letters or blanks that a text seems to have lost, which stops a run; empty for none."""
    letters = len(_LETTERS.findall(text))
    marks = len(_MARKS.findall(text))
    if text.isascii() and marks >= 6 and marks > MOST_MARKS * letters:
        return "letters deleted, their punctuation left"
    prose = _prose(text)
    if len(_MANGLED.findall(prose)) >= 3:
        return "letters replaced by ? or read in the wrong encoding"
    letters = len(_LETTERS.findall(prose))
    if letters < FEWEST_LETTERS:
        return ""
    if prose.count(" ") < FEWEST_BLANKS * len(prose) and script_of(prose) in ("Latn", "Cyrl", "Grek"):
        return "all blanks deleted"
    return "all accents deleted" if text.isascii() and letters >= _accented_from(prose) else ""


def _prose(text: str) -> str:
    return _NO_PROSE.sub(" ", text)


def _accented_from(text: str) -> float:
    return ACCENTED.get(language_of(text[:LANGUAGE_CHARS]), float("inf"))
