"""FAULTS.md, Content: the rows that end before a prompt is made."""

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint
import regex
from documents import document
from product import Study, screen_text
from running import Bench, findings_of, load, make_bench
from shapes import SENTENCES, keys
from written import read_lines


def add_posts(bench: Bench, *texts: str) -> None:
    """Put texts into the bench's collection, numbered from 90."""
    rows = [{"id": 90 + n, "cleaned_content": text, "author_id": "a"} for n, text in enumerate(texts)]
    load(bench.folder / "qdrant", rows, file=bench.folder / "more.jsonl")


def read_back(folder: Path, *texts: str, **settings: object) -> list[dict]:
    """Load texts, numbered from 0, and give the chunks, then what is skipped; a usable one is read beside."""
    rows = [{"id": n, "content": text} for n, text in enumerate([*texts, "A text beside the others."])]
    load(folder / "qdrant", rows, file=folder / "posts.jsonl")
    places = {name: str(folder / name) for name in ("qdrant", "answers", "run_dir")}
    with Study(places | {"collections": ["cleaned_posts"]} | settings) as study:
        return [row for row in study.read() if row["content_id"] != str(len(texts))]


def test_c04_fourteen_of_fifteen_key_shapes_are_found_in_prose():
    for seed in range(20):
        found = {
            shape: screen_text(SENTENCES[seed % 5].format(key))["secrets"]
            for shape, key in keys(random.Random(seed)).items()
        }

        assert sum(map(bool, found.values())) >= 14
        assert len(found) == 15


@pytest.mark.parametrize("action", ["drop", "mask", "keep"])
def test_c04_what_is_done_with_a_key_is_a_setting_and_its_value_is_never_shown(action, tmp_path, capsys):
    shapes = keys(random.Random(1))
    rows = read_back(tmp_path, *map(SENTENCES[0].format, shapes.values()), secrets=action)

    for number, (shape, key) in enumerate(shapes.items()):
        own = [row for row in rows if row["content_id"] == str(number)]
        assert own
        assert (key[-20:] in "".join(map(str, own))) == (action == "keep"), shape
    assert capsys.readouterr() == ("", "")


def test_c05_personal_data_is_found_by_kind():
    text = (
        "Mail role@example.org, call +34 612 345 678, pay DE89370400440532013000 or 4111111111111111, "
        "sign as 12345678Z or A123456789."
    )

    kinds = [finding["kind"] for finding in screen_text(text)["personal_data"]]

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
        bench.publish(secrets=action, personal_data=action)
        sent = json.dumps([each["body"]["messages"] for each in server.bodies()])

    one = {"found": 1, "kept": 0, "masked": 0, "dropped": 0} | {fate: 1}
    assert json.loads(bench.manifest())["screened"] == {
        "secrets": {"github_token": one},
        "personal_data": {"card": one, "email": one},
    }
    rows = [row for row in read_lines(bench.out.ledger_file) if int(row["content_id"]) >= 90]
    assert tuple(row["state"] for row in rows) == states
    card = (bench.out.dataset / "README.md").read_text()
    assert "| secrets | github_token | 1 |" in card
    assert findings_of(bench.out.path) == []
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

    chunks = [row["text"] for row in read_back(tmp_path, text, chunk_chars=101)]

    assert len(chunks) > 1
    assert "".join(chunks).encode() == text.encode()
    assert [part for chunk in chunks for part in regex.findall(r"\X", chunk)] == regex.findall(r"\X", text)


def test_c09_what_can_be_encoded_is_kept_as_it_is(tmp_path):
    text = "\ufeffone\r\ntwo\x07\x1b[31m\u2028three\x85four\ufffe"

    [chunk] = read_back(tmp_path, text)

    assert chunk["text"] == text


@pytest.mark.parametrize("text", ["a\0b", "a\ud83d", "\udc00b"])
def test_c09_what_cannot_be_encoded_is_skipped_and_nothing_is_repaired(tmp_path, text):
    [skipped] = read_back(tmp_path, text)

    assert (skipped["reason"], skipped["length"]) == ("not_encodable", len(text))


