"""Texts as a person reads them: instruction beside content, with the phrases that both share marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from llmtwin_data.chunks import Chunk
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.summaries.displays import Display, show_note
from llmtwin_data.summaries.marking import IDEOGRAPH, TELLING_LETTERS, mark_shared

# Characters and lines of a content that are shown at once; the rest is folded away, never cut.
SHOWN_CHARS, SHOWN_LINES = 700, 12


@dataclass(frozen=True, slots=True)
class Row:
    """A published row as it is shown."""

    instruction: str
    content: str
    origin: str
    notes: Mapping[str, object]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Row:
        """Take what is shown from a dataset row."""
        grounding = row.get("grounding")
        notes = {
            "grounding": None if grounding is None else f"{grounding:.2f}",
            "judge score": row.get("judge_score"),
        }
        words = [str(row.get(name) or "") for name in ("data_type", "author", "platform", "content_id")]
        return cls(str(row["instruction"]), str(row["content"]), _origin(*words), notes)


def show_pairs(
    pairs: Sequence[Pair],
    *,
    notes: Sequence[Mapping[str, object]] = (),
    level: str = "good",
    empty: str = "No pair to show.",
) -> Display:
    """Show pairs side by side, each with its notes (a measure, a reason) in the head."""
    given = [*notes, *({} for _ in range(len(pairs) - len(notes)))]
    rows = [Row(p.instruction, p.chunk.text, _names(p.chunk), n) for p, n in zip(pairs, given, strict=True)]
    return show_rows(rows, level=level, empty=empty)


def show_rows(rows: Sequence[Row], *, level: str = "good", empty: str = "No row to show.") -> Display:
    """Show published rows side by side."""
    if not rows:
        return show_note(empty, level="plain")
    cards = (_row_card(row, level) for row in rows)
    return Display(
        Markup("").join(cards), "\n\n".join(f"{row.instruction}\n  → {row.content}" for row in rows)
    )


def show_instructions(chunk: Chunk, instructions: Mapping[str, str]) -> Display:
    """Show several instructions, by name, for the same content."""
    return _wordings(_names(chunk), chunk.text, instructions)


def show_wordings(row: Mapping[str, Any], wordings: Mapping[str, str]) -> Display:
    """Show several instructions, by name, for the content of a published row."""
    shown = Row.of(row)
    return _wordings(shown.origin, shown.content, wordings)


def show_texts(
    chunks: Sequence[Chunk],
    *,
    notes: Sequence[Mapping[str, object]] = (),
    empty: str = "No content to show.",
) -> Display:
    """Show contents as they are, one card each, with its notes in the head."""
    if not chunks:
        return show_note(empty, level="plain")
    given = [*notes, *({} for _ in range(len(chunks) - len(notes)))]
    cards = (
        _card(_pills(note) + escape(_names(p)), _column("content", _folded(p.text), wide=True), "plain")
        for p, note in zip(chunks, given, strict=True)
    )
    return Display(Markup("").join(cards), "\n\n".join(chunk.text for chunk in chunks))


def show_alike(copies: Sequence[tuple[Chunk, Chunk]], *, empty: str = "No near-duplicates.") -> Display:
    """Show two contents that are nearly the same beside each other, what they share marked."""
    if not copies:
        return show_note(empty, level="plain")
    cards = (_copy_card(first, second) for first, second in copies)
    return Display(Markup("").join(cards), "\n\n".join(f"{a.text}\n≈\n{b.text}" for a, b in copies))


def _wordings(origin: str, content: str, wordings: Mapping[str, str]) -> Display:
    named = (_named(name, mark_shared(text, content)) for name, text in wordings.items())
    left = Markup('<div class="lt-col">{}</div>').format(Markup("").join(named))
    right = _column("content", _folded(content, " ".join(wordings.values())), wide=True)
    texts = "\n".join(f"{name}: {text}" for name, text in wordings.items())
    return Display(_card(escape(origin), left + right, "plain"), texts)


def _row_card(row: Row, level: str) -> Markup:
    instruction = _column("instruction", mark_shared(row.instruction, row.content), wide=False)
    content = _column("content", _folded(row.content, row.instruction), wide=True)
    return _card(_pills(row.notes) + escape(row.origin), instruction + content, level)


def _copy_card(first: Chunk, second: Chunk) -> Markup:
    column = Markup(
        '<div class="lt-col"><div class="lt-origin">{}</div><div class="lt-text" dir="auto">{}</div></div>'
    )
    left = column.format(_names(first), _folded(first.text, second.text, telling=0))
    right = column.format(_names(second), _folded(second.text, first.text, telling=0))
    return _card(Markup(""), left + right, "plain")


def _folded(text: str, other: str = "", *, telling: int = TELLING_LETTERS) -> Markup:
    cut = _fold(text)
    if cut == len(text):
        return mark_shared(text, other, telling=telling)
    head, rest = (mark_shared(part, other, telling=telling) for part in (text[:cut], text[cut:]))
    fold = Markup("<details><summary>{:,} more characters</summary>{}</details>")
    return head + fold.format(len(text) - cut, rest)


def _fold(text: str) -> int:
    """Say where the shown part ends; a text hardly longer than that is shown whole."""
    # A CJK character takes the room of two letters.
    limit = SHOWN_CHARS // 2 if IDEOGRAPH.search(text[:50]) else SHOWN_CHARS
    lines = text.splitlines(keepends=True)
    if len(text) <= limit * 1.3 and len(lines) <= SHOWN_LINES * 1.3:
        return len(text)
    end_of_lines = len("".join(lines[:SHOWN_LINES]))
    return end_of_lines if end_of_lines < limit else text.rfind(" ", limit // 2, limit) + 1 or limit


def _card(head: Markup, columns: Markup, level: str) -> Markup:
    kind = {"good": "", "bad": " lt-bad"}.get(level, " lt-plain")
    top = Markup('<div class="lt-head">{}</div>').format(head) if head else Markup("")
    return Markup('<div class="lt-card{}">{}<div class="lt-cols">{}</div></div>').format(kind, top, columns)


def _column(name: str, text: Markup, *, wide: bool) -> Markup:
    kind = " lt-wide" if wide else ""
    return Markup('<div class="lt-col{}">{}</div>').format(kind, _named(name, text))


def _named(name: str, text: Markup) -> Markup:
    return Markup('<div class="lt-name">{}</div><div class="lt-text" dir="auto">{}</div>').format(name, text)


def _pills(note: Mapping[str, object]) -> Markup:
    pill = Markup('<span class="lt-pill">{} <b>{}</b></span>')
    return Markup("").join(
        pill.format(name, value) for name, value in note.items() if value not in ("", None)
    )


def _names(chunk: Chunk) -> str:
    return _origin(chunk.data_type, chunk.author, chunk.platform, chunk.content_id)


def _origin(data_type: str, author: str, platform: str, content_id: str) -> str:
    parts = [data_type, f"author {author}" if author else "", platform, content_id]
    return " · ".join(part for part in parts if part)
