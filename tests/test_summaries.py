"""Tables about contents."""

from __future__ import annotations

from llmtwin_data.chunks import Chunk
from llmtwin_data.contents import Skipped
from llmtwin_data.summaries import (
    content_frame,
    copies,
    damaged_frame,
    findings_frame,
    overview,
    skipped_frame,
)

PARAGRAPH = (
    "We moved our search from a hosted index to a small one of our own, and the answers came back faster."
)


def chunk(
    content_id: str, text: str, *, start: int = 0, author: str = "1", data_type: str = "posts"
) -> Chunk:
    return Chunk(content_id, "cleaned", start, start + len(text), text, data_type, author, "linkedin", "")


def test_chunks_of_one_content_are_one_row():
    frame = content_frame([chunk("a", "x" * 10), chunk("a", "y" * 5, start=10), chunk("b", "z")])

    assert frame[["content_id", "characters", "chunks", "first"]].values.tolist() == [
        ["a", 15, 2, 0],
        ["b", 1, 1, 2],
    ]


def test_an_overview_counts_each_kind_and_all():
    frame = content_frame(
        [chunk("a", "one"), chunk("b", "two", author="2"), chunk("c", "3", data_type="articles")]
    )

    shown = overview(frame)

    assert shown["data_type"].tolist() == ["posts", "articles", "all"]
    assert shown["contents"].tolist() == [2, 1, 3]
    assert shown["authors"].tolist() == [2, 1, 2]


def test_an_empty_collection_gives_empty_tables():
    frame = content_frame([])

    assert [overview(frame).empty, damaged_frame(frame).empty, skipped_frame([]).empty] == [True, True, True]


def test_skipped_contents_are_counted_by_reason_in_words():
    shown = skipped_frame(
        [Skipped("a", "c", 0, "blank"), Skipped("b", "c", 9, "markup_only"), Skipped("d", "c", 0, "blank")]
    )

    assert shown[["reason", "count", "example"]].values.tolist() == [
        ["blank", 2, "a"],
        ["markup only", 1, "b"],
    ]
    assert shown["meaning"].iloc[0] == "nothing but white space"


def test_exact_copies_differ_in_white_space_and_case_only():
    chunks = [chunk("a", "Hello world"), chunk("b", "hello  WORLD"), chunk("c", "other")]

    assert copies(chunks, threshold=0.8) == ([(chunks[0], chunks[1])], [])


def test_near_copies_leave_exact_ones_out():
    chunks = [chunk("a", PARAGRAPH), chunk("b", PARAGRAPH.upper()), chunk("c", PARAGRAPH + " Really.")]

    assert copies(chunks, threshold=0.8)[1] == [(chunks[0], chunks[2])]


def test_a_destroyed_text_is_counted_by_its_sign():
    glued = "It works well.Then it broke.After that we slept.Nobody knew."

    shown = damaged_frame(content_frame([chunk("a", glued), chunk("b", PARAGRAPH)]))

    assert shown.values.tolist() == [["sentences glued together", 1, 0.5]]


def test_personal_data_that_is_kept_is_shown_by_kind():
    shown = findings_frame([chunk("a", "Write to someone.real@company.com today")])

    assert shown["what happens to it"].tolist() == ["sent and published as it is"]


def test_many_authors_are_a_dozen_rows_and_all():
    frame = content_frame([chunk(str(n), "text", author=f"author {n:03}") for n in range(50)])

    shown = overview(frame, by="author")

    assert shown["author"].tolist()[-2:] == ["39 others", "all"]
    assert shown["contents"].tolist()[-2:] == [39, 50]
