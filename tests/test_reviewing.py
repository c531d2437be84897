"""The desk at which a person reviews pairs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import nbformat
import pytest

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.datasets.rows import stored_sides
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.generation.pairs import Pair, row_id
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.generator.reviewing import open_desk, review_frame, show_desk
from llmtwin_data.generator.reviews import read_reviews, reviews_of
from llmtwin_data.measures import Measures

MEASURE = Measures(0.9, 1, 0.5, 0.0, 0.0, 0.0, 0, "en", "en", True, 50, 60, True)
PAIRS = [
    Pair(
        Chunk(f"c{n}", "cleaned", 0, 4, "text", "posts", "1", "", ""),
        1,
        f"Write {n}.",
        "p",
        "0",
        "m",
        f"k{n}",
    )
    for n in range(20)
]
DECISIONS = [Decision(True)] * 16 + [Decision(False, "copied")] * 2 + [Decision(False, "language")] * 2


@pytest.fixture
def desk(tmp_path):
    desk = open_desk(PAIRS, [MEASURE] * 20, DECISIONS, path=tmp_path / "reviews.jsonl", most=6, seed=1)
    desk.now = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    return desk


def test_every_stratum_gives_equally_many(desk):
    reasons = [str(note.get("rejected:", "accepted")) for note in desk.notes]

    assert {reason: reasons.count(reason) for reason in reasons} == {
        "accepted": 2,
        "copied": 2,
        "language": 2,
    }


def test_a_decision_is_kept_at_once_and_the_next_pair_comes(desk):
    first = desk.pairs[0]

    desk.decide("reject")

    assert [(review.pair_id, review.decision) for review in read_reviews(desk.path)] == [(first.id, "reject")]
    assert desk.place == 1


def test_a_reviewed_pair_does_not_come_again(desk):
    desk.decide("accept")

    again = open_desk(PAIRS, [MEASURE] * 20, DECISIONS, path=desk.path, most=20, seed=1)

    assert desk.pairs[0].id not in {pair.id for pair in again.pairs}
    assert len(again.pairs) == 19


@pytest.mark.parametrize(
    ("words", "decision"), [("Explain caches.", "edit"), ("  ", "accept"), (None, "accept")]
)
def test_an_edit_that_changes_nothing_is_an_acceptance(desk, words, decision):
    desk.decide("edit", instruction=desk.pairs[0].instruction if words is None else words)

    assert read_reviews(desk.path)[0].decision == decision


def test_buttons_decide_and_end_with_the_last_pair(desk):
    _, view, words, why, row = show_desk(desk).children
    accept, reject, edit, _ = row.children

    accept.click()
    why.value = "too vague"
    reject.click()
    words.value = "Explain how caches work."
    edit.click()
    for _ in range(3):
        accept.click()

    assert [review.decision for review in read_reviews(desk.path)] == [
        "accept",
        "reject",
        "edit",
        *["accept"] * 3,
    ]
    assert [review.reason for review in read_reviews(desk.path)][:3] == ["", "too vague", ""]
    assert desk.done
    assert accept.disabled
    assert view.value == ""


def test_changed_words_are_not_lost_by_an_acceptance(desk):
    *_, words, _, row = show_desk(desk).children
    accept, _, edit, _ = row.children

    before = (accept.disabled, edit.disabled)
    words.value = "Explain how caches work."

    assert (before, (accept.disabled, edit.disabled)) == ((False, True), (True, False))


def test_back_lets_a_decision_be_taken_again(desk):
    *_, row = show_desk(desk).children
    accept, reject, _, back = row.children
    pair = desk.pairs[0]

    reject.click()
    back.click()
    accept.click()

    assert reviews_of([pair], read_reviews(desk.path))[pair.id].decision == "accept"
    assert desk.place == 1


def press(settings, *, words):
    """Open notebook 4 as a person does, accept, reject and edit the first pairs, and give those."""
    namespace = settings.as_dict()
    for cell in nbformat.read(PROJECT_ROOT / "notebooks" / "4_review_pairs.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    desk = namespace["desk"]
    *_, field, _, row = show_desk(desk).children
    for button in row.children[:3]:
        field.value += words if button.description == "edit" else ""
        button.click()
    return desk.pairs


def test_what_is_decided_in_notebook_4_is_replayed_by_the_next_run(bench):
    settings = bench.settings(judge_model="judge")
    reviewing = replace(settings, run_dir=str(bench.folder / "review"), tune_sample=24)
    accepted, refused, edited, *rest = press(reviewing, words=" And why it matters.")
    again = press(reviewing, words="")
    with DatasetGenerator(settings, environ={}) as generator:
        generator.publish()
    rows = {row["id"]: row for side in stored_sides(bench.out.dataset).values() for row in side}
    reasons = {row_id(row.place): row.reason for row in read_ledger(bench.out.ledger_file)}

    assert {pair.id for pair in again} == {pair.id for pair in rest}
    assert accepted.id in rows
    assert reasons[refused.id] == "review"
    assert rows[edited.id]["instruction"] == f"{edited.instruction} And why it matters."
    assert bench.out.read()["judge"][0]["labelled"] == 6


def test_decisions_are_counted(desk):
    desk.decide("accept")
    desk.decide("reject")

    assert review_frame(read_reviews(desk.path)).values.tolist() == [["accept", 1], ["reject", 1]]


def test_nothing_to_review_is_an_empty_desk(tmp_path):
    assert (
        show_desk(open_desk([], [], [], path=tmp_path / "r.jsonl", most=5, seed=1))
        .children[0]
        .value.startswith("0 of 0")
    )
