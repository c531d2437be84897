"""Decisions of people, and the form in which they are taken."""

from __future__ import annotations

from dataclasses import replace

import nbformat
import pandas as pd
import pytest

from llmtwin_data import pipeline
from llmtwin_data.datasets import stored_sides
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import Params
from llmtwin_data.reviews import (
    Review,
    labels_of,
    pairs_to_review,
    read_reviews,
    review_of,
    reviews_file,
    save_review,
    show_review_form,
    with_reviews,
)


def reviewed(wording, reviews):
    """Return decision and wording of the pair p1, seen in these words."""
    table = with_reviews(
        pd.DataFrame({"id": ["p1", "p9"], "instruction": [wording, None]}, dtype="str"), reviews
    )
    assert table.review.tolist()[1] == ""
    return table.review[0], table.instruction[0]


@pytest.fixture
def path(tmp_path):
    return reviews_file(tmp_path / "answers.sqlite")


def test_a_saved_decision_is_read_again(path):
    review = Review("p1", "edit", "Write.", "寫一篇", "too vague", "2026-01-01T00:00:00+00:00")

    assert read_reviews(path) == []
    save_review(path, review)

    assert read_reviews(path) == [review]


# Decisions on one pair, the words that it has now, and the decision and the words that result.
EDITS = {
    "the last one": ([("accept", "Write."), ("reject", "Write.")], "Write.", ("reject", "Write.")),
    "of other words": ([("reject", "Write.")], "Explain.", ("", "Explain.")),
    "a rejected edit": ([("edit", "a", "b"), ("reject", "b")], "a", ("reject", "a")),
    "an edit of an edit": ([("edit", "a", "b"), ("edit", "b", "c"), ("accept", "c")], "a", ("edit", "c")),
    "a circle": ([("edit", "a", "b"), ("edit", "b", "a")], "a", ("edit", "a")),
}


@pytest.mark.parametrize(("decisions", "wording", "result"), EDITS.values(), ids=EDITS)
def test_decisions_follow_the_words_that_were_seen(decisions, wording, result):
    assert reviewed(wording, [Review("p1", *decision) for decision in decisions]) == result


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
    save_review(path, Review("p1", "accept", "Write."))
    with path.open("a") as file:
        file.write(f"\n\n{line}\n")

    with pytest.raises(DiskFailed, match="line 4"):
        read_reviews(path)


LABELS = {
    "the last one": ([("reject", "a"), ("accept", "a")], [["p1", "a", True, "", "", ""]]),
    "both wordings": (
        [("edit", "a", "b", "too vague")],
        [["p1", "b", True, "", "", ""], ["p1", "a", False, "b", "too vague", ""]],
    ),
    "rejected later": (
        [("edit", "a", "b"), ("reject", "b")],
        [["p1", "a", False, "b", "", ""], ["p1", "b", False, "", "", ""]],
    ),
}


@pytest.mark.parametrize(("decisions", "labels"), LABELS.values(), ids=LABELS)
def test_a_wording_is_labelled_by_the_last_decision_on_it(decisions, labels):
    reviews = [*(Review("p1", *decision) for decision in decisions), Review("p2", "reject", "c")]

    assert labels_of(reviews).values.tolist() == [*labels, ["p2", "c", False, "", "", ""]]


FATES = [("accepted", "")] * 16 + [("rejected", "copied")] * 2 + [("rejected", "language")] * 2
LEDGER = pd.DataFrame(
    {
        "id": f"id{n}", "instruction": f"Write {n}.", "content": "text", "data_type": "posts", "author": "1",
        "platform": "", "state": state, "reason": reason, "value": "", "grounding": 0.9,
        "grounding_margin": 0.5, "copied_instruction": 0.0, "copied_content": 0.0, "boilerplate": 0.0,
        "collection": "posts", "content_id": f"c{n}", "start": 0, "end": 4, "k": 1,
    }
    for n, (state, reason) in enumerate(FATES)
)  # fmt: skip


@pytest.fixture
def pairs():
    return pairs_to_review(LEDGER, [], most=6, seed=1)


