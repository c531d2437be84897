import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtwin_data.chunks import Chunk, ChunkSpool, split_content, text_sha256
from llmtwin_data.contents import Content
from llmtwin_data.errors import DiskFailed
from llmtwin_data.languages.sentences import graphemes, sentence_ends

CONTENT = Content("7", "cleaned_posts", "", "posts", "2", "linkedin", "https://a")


def split(text: str, max_chars: int = 2000) -> list[Chunk]:
    return split_content(replace(CONTENT, text=text), max_chars=max_chars)


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def test_a_short_post_is_one_chunk_and_knows_where_it_comes_from():
    assert split("Short.") == [
        Chunk("7", "cleaned_posts", 0, 6, "Short.", "posts", "2", "linkedin", "https://a", masked="")
    ]


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


def test_chinese_of_5300_characters_is_cut():
    text = "很多團隊以為把資料丟進向量資料庫就完成了。" * 253

    assert max(len(chunk.text) for chunk in split(text)) <= 2000


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


@pytest.mark.parametrize("grapheme", ["👩‍👩‍👧‍👦", "e\u0301", "🇪🇸", "हि", "각", "\r\n"])
def test_no_cut_parts_a_grapheme(grapheme):
    chunks = split(grapheme * 900, 100)

    assert {part for chunk in chunks for part in graphemes(chunk.text)} == {grapheme}


def test_a_million_characters_are_cut_in_a_moment():
    chooser = random.Random(1)
    text = " ".join(chooser.choice(["word", "another", "tiny.", "Big!\n", "好。"]) for _ in range(200_000))

    assert "".join(texts(split(text))) == text


def test_the_sha256_is_of_utf8():
    assert text_sha256("好") == "f867f34178594f891eb70a4260f62b1d9289cfa60394f9fee1cbbe4a8b4bf436"
    assert text_sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def spool(tmp_path):
    chunks = split("One \u2028 sentence。\n" * 3000, 20)
    written = ChunkSpool.write(tmp_path / "work" / "chunks.jsonl", iter(chunks))
    yield written, chunks
    written.close()


def test_a_spool_gives_back_what_was_written(spool):
    written, chunks = spool

    assert len(written) == len(chunks) > 1024
    assert list(written) == chunks
    assert list(written.texts()) == list(written.texts()) == texts(chunks)


def test_a_spool_is_a_sequence(spool):
    written, chunks = spool

    assert (written[0], written[-1], written[5]) == (chunks[0], chunks[-1], chunks[5])
    assert (written[3:7], written[::-1][:2], written[9:2]) == (chunks[3:7], chunks[::-1][:2], [])
    with pytest.raises(IndexError):
        written[len(chunks)]


def test_an_empty_spool_is_empty(tmp_path):
    assert list(ChunkSpool.write(tmp_path / "chunks.jsonl", [])) == []


def test_a_spool_that_cannot_be_written_is_a_disk_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(DiskFailed, match="cannot keep chunks"):
        ChunkSpool.write(Path(tmp_path / "file" / "chunks.jsonl"), [])
