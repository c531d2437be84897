import pytest

from llmtwin_data.contents import Content, Skipped, data_type_of, read_contents
from llmtwin_data.sources import open_source


@pytest.fixture
def source(tmp_path):
    with open_source(str(tmp_path)) as opened:
        yield opened


def read(source, *payloads, collection: str = "cleaned_posts", **chosen) -> list:
    source.write(collection, enumerate(payloads))
    return list(read_contents(source, collection, **chosen))


def test_the_course_s_post(source):
    post = {
        "platform": "linkedin",
        "author_id": "2",
        "cleaned_content": "Text",
        "image": None,
        "type": "posts",
    }

    assert read(source, post) == [Content("0", "cleaned_posts", "Text", "posts", "2", "linkedin", "")]


def test_the_course_s_article(source):
    article = {
        "platform": "medium",
        "link": "https://a/b",
        "cleaned_content": "T",
        "author_id": 7,
        "type": "articles",
    }

    [content] = read(source, article, collection="cleaned_articles")

    assert (content.author, content.link, content.data_type) == ("7", "https://a/b", "articles")


def test_the_course_s_repository_has_an_owner_and_a_name(source):
    [content] = read(
        source, {"name": "repo", "cleaned_content": "T", "owner_id": "9", "type": "repositories"}
    )

    assert (content.author, content.link, content.data_type) == ("9", "repo", "repositories")


def test_the_handbook_s_document(source):
    [content] = read(
        source, {"content": "T", "author_full_name": "R. Role", "platform": "x"}, collection="articles"
    )

    assert (content.text, content.author, content.data_type) == ("T", "R. Role", "articles")


def test_the_id_of_an_author_goes_before_the_name(source):
    [content] = read(source, {"content": "T", "author_full_name": "R. Role", "author_id": "a1"})

    assert content.author == "a1"


def test_a_null_text_gives_way_to_the_other_field(source):
    [content] = read(source, {"cleaned_content": None, "content": "T"})

    assert content.text == "T"


@pytest.mark.parametrize(
    ("payload", "reason", "length"),
    [
        ({}, "no_payload", 0),
        ({"platform": "x"}, "no_text", 0),
        ({"cleaned_content": None, "type": "posts"}, "no_text", 0),
        ({"cleaned_content": 7}, "not_text", 0),
        ({"cleaned_content": ["a"]}, "not_text", 0),
        ({"cleaned_content": {"a": "b"}}, "not_text", 0),
        ({"cleaned_content": True}, "not_text", 0),
        ({"cleaned_content": ""}, "blank", 0),
        ({"cleaned_content": " \n\t\u00a0\u200b\ufeff"}, "blank", 6),
        ({"cleaned_content": "a\0b"}, "not_encodable", 3),
        ({"cleaned_content": "<br/><p>&nbsp;</p>"}, "markup_only", 18),
        ({"cleaned_content": "![](https://a/b.png)"}, "markup_only", 20),
        ({"cleaned_content": "---\n***"}, "markup_only", 7),
    ],
)
def test_what_has_no_usable_text_is_skipped_with_its_reason(source, payload, reason, length):
    [skipped] = read(source, payload)

    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.length, skipped.start, skipped.end) == (reason, length, 0, -1)


@pytest.mark.parametrize(
    "text", ["ok", "🚀🚀", "None", "<b>bold</b>", "a < b > c", "好", "1", " \ufeffx\r\n\u2028y\x07"]
)
def test_a_text_comes_as_it_is(source, text):
    [content] = read(source, {"cleaned_content": text})

    assert content.text == text


def test_a_skipped_content_still_names_author_and_link(source):
    [skipped] = read(source, {"cleaned_content": "", "author_id": 3, "link": "https://a"})

    assert (skipped.content_id, skipped.author, skipped.link) == ("0", "3", "https://a")


@pytest.mark.parametrize(("limit", "expected"), [(0, 10), (1, 1), (4, 4), (10, 10), (99, 10)])
def test_a_limit_counts_points(source, limit, expected):
    payloads = [{"content": str(n)} for n in range(10)]

    assert len(read(source, *payloads, limit=limit, page_size=3)) == expected


def test_filters_reach_the_engine(source):
    payloads = [{"content": str(n), "author_id": str(n % 2), "platform": "ab"[n % 3 > 0]} for n in range(6)]

    assert [content.text for content in read(source, *payloads, authors=["1"], platforms=["b"])] == ["1", "5"]


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
def test_the_word_for_the_kind_of_text(payload, collection, given, expected):
    assert data_type_of(payload, collection, given) == expected
