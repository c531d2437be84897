import gzip
import io
import json
import shutil
import time
import uuid
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from qdrant_server import Fault, qdrant_server
from running import start_python

from llmtwin_data.cli import main
from llmtwin_data.contents import read_contents
from llmtwin_data.errors import SourceError
from llmtwin_data.loading import load_files, read_files
from llmtwin_data.sources import open_source


@pytest.fixture(params=["embedded", "server"])
def source(request, tmp_path):
    if request.param == "embedded":
        with open_source(str(tmp_path / "qdrant")) as opened:
            yield opened
    else:
        with qdrant_server() as server, open_source(server.url) as opened:
            yield opened


def written(folder: Path, *lines: str) -> Path:
    path = folder / "posts.jsonl"
    path.write_bytes("\n".join([*lines, ""]).encode())
    return path


def loaded(source) -> list:
    return list(read_contents(source, "cleaned_posts"))


LONG_LINE = "one\u2028two\u2029three\x85four\x0bfive"
# The bytes of a file; of each content its text or why it is skipped, and its author.
LINES = {
    "a content a line": (
        '{"id": 7, "content": "seven"}\n\n{"content": "eight", "author_id": "2"}\n',
        [("seven", ""), ("eight", "2")],
    ),
    "only a line feed ends a line": (
        f'{{"content": {json.dumps(LONG_LINE, ensure_ascii=False)}}}\n',
        [(LONG_LINE, "")],
    ),
    "byte order mark, windows line ends": (
        '\ufeff{"id": 1, "content": "a"}\r\n{"id": 2, "content": "b"}\r\n',
        [("a", ""), ("b", "")],
    ),
    "blank": ('{"id": 1, "cleaned_content": " ", "post_id": 1}', [("blank", "")]),
    "a lone surrogate": (
        '{"id": 1, "cleaned_content": "a \\ud83d b", "author_id": "2", "\\udc00": ["\\udc00"]}',
        [("not_encodable", "2")],
    ),
}


@pytest.mark.parametrize(("text", "expected"), LINES.values(), ids=LINES)
def test_each_line_is_a_content(source, tmp_path, text, expected):
    path = tmp_path / "posts.jsonl"
    path.write_bytes(text.encode())

    assert load_files(source, [path], collection="cleaned_posts") == len(expected)

    contents = loaded(source)
    assert [(content.reason or content.text, content.author) for content in contents] == expected


def test_loading_twice_changes_nothing(source, tmp_path):
    path = written(tmp_path, *(json.dumps({"content": f"text {n}"}) for n in range(5)))
    load_files(source, [path], collection="cleaned_posts")
    before = loaded(source)

    load_files(source, [path], collection="cleaned_posts")

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
    paths = [written(tmp_path, f'{{"id": {given}, "content": "x"}}'), tmp_path / "a.json"]
    paths[1].write_text(f'[{{"id": {given}, "content": "x", "link": "https://x.example"}}]')
    with open_source(str(tmp_path / "q")) as source:
        load_files(source, paths, collection="cleaned_posts")

        assert [content.content_id for content in loaded(source)] == [expected]


def test_texts_that_changed_since_are_counted(source, tmp_path):
    lines = ['{"id": 1, "content": "one"}', '{"id": 2, "content": "two", "x": 1}', '{"content": "three"}']
    load_files(source, [written(tmp_path, *lines)], collection="cleaned_posts")
    lines[:2] = [
        '{"id": 1, "content": "other"}',
        '{"id": 2, "content": "two", "x": 2}',
        '{"content": "four"}',
    ]

    loading = read_files([written(tmp_path, *lines)])

    assert loading.changed(source, "cleaned_posts") == 1


def test_without_an_id_the_line_gives_one(tmp_path):
    path = written(tmp_path, '{"content": "x"}', '{"content": "y", "id": null}')
    with open_source(str(tmp_path / "q")) as source:
        load_files(source, [path], collection="cleaned_posts")

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
            load_files(source, [path], collection="cleaned_posts")

        assert source.collections() == []
    assert bad.value.exit_code == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "mine"}', "no text; expected .* or content, found text; --text-field names another$"),
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
        load_files(source, [written(tmp_path, line)], collection="cleaned_posts")


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"content": "\xff"}\n')

    with open_source(str(tmp_path / "q")) as source, pytest.raises(SourceError, match="line 1: not UTF-8"):
        load_files(source, [path], collection="cleaned_posts")


