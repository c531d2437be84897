"""Shared phrases."""

from __future__ import annotations

import pytest

from llmtwin_data.summaries.marking import mark_shared


@pytest.mark.parametrize(
    ("text", "other", "marked"),
    [
        ("Explain vector search now", "We use vector search daily", "Explain <mark>vector search</mark> now"),
        ("Use vector search well", "use VECTOR SEARCH well", "<mark>Use vector search well</mark>"),
        ("the end of it", "of it all", "the end of it"),
        ("Name the most likely cause", "the most we saw", "Name the most likely cause"),
        ("Compare a train to a bus", "like a train", "Compare a train to a bus"),
        ("How RAG answers change", "our RAG answers", "How <mark>RAG answers</mark> change"),
        ("寫一篇向量搜尋", "向量搜尋很快", "寫一篇<mark>向量搜尋</mark>"),
        ("談文章和安裝", "文章說安裝", "談文章和安裝"),
        ("nothing shared", "", "nothing shared"),
    ],
    ids=["phrase", "case", "small words", "stop words", "one word", "acronym", "chinese", "words", "empty"],
)
def test_phrases_of_two_words_are_marked(text, other, marked):
    assert str(mark_shared(text, other)) == marked


def test_marking_escapes_inside_and_outside_of_marks():
    marked = mark_shared("<b>vector</b> search <i>", "vector</b> search")

    assert "<b>" not in str(marked)
    assert marked.striptags().replace("\xa0", " ") == "<b>vector</b> search <i>"
