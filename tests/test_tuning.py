"""What notebook 2 varies and how it is ranked: trials by hand, and trials on the real engine."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import endpoint
import pandas as pd
import pytest
from asking import QUICK
from running import make_bench

from llmtwin_data import pipeline, tuning
from llmtwin_data.endpoints import OPENAI, Endpoint
from llmtwin_data.errors import RunIncomplete
from llmtwin_data.loading import load_files
from llmtwin_data.params import Params
from llmtwin_data.reviews import Review, reviews_file, save_review
from llmtwin_data.sources import open_source
from llmtwin_data.tables import sample_of
from llmtwin_data.tuning import MIXED, SAME, batch_effects, comparisons, conclude, leaderboard, readable_board

TOPICS = [f"{one}{two}gardening" for one in "bcdfghjk" for two in "aeiou"]
COST = "instructions of 1,000 accepted pairs, USD"


def trial(
    prompt, accepted, *, answered=40, k=1, model="m", language="same", batch_size=8, scores=(), **values
):
    """The ledger of a trial whose first ``accepted`` contents have accepted instructions."""
    numbers = [n for n in range(40) for _ in range(k)]
    rows = pd.DataFrame({"content_id": [f"c{n}" for n in numbers]})
    is_answered = pd.Series([n < answered for n in numbers])
    words = pd.Series([f"Ask about {TOPICS[n]}" for n in numbers], dtype="str")
    states = ["failed" if n >= answered else "accepted" if n < accepted else "rejected" for n in numbers]
    measures = {"grounding": 1.0, "copied_instruction": 0.1, "copied_content": 0.0, "genericness": 0.0}
    measures |= {"language_ok": True, "characters": 50.0}
    return rows.assign(
        collection="cleaned", start=0, end=20, k=[*range(1, k + 1)] * 40, state=states,
        content=[f"text about {TOPICS[n]} and its details" for n in numbers],
        instruction=words.where(is_answered),
        **{name: pd.Series([value] * len(rows)).where(is_answered) for name, value in measures.items()},
        judge_score=pd.array([*scores, *[None] * (len(rows) - len(scores))], dtype="Int64"),
        prompt_tokens=100, completion_tokens=20, cost_usd=0.001,
        prompt=prompt, model=model, instruction_language=language, batch_size=batch_size,
    ).assign(**values)  # fmt: skip


def trials(*tried):
    """The trials one below the other, each named by what varies."""
    table = pd.concat(tried, ignore_index=True)
    varied = [name for name in tuning.FACTORS if table[name].nunique() > 1] or ["prompt"]
    return table.assign(trial=table[varied].astype(str).agg(" · ".join, axis=1))


def test_an_interval_holds_its_mean_and_is_the_same_for_the_same_seed():
    row = leaderboard(trials(trial("a", 20)), seed=1).iloc[0]

    assert row["usable, % low"] == pytest.approx(35, abs=3)
    assert row["usable, % high"] == pytest.approx(65, abs=3)
    assert leaderboard(trials(trial("a", 20)), seed=1).iloc[0].equals(row)


def test_the_most_usable_stands_first_then_the_better_grounded_then_the_one_tried_first():
    tried = [trial("a", 20, grounding=None), trial("b", 20), trial("c", 30)]
    models = trials(trial("grounded", 20, model="usual"), trial("grounded", 20, model="dear"))

    boards = [leaderboard(trials(*order), seed=1) for order in permutations(tried)]

    assert [board.trial.tolist() for board in boards] == [["c", "b", "a"]] * 6
    assert leaderboard(models, seed=1).trial.tolist() == ["usual", "dear"]


@pytest.mark.parametrize(
    ("seed", "grounded", "different", "is_real"),
    [(10, 30, 20, True), (20, 21, 1, False), (35, 40, 5, False)],
    ids=["large", "small", "few contents differ"],
)
def test_a_large_difference_on_enough_contents_is_real(seed, grounded, different, is_real):
    row = comparisons(trials(trial("seed", seed), trial("grounded", grounded)), seed=1).iloc[0]

    assert (row.winner, row.other, row.difference) == ("grounded", "seed", (grounded - seed) / 40)
    assert (row.different, row.is_real) == (different, is_real)


def test_the_intervals_of_two_trials_are_drawn_on_the_same_contents():
    board = leaderboard(trials(trial("a", 20), trial("b", 20, cost_usd=0.002)), seed=1).iloc[:, 1:]

    costs = [name for name in board if "USD" in name and not name.endswith(" of")]
    assert (2 * board.iloc[0][costs]).tolist() == pytest.approx(board.iloc[1][costs].tolist())
    assert board.iloc[0].drop(costs).equals(board.iloc[1].drop(costs))


def test_each_thing_that_varies_is_compared_by_itself():
    tried = [trial("seed", 10), trial("grounded", 30), trial("grounded", 20, model="n")]
    tried.append(trial("grounded", 39, language="en"))

    rows = comparisons(trials(*tried), seed=1)

    assert rows[["factor", "winner", "other"]].values.tolist() == [
        ["prompt", "grounded · m · same", "seed · m · same"],
        ["model", "grounded · m · same", "grounded · n · same"],
        ["instruction_language", "grounded · m · en", "grounded · m · same"],
    ]


def test_the_conclusion_gives_lines_that_were_tried_together():
    tried = trials(trial("seed", 40), trial("no", 30), trial("no", 38, model="qwen3:8b"))

    text = conclude(tried, seed=1).text

    assert "Prompt: `seed` beats `no` by 25.0 points" in text
    assert "Model: `qwen3:8b` beats `m` by 20.0 points" in text
    assert text.count("The difference is real") == 2
    assert "`qwen3:8b` won among its like, but was not tried with the lines below" in text
    assert text.endswith("```yaml\nprompt: seed\nmodel: m\n```")


@pytest.mark.parametrize(
    ("tried", "sizes", "words"),
    [
        (
            [trial("seed", 20), trial("grounded", 21, cost_usd=None)],
            [],
            [
                "The difference may be chance",
                "an unknown sum against 2.00 USD for the instructions of 1,000 accepted pairs",
            ],
        ),
        ([trial("no", 30), trial("12", 40)], [], ["```yaml\nprompt: '12'\n```"]),
        (
            [trial("a", 9)],
            [trial("a", 9), trial("a", 30, batch_size=1)],
            [
                "Batch size: `1` beats `8`",
                "Only `a` was tried, so no prompts were compared",
                "```yaml\nprompt: a\nbatch_size: 1\n```",
            ],
        ),
        (
            [trial("seed", 20), trial("grounded", 20)],
            [],
            ["`grounded` and `seed` give equally many usable pairs"],
        ),
        (
            [trial("a", 20)],
            [],
            ["The instructions of 1,000 accepted pairs cost 2.00 USD with the lines below.\n"],
        ),
        (
            [trial("a", 20, scores=(5,))],
            [],
            ["cost 2.00 USD with the lines below; the judge's verdicts come on top.\n"],
        ),
    ],
    ids=["may be chance", "quoted for YAML", "batch size", "equal", "cost", "judged"],
)
def test_the_conclusion_says_what_differs_what_it_costs_and_the_params(tried, sizes, words):
    sizes = trials(*sizes) if sizes else None

    text = conclude(trials(*tried), sizes, seed=1).text

    assert [line for line in words if line not in text] == []


def test_it_is_told_of_how_many_contents_grounding_is_known():
    known = trials(trial("a", 20))
    known.loc[30:, "grounding"] = None

    shown = readable_board(leaderboard(known, seed=1)).set_index("measure")["a"]

    assert shown["grounding"] == "1, 30 of 40 contents"


def test_a_content_without_an_answer_counts_as_not_usable_and_not_valid():
    row = leaderboard(trials(trial("a", 10, answered=10)), seed=1).iloc[0]

    assert row[["usable, %", "valid answers, %", "grounding"]].tolist() == [25.0, 25.0, 1.0]


def test_several_instructions_of_a_content_are_one_witness():
    once, thrice = (leaderboard(trials(trial("a", 20, k=k)), seed=1).iloc[0] for k in (1, 3))

    names = ["usable, %", "usable, % low", "usable, % high"]
    assert thrice[names].tolist() == once[names].tolist()


@pytest.mark.parametrize("k", [1, 3])
def test_a_cost_unknown_for_one_answer_is_unknown(k):
    tried = trials(trial("a", 10, k=k))
    tried.loc[0, "cost_usd"] = None

    shown = readable_board(leaderboard(tried, seed=1)).set_index("measure")["a"]

    assert shown[COST] == "unknown"


def test_cost_tokens_and_a_judge_s_score_are_told_of_accepted_pairs():
    none, some = (
        leaderboard(trials(trial("a", accepted, scores=(5, 4, 3))), seed=1).iloc[0] for accepted in (0, 20)
    )

    assert none[["tokens per accepted pair", COST]].isna().all()
    assert some[["tokens per accepted pair", COST]].tolist() == [240, pytest.approx(2.0)]
    assert some["judge score, 1–5"] == 4.0


def test_a_trial_of_which_the_judge_said_nothing_stands_beside_one_of_which_it_did():
    shown = readable_board(leaderboard(trials(trial("a", 20, scores=(5,)), trial("b", 10)), seed=1))

    assert shown.columns.tolist() == ["measure", "a", "b"]
    assert shown.set_index("measure").loc["judge score, 1–5"].tolist() == ["5", "–"]
    assert shown.set_index("measure").loc["usable, %", "a"].startswith("50.0 (")


def test_exchanged_instructions_show_as_an_effect_of_the_batch():
    right, alone = trial("a", 40), trial("a", 40, batch_size=1)
    exchanged = right.assign(instruction=[right.instruction[n ^ 1] for n in range(40)])

    effects = batch_effects(trials(exchanged, alone), seed=1)

    assert effects.trial.tolist() == ["1", "8"]
    assert effects[MIXED].tolist() == [0.0, 100.0]
    assert effects[SAME].iloc[0] == pytest.approx(50.0, abs=1)


def test_one_batch_size_alone_has_no_effect():
    assert readable_board(batch_effects(trials(trial("a", 40)), seed=1)).empty


SUBJECTS = ("caching", "gardening", "schedulers", "sailing", "embeddings", "baking")


@pytest.fixture
def server():
    with endpoint.serve(keep_bodies=True) as server:
        yield server


@pytest.fixture
def settings(tmp_path, server):
    lines = [
        {"cleaned_content": f"A post on {s} and what {s} taught us about {s}.", "type": "posts"}
        for s in SUBJECTS
    ]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with open_source(str(tmp_path / "qdrant")) as source:
        load_files(source, [tmp_path / "posts.jsonl"], collection="cleaned_posts")
    places = {"qdrant": str(tmp_path / "qdrant"), "answers": str(tmp_path / "answers.sqlite")}
    run_dir = str(tmp_path / "run")
    return Params(endpoint=server.base_url, model="m", run_dir=run_dir, batch_sizes=(1,), **places)


class Study:
    """An opened study, its chunks and a sample of them."""

    def __init__(self, settings, *, most=6):
        self.settings, source, self.endpoint, self.store = pipeline.open_study(settings, environ={})
        self.chunks = pipeline.read_chunks(source, self.settings, self.store)
        self.sample = sample_of(self.chunks, most=most, seed=1)

    def call(self, act, *rows, **named):
        return act(*(rows or (self.sample,)), self.settings, self.endpoint, self.store, **named)

    def tune(self, act, *rows, **named):
        """Call a function of a sample, whose rows are compared with all chunks."""
        return self.call(act, *rows, **{"among": self.chunks} | named)

    @property
    def asked(self):
        return pipeline.run_of(self.settings).read().get("asked", {}).values()


def test_every_prompt_is_asked_about_the_same_contents_once_and_counted_towards_the_run(settings, server):
    study = Study(settings)
    first = [study.tune(act) for act in (tuning.try_variants, tuning.try_batch_sizes)]
    sent = server.stats()["requests"]
    counted, fields = sum(part["requests"] for part in study.asked), pipeline.run_of(study.settings).read()
    tried = first[0]

    again = [Study(settings).tune(act) for act in (tuning.try_variants, tuning.try_batch_sizes)]

    assert tried.trial.unique().tolist() == ["seed", "grounded"]
    assert tried.instruction.notna().all()
    assert tried.groupby("trial").content_id.agg(tuple).nunique() == 1
    assert (counted, "params" in fields) == (sent, False)
    assert server.stats()["requests"] == sent > 0
    assert [one.instruction.tolist() for one in again] == [one.instruction.tolist() for one in first]


def test_one_thing_varies_at_a_time_and_without_any_list_nothing():
    tried = tuning.variants_of(Params(model="a", models=("a", "b"), languages=("same", "en")))

    assert [" ".join((one.prompt, one.model, one.instruction_language)) for one in tried] == [
        "seed a same", "grounded a same", "grounded b same", "grounded a en"
    ]  # fmt: skip
    assert tuning.variants_of(Params(prompts=())) == [Params(prompts=())]


def test_every_model_has_its_own_price():
    settings = Params(model="gpt-4o-mini", models=("gpt-4o", "unheard-of"), usd_per_million_input=1.0)
    variants = tuning.variants_of(settings)

    prices = [pipeline.price_for(one, Endpoint(OPENAI, OPENAI, one.model, one.model)) for one in variants]

    assert [price.usd_per_million_input for price in prices] == [1.0, 1.0, 2.5, None]


def test_a_model_that_is_named_and_meant_by_default_is_tried_once(settings):
    with endpoint.serve(models=("scripted",)) as one:
        changes = {"endpoint": one.base_url, "model": "", "models": ("scripted",), "prompts": ()}
        tried = Study(replace(settings, **changes)).tune(tuning.try_variants)

    assert (tried.trial.unique().tolist(), tried.model.unique().tolist()) == (["grounded"], ["scripted"])


def test_a_trial_that_lacks_answers_is_not_compared(settings, server):
    server.change([{"when": {"model": "n", "text": "sailing"}, "do": {"status": 500}}])
    study = Study(replace(settings, models=("n",), prompts=(), batch_size=1))
    study.endpoint = replace(study.endpoint, patience=QUICK)

    with pytest.raises(
        RunIncomplete, match=r"1 of 6 tuning: grounded · n in batches of 1: instructions are pending"
    ):
        study.tune(tuning.try_variants)


def test_usable_is_judged_in_the_language_that_was_asked(settings):
    tried = Study(replace(settings, prompts=(), languages=("en", "ja"))).tune(tuning.try_variants)

    asked = tried.groupby("instruction_language").language_asked.unique()
    assert {name: values.tolist() for name, values in asked.items()} == {"en": ["en"], "ja": ["ja"]}


def test_grounding_compares_with_all_chunks_and_not_with_the_sample_alone(settings, tmp_path):
    copy = {"id": 7, "cleaned_content": "On caching, by another: caching again, all about caching."}
    (tmp_path / "more.jsonl").write_text(json.dumps(copy | {"type": "posts"}) + "\n")
    with open_source(settings.qdrant) as source:
        load_files(source, [tmp_path / "more.jsonl"], collection="cleaned_posts")
    study = Study(replace(settings, prompts=(), embedding_model="off"))
    sample = study.chunks[study.chunks.content.str.startswith("A post on caching")]

    alone = study.tune(tuning.try_variants, sample, among=sample)
    among = study.tune(tuning.try_variants, sample)

    assert len(among) == len(alone) == 1
    assert among.grounding_margin[0] < alone.grounding_margin[0]


def test_what_people_decided_about_one_prompt_lets_it_neither_win_nor_lose(settings):
    study = Study(settings)
    before = study.tune(tuning.try_variants)
    pairs = before[before.trial == "grounded"]
    path = reviews_file(study.store.path)
    for decision, row in zip(("edit", "reject"), pairs.itertuples(), strict=False):
        save_review(path, Review(row.id, decision, row.instruction, "My own words." * (decision == "edit")))

    after = study.tune(tuning.try_variants)

    assert after[["instruction", "state"]].equals(before[["instruction", "state"]])


@pytest.mark.parametrize("winner", range(4))
def test_what_the_winner_answered_is_not_paid_again_by_the_dataset(settings, server, winner):
    compared = replace(settings, models=("m", "n"), languages=("same", "en"))
    study = Study(compared, most=4)
    study.tune(tuning.try_variants)
    sent = server.stats()["requests"]

    study.settings = tuning.variants_of(study.settings)[winner]
    study.endpoint = pipeline.with_model(study.endpoint, study.settings.model)
    report = study.call(pipeline.ask_instructions, study.chunks)

    assert (report.answered_before, report.answered) == (4, 2)
    asked = [one["body"]["messages"][-1]["content"] for one in server.bodies()[sent:]]
    assert len(asked) == 1
    assert not any(text in asked[0] for text in study.sample.content)


def test_another_batch_size_is_really_asked_and_leaves_the_answers_alone(settings, server):
    study = Study(settings)

    tried = study.tune(tuning.try_batch_sizes)

    assert tried.groupby("trial").batch_size.first().to_dict() == {"one by one": 1, "8 in a request": 8}
    assert server.stats()["requests"] == 6 + 1
    assert study.call(pipeline.ask_instructions, study.chunks).requests == 0
    assert {tuple(sorted(one["body"])) for one in server.bodies()} == {
        ("max_tokens", "messages", "model", "response_format", "temperature")
    }


PRICES = {"usd_per_million_input": 5.0, "usd_per_million_output": 20.0}


@pytest.mark.parametrize(
    ("values", "requests"),
    [({"judge_model": "judge", "batch_sizes": [8]}, 28), ({"batch_sizes": [1, 4]}, 1 + 8 + 2 + 3)],
    ids=["judged", "batch sizes"],
)
def test_a_forecast_holds_for_tuning_instructions_and_verdicts(tmp_path, server, values, requests):
    study = Study(
        make_bench(tmp_path, server).settings(prompts=["grounded"], tune_sample=8, **PRICES, **values)
    )
    forecast = study.call(tuning.forecast_run, study.chunks)

    study.sample = sample_of(study.chunks, most=8, seed=study.settings.seed)
    study.tune(tuning.try_variants)
    study.tune(tuning.try_batch_sizes)
    pipeline.make_dataset(study.settings, environ={})

    assert sum(part["requests"] for part in study.asked) == forecast.requests.sum() == requests
    cost = sum(part["cost_usd"] for part in study.asked)
    assert forecast.cost_usd_low.sum() <= cost <= forecast.cost_usd_high.sum()
    stored = study.call(tuning.forecast_run, study.chunks)
    assert stored.requests.sum() == 0
    assert not stored.what.str.contains("cut anew").any()


@pytest.mark.parametrize(
    ("contents", "values", "tried", "sizes"),
    [
        (26, {}, 12, [8]),
        (26, {"batch_sizes": (1,)}, 12, [1, 8]),
        (26, {"tune_sample": 20}, 20, [1, 8]),
        (100, {}, 25, [8]),
        (2000, {}, 50, [1, 8]),
        (200, {"prompts": ("seed", "grounded", "small"), **PRICES}, 13, [1, 8]),
    ],
    ids=["few posts", "sizes by hand", "sample by hand", "a quarter", "many posts", "dear"],
)
def test_what_is_tried_is_in_proportion_to_the_job(contents, values, tried, sizes):
    chunks = pd.DataFrame({"content_id": [f"{n}" for n in range(contents)], "content": "word " * 90})
    chunks = chunks.assign(collection="a", data_type="posts", author="x", state="pending")
    settings = Params(endpoint="https://host/v1", model="m", **values)

    sample = tuning.sample_for(chunks, settings, Endpoint("https://host/v1", "https://host/v1", "m", "m"))

    assert len(sample) == tried
    assert [one.batch_size for one in tuning.sizes_of(settings, share=tried / contents)] == sizes


def test_each_prompt_and_model_named_has_its_forecast(tmp_path, server):
    study = Study(make_bench(tmp_path, server).settings(models=["other"], **PRICES))

    frame = study.call(tuning.forecast_variants, study.chunks)

    assert frame.what.tolist() == ["grounded · scripted", "seed · scripted", "grounded · other"]
    assert frame.chunks.tolist() == [24, 24, 24]
    assert frame.cost_usd_low.isna().tolist() == [False, False, True]


def test_the_forecast_of_tuning_is_at_live_prices(tmp_path, server):
    bench = make_bench(tmp_path, server)
    live, batch = (Study(bench.settings(mode=mode, **PRICES)) for mode in ("live", "batch"))

    costs = [study.tune(tuning.forecast_tuning).cost_usd_high.sum() for study in (live, batch)]

    assert costs[0] == costs[1] > 0
