"""Prompts ranked on the same contents."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from llmtwin_data.chunks import Chunk
from llmtwin_data.curation import Decision
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Pair
from llmtwin_data.judging import Verdict
from llmtwin_data.measures import Measures
from llmtwin_data.summaries.batch_effects import MIXED, SAME, batch_effects
from llmtwin_data.summaries.duels import conclude_tuning, duels
from llmtwin_data.summaries.leaderboards import Trial, leaderboard, readable_board, side_by_side, usable

TOPICS = [f"{one}{two}gardening" for one in "bcdfghjk" for two in "aeiou"]
CHUNKS = tuple(
    Chunk(f"c{n}", "cleaned", 0, 20, f"text about {topic} and its details", "posts", "1", "", "")
    for n, topic in enumerate(TOPICS)
)


def measure(*, grounding: float | None = 1.0) -> Measures:
    return Measures(grounding, 1, 0.5, 0.1, 0.0, 0.0, 0, "en", "en", True, 50, 60, True)


def trial(
    prompt: str,
    accepted: int,
    *,
    answered: int = 40,
    cost_usd: float | None = 0.001,
    k: int = 1,
    model: str = "m",
    language: str = "same",
    scores: tuple[int, ...] = (),
) -> Trial:
    """The first ``accepted`` contents have accepted instructions."""
    places = [(n, i) for n in range(answered) for i in range(1, k + 1)]
    pairs = tuple(
        Pair(CHUNKS[n], i, f"Ask about {TOPICS[n]}", prompt, "0", "m", f"{prompt}{n}") for n, i in places
    )
    decisions = tuple(Decision(n < accepted) for n, _ in places)
    states = ["accepted" if n < answered else "failed" for n in range(len(CHUNKS))]
    ledger = tuple(
        LedgerRow(c.content_id, 0, 20, i, states[n], "", "", 1, 100, 20, cost_usd, c.collection)
        for n, c in enumerate(CHUNKS)
        for i in range(1, k + 1)
    )
    found = (CHUNKS, pairs, tuple(measure() for _ in pairs), decisions, ledger)
    verdicts = {pair.id: Verdict(score, "") for pair, score in zip(pairs, scores, strict=False)}
    given = {"prompt": prompt, "model": model, "instruction_language": language}
    return Trial(prompt, model, language, 8, *found, verdicts, given)


def test_the_prompt_with_more_usable_pairs_stands_first():
    board = leaderboard([trial("seed", 10), trial("grounded", 30)], seed=1)

    assert board["trial"].tolist() == ["grounded", "seed"]
    assert board["usable, %"].tolist() == [75.0, 25.0]


def test_an_interval_holds_its_mean_and_is_the_same_for_the_same_seed():
    row = leaderboard([trial("a", 20)], seed=1).iloc[0]

    assert row["usable, % low"] == pytest.approx(35, abs=3)
    assert row["usable, % high"] == pytest.approx(65, abs=3)
    assert leaderboard([trial("a", 20)], seed=1).equals(leaderboard([trial("a", 20)], seed=1))


def test_a_board_reads_the_pairs_a_few_times_and_not_once_a_content():
    class Counted(tuple):
        read = 0

        def __iter__(self):
            Counted.read += 1
            return super().__iter__()

    asked = trial("a", 20)

    leaderboard([replace(asked, pairs=Counted(asked.pairs))], seed=1)

    assert Counted.read < len(CHUNKS)


def test_of_equally_usable_trials_one_without_grounding_stands_last_in_any_order():
    unknown = trial("a", 20)
    unknown = replace(unknown, measures=tuple(measure(grounding=None) for _ in unknown.measures))
    tried = [unknown, trial("b", 20), trial("c", 30)]

    orders = [leaderboard(order, seed=1)["trial"].tolist() for order in permutations(tried)]

    assert orders == [["c", "b", "a"]] * 6


def test_a_large_difference_is_real_and_a_small_one_is_not():
    (large,) = duels([trial("seed", 10), trial("grounded", 30)], seed=1)
    (small,) = duels([trial("seed", 20), trial("grounded", 21)], seed=1)

    assert (large.winner.prompt, large.other.prompt, large.difference) == ("grounded", "seed", 0.5)
    assert large.is_real
    assert not small.is_real


def test_few_contents_that_differ_make_no_difference_real():
    (few,) = duels([trial("seed", 35), trial("grounded", 40)], seed=1)

    assert few.low > 0
    assert (few.different, few.is_real) == (5, False)


def test_the_intervals_of_two_trials_are_drawn_on_the_same_contents():
    board = leaderboard([trial("a", 20), trial("b", 20, cost_usd=0.002)], seed=1).iloc[:, 1:]

    costs = [name for name in board if "USD" in name and not name.endswith(" of")]
    assert (2 * board.iloc[0][costs]).tolist() == pytest.approx(board.iloc[1][costs].tolist())
    assert board.iloc[0].drop(costs).equals(board.iloc[1].drop(costs))


def test_each_thing_that_varies_has_a_duel_of_its_own():
    tried = [
        trial("seed", 10),
        trial("grounded", 30),
        trial("grounded", 20, model="n"),
        trial("grounded", 39, language="en"),
    ]

    fought = duels(tried, seed=1)

    assert [(duel.factor, duel.winner.prompt, duel.other.prompt) for duel in fought] == [
        ("prompt", "grounded", "seed"),
        ("model", "grounded", "grounded"),
        ("language", "grounded", "grounded"),
    ]
    assert [duel.winner.model for duel in fought] == ["m", "m", "m"]
    assert fought[2].winner.language == "en"


def test_a_trial_is_named_by_what_varies():
    prompts = leaderboard([trial("a", 20), trial("b", 10)], seed=1)
    both = leaderboard([trial("a", 20), trial("b", 10), trial("a", 9, model="n")], seed=1)

    assert prompts["trial"].tolist() == ["a", "b"]
    assert both["trial"].tolist() == ["a · m", "b · m", "a · n"]


def test_the_conclusion_gives_lines_that_were_tried_together():
    tried = [trial("seed", 40), trial("no", 30), trial("no", 38, model="qwen3:8b")]

    text = conclude_tuning(tried, seed=1).text

    assert "Prompt: `seed` beats `no` by 25.0 points" in text
    assert "Model: `qwen3:8b` beats `m` by 20.0 points" in text
    assert text.count("The difference is real") == 2
    assert "`qwen3:8b` won among its like, but was not tried with the lines below" in text
    assert text.endswith("```yaml\nprompt: seed\nmodel: m\n```")


def test_lines_for_the_params_file_are_read_as_they_are_meant():
    text = conclude_tuning([trial("no", 30), trial("12", 40)], seed=1).text

    assert text.endswith("```yaml\nprompt: '12'\n```")


def test_a_difference_that_may_be_chance_is_told_with_the_costs():
    text = conclude_tuning([trial("seed", 20), trial("grounded", 21, cost_usd=None)], seed=1).text

    assert "The difference may be chance" in text
    assert "an unknown sum against 2.00 USD for the instructions of 1,000 accepted pairs" in text


def test_a_cost_is_that_of_instructions_and_a_judge_is_named_as_extra():
    plain, judged = (conclude_tuning([trial("a", 20, scores=scores)], seed=1).text for scores in ((), (5,)))

    told = "The instructions of 1,000 accepted pairs cost 2.00 USD with the lines below"
    assert f"{told}.\n" in plain
    assert f"{told}; the judge's verdicts come on top.\n" in judged


def test_batch_sizes_compared_are_not_denied_where_only_one_prompt_was_tried():
    alone = trial("a", 9)

    text = conclude_tuning([alone], [alone, replace(trial("a", 30), batch_size=1)], seed=1).text

    assert "Batch size: `1` beats `8`" in text
    assert "Only `a` was tried, so no prompts were compared" in text


def test_nothing_is_claimed_of_one_prompt_or_none():
    assert "no prompts were compared" in conclude_tuning([trial("a", 9)], seed=1).text
    assert "nothing to compare" in conclude_tuning([], seed=1).text


def test_it_is_told_of_how_many_contents_grounding_is_known():
    known = trial("a", 20)
    measures = (*known.measures[:30], *(measure(grounding=None) for _ in range(10)))

    shown = readable_board(leaderboard([replace(known, measures=measures)], seed=1)).set_index("measure")["a"]

    assert shown["grounding"] == "1.00, 30 of 40 contents"


def test_a_judge_adds_its_score():
    board = leaderboard([trial("a", 20, scores=(5, 4, 3))], seed=1)

    assert board["judge score, 1–5"].tolist() == [4.0]


def test_a_content_without_an_answer_counts_as_not_usable():
    assert usable(trial("a", 10, answered=10)).tolist() == [1.0] * 10 + [0.0] * 30


def test_several_instructions_of_a_content_are_one_witness():
    once, thrice = trial("a", 20), trial("a", 20, k=3)

    assert usable(thrice).tolist() == usable(once).tolist()


def test_an_unknown_cost_stays_unknown():
    shown = readable_board(leaderboard([trial("a", 10, cost_usd=None)], seed=1)).set_index("measure")["a"]

    assert shown["instructions of 1,000 accepted pairs, USD"] == "unknown"


def test_without_an_accepted_pair_there_is_no_cost_of_one():
    row = leaderboard([trial("a", 0)], seed=1).iloc[0]

    assert row[["tokens per accepted pair", "instructions of 1,000 accepted pairs, USD"]].isna().all()


def test_cost_and_tokens_are_told_per_accepted_pair():
    row = leaderboard([trial("a", 20)], seed=1).iloc[0]

    assert row["instructions of 1,000 accepted pairs, USD"] == pytest.approx(2.0)
    assert row["tokens per accepted pair"] == 240


def test_a_readable_board_has_a_column_for_each_prompt():
    shown = readable_board(leaderboard([trial("a", 20), trial("b", 10)], seed=1))

    assert shown.columns.tolist() == ["measure", "a", "b"]
    assert shown.set_index("measure").loc["usable, %", "a"].startswith("50 (")


def test_nothing_tried_gives_empty_tables():
    assert leaderboard([], seed=1).empty
    assert readable_board(leaderboard([], seed=1)).empty
    assert (duels([], seed=1), side_by_side([], most=3)) == ([], [])


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
    alone = replace(right, batch_size=1)

    effects = batch_effects([replace(right, pairs=wrong), alone], seed=1)

    assert effects["trial"].tolist() == ["one by one", "8 in a request"]
    assert effects[MIXED].tolist() == [0.0, 100.0]
    assert effects[SAME].iloc[0] == pytest.approx(50.0, abs=1)


def test_one_batch_size_alone_has_no_effect():
    assert readable_board(batch_effects([trial("a", 40)], seed=1)).empty


def test_of_two_equal_prompts_the_duel_names_both():
    tried = [trial("seed", 20), trial("grounded", 20)]

    (equal,) = duels(tried, seed=1)

    assert {equal.winner.prompt, equal.other.prompt} == {"grounded", "seed"}
    assert leaderboard(tried, seed=1)["trial"].iloc[0] == equal.winner.prompt
    assert "give equally many usable pairs" in conclude_tuning(tried, seed=1).text
