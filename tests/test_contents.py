"""Contents read in every payload shape, cut at sentence ends, screened, and laid out as a table of chunks."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtwin_data.contents import Chunk, read_chunks, read_contents, split_content
from llmtwin_data.errors import SourceError
from llmtwin_data.loading import load_files
from llmtwin_data.params import Params
from llmtwin_data.sources import open_source
from llmtwin_data.texts import forget_marks, sentence_ends, text_sha256


@pytest.fixture
def source(tmp_path):
    with open_source(str(tmp_path)) as opened:
        yield opened


def read(source, *payloads, collection: str = "cleaned_posts", **chosen) -> list:
    source.write(collection, enumerate(payloads))
    return list(read_contents(source, collection, **chosen))


def test_q23_pages_of_langchain_are_read_beside_ours(source):
    page = {"page_content": "theirs", "metadata": {"source": "https://a/b", "author": "Ann"}}

    contents = read(source, {"cleaned_content": "ours", "author_id": "2"}, page, page_size=2)

    assert [(it.text, it.author, it.link) for it in contents] == [
        ("ours", "2", ""),
        ("theirs", "Ann", "https://a/b"),
    ]


POST = {"platform": "linkedin", "author_id": "2", "cleaned_content": "T", "image": None, "type": "posts"}
ARTICLE = {"platform": "medium", "link": "https://a/b", "cleaned_content": "T", "author_id": 7}
REPOSITORY = {"name": "repo", "cleaned_content": "T", "owner_id": "9", "type": "repositories"}
HANDBOOK = {"content": "T", "author_full_name": "R. Role", "platform": "x"}


@pytest.mark.parametrize(
    ("payload", "collection", "expected"),
    [
        (POST, "cleaned_posts", ("posts", "2", "linkedin", "")),
        (ARTICLE, "cleaned_articles", ("articles", "7", "medium", "https://a/b")),
        (REPOSITORY, "cleaned_repositories", ("repositories", "9", "", "repo")),
        (HANDBOOK, "articles", ("articles", "R. Role", "x", "")),
        (HANDBOOK | {"cleaned_content": None, "author_id": "a1"}, "posts", ("posts", "a1", "x", "")),
        ({"content": None, "page_content": "T", "author_id": 2.0}, "posts", ("posts", "2", "", "")),
        ({"content": "", "page_content": "T", "author_id": -1.5}, "posts", ("posts", "-1.5", "", "")),
        ({"content": "<br/>", "page_content": "T", "author_id": True}, "posts", ("posts", "", "", "")),
    ],
    ids=[
        "post",
        "article",
        "repository",
        "handbook",
        "id before name, text where one is null",
        "null beside LangChain's",
        "nothing beside LangChain's",
        "markup beside LangChain's",
    ],
)
def test_every_shape_of_course_and_handbook_is_read(source, payload, collection, expected):
    assert read(source, payload, collection=collection) == [Chunk("0", collection, 0, 1, "T", *expected)]


def test_title_and_day_come_along_unless_they_hold_what_must_not_be_published(source):
    told = {"title": "On caches", "published": "2024-05-01T10:00:00Z"}
    first, second, third = read(
        source, *({"content": "A text."} | it for it in (told, {"title": "a@b.com"}, {}))
    )

    assert (first.title, first.published) == ("On caches", "2024-05-01T10:00:00Z")
    assert (second.title, third.title, third.published) == ("", "", "")


@pytest.mark.parametrize(
    ("payload", "reason", "length"),
    [
        ({"cleaned_content": {"a": "b"}}, "not_text", 0),
        ({"cleaned_content": True}, "not_text", 0),
        ({"cleaned_content": " \n\t\u00a0\u200b\ufeff"}, "blank", 6),
        ({"cleaned_content": "<br/><p>&nbsp;</p>"}, "markup_only", 18),
        ({"cleaned_content": "![](https://a/b.png)"}, "markup_only", 20),
        ({"cleaned_content": "---\n***"}, "markup_only", 7),
        ({"cleaned_content": "![chart](data:image/png;base64,iVBORw0KGgo/+AAAA==)"}, "markup_only", 51),
        ({"cleaned_content": "data:image/svg+xml;charset=utf-8,%3Csvg%20xmlns"}, "markup_only", 47),
        ({"cleaned_content": "https://a.example/notes?ref=b"}, "markup_only", 29),
        ({"cleaned_content": "---\ntitle: A day\n---\n"}, "markup_only", 21),
    ],
)
def test_what_has_no_usable_text_is_skipped_with_its_reason(source, payload, reason, length):
    [skipped] = read(source, payload | {"author_id": 3})

    assert (skipped.state, skipped.reason, skipped.start, skipped.end) == ("skipped", reason, 0, length)
    assert skipped.author == "3"


@pytest.mark.parametrize(
    "text",
    ["ok", "```python\nprint(1)\n```", "`make`", "🚀🚀", "None", "<b>bold</b>", "a < b > c", "好", "1",
     " \ufeffx\r\n\u2028y\x07"],
)  # fmt: skip
def test_a_text_comes_as_it_is(source, text):
    [content] = read(source, {"cleaned_content": text})

    assert content.text == text


@pytest.mark.parametrize(("limit", "expected"), [(0, 10), (1, 1), (4, 4), (10, 10), (99, 10)])
def test_a_limit_counts_points(source, limit, expected):
    payloads = [{"content": str(n)} for n in range(10)]

    assert len(read(source, *payloads, limit=limit, page_size=3)) == expected


@pytest.mark.parametrize(
    ("payload", "collection", "given", "expected"),
    [
        ({"type": "posts"}, "cleaned_articles", "", "posts"),
        ({"type": "posts"}, "cleaned_articles", "essays", "essays"),
        ({}, "cleaned_posts", "", "posts"),
        ({"type": None}, "vector_repositories", "", "repositories"),
        ({"type": 7}, "notes", "", "notes"),
        ({"type": " "}, "cleaned_", "", "cleaned_"),
    ],
)
def test_the_word_for_the_kind_of_text(source, payload, collection, given, expected):
    settings = Params(data_type=given)

    [content] = read(source, {"content": "T"} | payload, collection=collection, settings=settings)

    assert content.data_type == expected


CONTENT = Chunk("7", "cleaned_posts", 0, 0, "", "posts", "2", "linkedin", "https://a")


def split(text: str, max_chars: int = 2000) -> list[Chunk]:
    return split_content(replace(CONTENT, text=text, end=len(text)), max_chars=max_chars)


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


@given(st.text(st.sampled_from("ab .!?\n\r。，好é\u0301👩\u200d🇪🇸ก"), max_size=300), st.integers(4, 60))
def test_chunks_join_to_the_content_and_are_short_enough(text, max_chars):
    chunks = split(text, max_chars)

    assert "".join(texts(chunks)) == text
    assert all(len(chunk.text) <= max_chars for chunk in chunks)
    assert [text[chunk.start : chunk.end] for chunk in chunks] == texts(chunks)
    assert [before.end for before, _ in pairwise(chunks)] == [after.start for _, after in pairwise(chunks)]


@pytest.mark.parametrize(
    "sentence", ["This is one sentence of many. ", "今天天氣很好，我們一起去公園散步。", "これは文です。"]
)
def test_cuts_fall_on_sentence_ends_in_any_script(sentence):
    text = sentence * 400

    chunks = split(text)

    assert {chunk.end for chunk in chunks} <= set(sentence_ends(text))
    assert len(chunks) == -(-len(text) // (2000 // len(sentence) * len(sentence)))


@pytest.mark.parametrize(
    "text",
    [
        "Before.\n```\n" + "x = 1\n" * 30 + "```" + "\n" * 30 + "After it. " * 30,
        "Before.\n> ```\n" + "> x = 1\n" * 20 + "> ```\nAfter it. " * 30,
        "Use ```inline``` code.\n"
        + "Before. " * 20
        + "\n```\n"
        + "x = 1\n" * 30
        + "```\n"
        + "After it. " * 30,
    ],
    ids=["many blanks behind it", "in a quotation", "inline code before it"],
)
def test_a_fence_that_just_fits_is_not_cut(text):
    fence = text[text.index("```\n") : text.index("```", text.index("x = 1"))]

    assert any(fence in chunk.text for chunk in split(text, 200))


def test_no_tiny_chunk_is_left_over():
    lengths = [len(chunk.text) for chunk in split("Ten chars. " * 190)]

    assert lengths == [1045, 1045]


def test_a_paragraph_s_end_is_the_better_cut():
    text = "First part is here. " * 50 + "\n\n" + "Second part is here. " * 60

    assert texts(split(text))[0].endswith("\n\n")


def test_a_sentence_too_long_is_cut_at_words_and_at_commas():
    words, clauses = split("word " * 900)[0], split("這是一個很長的子句，" * 300)[0]

    assert words.text.endswith("word ")
    assert clauses.text.endswith("，")


def test_a_million_characters_are_cut_in_a_moment():
    chooser = random.Random(1)
    text = " ".join(chooser.choice(["word", "another", "tiny.", "Big!\n", "好。"]) for _ in range(200_000))

    assert "".join(texts(split(text))) == text


SIZES = {"cleaned_posts": 9, "cleaned_articles": 4, "cleaned_repositories": 2}


@pytest.fixture
def filled(tmp_path):
    with open_source(str(tmp_path / "qdrant")) as opened:
        for name, size in SIZES.items():
            rows = [
                {"id": n, "cleaned_content": f"{name} {n} says this.", "author_id": "a"} for n in range(size)
            ]
            path = tmp_path / "rows.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            load_files(opened, [path], collection=name)
        yield opened


@pytest.fixture
def fetch(filled):
    def fetched(*, forgotten=frozenset(), **values):
        settings = replace(Params(collections=tuple(SIZES)), **values)
        return read_chunks(filled, settings, forgotten=forgotten)

    return fetched


def test_every_collection_is_read_and_counted(fetch):
    chunks = fetch()

    assert chunks.groupby("collection").size().to_dict() == SIZES
    assert chunks.attrs["source_counts"] == {name: [size, size] for name, size in SIZES.items()}
    assert set(chunks.data_type) == {"posts", "articles", "repositories"}


@pytest.mark.parametrize(
    ("limit", "read"),
    [(3, (1, 1, 1)), (6, (2, 2, 2)), (8, (3, 3, 2)), (12, (6, 4, 2)), (99, (9, 4, 2)), (1, (0, 0, 1))],
)
def test_a_limit_is_for_all_collections_together_and_shared(fetch, limit, read):
    counts = fetch(limit=limit).groupby("collection").size()

    assert tuple(counts.get(name, 0) for name in SIZES) == read


def test_what_was_forgotten_is_skipped_without_a_trace_of_its_author(fetch):
    by_origin = forget_marks(author="", link="", collection="cleaned_posts", content_id="8")
    by_text = frozenset({text_sha256("cleaned_articles 1 says this.")})
    chunks = fetch(forgotten=by_origin | by_text)

    skipped = chunks.loc[chunks.state == "skipped", ["content_id", "reason", "author", "link", "content"]]
    assert skipped.values.tolist() == [["8", "forgotten", "", "", ""], ["1", "forgotten", "", "", ""]]


def test_a_forgotten_piece_of_a_content_is_skipped_alone(fetch, filled):
    first = "The first half of it is this sentence, " + "and it goes on " * 5 + "to here. "
    text = first + "Another one makes the second half, " + "and it goes on " * 5 + "as well."
    filled.write("cleaned_posts", [(99, {"cleaned_content": text, "author_id": "a"})])

    chunks = fetch(forgotten=frozenset({text_sha256(first)}), chunk_chars=140)

    rows = chunks.loc[chunks.content_id == "99", ["state", "reason", "start", "end", "content"]]
    assert rows.values.tolist() == [
        ["pending", "", len(first), len(text), text[len(first) :]],
        ["skipped", "forgotten", 0, len(first), ""],
    ]


@pytest.mark.parametrize(
    ("payloads", "said"),
    [([], "found none$"), ([{"content": ""}, {"content": 7}], "none: skipped blank 1, skipped not text 1")],
    ids=["empty", "all skipped"],
)
def test_a_collection_without_a_content_to_ask_about_is_refused(tmp_path, payloads, said):
    with open_source(str(tmp_path / "qdrant")) as source:
        source.write("cleaned_posts", enumerate(payloads))

        with pytest.raises(SourceError, match=said):
            read_chunks(source, Params())
