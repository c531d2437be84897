"""FAULTS.md, Content: the rows that end before a prompt is made."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint
from asking import document
from running import Bench, make_bench
from shapes import SENTENCES, keys

from llmtwin_data.chunks import ChunkSpool, split_content
from llmtwin_data.contents import Content, Skipped, load_jsonl, read_contents
from llmtwin_data.datasets.checks import check_run
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.datasets.manifests import read_manifest
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.languages.sentences import graphemes
from llmtwin_data.screening import find_personal_data, find_secrets, screen_content
from llmtwin_data.sources import open_source

CONTENT = Content("7", "cleaned_posts", "", "posts", "2", "linkedin", "")


def add_posts(bench: Bench, *texts: str) -> None:
    """Put texts into the bench's collection, numbered from 90."""
    points = [(90 + n, {"cleaned_content": text, "author_id": "a"}) for n, text in enumerate(texts)]
    with open_source(str(bench.folder / "qdrant")) as source:
        source.write("cleaned_posts", points)


def read_back(folder: Path, *payloads: dict) -> list:
    path = folder / "posts.jsonl"
    path.write_text("".join(json.dumps({"id": n, **payload}) + "\n" for n, payload in enumerate(payloads)))
    with open_source(str(folder / "qdrant")) as source:
        load_jsonl(source, path, collection="cleaned_posts")
        return list(read_contents(source, "cleaned_posts"))


def test_c04_fourteen_of_fifteen_key_shapes_are_found_in_prose():
    for seed in range(20):
        found = {
            shape: find_secrets(SENTENCES[seed % 5].format(key))
            for shape, key in keys(random.Random(seed)).items()
        }

        assert sum(map(bool, found.values())) >= 14
        assert len(found) == 15


@pytest.mark.parametrize("action", ["drop", "mask", "keep"])
def test_c04_what_is_done_with_a_key_is_a_setting_and_its_value_is_never_shown(action, capsys):
    for shape, key in keys(random.Random(1)).items():
        content = replace(CONTENT, text=SENTENCES[0].format(key))
        chunks, skipped, _ = screen_content(
            content, split_content(content, max_chars=2000), secrets=action, personal_data="keep"
        )

        shown = "".join(chunk.text for chunk in chunks) + repr(skipped)
        assert (key[-20:] in shown) == (action == "keep"), shape
    assert capsys.readouterr() == ("", "")


def test_c05_personal_data_is_found_by_kind():
    text = (
        "Mail role@example.org, call +34 612 345 678, pay DE89370400440532013000 or 4111111111111111, "
        "sign as 12345678Z or A123456789."
    )

    kinds = [finding.kind for finding in find_personal_data(text)]

    assert kinds == ["email", "phone", "iban", "card", "dni", "taiwan_id"]


@pytest.mark.parametrize(
    ("action", "fate", "states"),
    [
        ("drop", "dropped", ("skipped",) * 3),
        ("mask", "masked", ("accepted",) * 3),
        ("keep", "kept", ("accepted",) * 3),
    ],
)
def test_c04_c05_what_is_found_is_counted_by_kind_in_manifest_and_card(action, fate, states, tmp_path):
    values = [keys(random.Random(5))["github"], "role@example.org", "4111 1111 1111 1111"]
    with endpoint.serve(keep_bodies=True) as server:
        bench = make_bench(tmp_path, server, documents=8)
        add_posts(bench, *(f"{document(n)} It says {value} there." for n, value in enumerate(values, 90)))
        with DatasetGenerator(bench.settings(secrets=action, personal_data=action), environ={}) as generator:
            generator.publish()
        sent = json.dumps([each["body"]["messages"] for each in server.bodies()])

    one = {"found": 1, "kept": 0, "masked": 0, "dropped": 0} | {fate: 1}
    manifest = read_manifest(bench.out.dataset / "manifest.json")
    assert manifest.screened == {
        "secrets": {"github_token": one},
        "personal_data": {"card": one, "email": one},
    }
    rows = [row for row in read_ledger(bench.out.ledger_file) if int(row.content_id) >= 90]
    assert tuple(row.state for row in rows) == states
    card = (bench.out.dataset / "README.md").read_text()
    assert "| secrets | github_token | 1 |" in card
    assert check_run(bench.out.path) == []
    written = card + bench.manifest().decode() + sent
    assert any(value in written for value in values) == (action == "keep")


SCRIPTS = [
    "👩‍👩‍👧‍👦 family ",
    "cafe\u0301 ",
    "今天天氣很好。",
    "שלום עולם ",
    "مرحبا ",
    "ไม่เป็นไร",
    "हिन्दी में ",
    "🇪🇸🇹🇼 ",
    "각각 ",
]


@pytest.mark.parametrize("piece", SCRIPTS)
def test_c08_any_script_comes_back_exactly_and_uncut(tmp_path, piece):
    text = piece * 60

    [content] = read_back(tmp_path, {"content": text})
    with_cuts = split_content(content, max_chars=97)
    spool = ChunkSpool.write(tmp_path / "chunks.jsonl", with_cuts)

    assert "".join(spool.texts()).encode() == text.encode()
    assert [part for chunk in with_cuts for part in graphemes(chunk.text)] == graphemes(text)


