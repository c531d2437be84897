"""From collections to chunks on disk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmtwin_data.answers import forget_marks
from llmtwin_data.chunks import text_sha256
from llmtwin_data.errors import DiskFailed
from llmtwin_data.generator.fetching import ChunkTexts, fetch_chunks
from llmtwin_data.params import Params
from llmtwin_data.sources import open_source
from llmtwin_data.sources.loading import load_jsonl

SIZES = {"cleaned_posts": 9, "cleaned_articles": 4, "cleaned_repositories": 2}


@pytest.fixture
def source(tmp_path):
    with open_source(str(tmp_path / "qdrant")) as opened:
        for name, size in SIZES.items():
            rows = [
                {"id": n, "cleaned_content": f"{name} {n} says this.", "author_id": "a"} for n in range(size)
            ]
            path = tmp_path / "rows.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            load_jsonl(opened, path, collection=name)
        yield opened


@pytest.fixture
def fetch(source, tmp_path):
    def fetched(*, forgotten=frozenset(), **values):
        settings = replace(Params(collections=tuple(SIZES)), **values)
        return fetch_chunks(source, settings, path=tmp_path / "work" / "chunks.jsonl", forgotten=forgotten)

    return fetched


def test_every_collection_is_read_and_counted(fetch):
    fetched = fetch()

    assert fetched.by_collection == SIZES
    assert (fetched.contents, len(fetched.chunks), fetched.source_changed) == (15, 15, False)
    assert {chunk.data_type for chunk in fetched.chunks} == {"posts", "articles", "repositories"}


@pytest.mark.parametrize(
    ("limit", "read"),
    [(3, (1, 1, 1)), (6, (2, 2, 2)), (8, (3, 3, 2)), (12, (6, 4, 2)), (99, (9, 4, 2)), (1, (0, 0, 1))],
)
def test_a_limit_is_for_all_collections_together_and_shared(fetch, limit, read):
    assert tuple(fetch(limit=limit).by_collection.values()) == read


def test_what_was_forgotten_is_skipped_without_a_trace_of_its_author(fetch):
    by_origin = forget_marks(author="", link="", collection="cleaned_posts", content_id="8")
    by_text = frozenset({text_sha256("cleaned_articles 1 says this.")})
    skipped = fetch(forgotten=by_origin | by_text).skipped

    assert [(item.content_id, item.reason, item.author, item.link) for item in skipped] == [
        ("8", "forgotten", "", ""),
        ("1", "forgotten", "", ""),
    ]


def test_a_forgotten_piece_of_a_content_is_skipped_alone(fetch, source):
    text = "The first half of it is this sentence. Another one makes the second half."
    source.write("cleaned_posts", [(99, {"cleaned_content": text, "author_id": "a"})])
    first = "The first half of it is this sentence. "

    fetched = fetch(forgotten=frozenset({text_sha256(first)}), chunk_chars=45)

    [gone] = fetched.skipped
    assert (gone.content_id, gone.reason, gone.start, gone.end) == ("99", "forgotten", 0, len(first))
    assert [chunk.text for chunk in fetched.chunks if chunk.content_id == "99"] == [text[len(first) :]]


def test_texts_are_read_from_disk_as_often_as_wanted(fetch):
    chunks = fetch().chunks
    texts = ChunkTexts(chunks)

    assert list(texts) == list(texts) == [chunk.text for chunk in chunks]
    assert (len(texts), texts[3]) == (15, chunks[3].text)


def test_a_spool_that_cannot_be_written_is_a_matter_of_the_disk(fetch, tmp_path):
    (tmp_path / "work").write_text("a file")

    with pytest.raises(DiskFailed):
        fetch()
