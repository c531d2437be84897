"""What notebook 2 varies, tried on one sample with the real engine and a scripted endpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import endpoint
import pytest
from asking import QUICK

from llmtwin_data.endpoints import OPENAI, Endpoint
from llmtwin_data.errors import BudgetReached, RunIncomplete
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.generator.questions import price_for
from llmtwin_data.generator.tuning import try_batch_sizes, try_variants, variants_of
from llmtwin_data.params import Params
from llmtwin_data.sources import open_source
from llmtwin_data.sources.loading import load_jsonl
from llmtwin_data.summaries.sampling import stratified_sample

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
        load_jsonl(source, tmp_path / "posts.jsonl", collection="cleaned_posts")
    places = {"qdrant": str(tmp_path / "qdrant"), "answers": str(tmp_path / "answers.sqlite")}
    return Params(endpoint=server.base_url, model="m", run_dir=str(tmp_path / "run"), **places)


@pytest.fixture
def generator(settings):
    generator = DatasetGenerator(settings, environ={})
    yield generator
    generator.close()


def sample_of(generator, *, most=6):
    return stratified_sample(generator.fetch().chunks, most=most, seed=1)


def test_every_prompt_is_asked_about_the_same_contents(generator):
    trials = try_variants(generator, sample_of(generator))

    assert [trial.prompt for trial in trials] == ["seed", "grounded"]
    assert {len(trial.pairs) for trial in trials} == {6}
    assert len({trial.chunks for trial in trials}) == 1


def test_a_prompt_tried_again_sends_nothing(generator, server):
    try_variants(generator, sample_of(generator))
    sent = server.stats()["requests"]

    again = try_variants(generator, sample_of(generator))

    assert server.stats()["requests"] == sent
    assert [len(trial.pairs) for trial in again] == [6, 6]


def test_one_thing_varies_at_a_time():
    settings = Params(model="a", models=("a", "b"), languages=("same", "en"))

    tried = variants_of(settings)

    assert [(one.prompt, one.model, one.instruction_language) for one in tried] == [
        ("seed", "a", "same"),
        ("grounded", "a", "same"),
        ("grounded", "b", "same"),
        ("grounded", "a", "en"),
    ]


def test_without_any_list_the_settings_themselves_are_tried():
    assert variants_of(Params(prompts=())) == [Params(prompts=())]


def test_every_model_has_its_own_price():
    settings = Params(model="gpt-4o-mini", models=("gpt-4o", "unheard-of"), usd_per_million_input=1.0)
    places = [Endpoint(OPENAI, OPENAI, one.model, one.model) for one in variants_of(settings)]

    prices = [price_for(one, at) for one, at in zip(variants_of(settings), places, strict=True)]

    assert [price.usd_per_million_input for price in prices] == [1.0, 1.0, 2.5, None]


def test_a_model_that_is_named_and_meant_by_default_is_tried_once(settings, server):
    with endpoint.serve(models=("scripted",)) as one:
        changes = {"endpoint": one.base_url, "model": "", "models": ("scripted",), "prompts": ()}
        with DatasetGenerator(replace(settings, **changes), environ={}) as generator:
            trials = try_variants(generator, sample_of(generator))

    assert [trial.model for trial in trials] == ["scripted"]


def test_a_trial_that_lacks_answers_is_not_compared(settings, server):
    server.change([{"when": {"model": "n", "text": "sailing"}, "do": {"status": 500}}])
    compared = replace(settings, models=("n",), prompts=(), batch_size=1)

    with DatasetGenerator(compared, environ={}, patience=QUICK) as generator:
        sample = sample_of(generator)
        with pytest.raises(RunIncomplete, match="1 pending"):
            try_variants(generator, sample)


def test_usable_is_judged_in_the_language_that_was_asked(settings):
    changes = {"prompts": (), "languages": ("en", "ja")}
    with DatasetGenerator(replace(settings, **changes), environ={}) as generator:
        english, japanese = try_variants(generator, sample_of(generator))

    assert (english.given["instruction_language"], japanese.language) == ("en", "ja")
    assert {measure.language_asked for measure in japanese.measures} == {"ja"}


@pytest.mark.parametrize("winner", [0, 1, 2, 3])
def test_what_the_winner_answered_is_not_paid_again_by_the_dataset(settings, server, winner):
    compared = replace(settings, models=("m", "n"), languages=("same", "en"))
    with DatasetGenerator(compared, environ={}) as generator:
        trials = try_variants(generator, sample_of(generator, most=4))
        sampled = {chunk.text for chunk in trials[winner].chunks}
    sent = server.stats()["requests"]

    with DatasetGenerator(replace(compared, **trials[winner].given), environ={}) as generator:
        report = generator.generate()

    assert (report.answered_before, report.answered) == (4, 2)
    asked = [one["body"]["messages"][-1]["content"] for one in server.bodies()[sent:]]
    assert len(asked) == 1
    assert not any(text in asked[0] for text in sampled)


def test_another_batch_size_is_really_asked_and_leaves_the_answers_alone(generator, server):
    alone, usual = try_batch_sizes(generator, sample_of(generator))

    assert (alone.batch_size, usual.batch_size) == (1, 8)
    assert server.stats()["requests"] == 6 + 1
    assert generator.generate().requests == 0


def test_a_batch_size_tried_before_is_not_paid_again(generator, server):
    try_batch_sizes(generator, sample_of(generator))
    sent = server.stats()["requests"]

    try_batch_sizes(generator, sample_of(generator))

    assert server.stats()["requests"] == sent


def test_nothing_is_asked_about_an_empty_sample(generator, server):
    assert try_variants(generator, []) == []
    assert server.stats()["requests"] == 0


def test_the_limit_is_for_all_trials_together(settings, server):
    # Each prompt alone stays below the limit; the third would cross it.
    prices = {"usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0, "max_cost_usd": 4.5}
    generator = DatasetGenerator(
        replace(settings, prompts=("seed", "grounded", "small"), **prices), environ={}
    )

    with pytest.raises(BudgetReached):
        try_variants(generator, sample_of(generator))

    generator.close()
    assert server.stats()["requests"] == 2


def test_what_tuning_sends_is_counted_towards_the_run(generator, server):
    try_variants(generator, sample_of(generator))
    try_batch_sizes(generator, sample_of(generator))

    asked = generator.run.read()["asked"]
    assert sum(part["requests"] for part in asked.values()) == server.stats()["requests"] > 0