def test_c09_what_can_be_encoded_is_kept_as_it_is(tmp_path):
    text = "\ufeffone\r\ntwo\x07\x1b[31m\u2028three\x85four\ufffe"

    [content] = read_back(tmp_path, {"content": text})
    spool = ChunkSpool.write(tmp_path / "chunks.jsonl", split_content(content, max_chars=2000))

    assert content.text == "".join(spool.texts()) == text


@pytest.mark.parametrize("text", ["a\0b", "a\ud83d", "\udc00b"])
def test_c09_what_cannot_be_encoded_is_skipped_and_nothing_is_repaired(tmp_path, text):
    [skipped] = read_back(tmp_path, {"content": text})

    assert isinstance(skipped, Skipped)
    assert (skipped.reason, skipped.length) == ("not_encodable", len(text))


def test_c10_no_text_blanks_and_markup_alone_are_skipped_with_their_reasons(tmp_path):
    texts = ["", " \n\u3000\u200b", "<p><br/></p>", "![](a.png)", "x"]

    found = read_back(tmp_path, *({"content": text} for text in texts))

    reasons = [content.reason if isinstance(content, Skipped) else "" for content in found]
    assert reasons == ["blank", "blank", "markup_only", "markup_only", ""]


def test_c12_case_and_blanks_make_a_duplicate_by_the_normal_form_in_the_manifest(tmp_path):
    text = "On Mondays We Bake DOC-90 with rye and water, and nobody in the house talks before noon."
    disguised = ["  " + text.upper() + "\n", text.replace(" ", "\u3000"), text.replace("Bake", "Ba\u200bke")]
    with endpoint.serve() as server:
        bench = make_bench(tmp_path, server, documents=8)
        add_posts(bench, text, *disguised)
        with DatasetGenerator(bench.settings(), environ={}) as generator:
            generator.publish()

    fates = [
        (row.state, row.reason) for row in read_ledger(bench.out.ledger_file) if int(row.content_id) >= 90
    ]
    assert fates == [("accepted", "")] + [("rejected", "duplicate")] * 3
    rule = read_manifest(bench.out.dataset / "manifest.json").rules["normal_form"]
    assert rule == "NFKC, case folded, without invisible characters, runs of blanks as one"


def test_c11_q07_one_text_under_three_ids_is_paid_once_and_linked(tmp_path):
    text = f"{document(90)} Nothing else in this collection is like it."
    with endpoint.serve(keep_bodies=True) as server:
        bench = make_bench(tmp_path, server, documents=8)
        add_posts(bench, text, text, text)
        with DatasetGenerator(bench.settings(), environ={}) as generator:
            generator.publish()
            kept = next(pair.id for pair in generator.pairs() if pair.chunk.content_id == "90")
        sent = "".join(json.dumps(each["body"]["messages"]) for each in server.bodies())

    rows = [row for row in read_ledger(bench.out.ledger_file) if int(row.content_id) >= 90]
    assert sent.count("DOC-90 ") == 1
    assert [(row.state, row.reason, row.value) for row in rows] == [
        ("accepted", "", ""), ("rejected", "duplicate", kept), ("rejected", "duplicate", kept),
    ]  # fmt: skip


@pytest.mark.parametrize("disguise", ["zero width", "soft hyphen", "homoglyph", "full width"])
def test_c16_a_disguised_key_is_found_at_its_place(disguise):
    key = keys(random.Random(2))["anthropic"]
    hidden = {
        "zero width": "\u200b".join(key),
        "soft hyphen": key[:9] + "\u00ad" + key[9:],
        "homoglyph": key.translate(str.maketrans("aeopcA-", "аеорсА\u2010")),
        "full width": "".join(chr(ord(letter) + 0xFEE0) for letter in key),
    }[disguise]

    [finding] = find_secrets(f"see {hidden} here")

    assert (finding.start, finding.end) == (4, 4 + len(hidden))


def test_c16_a_disguised_address_is_found():
    for text in ("rоle@example.org", "ｒｏｌｅ＠ｅｘａｍｐｌｅ．ｏｒｇ", "ro\u200ble@exam\u2060ple.org"):
        assert [finding.kind for finding in find_personal_data(text)] == ["email"]


def test_c21_links_with_a_query_are_no_sign_of_damage(tmp_path):
    with endpoint.serve() as server:
        bench = make_bench(tmp_path, server, documents=1)
        links = "https://blog.example/{0}?utm_source=a, www.x.example/join?ref={0} and shop.example?item=book"
        add_posts(
            bench,
            *(f"{document(n)} See {links.format(n)} or https://x.example/map?q=b." for n in range(1, 17)),
        )

        done = bench.run("--only", "3", quality_gate="stop")

    assert (done.returncode, done.stderr) == (0, "")
    assert sum(row.state == "accepted" for row in read_ledger(bench.out.ledger_file)) == 17
