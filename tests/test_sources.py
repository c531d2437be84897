import os
import uuid

import pytest
from qdrant_server import qdrant_server

from llmtwin_data.contents import read_contents
from llmtwin_data.errors import ParamsError, SourceError
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.sources import Source, open_source, source_address

LOW, HIGH = "00000000-0000-0000-0000-00000000000b", "6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d"
POINTS = [
    (7, {"cleaned_content": "seven", "author_id": "2", "platform": "linkedin", "type": "posts"}),
    (3, {"cleaned_content": "three", "author_id": 2, "platform": "medium", "other": "x" * 1000}),
    (HIGH, {"content": "uuid", "owner_id": "9", "platform": "github"}),
    (LOW, {"content": "low uuid", "author_full_name": "R. Role", "author_id": 5.0}),
    (2**40, {"content": "big", "owner_id": "2"}),
]


@pytest.fixture(params=["embedded", "server"])
def source(request, tmp_path):
    if request.param == "embedded":
        with open_source(str(tmp_path / "qdrant")) as opened:
            yield opened
    else:
        with qdrant_server() as server, open_source(server.url, api_key="qd-CANARY") as opened:
            yield opened


def ids(source: Source, **filters: list[str]) -> list:
    page, _ = source.scroll("cleaned_posts", fields=["content"], **filters)
    return [point_id for point_id, _ in page]


@pytest.mark.parametrize("page_size", [1, 2, 5, 6])
def test_pages_join_to_the_whole(source, page_size):
    source.write("cleaned_posts", POINTS)

    found = [content.text for content in read_contents(source, "cleaned_posts", page_size=page_size)]

    assert found == ["three", "seven", "big", "low uuid", "uuid"]


def test_an_author_is_found_as_text_number_and_name_and_filters_combine(source):
    source.write("cleaned_posts", POINTS)

    assert ids(source, authors=["2"]) == [3, 7, 2**40]
    assert ids(source, authors=["R. Role", "9"]) == [LOW, HIGH]
    assert ids(source, authors=["5"]) == [LOW]
    assert source.count("cleaned_posts", authors=["02"]) == 0
    assert ids(source, authors=["2"], platforms=["medium", "github"]) == [3]


def test_only_the_named_fields_come(source):
    source.write("cleaned_posts", POINTS)

    page, _ = source.scroll("cleaned_posts", fields=["author_id"], page_size=2)

    assert page == [(3, {"author_id": 2}), (7, {"author_id": "2"})]


def test_writing_twice_replaces(source):
    assert source.write("cleaned_posts", POINTS) == 5
    assert source.write("cleaned_posts", [(3, {"content": "new"})]) == 1

    assert source.count("cleaned_posts") == 5
    page, _ = source.scroll("cleaned_posts", fields=["content", "cleaned_content"], page_size=1)
    assert page == [(3, {"content": "new"})]


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "..", "a\0b", "x" * 300, ".hidden", "", "a b"])
def test_a_name_that_leaves_the_folder_is_refused(source, name):
    with pytest.raises(ParamsError, match="collection"):
        source.write(name, POINTS)


def test_a_second_opener_waits_and_is_told_why(tmp_path):
    from llmtwin_data.sources import EmbeddedSource

    with open_source(str(tmp_path)) as first, EmbeddedSource(tmp_path, busy_seconds=0.1) as second:
        first.write("cleaned_posts", POINTS)
        assert first.count("cleaned_posts") == 5

        with pytest.raises(SourceError, match="open in another program or notebook"):
            second.count("cleaned_posts")


def test_an_empty_folder_says_how_to_load(tmp_path):
    with open_source(str(tmp_path / "nothing")) as source:
        assert source.collections() == []
        with pytest.raises(SourceError, match="llmtwin-data load"):
            source.count("cleaned_posts")
    assert not (tmp_path / "nothing").exists()


def test_what_a_killed_writer_left_is_no_collection(tmp_path):
    with open_source(str(tmp_path)) as source:
        source.write("cleaned_posts", POINTS)
    left, aside = tmp_path / ".cleaned_posts.999999999", tmp_path / ".cleaned_posts.2024.before"
    (tmp_path / "cleaned_posts").rename(left)

    with open_source(str(tmp_path)) as source:
        assert source.collections() == []
        aside.mkdir()  # of another collection, which another process is about to replace
        source.write("cleaned_posts", [])
        assert source.collections() == ["cleaned_posts"]
        assert (left.exists(), aside.exists()) == (False, True)


def test_a_damaged_collection_is_a_source_error(tmp_path):
    with open_source(str(tmp_path)) as source:
        source.write("cleaned_posts", POINTS)
    (tmp_path / "cleaned_posts" / "edge_config.json").write_text("{")

    with open_source(str(tmp_path)) as source, pytest.raises(SourceError, match="cannot open"):
        source.count("cleaned_posts")


def test_a_point_that_no_engine_takes_is_a_source_error(source):
    with pytest.raises(SourceError):
        source.write("cleaned_posts", [("no uuid", {})])


ADDRESSES = ["file:///etc/passwd", "ftp://host/x", "http://", "http://host:99999", "localhost:6333"]


@pytest.mark.parametrize("address", [*ADDRESSES, "http://me:pw@127.0.0.1:1", "http://host?api_key=pw"])
def test_what_is_no_qdrant_address_is_refused(address):
    with pytest.raises(ParamsError, match="qdrant") as refused:
        open_source(address)

    assert "pw" not in str(refused.value)


def test_no_address_shows_a_key():
    with open_source("https://qdrant.example.org", api_key="qd-CANARY") as source:
        assert source.address == "https://qdrant.example.org:6333"
        assert "qd-CANARY" not in repr(source)
    with pytest.raises(ParamsError) as refused:
        open_source("https://me:qd-CANARY@host")
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize(
    ("qdrant", "environ", "expected"),
    [
        ("http://a:1", {"QDRANT_URL": "http://b:2"}, "http://a:1"),
        ("", {"QDRANT_URL": " http://b:2 "}, "http://b:2"),
        ("", {}, str(PROJECT_ROOT / ".llmtwin/qdrant")),
        ("some/folder", {"QDRANT_URL": "http://b:2"}, str(PROJECT_ROOT / "some/folder")),
    ],
)
def test_where_contents_are(qdrant, environ, expected):
    assert source_address(qdrant, environ=environ) == expected


@pytest.mark.skipif(
    "QDRANT_URL" not in os.environ, reason="needs a real server: set QDRANT_URL (and QDRANT_API_KEY)"
)
def test_a_real_server_reads_back_what_was_written():
    from qdrant_client import QdrantClient

    name = f"llmtwin_test_{uuid.uuid4().hex[:8]}"
    url, key = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY", "")
    try:
        with open_source(url, api_key=key) as source:
            source.write(name, POINTS)
            found = [content.text for content in read_contents(source, name, page_size=2)]
            assert found == ["three", "seven", "big", "low uuid", "uuid"]
            assert source.count(name, authors=["2"]) == 3
    finally:
        QdrantClient(url=url, api_key=key or None).delete_collection(name)
