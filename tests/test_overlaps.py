"""Overlaps: windows of eight words that texts share, near-copies, and boilerplate left out of chunks."""

from __future__ import annotations

import json
import random

import endpoint
import numpy as np
import pytest
from documents import document
from product import command
from running import load, make_bench
from written import read_lines

from llmtwin_data.contents import read_chunks
from llmtwin_data.overlaps import common_share, common_windows, near_duplicates, shared_windows, without_edges
from llmtwin_data.params import Params
from llmtwin_data.sources import open_source

ALPHABET = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa"
)
HALF = " ".join(ALPHABET.split()[:12])
OTHER = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(ALPHABET, ALPHABET.upper() + "!", 1.0, id="case and punctuation"),
        pytest.param(ALPHABET, HALF, 1.0, id="the smaller counts"),
        pytest.param(ALPHABET, OTHER, 0.0, id="nothing"),
        pytest.param("two words", "two words", 1.0, id="fewer words than a window"),
        pytest.param("昨天我們把叢集升級到新版", "昨天我們把叢集升級到舊版", 0.6, id="Chinese"),
        pytest.param("", ALPHABET, 0.0, id="empty"),
    ],
)
def test_two_texts_share_a_part_of_the_smaller_ones_windows(one, other, expected):
    windows = shared_windows([one, other])

    assert counts_of(windows, 0).get(1, 0) / max(windows.sizes.min(), 1) == pytest.approx(expected)


def counts_of(windows, text, others=None):
    """Return the number of windows that each of the others, or each text, shares with this one."""
    everyone = np.arange(len(windows.sizes))
    its = np.isin(everyone, everyone if others is None else others)
    return {
        other: count
        for _, kinds, counts, _ in windows.meetings(everyone == text, its)
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
        for other in np.flatnonzero(its & (windows.kinds[0] == kind)).tolist()
    }


def test_shared_windows_are_counted_by_text_by_holder_and_by_content():
    windows = shared_windows([HALF, OTHER, ALPHABET, HALF])
    merged = windows.merged(np.array([0, 0, 1, 0]))

    assert (windows.sizes.tolist(), counts_of(windows, 2)) == ([5, 5, 9, 5], {0: 5, 2: 5, 3: 5})
    assert counts_of(windows, 2, [3]) == {3: 5}
    assert (merged.sizes.tolist(), counts_of(merged, 0)) == ([10, 9], {0: 5, 1: 5})
    nearest, shared = windows.nearest(
        np.array([False, True, True, False]), np.array([True, True, False, True])
    )
    assert (nearest.tolist(), shared.tolist()) == ([-1, -1, 0, -1], [0, 0, 5, 0])


REPORT = (
    "We moved our nightly report from a server that nobody owned to a small scheduled job, and for the first "
    "time in two years the numbers were there before the first meeting of the day began."
)
CLUSTER = "昨天我們把叢集升級到新版,結果排程器在半夜停了三個小時,所有的工作都卡在佇列裡,沒有任何人收到警報。"


