"""Numbers that are not ours, and openings: no row and no verdict is a neighbour's."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from documents import document
from product import ask_documents
from running import load, make_bench
from scripted import foreign

TEXTS = 35
FOREIGN = {foreign(document(number)): number for number in range(TEXTS)}
EVERY_SECOND = {"every": 2}
KINDS = {"live": {}, "batch": {"kind": "line"}}
PATIENCE = {"poll": 0.02, "longest_poll": 0.05}
CANNOT_COPY = "the endpoint does not copy the first words of a text"
SEVERAL = {"contents": {"from": 2}}


def rows_of(bench):
    files = bench.out.dataset.glob("*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def number_in(text, name):
    return int(re.search(rf"{name}-(\d+)", text).group(1))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.mark.slow
def test_l58_counting_from_0_in_another_script_publishes_no_neighbours_instruction(tmp_path):
    script = [
        {"when": EVERY_SECOND, "do": {"count_from": 0, "foreign": True}},
        {"when": {}, "do": {"foreign": True}},
    ]
    with scripted.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=TEXTS)
        # The texts are made-up words, of which no rule of curation can say anything.
        done = bench.run(instruction_language="zh-TW", min_grounding=0, min_evidence=0)

    rows = rows_of(bench)
    assert [row for row in rows if FOREIGN[row["instruction"]] != number_in(row["content"], "DOC")] == []
    assert len(rows) > TEXTS / 2, done.stderr[-2000:]


@pytest.mark.slow
def test_l59_a_judge_that_counts_from_0_gives_no_verdict_to_a_neighbour(tmp_path):
    script = [{"when": EVERY_SECOND | {"asks": "verdicts"}, "do": {"count_from": 0}}]
    with scripted.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=1)
        add_scored(bench)
        done = bench.run(judge_model="judge")

    rows = [row for row in rows_of(bench) if "SCORE" in row["content"] and row["judge_score"]]
    assert [row for row in rows if row["judge_score"] != number_in(row["content"], "SCORE")] == []
    assert len(rows) > TEXTS / 2, done.stderr[-2000:]


def add_scored(bench):
    """Load texts that say what their verdict is."""
    texts = [f"{document(n)} SCORE-{n % 5 + 1}" for n in range(1, TEXTS)]
    rows = [
        {"id": n, "cleaned_content": text, "author_id": "a", "type": "posts"}
        for n, text in enumerate(texts, 1)
    ]
    load(bench.folder / "qdrant", rows, file=bench.folder / "scored.jsonl")


SPOILED = {
    "from 0": {"count_from": 0},
    "from 0, the 0 left out": {"count_from": 0, "drop": [1]},
    "from 2": {"count_from": 2},
    "from the place in the collection": {"count_from": 33},
    "shifted with their openings": {"shift": True},
    "exchanged with their openings": {"swap": [2, 7]},
}


@pytest.mark.parametrize("mode", ["live", "batch"])
@pytest.mark.parametrize("do", SPOILED.values(), ids=SPOILED)
def test_l58_what_is_numbered_otherwise_is_asked_alone_live_and_in_batches(store, do, mode):
    kind = KINDS[mode]
    script = [{"when": SEVERAL | kind, "do": do | {"foreign": True}}, {"when": kind, "do": {"foreign": True}}]
    with scripted.serve(script=script) as server:
        outcome = ask_documents(range(16), server.base_url, store, mode=mode, patience=PATIENCE)

    assert outcome.good() == list(range(16))
    assert [n for n, answer in outcome.answers.items() if FOREIGN[answer["values"][0]] != n] == []


def test_an_endpoint_that_cannot_copy_gets_one_text_a_request_once_that_is_known(store):
    with scripted.serve(script=[{"when": {}, "do": {"opening": "..."}}], keep_bodies=True) as server:
        outcome = ask_documents(range(96), server.base_url, store)
        requests = server.stats()["requests"]

    assert outcome.good() == list(range(96))
    assert outcome.report["cannot_copy"]
    assert requests <= 96 + 4 + 2  # the first batches, and what of them was on its way again


@pytest.mark.parametrize("mode", ["live", "batch"])
@pytest.mark.parametrize("opening", ["...", None, 7, "I cannot copy this text"])
def test_no_opening_costs_an_answer(store, opening, mode):
    with scripted.serve(script=[{"when": KINDS[mode], "do": {"opening": opening}}]) as server:
        outcome = ask_documents(range(40), server.base_url, store, mode=mode, patience=PATIENCE)

    assert (outcome.good(), outcome.wrong()) == (list(range(40)), [])
    assert outcome.report["cannot_copy"]


def test_one_wrong_opening_now_and_then_does_not_end_batches(store):
    script = [{"when": {"doc": list(range(0, 96, 6)), "contents": 8}, "do": {"opening": "..."}}]
    with scripted.serve(script=script) as server:
        outcome = ask_documents(range(96), server.base_url, store)
        requests = server.stats()["requests"]

    assert (len(outcome.good()), outcome.report["cannot_copy"]) == (96, False)
    assert requests == 24  # each of 12 batches once more for what was not proven


def test_a_run_says_in_one_line_that_the_endpoint_cannot_copy(tmp_path):
    with scripted.serve(script=[{"when": {}, "do": {"opening": "..."}}]) as server:
        bench = make_bench(tmp_path, server, documents=40)
        bench.publish(judge_model="judge")

    assert sum(CANNOT_COPY in line for line in bench.out.read()["notes"]) == 1


HABITS = [
    ("mending nets", "The knots hold once the twine is wet"),
    ("tuning pianos", "A cold hall moved every string by noon"),
    ("baking rye", "My oven lies about its heat"),
    ("reading tides", "The harbour chart was older than its pier"),
    ("pruning pears", "Winter cuts gave fruit, summer cuts gave shade"),
    ("binding books", "Glue forgives less than thread"),
    ("riding ferries", "Captains wave when fog is thin"),
    ("drawing maps", "Contours taught me patience"),
    ("keeping ducks", "They dig where slugs have been"),
    ("grinding lenses", "One grain of dust ruined a week"),
    ("sorting seeds", "Envelopes beat jars on damp shelves"),
    ("planing oak", "Sharp irons sing and blunt ones tear"),
    ("casting bells", "Bronze remembers the mould"),
    ("dyeing wool", "Madder needs a slower fire"),
    ("training hounds", "Praise came late and worked twice"),
    ("copying scores", "Ink dries before a copyist rests"),
]
BEGINNINGS = {
    "a few words": "Here is what I have found out about {} so far. ",
    "many words": "Good morning to all of you who follow this small page, and thank you for the letters; "
    "since many of you asked, today I would like to write down what I have found out about {} so far. ",
    "without spaces": "各位讀者早安，今天想和大家分享我這幾年學到的事，關於{}，",
}


def series(beginning):
    """Write posts that begin alike."""
    for subject, lesson in HABITS:
        yield f"{beginning.format(subject)}{lesson}. Whoever tries {subject}, note: {lesson.lower()}."


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
@pytest.mark.parametrize(
    "do", [{}, {"shift": True}, {"swap": [2, 7]}], ids=["honest", "shifted", "exchanged"]
)
def test_texts_that_begin_alike_share_requests_and_are_told_apart(store, beginning, do):
    texts = list(series(beginning))
    script = [{"when": SEVERAL, "do": do | {"foreign": True}}, {"when": {}, "do": {"foreign": True}}]
    with scripted.serve(script=script) as server:
        outcome = ask_documents(range(16), server.base_url, store, text=texts.__getitem__)
        requests = server.stats()["requests"]

    assert [n for n, answer in outcome.answers.items() if answer["values"][0] != foreign(texts[n])] == []
    assert outcome.good() == list(range(16))
    if not do:
        assert requests == 2


def test_an_endpoint_that_copies_too_little_to_tell_texts_apart_is_asked_about_each(store):
    texts = list(series(BEGINNINGS["many words"]))
    script = [{"when": SEVERAL, "do": {"opening": texts[0][:40]}}]
    with scripted.serve(script=script) as server:
        outcome = ask_documents(range(16), server.base_url, store, text=texts.__getitem__)

    assert outcome.good() == list(range(16))


def test_the_forecast_of_texts_that_begin_alike_is_what_is_sent(tmp_path):
    with scripted.serve() as server:
        bench = make_bench(tmp_path, server, documents=1)
        rows = [
            {"id": n, "cleaned_content": text, "author_id": "a", "type": "posts"}
            for n, text in enumerate(list(series(BEGINNINGS["a few words"]))[1:], start=1)
        ]
        load(bench.folder / "qdrant", rows, file=bench.folder / "series.jsonl")
        bench.publish()

        assert bench.out.read()["forecast"]["instructions"]["requests"] == 2 == server.stats()["requests"]
