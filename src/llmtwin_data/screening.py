"""Secrets and personal data in texts: found, dropped or masked, never shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmtwin_data.chunks import Chunk
from llmtwin_data.contents import Content, Skipped


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a text; the text found is not kept."""

    kind: str
    start: int
    end: int
    group: Literal["secret", "personal"]


def find_secrets(text: str) -> list[Finding]:
    """Find keys, tokens and passwords, in order."""
    raise NotImplementedError


def find_personal_data(text: str) -> list[Finding]:
    """Find personal data, in order."""
    raise NotImplementedError


def screen_content(
    content: Content, chunks: Sequence[Chunk], *, secrets: str, personal_data: str
) -> tuple[list[Chunk], list[Skipped]]:
    """Drop, mask or keep the chunks of a content that hold secrets or personal data."""
    raise NotImplementedError


def find_in_instruction(text: str) -> list[Finding]:
    """Find what an instruction must not hold."""
    raise NotImplementedError
