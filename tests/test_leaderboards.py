"""Prompts ranked on the same contents."""

from __future__ import annotations

import pytest

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.generation import GenerationReport, LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.measures import Measures
from llmtwin_data.summaries.batch_effects import MIXED, SAME, batch_effects
from llmtwin_data.summaries.leaderboards import Trial, duel, leaderboard, readable_board, side_by_side, usable

TOPICS = [f"{one}{two}gardening" for one in "bcdfghjk" for two in "aeiou"]
CHUNKS = tuple(
    Chunk(f"c{n}", "cleaned", 0, 20, f"text about {topic} and its details", "posts", "1", "", "")
    for n, topic in enumerate(TOPICS)
)


def measure(*, grounding: float | None = 1.0) -> Measures:
    return Measures(grounding, 1, 0.5, 0.1, 0.0, 0.0, 0, "en", "en", True, 50, 60, True)


def trial(
    prompt: str, accepted: int, *, answered: int = 40, cost_usd: float | None = 0.001, k: int = 1
) -> Trial:
    """The first ``accepted`` contents have accepted instructions."""
    places = [(n, i) for n in range(answered) for i in range(1, k + 1)]
    pairs = tuple(
        Pair(CHUNKS[n], i, f"Ask about {TOPICS[n]}", prompt, "0", "m", f"{prompt}{n}") for n, i in places
    )
    decisions = tuple(Decision(n < accepted) for n, _ in places)
    ledger = tuple(
        LedgerRow(
            c.content_id, 0, 20, i, "accepted" if n < answered else "failed", "", "", 1, 100, 20, cost_usd
        )
        for n, c in enumerate(CHUNKS)
        for i in range(1, k + 1)
    )
    found = (CHUNKS, pairs, tuple(measure() for _ in pairs), decisions, ledger)
    return Trial(prompt, "m", 8, *found, GenerationReport(answered=answered, prompt_tokens=4000))


def test_the_prompt_with_more_usable_pairs_stands_first():
    board = leaderboard([trial("seed", 10), trial("grounded", 30)], seed=1)

    assert board["prompt"].tolist() == ["grounded", "seed"]
    assert board["usable, %"].tolist() == [75.0, 25.0]


def test_an_interval_holds_its_mean_and_is_the_same_for_the_same_seed():
    row = leaderboard([trial("a", 20)], seed=1).iloc[0]

    assert row["usable, % low"] == pytest.approx(35, abs=3)
    assert row["usable, % high"] == pytest.approx(65, abs=3)
    assert leaderboard([trial("a", 20)], seed=1).equals(leaderboard([trial("a", 20)], seed=1))


def test_a_large_difference_is_real_and_a_small_one_is_not():
    large = duel([trial("seed", 10), trial("grounded", 30)], seed=1)
    small = duel([trial("seed", 20), trial("grounded", 21)], seed=1)

    assert (large["winner"], large["other"], large["difference"]) == ("grounded", "seed", 0.5)
    assert large["low"] > 0
    assert small["low"] <= 0


def test_a_content_without_an_answer_counts_as_not_usable():
    assert usable(trial("a", 10, answered=10)).tolist() == [1.0] * 10 + [0.0] * 30


def test_several_instructions_of_a_content_are_one_witness():
    once, thrice = trial("a", 20), trial("a", 20, k=3)

    assert usable(thrice).tolist() == usable(once).tolist()


def test_an_unknown_cost_stays_unknown():
    board = leaderboard([trial("a", 10, cost_usd=None)], seed=1)

    assert readable_board(board).set_index("measure").loc["cost per accepted, USD", "a"] == "–"


def test_cost_is_told_per_accepted_pair():
    assert leaderboard([trial("a", 20)], seed=1)["cost per accepted, USD"].iloc[0] == pytest.approx(0.002)


def test_a_readable_board_has_a_column_for_each_prompt():
    shown = readable_board(leaderboard([trial("a", 20), trial("b", 10)], seed=1))

    assert shown.columns.tolist() == ["measure", "a", "b"]
    assert shown.set_index("measure").loc["usable, %", "a"].startswith("50 (")


def test_nothing_tried_gives_empty_tables():
    assert leaderboard([], seed=1).empty
    assert readable_board(leaderboard([], seed=1)).empty
    assert (duel([], seed=1), side_by_side([], most=3)) == ({}, [])


def test_instructions_stand_side_by_side_for_the_same_contents():
    shown = side_by_side([trial("a", 40), trial("b", 0, answered=1)], most=4)

    assert [chunk.content_id for chunk, _ in shown] == ["c0", "c10", "c20", "c30"]
    assert shown[1][1] == {"a": f"Ask about {TOPICS[10]}", "b": "(no usable answer)"}


def test_exchanged_instructions_show_as_an_effect_of_the_batch():
    right = trial("a", 40)
    exchanged = [right.pairs[n ^ 1].instruction for n in range(40)]
    wrong = tuple(
        Pair(p.chunk, 1, text, "a", "0", "m", p.answer_key)
        for p, text in zip(right.pairs, exchanged, strict=True)
    )
    alone = Trial(
        "a", "m", 1, CHUNKS, right.pairs, right.measures, right.decisions, right.ledger, right.report
    )
    mixed = Trial("a", "m", 8, CHUNKS, wrong, right.measures, right.decisions, right.ledger, right.report)

    effects = batch_effects([mixed, alone])

    assert effects["batch size"].tolist() == [1, 8]
    assert effects[MIXED].tolist() == [0.0, 100.0]
    assert effects[SAME].iloc[0] == pytest.approx(50.0, abs=1)


def test_of_two_equal_prompts_the_duel_names_both():
    equal = duel([trial("seed", 20), trial("grounded", 20)], seed=1)

    assert {equal["winner"], equal["other"]} == {"grounded", "seed"}
    assert (
        leaderboard([trial("seed", 20), trial("grounded", 20)], seed=1)["prompt"].iloc[0] == equal["winner"]
    )
