"""Signs that a text was destroyed before it reached the database: nothing here is repaired, only named."""

from __future__ import annotations

import re

# UTF-8 read as Latin-1 or Windows-1252 leaves these pairs ("Ã©" for "é", "â€™" for an apostrophe).
MOJIBAKE = re.compile(
    r"Ã[\u0080-\u00bf]|â€[\u0099-\u009d\u2122\u0153\u201c\u201d\u02dc]|Â[\u00a0-\u00bf]|ï»¿"
)
# Line breaks removed without a space in their place glue sentences together.
GLUED = re.compile(r"[a-z]{3}[.!?][A-Z][a-z]")
# A cleaner that deletes every non-ASCII character leaves the punctuation of a CJK text behind.
LOST_LETTERS = re.compile(r"\?{3,}|(?:[,.!?;:()\-#]\s+){4,}")
FEWEST_CHARS = 20
SIGNS = {
    "replacement_characters": "holds U+FFFD, the mark of a byte that could not be read",
    "mojibake": "was decoded with the wrong encoding",
    "letters_deleted": "has punctuation left where letters seem to be deleted",
    "sentences_glued": "has sentences glued together, as if line breaks were deleted",
}


def damage_of(text: str) -> str:
    """Name the first sign of damage (a key of ``SIGNS``), or give ``""`` for a text that looks whole."""
    if "\ufffd" in text:
        return "replacement_characters"
    if len(MOJIBAKE.findall(text)) >= 2:
        return "mojibake"
    if _few_letters(text) or LOST_LETTERS.search(text):
        return "letters_deleted"
    return "sentences_glued" if len(GLUED.findall(text)) >= 3 else ""


def _few_letters(text: str) -> bool:
    visible = [character for character in text if not character.isspace()]
    letters = sum(character.isalpha() for character in visible)
    # Emoji are no letters either, but only ASCII punctuation and digits are what deletion leaves behind.
    left_over = sum(character.isascii() and not character.isalpha() for character in visible)
    return len(visible) >= FEWEST_CHARS and letters < 0.4 * len(visible) and left_over > 0.5 * len(visible)
