"""Prompts and batch sizes tried on one sample, with the real engine and a scripted endpoint."""

from __future__ import annotations

import json

import endpoint
import pytest

from llmtwin_data.errors import BudgetReached
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.generator.tuning import try_batch_sizes, try_prompts
from llmtwin_data.params import Params
from llmtwin_data.sources import open_source
from llmtwin_data.sources.loading import load_jsonl
from llmtwin_data.summaries.sampling import stratified_sample

SUBJECTS = ("caching", "gardening", "schedulers", "sailing", "embeddings", "baking")


@pytest.fixture
def server():
    with endpoint.serve() as server:
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
    trials = try_prompts(generator, sample_of(generator))

    assert [trial.prompt for trial in trials] == ["seed", "grounded"]
    assert {len(trial.pairs) for trial in trials} == {6}
    assert len({trial.chunks for trial in trials}) == 1


def test_a_prompt_tried_again_sends_nothing(generator, server):
    try_prompts(generator, sample_of(generator))
    sent = server.stats()["requests"]

    again = try_prompts(generator, sample_of(generator))

    assert server.stats()["requests"] == sent
    assert [trial.report.answered_before for trial in again] == [6, 6]


def test_what_was_tried_is_not_paid_again_by_the_dataset(generator, settings, server):
    try_prompts(generator, sample_of(generator), prompts=["grounded"])
    sent = server.stats()["requests"]

    report = generator.generate()

    assert (report.answered_before, report.requests) == (6, 0)
    assert server.stats()["requests"] == sent


def test_another_batch_size_is_really_asked_and_leaves_the_answers_alone(generator, server):
    alone, usual = try_batch_sizes(generator, sample_of(generator))

    assert (alone.batch_size, alone.report.requests) == (1, 6)
    assert (usual.batch_size, usual.report.requests) == (8, 1)
    assert generator.generate().requests == 0


def test_a_batch_size_tried_before_is_not_paid_again(generator, server):
    try_batch_sizes(generator, sample_of(generator))
    sent = server.stats()["requests"]

    try_batch_sizes(generator, sample_of(generator))

    assert server.stats()["requests"] == sent


def test_nothing_is_asked_about_an_empty_sample(generator, server):
    assert try_prompts(generator, []) == []
    assert server.stats()["requests"] == 0


def test_the_limit_is_for_all_prompts_together(settings, server):
    # Each prompt alone stays below the limit; the third would cross it.
    prices = {"usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0, "max_cost_usd": 4.0}
    fields = settings.as_dict() | prices
    generator = DatasetGenerator(Params(**fields), environ={})

    with pytest.raises(BudgetReached):
        try_prompts(generator, sample_of(generator), prompts=["seed", "grounded", "small"])

    generator.close()
    assert server.stats()["requests"] == 2


def test_what_tuning_sends_is_counted_towards_the_run(generator, server):
    try_prompts(generator, sample_of(generator))
    try_batch_sizes(generator, sample_of(generator))

    asked = generator.run.read()["asked"]
    assert sum(part["requests"] for part in asked.values()) == server.stats()["requests"] > 0
