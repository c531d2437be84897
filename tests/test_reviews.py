"""Decisions of people, and the desk at which they are taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import nbformat
import pandas as pd
import pytest

from llmtwin_data import pipeline
from llmtwin_data.datasets import stored_sides
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.reviews import (
    Label,
    Review,
    labels_of,
    open_desk,
    read_reviews,
    review_counts,
    reviews_file,
    save_review,
    show_desk,
    with_reviews,
)


def reviewed(wording, reviews):
    """Give decision and wording of the pair p1, seen in these words."""
    table = with_reviews(
        pd.DataFrame({"id": ["p1", "p9"], "instruction": [wording, None]}, dtype="str"), reviews
    )
    assert table.review.tolist()[1] == ""
    return table.review[0], table.instruction[0]


@pytest.fixture
def path(tmp_path):
    return reviews_file(tmp_path / "answers.sqlite")


def test_decisions_lie_beside_the_answers(tmp_path):
    assert reviews_file(tmp_path / "answers.sqlite") == tmp_path / "answers.reviews.jsonl"


def test_a_saved_decision_is_read_again(path):
    review = Review("p1", "edit", "Write.", "寫一篇", "too vague", "2026-01-01T00:00:00+00:00")

    save_review(path, review)

    assert read_reviews(path) == [review]


def test_no_file_means_no_decision(path):
    assert read_reviews(path) == []


def test_the_last_decision_counts(path):
    save_review(path, Review("p1", "accept", "Write."))
    save_review(path, Review("p1", "reject", "Write."))

    assert reviewed("Write.", read_reviews(path)) == ("reject", "Write.")


def test_a_decision_about_other_words_says_nothing_of_these():
    reviews = [Review("p1", "reject", "Write.")]

    assert reviewed("Explain caches.", reviews) == ("", "Explain caches.")


def test_a_rejected_edit_rejects_the_pair():
    reviews = [Review("p1", "edit", "Write.", "Write on caches."), Review("p1", "reject", "Write on caches.")]

    assert reviewed("Write.", reviews)[0] == "reject"


def test_an_edit_of_an_edit_replaces_it():
    reviews = [Review("p1", "edit", "a", "b"), Review("p1", "edit", "b", "c"), Review("p1", "accept", "c")]

    assert reviewed("a", reviews) == ("edit", "c")


def test_edits_in_a_circle_end():
    reviews = [Review("p1", "edit", "a", "b"), Review("p1", "edit", "b", "a")]

    assert reviewed("a", reviews)[0] == "edit"


def test_a_line_cut_by_a_crash_is_left_out_and_overwritten(path):
    save_review(path, Review("p1", "accept", "Write."))
    with path.open("a") as file:
        file.write('{"pair_id": "p2", "dec')

    save_review(path, Review("p3", "reject", "Write."))

    assert [review.pair_id for review in read_reviews(path)] == ["p1", "p3"]


@pytest.mark.parametrize(
    "line", ["not json", '{"pair_id": "p"}', '{"pair_id":"p","decision":"maybe","seen":"x"}']
)
def test_a_bad_line_is_named(path, line):
    path.write_text(f"{line}\n")

    with pytest.raises(DiskFailed, match="line 1"):
        read_reviews(path)


def test_a_wording_is_labelled_by_the_last_decision_on_it():
    reviews = [Review("p1", "reject", "a"), Review("p1", "accept", "a"), Review("p2", "reject", "b")]

    assert labels_of(reviews) == [Label("p1", "a", True), Label("p2", "b", False)]


def test_an_edit_labels_both_wordings():
    assert labels_of([Review("p1", "edit", "a", "b", "too vague")]) == [
        Label("p1", "b", True),
        Label("p1", "a", False, "b", "too vague"),
    ]


def test_a_person_s_wording_that_was_rejected_later_is_not_good():
    reviews = [Review("p1", "edit", "a", "b"), Review("p1", "reject", "b")]

    assert {label.instruction: label.accepted for label in labels_of(reviews)} == {"a": False, "b": False}


FATES = [("accepted", "")] * 16 + [("rejected", "copied")] * 2 + [("rejected", "language")] * 2
LEDGER = pd.DataFrame(
    {
        "id": f"id{n}",
        "instruction": f"Write {n}.",
        "content": "text",
        "data_type": "posts",
        "author": "1",
        "platform": "",
        "state": state,
        "reason": reason,
        "value": "",
        "grounding": 0.9,
        "grounding_margin": 0.5,
        "copied_instruction": 0.0,
        "copied_content": 0.0,
    }
    for n, (state, reason) in enumerate(FATES)
)


@pytest.fixture
def desk(tmp_path):
    desk = open_desk(LEDGER, path=tmp_path / "reviews.jsonl", most=6, seed=1)
    desk.now = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    return desk


def test_every_stratum_gives_equally_many(desk):
    assert desk.pairs.reason.value_counts().to_dict() == {"": 2, "copied": 2, "language": 2}


def test_a_decision_is_kept_at_once_and_the_next_pair_comes(desk):
    first = desk.pair

    desk.decide("reject")

    assert [(review.pair_id, review.decision) for review in read_reviews(desk.path)] == [(first.id, "reject")]
    assert desk.place == 1


def test_a_reviewed_pair_does_not_come_again(desk):
    first = desk.pair
    desk.decide("accept")

    again = open_desk(LEDGER, path=desk.path, most=20, seed=1)

    assert first.id not in set(again.pairs.id)
    assert len(again.pairs) == 19


@pytest.mark.parametrize(
    ("words", "decision"), [("Explain caches.", "edit"), ("  ", "accept"), (None, "accept")]
)
def test_an_edit_that_changes_nothing_is_an_acceptance(desk, words, decision):
    desk.decide("edit", instruction=desk.pair.instruction if words is None else words)

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
    first = desk.pair

    reject.click()
    back.click()
    accept.click()

    latest = with_reviews(LEDGER, read_reviews(desk.path)).set_index("id").review
    assert latest[first.id] == "accept"
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
    return list(desk.pairs.itertuples())


def test_what_is_decided_in_notebook_4_is_replayed_by_the_next_run(bench):
    settings = bench.settings(judge_model="judge")
    reviewing = replace(settings, run_dir=str(bench.folder / "review"), tune_sample=24)
    accepted, refused, edited, *rest = press(reviewing, words=" And why it matters.")
    again = press(reviewing, words="")
    ledger = pipeline.make_dataset(settings, environ={}).set_index("id")
    rows = {row["id"]: row for side in stored_sides(bench.out.dataset).values() for row in side}

    assert {pair.id for pair in again} == {pair.id for pair in rest}
    assert accepted.id in rows
    assert ledger.reason[refused.id] == "review"
    assert rows[edited.id]["instruction"] == f"{edited.instruction} And why it matters."
    assert bench.out.read()["judge"][0]["labelled"] == 6


def test_decisions_are_counted(desk):
    desk.decide("accept")
    desk.decide("reject")

    assert review_counts(read_reviews(desk.path)).values.tolist() == [["accept", 1], ["reject", 1]]


def test_nothing_to_review_is_an_empty_desk(tmp_path):
    desk = open_desk(LEDGER[:0], path=tmp_path / "r.jsonl", most=5, seed=1)

    assert show_desk(desk).children[0].value.startswith("0 of 0")
