"""Decisions of people."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmtwin_data.errors import DiskFailed
from llmtwin_data.generator.reviews import (
    Label,
    Review,
    labels_of,
    read_reviews,
    reviews_file,
    reviews_of,
    save_review,
)


@dataclass
class Seen:
    id: str
    instruction: str


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

    assert reviews_of([Seen("p1", "Write.")], read_reviews(path))["p1"].decision == "reject"


def test_a_decision_about_other_words_says_nothing_of_these():
    reviews = [Review("p1", "reject", "Write.")]

    assert reviews_of([Seen("p1", "Explain caches.")], reviews) == {}


def test_a_rejected_edit_rejects_the_pair():
    reviews = [Review("p1", "edit", "Write.", "Write on caches."), Review("p1", "reject", "Write on caches.")]

    assert not reviews_of([Seen("p1", "Write.")], reviews)["p1"].accepted


def test_an_edit_of_an_edit_replaces_it():
    reviews = [Review("p1", "edit", "a", "b"), Review("p1", "edit", "b", "c"), Review("p1", "accept", "c")]

    assert reviews_of([Seen("p1", "a")], reviews)["p1"].instruction == "c"


def test_edits_in_a_circle_end():
    reviews = [Review("p1", "edit", "a", "b"), Review("p1", "edit", "b", "a")]

    assert reviews_of([Seen("p1", "a")], reviews)["p1"].decision == "edit"


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