@pytest.mark.parametrize("name", ["nothing.jsonl", "nothing/posts.csv"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with open_source(str(tmp_path / "q")) as source, pytest.raises(SourceError, match="cannot read"):
        load_files(source, [tmp_path / name], collection="cleaned_posts")


LINKEDIN = (
    "Date,ShareLink,ShareCommentary,SharedUrl,MediaUrl,Visibility\r\n"
    '2023-01-10 09:22:11,https://li.example/1,"Two lines,""\r\n""quoted ""once"" more.",,,MEMBER_NETWORK\r\n'
    "2023-01-09 08:00:00,https://li.example/2,,https://elsewhere.example,,MEMBER_NETWORK\r\n"
)
MEDIUM = """<!DOCTYPE html><html><head><title>How we cut it</title><style>p {color: red}</style></head><body>
<article class="h-entry"><header><h1 class="p-name">How we cut it</h1></header>
<section data-field="body" class="e-content"><p class="graf">First <strong>bold</strong> and
wrapped.</p><pre>def f():
    return 1</pre><ul><li>One</li><li><p>Two &amp; three</p></li></ul></section>
<footer><p>By <a href="https://m.example/@me" class="p-author h-card">Me Myself</a>
<time class="dt-published" datetime="2021-03-04T10:00:00.000Z">March 4</time></p>
<p><a href="https://m.example/@me/how" class="p-canonical">Canonical link</a></p></footer></article>
</body></html>"""
SUBSTACK = """<p>Hi all,</p><div class="subscription-widget-wrap"><form>Subscribe now</form></div>
<h2>News</h2>
<p>It is<br>here.</p>"""
PAGE = """<html><head><meta property="og:title" content="A page"><meta name="author" content="Ann">
<meta property="article:published_time" content="2020-02-03"><link rel="canonical" href="https://p.example/a"></head>
<body><nav>Home | About</nav><main><p>Body \u5167\u5bb9.</p><script>track()</script><!-- hidden --></main>
<footer>Imprint</footer></body></html>"""


WIDGET = (
    "<p>one</p><div class='subscription-widget-wrap-editor'><div class='subscription-widget'><p>Join!</p>"
    "<form><input></form></div></div><p class='cta-caption'>Thanks</p><p class='button-wrapper'>Share</p>"
)


def parquet(rows: list[dict]) -> bytes:
    held = io.BytesIO()
    pd.DataFrame(rows).to_parquet(held)
    return held.getvalue()


def archive(**files: str | bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return held.getvalue()


def encrypted(held: bytes) -> bytes:
    """Set the flag of the one member in its header and in the directory."""
    directory = held.index(b"PK\x01\x02")
    return held[:6] + b"\x01" + held[7 : directory + 8] + b"\x01" + held[directory + 9 :]


def load(folder: Path, *arguments: str) -> int:
    place = ["--collection", "cleaned_posts", "--qdrant", str(folder / "q")]
    return main(["load", *arguments, *place])


def payloads(folder: Path) -> list[dict]:
    with open_source(str(folder / "q")) as source:
        page, _ = source.scroll("cleaned_posts", fields=None)
    return sorted((payload for _, payload in page), key=lambda it: str(it.get("cleaned_content")))


LINKEDIN_ARTICLE = """<html><head><title>How we cut it</title><style>body {}</style></head><body>
<img src="x.png"><h1><a href="https://www.linkedin.example/pulse/how">How we cut it</a></h1>
<p class="created">Created on 2018-09-03 18:12</p><p class="published">Published on 2018-09-04 08:20</p>
<div><p>It was Created on 2018-09-03 by me.</p></div></body></html>"""
WORDPRESS = """<title>P – Blog</title><article class="post"><header><h1 class="entry-title">P</h1>
<time datetime="2020-03-03">3 March</time></header><div class="entry-content"><p>Mine.</p>
<div class="sharedaddy">Share</div></div></article>
<div id="comments"><article><h1>No</h1></article></div><article class="teaser"><h3>Other</h3></article>"""
SEVERAL = """<title>Blog</title><meta name="author" content="Ann"><link rel="canonical" href="https://b.example/">
<main><article><h2><a href="/a">One</a></h2><time datetime="2020-01-01"></time><p>Text one</p></article>
<article><h2>Two</h2><p>Text two</p></article><aside><article><h2>Teaser</h2></article></aside></main>"""
QUOTED = (
    "Date,ShareCommentary\r\n"
    '2023-01-04,"First.""\r\n""\r\n""Second ""quoted"" more."\r\n'
    '2023-01-03,"Plain\r\n\r\n""all of it""\r\n""and this"" here"\r\n'
    '2023-01-02,"Mixed""\r\n""second\r\nthird"\r\n'
)
REST = [
    {"id": 1, "title": {"rendered": "A &amp; B"}, "link": "https://w.example", "status": "publish",
     "content": {"rendered": "<p>Hello <b>you</b>.</p>\n<p>Two</p>\n", "protected": False}},
    {"id": 2, "content": {"rendered": "<p>no</p>"}, "status": "draft"},
]  # fmt: skip
GHOST = {"db": [{"meta": {"version": "5"}, "data": {
    "posts": [{"id": "5f", "title": "G", "html": "<p>One</p>", "published_at": "2021-01-01"},
              {"id": "60", "title": "D", "html": "<p>no</p>", "status": "draft"}],
    "users": [{"id": "1", "name": "Ann"}], "settings": [{"key": "title", "value": "x"}]}}]}  # fmt: skip
TELEGRAM = {"name": "Mine", "type": "public_channel", "id": 1, "messages": [
    {"id": 1, "type": "service", "actor": "Mine", "text": ""},
    {"id": 2, "date": "2020-01-02T10:00:00", "from": "Mine",
     "text": ["See ", {"type": "link", "text": "https://x.example"}, "."]}]}  # fmt: skip
MEDIUM_JSON = {"payload": {"references": {"User": {"u": {"name": "Ann"}}}, "value": {
    "title": "M", "content": {"bodyModel": {
        "paragraphs": [{"type": 3, "text": "M"}, {"type": 1, "text": "One"}]}}}}}  # fmt: skip
TWEETS = "window.YTD.tweets.part0 = " + json.dumps([
    {"tweet": {"id_str": "9", "full_text": "A &amp; #b", "created_at": "Wed Oct 10 20:19:24 +0000 2018",
               "entities": {"hashtags": [{"text": "b"}]}}},
    {"tweet": {"id_str": "8", "full_text": "RT @bob: no", "retweeted": False}}])  # fmt: skip
SPANS = [{"from": "2020", "to": "2021", "text": "a"}, {"from": "May 2021", "to": "now", "text": "b"}]
NOTION = "0123456789abcdef0123456789abcdef.md"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("article.html", LINKEDIN_ARTICLE, [{
            "title": "How we cut it", "link": "https://www.linkedin.example/pulse/how",
            "published": "2018-09-04 08:20",
            "cleaned_content": "How we cut it\n\nIt was Created on 2018-09-03 by me."}]),
        ("wordpress.html", WORDPRESS, [
            {"title": "P – Blog", "published": "2020-03-03", "cleaned_content": "Mine."}]),
        ("several.html", SEVERAL, [
            {"title": "One", "published": "2020-01-01", "author_id": "Ann", "link": "https://b.example/a",
             "cleaned_content": "One\n\nText one"},
            {"title": "Two", "author_id": "Ann", "cleaned_content": "Two\n\nText two"}]),
        ("quoted.csv", QUOTED, [
            {"published": "2023-01-04", "cleaned_content": 'First.\n\nSecond "quoted" more.'},
            {"published": "2023-01-02", "cleaned_content": "Mixed\nsecond\nthird"},
            {"published": "2023-01-03", "cleaned_content": 'Plain\n\n"all of it"\n"and this" here'}]),
        ("wordpress.json", json.dumps(REST), [{
            "title": "A & B", "link": "https://w.example", "status": "publish",
            "content": "Hello you.\n\nTwo"}]),
        ("ghost.json", json.dumps(GHOST), [
            {"title": "G", "cleaned_content": "One", "published": "2021-01-01"}]),
        ("telegram.json", json.dumps(TELEGRAM), [{
            "cleaned_content": "See https://x.example.", "published": "2020-01-02T10:00:00",
            "author_id": "Mine"}]),
        ("medium.json", json.dumps(MEDIUM_JSON), [{"title": "M", "content": "M\n\nOne"}]),
        ("twitter.zip", archive(**{"data/tweets.js": TWEETS, "data/like.js": "[{}]"}), [{
            "id_str": "9", "cleaned_content": "A & #b", "published": "2018-10-10 20:19:24+00:00",
            "entities": {"hashtags": [{"text": "b"}]}, "link": "https://x.com/i/status/9"}]),
        (NOTION, "# P\n\nCreated: March 3, 2023 10:12 AM\nTags: a, b\nStatus: Done\n\nSo: it is.\n", [
            {"title": "P", "published": "2023-03-03 10:12:00", "tags": ["a", "b"], "Status": "Done",
             "cleaned_content": "# P\n\nSo: it is."}]),
        ("zh #1.md", "# 想法\n\n日期: 2023年3月3日\n\n內容", [
            {"title": "想法", "published": "2023-03-03", "cleaned_content": "# 想法\n\n內容"}]),
        ("own.md", "# P\n\nNote: no property\n\nmore", [
            {"title": "P", "cleaned_content": "# P\n\nNote: no property\n\nmore"}]),
        ("said.md", "# P\n\nNote: mind it\nDate: tomorrow is fine\n\nmore", [
            {"title": "P", "cleaned_content": "# P\n\nNote: mind it\nDate: tomorrow is fine\n\nmore"}]),
        ("date.md", "# P\n\nDate: today\n\nmore", [
            {"title": "P", "cleaned_content": "# P\n\nDate: today\n\nmore"}]),
        ("beside.md", "# P\n\nNote: mind it\nDate: 2023-03-03\n\nmore", [
            {"title": "P", "cleaned_content": "# P\n\nNote: mind it\nDate: 2023-03-03\n\nmore"}]),
        ("from.md", "# P\n\nFrom: me\nAuthor: to all\n\nmore", [
            {"title": "P", "cleaned_content": "# P\n\nFrom: me\nAuthor: to all\n\nmore"}]),
        ("all.md", "# P\n\nCreated: March 3, 2023\nAuthor: Ann\nTags: a, b\nURL: https://p.example\n\nmore", [
            {"title": "P", "published": "2023-03-03 00:00:00", "author_id": "Ann", "tags": ["a", "b"],
             "link": "https://p.example", "cleaned_content": "# P\n\nmore"}]),
        ("today.md", "---\ndate: today\n---\nmore", [{"published": "today", "cleaned_content": "more"}]),
        ("span.json", json.dumps(SPANS), [
            {"from": "2020", "to": "2021", "cleaned_content": "a"},
            {"from": "May 2021", "to": "now", "cleaned_content": "b"}]),
        ("crlf.md", '+++\r\ntitle = "T"\r\n[extra]\r\nx = 1\r\n+++\r\n\r\nOne\r\n\r\nTwo\r\n', [
            {"title": "T", "extra": {"x": 1}, "cleaned_content": "One\n\nTwo"}]),
        ("nested.parquet", parquet([{"text": "a", "tags": [["x"], []], "m": {"n": [1]}}]), [
            {"cleaned_content": "a", "tags": [["x"], []], "m": {"n": [1]}}]),
        ("Shares.csv", LINKEDIN, [{
            "cleaned_content": 'Two lines,\nquoted "once" more.', "link": "https://li.example/1",
            "published": "2023-01-10 09:22:11", "Visibility": "MEMBER_NETWORK",
        }]),
        ("excel.csv", "\ufeffAuthor;Post Text;URL\r\nAnn;a, b;https://x.example\r\n", [
            {"author_id": "Ann", "cleaned_content": "a, b", "link": "https://x.example"}]),
        ("excel.tsv", "text\tdate\n\"a\nb\"\t2020-01-01\n".encode("utf-16"), [
            {"cleaned_content": "a\nb", "published": "2020-01-01"}]),
        ("sheets.tsv", 'text\tdate\n"Hot take" is one\t2020\n"open\t2021\n', [
            {"cleaned_content": '"Hot take" is one', "published": "2020"},
            {"cleaned_content": '"open', "published": "2021"}]),
        ("plain.tsv", "id\tcontent\tempty\n1\tone, two\t\n", [{"id": "1", "content": "one, two"}]),
        ("bars.csv", "Body|Title\none|two\n", [{"cleaned_content": "one", "title": "two"}]),
        ("three.tsv", "text\nonly\n\n", [{"cleaned_content": "only"}]),
        ("array.json", '[{"id": 7, "text": "one"}, {"body": "two", "authors": ["Ann", "Bob"], "x": null}]', [
            {"cleaned_content": "one"}, {"cleaned_content": "two", "author_id": "Ann, Bob"}]),
        ("one.json", '{"content": "alone", "id": "65fa"}', [{"content": "alone"}]),
        ("lines.json", '{"content": "one"}\n{"content": "one"}\n', [{"content": "one"}]),
        ("a.parquet", parquet([{"text": "one", "likes": 3.0}, {"text": "two", "likes": float("nan")}]), [
            {"cleaned_content": "one", "likes": 3.0}, {"cleaned_content": "two"}]),
        ("b.parquet", parquet([{"content": "x", "created_at": pd.Timestamp("2020-01-02"), "tags": ["a"]}]), [
            {"content": "x", "published": "2020-01-02 00:00:00", "tags": ["a"]}]),
        ("c.parquet", parquet([{"page_content": "x", "metadata": {"source": "s"}}]), [
            {"page_content": "x", "metadata": {"source": "s"}}]),
        ("hugo.md", "---\ntitle: T\ndate: 2022-02-03\nauthors: [Ann]\ntags: [x, y]\n"
         "url: https://h.example\n---\nText\n", [
            {"title": "T", "published": "2022-02-03", "author_id": "Ann", "tags": ["x", "y"],
             "link": "https://h.example", "cleaned_content": "Text"}]),
        ("colon.md", "---\ntitle: Note 0: on it\nauthor: @ann\ndate: 2022-02-03\ntags: [x, y]\n---\nText", [
            {"title": "Note 0: on it", "author_id": "@ann", "published": "2022-02-03", "tags": ["x", "y"],
             "cleaned_content": "Text"}]),
        ("toml.markdown", '+++\ntitle = "T"\ndate = 2022-02-03\n+++\nText', [
            {"title": "T", "published": "2022-02-03", "cleaned_content": "Text"}]),
        ("notion.md", "# Page\r\n\r\nText\r\n---\r\nmore", [
            {"title": "Page", "cleaned_content": "# Page\n\nText\n---\nmore"}]),
        ("a.txt", "\ufeffone\r\ntwo\r\n", [{"cleaned_content": "one\ntwo"}]),
        ("b.txt", "內容".encode("utf-16"), [{"cleaned_content": "內容"}]),
        ("c.txt.gz", gzip.compress(b"zipped", mtime=0), [{"cleaned_content": "zipped"}]),
        ("medium.html", MEDIUM, [{
            "cleaned_content": "First bold and wrapped.\n\ndef f():\n    return 1\n\n- One\n- Two & three",
            "title": "How we cut it", "author_id": "Me Myself", "published": "2021-03-04T10:00:00.000Z",
            "link": "https://m.example/@me/how"}]),
        ("1.substack.html", SUBSTACK, [{"cleaned_content": "Hi all,\n\nNews\n\nIt is\nhere."}]),
        ("page.htm", PAGE, [{"cleaned_content": "Body 內容.", "title": "A page", "author_id": "Ann",
                             "published": "2020-02-03", "link": "https://p.example/a"}]),
        ("lines.jsonl.gz", gzip.compress(b'{"id": 1, "content": "one", "x": 1}\n', mtime=0), [
            {"content": "one", "x": 1}]),
        ("export.zip", archive(**{
            "a/b.txt": "one", "__MACOSX/a/._b.txt": "no", "in.zip": archive(c=b"", **{"d.md": "two"})}), [
            {"cleaned_content": "one"}, {"cleaned_content": "two"}]),
        ("medium.zip", archive(**{"posts/a.html": "<p>one</p>", "claps/b.html": "<p>not mine</p>"}), [
            {"cleaned_content": "one"}]),
        ("substack.zip", archive(**{
            "posts.csv": "post_id,post_date,is_published,title\n1.a,2020-01-02T10:00:00Z,true,First\n"
            "3.c,,false,\n",
            "posts/1.a.html": WIDGET, "posts/2.b.html": "<p>two</p>", "posts/3.c.html": "<p>draft</p>"}), [
            {"title": "First", "published": "2020-01-02T10:00:00Z", "cleaned_content": "one"},
            {"cleaned_content": "two"}]),
        ("linkedin.zip", archive(**{
            "Shares.csv": "ShareCommentary\none\n", "messages.csv": "FROM,TO,CONTENT\nA,B,private\n",
            "Recommendations.csv": "First Name,Last Name,Text\nA,B,great\n", "x.png": b"\x89PNG"}), [
            {"cleaned_content": "one"}]),
    ],
    ids=lambda it: it if isinstance(it, str) and len(it) < 20 else "",
)  # fmt: skip
def test_each_format_gives_its_texts_and_what_it_says_of_them(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    assert load(tmp_path, str(tmp_path / name)) == 0

    assert payloads(tmp_path) == expected


def test_what_was_understood_is_shown_before_and_a_dry_run_stops_there(tmp_path, capsys):
    (tmp_path / "blog").mkdir()
    matter = "---\ndate: 2020-01-02\nauthor: Ann\u202e\n---\n"
    (tmp_path / "blog" / "a.md").write_text(matter + "A text\x1b[2J of mine")
    (tmp_path / "blog" / "b.png").write_bytes(b"")
    (tmp_path / "blog" / "people.csv").write_text("name,age\nA,3\n")
    (tmp_path / "rows.csv").write_text("text,date,post_id\nsecond,2021-05-06,1\n  ,,2\n")
    paths = [str(tmp_path / "blog"), str(tmp_path / "rows.csv")]

    assert load(tmp_path, *paths, "--dry-run") == 0

    told = capsys.readouterr().out
    assert told.splitlines() == [
        "Read 2 files (1 .md, 1 .csv): 2 texts, 6 to 18 characters",
        r"  text: A text\u001b[2J of mine",
        "  text: second",
        "  dates: 2020-01-02 to 2021-05-06",
        r"  authors: Ann\u202e, none; --author names one",
        "  platforms: none (2); --platform names one",
        "  left out, no format of texts that load reads: .png",
        "  left out, no column of texts; name one with --text-field: blog/people.csv (name, age)",
        "  left out, no text in a row: rows.csv",
    ]
    assert not (tmp_path / "q").exists()
    assert load(tmp_path, *paths, "--platform", "blog", "--author", "me", "--type", "notes") == 0
    seen = capsys.readouterr()
    assert seen.out.startswith("Loaded 2 texts into cleaned_posts")
    assert seen.err.splitlines()[5] == "  platforms: blog (2)"
    assert [(it["author_id"][:3], it["type"]) for it in payloads(tmp_path)] == [
        (name, "notes") for name in ("Ann", "me")
    ]


@pytest.mark.parametrize("link", [True, False], ids=["by link", "by file and row"])
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a.md", "a.html"])
def test_a_changed_text_replaces_the_old_one(tmp_path, name, link):
    for text in ("before", "after"):
        row = {"text": text} | ({"link": "https://x.example"} if link else {})
        content = {
            "a.csv": pd.DataFrame([row]).to_csv(index=False),
            "a.json": json.dumps([row]),
            "a.parquet": parquet([row]),
            "a.md": f"---\nlink: https://x.example\n---\n{text}" if link else text,
            "a.html": f"<link rel=canonical href='https://x.example'><p>{text}" if link else f"<p>{text}</p>",
        }[name]
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

        assert load(tmp_path, str(tmp_path / name)) == 0

    assert [it["cleaned_content"] for it in payloads(tmp_path)] == ["after"]


def test_files_of_one_name_and_rows_of_one_link_stand_beside_each_other(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "index.md").write_text(f"text {folder}")
        page = f"<article><h2><a href='#x'>{folder}</a></h2></article>" * 2
        (tmp_path / folder / "page.html").write_text(page)
    (tmp_path / "rows.csv").write_text("link,text\nhttps://x.example,one\nhttps://x.example,two\n")

    assert load(tmp_path, *(str(tmp_path / name) for name in ("a", "b", "rows.csv"))) == 0

    texts = ["a", "a", "b", "b", "one", "text a", "text b", "two"]
    assert [it["cleaned_content"] for it in payloads(tmp_path)] == texts


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", b"text,date\none,2020\ntwo,2020,more\n", "a.csv line 3: found 3 fields; expected the 2"),
        ("a.csv", b'text\n"one\n', "a.csv line 2:"),
        ("a.csv", b"text\none\n\xff\n", "a.csv line 3: not UTF-8"),
        ("a.csv", b"when,what\n1,2\n", "a.csv: no column of texts; name one with --text-field; it has when,"),
        ("a.csv", b"From,To,Content\na,b,c\n", "a.csv: a table about people"),
        ("a.json", b'[{"text": "one"},\n{"text": }]', "a.json line 2:"),
        ("a.json", b'[{"text": "one"}, 7]', "a.json item 2: found a JSON int"),
        ("a.json", b"[" * 100_000, "a.json"),
        ("b.json", b'{"posts": [{"text": "a"}], "notes": [{"text": "b"}]}',
         "b.json: texts in several places: .posts[], .notes[]; put one of them into a file of its own, as"),
        ("c.json", b'{"posts": [{"slug": "a"}]}', "it has . (posts), .posts[] (slug)"),
        ("d.json", b'{"messages": [{"from": "A", "text": "a"}, {"from": "B", "text": "b"}]}',
         "d.json: messages of several people; name their texts with --text-field"),
        ("d.json", b'[{"from": "A", "to": "B", "text": "a"}]', "d.json: a table about people, or of their"),
        ("d.json", b'[{"from": "2020", "text": "a"}, {"from": "Ann 3", "text": "b"}]',
         "d.json: messages of several people"),
        ("empty.zip", archive(), "nothing to load from empty.zip; expected a text, found none"),
        ("a.parquet", b"PAR1nothing", "a.parquet"),
        ("a.md", b"---\ntitle: x\ntags: [a\n---\ntext", "a.md line 4:"),
        ("a.md", b"one\n\xfftwo", "a.md line 2: not UTF-8"),
        ("a.zip", b"PK nothing", "a.zip"),
        ("a.txt.gz", b"nothing", "a.txt.gz"),
        ("b.txt.gz", gzip.compress(b"x" * 10_000, mtime=0)[:-12], "b.txt.gz"),
        ("a.txt", b" \n", "nothing to load"),
        ("encrypted.zip", encrypted(archive(**{"a.md": "text"})), "encrypted.zip: encrypted, which load"),
        ("a.docx", b"PK\x03\x04", "a.docx: no format of texts that load reads; it reads .jsonl"),
        ("deep.jsonl", b'{"content": "x", "a": ' + b"[" * 900 + b"]" * 900 + b"}", "deep.jsonl line 1: "),
        ("big.jsonl", b'{"content": "x", "a": ' + b"9" * 400 + b"}", "big.jsonl line 1: a number is beyond"),
        ("c.zip", archive(**{"in/a.csv": "text\na,b\n"}), "c.zip/in/a.csv line 2:"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_loaded(tmp_path, capsys, name, content, place):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_bytes(content)

    names = [name] if "nothing to load" in place else ["good.txt", name]
    assert load(tmp_path, *(str(tmp_path / it) for it in names)) == 4

    assert place in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_what_is_left_out_of_an_archive_and_a_folder_is_named(tmp_path, capfd):
    files = {"posts/a.html": "<p>a</p>", "posts/draft_1.html": "<p>x</p>", "posts/draft_2.html": "<p>y</p>"}
    files |= {"claps/1.html": "<p>z</p>", "claps/2.html": "<p>z</p>", "../../evil.md": "no", "/abs.txt": "no"}
    (tmp_path / "in" / "node_modules" / "x").mkdir(parents=True)
    for name, text in {"node_modules/x/r.md": "no", "~$a.md": "no", "b.html": "", "c.md": "mine"}.items():
        (tmp_path / "in" / name).write_text(text)
    (tmp_path / "in" / "d.md").write_text("---\ndraft: true\n---\nno")
    (tmp_path / "in" / "wordpress").mkdir()
    (tmp_path / "in" / "wordpress" / "z.html").write_text("<p>z</p>")
    (tmp_path / "in" / "m.zip").write_bytes(archive(**files))

    assert load(tmp_path, str(tmp_path / "in")) == 0

    assert [it["cleaned_content"] for it in payloads(tmp_path)] == ["a", "mine", "z"]
    assert [line for line in capfd.readouterr().err.splitlines() if "left out" in line] == [
        "  left out, empty: in/b.html",
        "  left out, draft, not published: in/d.md, in/m.zip/posts/draft_1.html, in/m.zip/posts/draft_2.html",
        "  left out, its path leads out of the archive: in/m.zip/../../evil.md, in/m.zip//abs.txt",
        "  left out, page beside the posts: in/m.zip/claps/1.html, in/m.zip/claps/2.html",
    ]


def test_a_text_field_that_nothing_has_is_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,date\none,2020\n")

    assert load(tmp_path, str(tmp_path / "a.csv"), "--text-field", "Nope") == 4

    assert (
        "--text-field Nope: no column or field is called so; there are date, text" in capsys.readouterr().err
    )


def test_a_text_field_names_the_text_of_any_table(tmp_path):
    (tmp_path / "a.csv").write_text("From,To,Content,Words\na,b,c,mine\n")
    (tmp_path / "b.jsonl").write_text('{"Words": "yours"}\n')

    assert load(tmp_path, str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl"), "--text-field", "Words") == 0

    assert [it["cleaned_content"] for it in payloads(tmp_path)] == ["mine", "yours"]


def test_a_kill_in_the_middle_leaves_what_was_there(tmp_path):
    rows = (json.dumps({"id": n, "content": f"text {n} " + "x" * 3000}) + "\n" for n in range(60_000))
    (tmp_path / "many.jsonl").write_text("".join(rows))
    (tmp_path / "one.jsonl").write_text('{"id": 1, "content": "old"}\n')
    for before in ([], ["old"]):
        if before:
            assert load(tmp_path, str(tmp_path / "one.jsonl")) == 0
        code = "import sys; from llmtwin_data.cli import main; main(sys.argv[1:])"
        place = ["--collection", "cleaned_posts", "--qdrant", str(tmp_path / "q")]
        process = start_python(code, "load", tmp_path / "many.jsonl", *place)
        deadline = time.monotonic() + 60
        while not any((tmp_path / "q").glob(f".*.{process.pid}/segments")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.kill()

        assert process.wait() == -9
        with open_source(str(tmp_path / "q")) as source:
            assert source.collections() == (["cleaned_posts"] if before else [])
        assert [it["content"] for it in payloads(tmp_path) if before] == before if before else True


def test_q22_a_server_gives_no_collection_that_a_load_left_half_done(tmp_path, capsys):
    rows = [json.dumps({"id": n, "content": f"text {n}"}) for n in range(2500)]
    path = str(written(tmp_path, *rows))
    with qdrant_server() as server:
        place = ["--collection", "cleaned_posts", "--qdrant", server.url]
        refused = {"status": {"error": "refused"}}
        server.faults.append(Fault(path="points", after=1, status=400, body=refused, times=1))

        assert main(["load", path, *place]) == 4
        with open_source(server.url) as source:
            assert source.count("cleaned_posts") == 1000
            with pytest.raises(SourceError, match=r"not whole: .* same `llmtwin-data load` again") as half:
                loaded(source)
        assert "\n" not in str(half.value)

        assert main(["load", path, *place]) == 0
        with open_source(server.url) as source:
            assert len(loaded(source)) == 2500
            assert source.collections() == ["cleaned_posts"]
    assert capsys.readouterr().out.startswith("Loaded 2,500 lines (1500 new)")


def test_a_kill_between_the_two_renames_is_undone(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    assert load(tmp_path, str(tmp_path / "a.txt")) == 0
    (tmp_path / "q" / "cleaned_posts").rename(tmp_path / "q" / ".cleaned_posts.before")

    assert [it["cleaned_content"] for it in payloads(tmp_path)] == ["old"]


def test_p23_a_full_disk_is_named_before_the_engine_dies_of_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    assert load(tmp_path, str(tmp_path / "a.txt")) == 8

    assert f"{tmp_path / 'q'}: disk full" in capsys.readouterr().err
    assert [it.name for it in (tmp_path / "q").glob("*")] == []
