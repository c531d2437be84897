"""Cards of pairs and texts."""

from __future__ import annotations

from llmtwin_data.chunks import Chunk
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.summaries.sidebyside import (
    Row,
    show_alike,
    show_instructions,
    show_pairs,
    show_rows,
    show_texts,
)

HOSTILE = "<script>alert(1)</script>"


def chunk(text: str, **changes: str) -> Chunk:
    names = {"data_type": "posts", "author": "1", "platform": "linkedin", "link": ""} | changes
    return Chunk("c1", "cleaned_posts", 0, len(text), text, **names)


def pair(instruction: str, text: str, **changes: str) -> Pair:
    return Pair(chunk(text, **changes), 1, instruction, "grounded", "0" * 64, "model", "key")


def test_a_pair_shows_instruction_content_and_origin():
    shown = str(
        show_pairs([pair("Write about caches", "We like caches")], notes=[{"grounding": "0.91"}]).html
    )

    for expected in ("Write about caches", "We like caches", "author 1", "0.91"):
        assert expected in shown


def test_every_word_from_outside_is_escaped():
    hostile = pair(HOSTILE, HOSTILE, author=HOSTILE, platform=HOSTILE, data_type=HOSTILE)

    shown = str(show_pairs([hostile], notes=[{HOSTILE: HOSTILE}]).html)

    assert "<script" not in shown
    assert shown.count("&lt;/") == 7


def test_a_long_text_is_folded_and_never_cut():
    text = " ".join(f"word{n}" for n in range(400))

    shown = show_texts([chunk(text)]).html

    assert "more characters</summary>" in str(shown)
    assert all(f"word{n}" in shown for n in range(400))


def test_a_text_of_many_short_lines_is_folded_as_well():
    shown = str(show_texts([chunk("\n".join("abcdefgh"[n % 8] for n in range(40)))]).html)

    assert "more characters</summary>" in shown


def test_instructions_of_several_prompts_stand_beside_one_content():
    shown = str(
        show_instructions(chunk("About caches"), {"seed": "Write.", "grounded": "Write on caches."}).html
    )

    assert shown.index("seed") < shown.index("grounded") < shown.index("About")


def test_near_copies_show_what_differs_unmarked():
    shown = str(show_alike([(chunk("a b c d e"), chunk("a b c x e"))]).html)

    assert "<mark>a b c</mark> d e" in shown


def test_a_published_row_is_shown_like_a_pair():
    row = Row.of(
        {"instruction": "Write", "content": "Text", "content_id": "c9", "author": "2", "grounding": 0.5}
    )

    assert "author 2 · c9" in str(show_rows([row]).html)


def test_nothing_to_show_is_said():
    assert repr(show_pairs([])) == "No pair to show."