def changed(text: str, draw: random.Random) -> str:
    """Change one word in thirty, as a second posting does."""
    words = text.split()
    for _ in range(max(1, len(words) // 30)):
        words[draw.randrange(len(words))] = draw.choice(["today", "really", "again"])
    return " ".join(words)


def made_up(draw: random.Random, count: int) -> list[str]:
    vocabulary = ["".join(draw.choices("abcdefghiklmnoprstu", k=draw.randint(2, 9))) for _ in range(4000)]
    return [" ".join(draw.choices(vocabulary, k=draw.randint(60, 160))) for _ in range(count)]


@pytest.mark.parametrize(
    "copy",
    [REPORT.upper(), f"  {REPORT}\n\n", REPORT.replace(" ", "\u00a0"), REPORT.replace("n", "n\u200b")],
    ids=["case", "blanks", "no-break spaces", "zero width"],
)
def test_equal_in_normal_form_is_a_copy_at_any_threshold(copy):
    assert near_duplicates([REPORT, copy], threshold=1.0) == [None, 0]


def test_a_changed_word_makes_a_near_copy_only_below_one():
    texts = [REPORT, REPORT.replace("nightly", "daily")]

    assert near_duplicates(texts, threshold=0.8) == [None, 0]
    assert near_duplicates(texts, threshold=1.0) == [None, None]


def test_texts_that_differ_in_what_cannot_be_encoded_are_no_copies():
    assert near_duplicates([f"{REPORT} \ud83d", f"{REPORT} \ud83c"], threshold=1.0) == [None, None]


def test_copies_point_at_the_first_in_any_language():
    texts = [REPORT, CLUSTER, REPORT + " Yes.", REPORT, CLUSTER.replace("三個", "四個")]

    assert near_duplicates(texts, threshold=0.8) == [None, None, 0, 0, 1]


def test_99_of_100_planted_copies_are_found_and_none_is_wrong():
    draw = random.Random(7)
    texts = made_up(draw, 1000)
    copies = [changed(text, draw) for text in texts[:500]]

    found = near_duplicates(texts + copies, threshold=0.8)

    assert found[:1000] == [None] * 1000
    assert sum(kept == place for place, kept in enumerate(found[1000:])) >= 495
    assert all(kept in (None, place) for place, kept in enumerate(found[1000:]))


@pytest.mark.parametrize("texts", [[], [""], ["!!!", "???"], ["a", "b"]], ids=str)
def test_texts_without_words_are_no_copies(texts):
    assert near_duplicates(texts, threshold=0.5) == [None] * len(texts)


HEAD = "Kettle & Kernel, a letter about slow data for 4,000 readers. Read it in your browser.\n\n"
TAIL = (
    "\n\nThanks for reading Kettle & Kernel! Subscribe for free to receive new posts and support my work.\n"
    "This site requires JavaScript to run correctly. Please turn on JavaScript or unblock scripts."
)
CHINESE = "\n\n感謝你讀到這裡，如果喜歡這封信，歡迎轉寄給一位也在寫程式的朋友，我們下週見。"
MENU = (
    "Sign in Subscribe Share this post Copy link Facebook Email Notes More Kettle and Kernel Discover more "
)
MENU += "from it over four thousand readers Continue reading "


def cut(texts: list[str]) -> list[str]:
    common = common_windows(texts)
    places = [without_edges(text, common) for text in texts]
    return [text[start:end].strip() for text, (start, end) in zip(texts, places, strict=True)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda n: (HEAD, TAIL),
        lambda n: ("", TAIL + f"\nIssue {n}, {n} May 2025."),
        lambda n: (f"No. {n}. " + HEAD, CHINESE),
        lambda n: (MENU, ""),
    ],
    ids=["both ends", "an issue's number in it", "Chinese", "a menu without a full stop"],
)
def test_c23_a_passage_of_five_contents_is_left_out_at_their_ends(wrap):
    own = [document(n).partition(" ")[2] for n in range(5)]
    wrapped = [wrap(n)[0] + text + wrap(n)[1] for n, text in enumerate(own)]

    assert cut(wrapped) == own
    assert cut(wrapped[:4]) == [text.strip() for text in wrapped[:4]]


def test_five_near_copies_are_one_text_and_stay_whole():
    texts = [" ".join(document(n) for n in range(8)) + f" Posted on day {n}." for n in range(6)]

    assert cut(texts) == texts
    assert common_share(texts[0], common_windows(texts)) == 0.0


def test_what_a_sentence_shares_does_not_part_it():
    texts = [f"When we met on the third floor of the old mill, {document(n)}" for n in range(6)]

    assert cut(texts) == texts


def test_inside_a_text_its_share_is_measured():
    texts = [f"{document(n)}{TAIL}\n{document(n + 50)}" for n in range(5)]

    assert cut(texts) == texts
    assert 0.4 < common_share(texts[0], common_windows(texts)) < 0.7


def put(source, *texts):
    source.write("cleaned_posts", [(n, {"content": text, "author_id": "a"}) for n, text in enumerate(texts)])


def test_what_is_left_out_has_its_row_and_the_content_its_text(tmp_path):
    texts = [HEAD + document(n) + TAIL for n in range(5)]
    with open_source(str(tmp_path)) as source:
        put(source, *texts)
        table = read_chunks(source, Params())

    rows = table[table.content_id == "0"].sort_values("start")
    assert rows[["state", "reason"]].values.tolist() == [
        ["skipped", "boilerplate"], ["pending", ""], ["skipped", "boilerplate"],
    ]  # fmt: skip
    assert rows.content.str.strip().tolist() == ["", document(0), ""]
    assert [texts[0][start:end] for start, end in zip(rows.start, rows.end, strict=True)] == [
        HEAD, document(0) + "\n\n", TAIL.strip(),
    ]  # fmt: skip
    assert rows.value.tolist()[2].startswith("Thanks for reading Kettle & Kernel!")


def test_personal_data_in_a_passage_is_masked_where_it_is_named(tmp_path):
    tail = TAIL.replace("Thanks", "Mail letters@kettle.example, thanks")
    with open_source(str(tmp_path)) as source:
        put(source, *(document(n) + tail for n in range(5)))
        table = read_chunks(source, Params(personal_data="mask"))

    assert table.value.str.startswith("Mail [masked: email], thanks").sum() == 5


@pytest.mark.parametrize("shape", ["![chart]({})", '<img alt="x" src="{}">', "[chart]: {}", "{}"])
def test_c22_an_embedded_picture_is_no_chunk_and_cuts_no_sentence(tmp_path, shape):
    picture = shape.format("data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * 400)
    with open_source(str(tmp_path)) as source:
        put(source, f"{document(1)}\n\n{picture}\n\n{document(2)}")
        table = read_chunks(source, Params())

    assert table[table.state == "pending"].content.str.strip().tolist() == [document(1), document(2)]
    assert set(table[table.state == "skipped"].reason) == {"markup_only"}


def test_an_answered_chunk_keeps_its_cut_when_a_passage_becomes_common(tmp_path):
    with endpoint.serve(keep_bodies=True) as server:
        bench = make_bench(tmp_path, server, documents=1)
        rows = [{"id": n, "cleaned_content": document(n) + TAIL, "author_id": "a"} for n in range(8)]
        for count in (4, 8):
            load(bench.folder / "qdrant", rows[:count], file=bench.folder / "rows.jsonl")
            bench.publish(max_boilerplate=1)
        sent = "".join(json.dumps(each["body"]["messages"]) for each in server.bodies())

    ledger = read_lines(bench.out.ledger_file)
    left_out = [row["content_id"] for row in ledger if row["reason"] == "boilerplate"]
    assert sorted(left_out) == ["4", "5", "6", "7"]
    assert [sent.count(f"DOC-{n} ") for n in range(8)] == [1] * 8


def test_an_audit_names_the_passages(tmp_path):
    rows = [{"instruction": f"Write about number {n}.", "output": document(n) + TAIL} for n in range(12)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    _, output, _ = command("audit", tmp_path / "set.jsonl")

    assert "boilerplate: 12 of 12" in output
    assert "Thanks for reading Kettle & Kernel!" in output
