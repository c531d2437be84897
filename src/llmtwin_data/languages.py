"""Script, language, words and sentence ends of a text, for scripts with and without spaces."""

from __future__ import annotations


def script_of(text: str) -> str:
    """Give the dominant script as ISO 15924."""
    raise NotImplementedError


def language_of(text: str) -> str:
    """Give the language as a BCP 47 tag, ``und`` when too short to tell."""
    raise NotImplementedError


def language_matches(found: str, asked: str) -> bool:
    """Tell whether a found language is the asked one."""
    raise NotImplementedError


def sentence_ends(text: str) -> list[int]:
    """Give the offset after each sentence."""
    raise NotImplementedError


def words(text: str) -> list[str]:
    """Give the words in lower case; characters for scripts without spaces."""
    raise NotImplementedError


def terms(text: str) -> list[str]:
    """Give the retrieval terms."""
    raise NotImplementedError


def windows(text: str, *, size: int = 8) -> set[int]:
    """Hash the windows of ``size`` words."""
    raise NotImplementedError


def normal_form(text: str) -> str:
    """Give the form in which texts are compared."""
    raise NotImplementedError


def graphemes(text: str) -> list[str]:
    """Cut a text into graphemes."""
    raise NotImplementedError


def grapheme_boundary(text: str, position: int) -> int:
    """Give the last grapheme boundary at or before a position."""
    raise NotImplementedError


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    raise NotImplementedError
