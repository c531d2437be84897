import json
import uuid
from pathlib import Path

import pytest
from qdrant_server import qdrant_server

from llmtwin_data.contents import read_contents
from llmtwin_data.errors import SourceError
from llmtwin_data.loading import load_jsonl
from llmtwin_data.sources import open_source


@pytest.fixture(params=["embedded", "server"])
def source(request, tmp_path):
    if request.param == "embedded":
        with open_source(str(tmp_path / "qdrant")) as opened:
            yield opened
    else:
        with qdrant_server() as server, open_source(server.url) as opened:
            yield opened


def written(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "posts.jsonl"
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


def loaded(source) -> list:
    return list(read_contents(source, "cleaned_posts"))


def test_each_line_is_a_content(source, tmp_path):
    path = written(tmp_path, '{"id": 7, "content": "seven"}', "", '{"content": "eight", "author_id": "2"}')

    assert load_jsonl(source, path, collection="cleaned_posts") == 2

    assert [(content.text, content.author) for content in loaded(source)] == [("seven", ""), ("eight", "2")]


def test_loading_twice_changes_nothing(source, tmp_path):
    path = written(tmp_path, *(json.dumps({"content": f"text {n}"}) for n in range(5)))
    load_jsonl(source, path, collection="cleaned_posts")
    before = loaded(source)

    load_jsonl(source, path, collection="cleaned_posts")

    assert loaded(source) == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("7", "7"),
        ("0", "0"),
        (str(2**64 - 1), str(2**64 - 1)),
        ('"12"', "12"),
        ('"6F1C5A58-5d0b-5a0e-9d0c-1b8f4f3f6a0d"', "6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d"),
        ('"0cc175b9c0f1b6a831c399e269772661"', "0cc175b9-c0f1-b6a8-31c3-99e269772661"),
    ],
)
def test_an_id_is_kept_as_the_point_s(tmp_path, given, expected):
    path = written(tmp_path, f'{{"id": {given}, "content": "x"}}')
    with open_source(str(tmp_path / "q")) as source:
        load_jsonl(source, path, collection="cleaned_posts")

        assert [content.content_id for content in loaded(source)] == [expected]


def test_without_an_id_the_line_gives_one(tmp_path):
    path = written(tmp_path, '{"content": "x"}', '{"content": "y", "id": null}')
    with open_source(str(tmp_path / "q")) as source:
        load_jsonl(source, path, collection="cleaned_posts")

        assert {uuid.UUID(content.content_id).version for content in loaded(source)} == {5}


@pytest.mark.parametrize(
    "line",
    [
        "{", "[1]", '"text"', "7",
         "null", '{"content": NaN}', '{"content": 1e999}', '{"id": "abc"}', '{"id": -1}',
        '{"id": 1.5}', '{"id": true}', f'{{"id": {2**64}}}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}",
    ],
    ids=range(14),
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number_and_nothing_is_loaded(tmp_path, line):
    path = written(tmp_path, '{"content": "good"}', "", line)

    with open_source(str(tmp_path / "q")) as source:
        with pytest.raises(SourceError, match=r"posts\.jsonl line 3:") as bad:
            load_jsonl(source, path, collection="cleaned_posts")

        assert source.collections() == []
    assert bad.value.exit_code == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "mine"}', "no text; expected cleaned_content or content, found text$"),
        ('{"id": "a7", "content": "x"}', "'a7' is no UUID .*; leave it out, then the line itself gives one$"),
        ("[1]", "found a JSON list; expected one JSON object a line$"),
    ],
    ids=["no text", "id", "list"],
)
def test_what_is_expected_of_a_line_fits_what_is_wrong(tmp_path, line, reason):
    with (
        open_source(str(tmp_path / "q")) as source,
        pytest.raises(SourceError, match=f"^posts.jsonl line 1: .*{reason}"),
    ):
        load_jsonl(source, written(tmp_path, line), collection="cleaned_posts")


def test_a_blank_text_is_loaded_and_told_when_read(source, tmp_path):
    load_jsonl(source, written(tmp_path, '{"id": 1, "cleaned_content": " "}'), collection="cleaned_posts")

    assert [skipped.reason for skipped in loaded(source)] == ["blank"]


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"content": "\xff"}\n')

    with open_source(str(tmp_path / "q")) as source, pytest.raises(SourceError, match="line 1: not UTF-8"):
        load_jsonl(source, path, collection="cleaned_posts")


def test_only_a_line_feed_ends_a_line(source, tmp_path):
    text = "one\u2028two\u2029three\x85four\x0bfive"
    path = written(tmp_path, json.dumps({"content": text}, ensure_ascii=False))

    assert load_jsonl(source, path, collection="cleaned_posts") == 1
    assert loaded(source)[0].text == text


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(source, tmp_path):
    path = written(tmp_path, '\ufeff{"id": 1, "content": "a"}', '{"id": 2, "content": "b"}', end="\r\n")

    assert load_jsonl(source, path, collection="cleaned_posts") == 2
    assert [content.text for content in loaded(source)] == ["a", "b"]


def test_a_lone_surrogate_is_kept_out_of_the_engine_and_told(source, tmp_path):
    path = written(
        tmp_path, '{"id": 1, "cleaned_content": "a \\ud83d b", "author_id": "2", "\\udc00": ["\\udc00"]}'
    )

    assert load_jsonl(source, path, collection="cleaned_posts") == 1
    [skipped] = loaded(source)
    assert (skipped.reason, skipped.end, skipped.author) == ("not_encodable", 5, "2")


@pytest.mark.parametrize("name", ["nothing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with open_source(str(tmp_path / "q")) as source, pytest.raises(SourceError, match="cannot read"):
        load_jsonl(source, tmp_path / name, collection="cleaned_posts")