def test_c10_no_text_blanks_and_markup_alone_are_skipped_with_their_reasons(tmp_path):
    texts = ["", " \n\u3000\u200b", "<p><br/></p>", "![](a.png)", "x"]

    rows = sorted(read_back(tmp_path, *texts), key=lambda row: row["content_id"])

    assert [row["reason"] for row in rows] == ["blank", "blank", "markup_only", "markup_only", ""]


def test_c12_case_and_blanks_make_a_duplicate_by_the_normal_form_in_the_manifest(tmp_path):
    text = "On Mondays We Bake DOC-90 with rye and water, and nobody in the house talks before noon."
    disguised = ["  " + text.upper() + "\n", text.replace(" ", "\u3000"), text.replace("Bake", "Ba\u200bke")]
    with endpoint.serve() as server:
        bench = make_bench(tmp_path, server, documents=8)
        add_posts(bench, text, *disguised)
        bench.publish()

    rows = read_lines(bench.out.ledger_file)
    fates = [(row["state"], row["reason"]) for row in rows if int(row["content_id"]) >= 90]
    assert fates == [("accepted", "")] + [("rejected", "duplicate")] * 3
    rule = json.loads(bench.manifest())["rules"]["normal_form"]
    assert rule == "NFKC, case folded, without invisible characters, runs of blanks as one"


def test_c11_q07_one_text_under_three_ids_is_paid_once_and_linked(tmp_path):
    text = f"{document(90)} Nothing else in this collection is like it."
    with endpoint.serve(keep_bodies=True) as server:
        bench = make_bench(tmp_path, server, documents=8)
        add_posts(bench, text, text, text)
        bench.publish()
        sent = "".join(json.dumps(each["body"]["messages"]) for each in server.bodies())

    published = [*map(read_lines, (bench.out.dataset / f"{side}.jsonl" for side in ("train", "test")))]
    kept = next(row["id"] for side in published for row in side if row["content_id"] == "90")
    rows = [row for row in read_lines(bench.out.ledger_file) if int(row["content_id"]) >= 90]
    assert sent.count("DOC-90 ") == 1
    assert [(row["state"], row["reason"], row["value"]) for row in rows] == [
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

    [finding] = screen_text(f"see {hidden} here")["secrets"]

    assert (finding["start"], finding["end"]) == (4, 4 + len(hidden))


def test_c16_a_disguised_address_is_found():
    for text in ("rоle@example.org", "ｒｏｌｅ＠ｅｘａｍｐｌｅ．ｏｒｇ", "ro\u200ble@exam\u2060ple.org"):
        assert [finding["kind"] for finding in screen_text(text)["personal_data"]] == ["email"]


def test_c21_links_with_a_query_are_no_sign_of_damage(tmp_path):
    with endpoint.serve() as server:
        bench = Bench(tmp_path, server)
        links = "https://blog.example/{0}?utm_source=a, www.x.example/join?ref={0} and shop.example?item=book"
        add_posts(
            bench, *(f"{document(n)} See {links.format(n)} or https://x.example/map?q=b." for n in range(16))
        )

        done = bench.run("--only", "3", quality_gate="stop")

    assert (done.returncode, done.stderr) == (0, "")
    assert sum(row["state"] == "accepted" for row in read_lines(bench.out.ledger_file)) == 16


def test_texts_destroyed_upstream_stop_a_run_before_anything_is_asked(tmp_path):
    with endpoint.serve() as server:
        bench = Bench(tmp_path, server)
        add_posts(bench, *(document(n).replace(" ", "") * 3 for n in range(16)))

        stopped = bench.run("--only", "3", quality_gate="stop")
        sent = server.arrivals()
        warned = bench.run("--only", "3", "--dry-run")

    assert stopped.returncode == 6
    assert "16 of 16 texts of cleaned_posts look destroyed upstream: all blanks deleted" in stopped.stderr
    assert "nothing was asked" in stopped.stderr
    assert "look destroyed upstream" in warned.stdout
    assert not sent