def decisions_in(path):
    return [(review.pair_id, review.decision) for review in read_reviews(path)]


def test_every_stratum_gives_equally_many_and_no_reviewed_pair_comes_again(pairs):
    again = pairs_to_review(LEDGER, [review_of(pairs.iloc[0], "accept")], most=20, seed=1)

    assert pairs.reason.value_counts().to_dict() == {"": 2, "copied": 2, "language": 2}
    assert set(again.id) == set(LEDGER.id) - {pairs.id.iloc[0]}


@pytest.mark.parametrize("words", ["Write 0.", "  "], ids=["same", "blank"])
def test_an_edit_that_changes_nothing_is_an_acceptance(words):
    review = review_of(LEDGER.iloc[0], "edit", instruction=words)

    assert (review.decision, review.instruction) == ("accept", "")


def form_of(pairs, path):
    return show_review_form(pairs, LEDGER, Params(), path=path)


def test_buttons_decide_and_end_with_the_last_pair(pairs, path):
    state, view, words, why, row, tally = form_of(pairs, path).children
    accept, reject, edit, *_ = row.children

    accept.click()
    assert decisions_in(path) == [(pairs.id.iloc[0], "accept")]
    why.value = "too vague"
    reject.click()
    words.value = "Explain how caches work."
    edit.click()
    for _ in range(3):
        accept.click()

    decisions = ["accept", "reject", "edit", *["accept"] * 3]
    assert decisions_in(path) == list(zip(pairs.id, decisions, strict=True))
    assert [review.reason for review in read_reviews(path)][:3] == ["", "too vague", ""]
    assert state.value.startswith("6 of 6 decided")
    assert all(button.disabled for button in (accept, reject, edit))
    assert view.value == ""
    assert ">accept</th>" in tally.value
    assert ">6</td>" in tally.value


def test_keys_press_buttons_and_what_is_left_is_said(pairs, path):
    state, *_, row, _ = form_of(pairs, path).children

    for letter in "arxb":
        row.children[-1].value = letter

    assert decisions_in(path) == list(zip(pairs.id, ["accept", "reject"], strict=False))
    assert (row.children[-1].value, state.value[:18]) == ("", "1 of 6 decided, 5 ")


def test_an_edit_shows_its_measures_and_what_the_rules_say(pairs, path):
    _, view, words, _, row, _ = form_of(pairs, path).children
    accept, _, edit, *_ = row.children

    before, disabled = view.value, (accept.disabled, edit.disabled)
    words.value = "Write"

    # Changed words are not lost by an acceptance.
    assert (disabled, (accept.disabled, edit.disabled)) == ((False, True), (True, False))
    assert "rejected: <b>length 1 word</b>" in view.value
    assert view.value.count("<b>") > before.count("<b>") > 0


def test_back_lets_a_decision_be_taken_again(pairs, path):
    state, *_, row, _ = form_of(pairs, path).children
    accept, reject, _, back, _ = row.children

    reject.click()
    back.click()
    accept.click()

    latest = with_reviews(LEDGER, read_reviews(path)).set_index("id").review
    assert latest[pairs.id.iloc[0]] == "accept"
    assert state.value.startswith("1 of 6")


def press(settings, *, words):
    """Open notebook 4 as a person does, accept, reject and edit the first pairs, and return those."""
    namespace = settings.as_dict()
    for cell in nbformat.read(PROJECT_ROOT / "notebooks" / "4_review_pairs.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    pairs = namespace["pairs"]
    form = show_review_form(pairs, namespace["rules"], namespace["settings"], path=namespace["path"])
    *_, field, _, row, _ = form.children
    for button in row.children[:3]:
        field.value += words if button.description == "edit" else ""
        button.click()
    return list(pairs.itertuples())


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


def test_nothing_to_review_is_an_empty_form(path):
    pairs = pairs_to_review(LEDGER[:0], [], most=5, seed=1)

    assert form_of(pairs, path).children[0].value.startswith("0 of 0")
