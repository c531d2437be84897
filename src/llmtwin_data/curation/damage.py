"""Signs of damage that a person should look at, beyond the losses that stop a run."""

from __future__ import annotations

import re

from llmtwin_data.curation.upstream import sign_of_loss

# Line breaks deleted without a blank in their place leave "end.Then it"; code such as "io.Writer" is none.
GLUED = re.compile(r"[a-z]{2}[.!?][A-Z][a-z]* [a-z]")
FEWEST_GLUED = 3


def damage_of(text: str) -> str:
    """Name the first sign of damage, or give an empty string for a text that looks whole."""
    if "\ufffd" in text:
        return "bytes that could not be read (U+FFFD)"
    if len(GLUED.findall(text)) >= FEWEST_GLUED:
        return "sentences glued together"
    return sign_of_loss(text)
