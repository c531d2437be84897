"""Tables about what a run made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.curation.alarms import Alarm
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.measures import Measures
from llmtwin_data.params import Params
from llmtwin_data.summaries import outcomes

ACCEPTED = Decision(accepted=True)


def measure(*, margin: float | None = 0.5, copied: float = 0.0) -> Measures:
    return Measures(
        None if margin is None else 0.9, 1, margin, copied, 0.0, 0.0, 0, "en", "en", True, 50, 60, True
    )


def pair(n: int) -> Pair:
    chunk = Chunk(f"c{n}", "cleaned", 0, 4, "text", "posts", "1", "", "")
    return Pair(chunk, 1, "Write.", "grounded", "0", "m", f"key{n}")


def test_a_waterfall_ends_at_the_accepted():
    states = (
        [("accepted", "")] * 5 + [("rejected", "copied")] * 3 + [("failed", "refused"), ("skipped", "blank")]
    )
    ledger = [LedgerRow(str(n), 0, 1, 1, state, reason) for n, (state, reason) in enumerate(states)]

    steps = outcomes.waterfall(ledger)

    assert steps.values.tolist() == [
        ["asked", 9, 0],
        ["failed: refused", 8, 1],
        ["rejected: copied", 5, 3],
        ["accepted", 5, 0],
    ]


def test_an_empty_ledger_gives_no_step():
    assert outcomes.waterfall([]).empty


def test_rejections_are_counted_by_reason_with_their_meaning():
    decisions = [ACCEPTED, Decision(False, "copied", "0.7"), Decision(False, "copied", "0.8")]

    shown = outcomes.rejected_frame([pair(n) for n in range(3)], decisions)

    assert shown[["reason", "pairs", "share of all"]].values.tolist() == [["copied", 2, pytest.approx(2 / 3)]]


def test_one_example_of_each_reason_is_chosen():
    decisions = [Decision(False, "language"), ACCEPTED, Decision(False, "copied"), Decision(False, "copied")]

    assert outcomes.rejected_examples(decisions) == [2, 0]


@pytest.mark.parametrize(
    ("reason", "value", "shown"),
    [
        ("ungrounded", "0.0756", "ungrounded"),
        ("near_duplicate", "c218b3ef1143", "near duplicate of c218b3ef"),
        ("language", "es", "language es"),
    ],
)
def test_a_rejection_is_told_in_words(reason, value, shown):
    notes = outcomes.pair_notes(measure(), Decision(False, reason, value))

    assert notes["rejected:"] == shown


def test_copying_is_shown_by_the_measure_that_decides():
    pair = replace(measure(copied=0.58), copied_content=0.6782)

    assert outcomes.pair_notes(pair)["copied"] == "68 %"
    assert outcomes.measured_frame([pair], [ACCEPTED])["copied"].tolist() == [0.6782]


def test_accepted_pairs_are_ranked_by_lead_and_copying():
    measures = [
        measure(margin=0.2),
        measure(margin=0.9),
        measure(margin=0.9, copied=0.5),
        measure(margin=0.99),
    ]

    assert outcomes.ranked(measures, [ACCEPTED, ACCEPTED, ACCEPTED, Decision(False, "copied")]) == [1, 2, 0]


def test_measures_that_cannot_be_told_are_left_blank():
    frame = outcomes.measured_frame([measure(margin=None)], [ACCEPTED])

    assert frame["grounding"].isna().tolist() == [True]


def test_only_limits_that_are_on_are_drawn():
    assert outcomes.measure_limits(Params(min_grounding=0.0, max_copied=0.4)) == {"copied": 0.4}


def test_an_alarm_is_shown_with_its_examples_escaped():
    shown = outcomes.show_alarms([Alarm("collapsed", "9 of 10 alike", "at most 2", ("<script>",))])

    assert "collapsed: seen 9 of 10 alike" in str(shown.html)
    assert "<script" not in str(shown.html)


def test_no_alarm_is_said_so():
    assert "No alarm" in repr(outcomes.show_alarms([]))
