"""The desk at which a person reviews pairs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.generator.reviewing import open_desk, review_frame, show_desk
from llmtwin_data.generator.reviews import read_reviews
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
    _, view, words, row = show_desk(desk).children
    accept, reject, edit = row.children

    accept.click()
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
    assert desk.done
    assert accept.disabled
    assert view.value == ""


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
