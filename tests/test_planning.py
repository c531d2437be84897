"""What a run will ask: forecast before, counted after, and one limit for all of it."""

from __future__ import annotations

import json
import sqlite3

import endpoint
import pytest
from running import make_bench

from llmtwin_data.cli import main
from llmtwin_data.errors import BudgetReached, ParamsError
from llmtwin_data.generator import DatasetGenerator, accounts, tuning
from llmtwin_data.generator.forecasts import check_prices
from llmtwin_data.params import Params
from llmtwin_data.summaries.sampling import stratified_sample

PRICES = {"usd_per_million_input": 5.0, "usd_per_million_output": 20.0}


def do_all(generator):
    """Do what notebooks 1 to 3 do."""
    generator.run.update(state="running")
    forecast = generator.forecast_run()
    settings = generator.settings
    sample = stratified_sample(generator.fetch().chunks, most=settings.tune_sample, seed=settings.seed)
    tuning.try_variants(generator, sample)
    tuning.try_batch_sizes(generator, sample)
    generator.publish()
    return forecast


def test_a_forecast_holds_for_tuning_instructions_and_verdicts(bench):
    settings = bench.settings(judge_model="judge", prompts=["grounded"], tune_sample=8, **PRICES)
    with DatasetGenerator(settings, environ={}) as generator:
        forecast = do_all(generator)
        asked = generator.run.read()["asked"].values()
    with DatasetGenerator(settings, environ={}) as generator:
        again = generator.forecast_run()

    assert sum(part["requests"] for part in asked) == forecast["requests"].sum() == 24
    cost = sum(part["cost_usd"] for part in asked)
    assert forecast["cost_usd_low"].sum() <= cost <= forecast["cost_usd_high"].sum()
    assert again["requests"].sum() == 0


def test_a_dry_look_makes_no_store_for_a_batch_size(bench):
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        generator.forecast_run()

    assert [path.name for path in bench.folder.glob("*.sqlite")] == ["answers.sqlite"]


def test_each_prompt_and_model_named_has_its_forecast(bench):
    settings = bench.settings(models=["other"], usd_per_million_input=5.0, usd_per_million_output=20.0)
    with DatasetGenerator(settings, environ={}) as generator:
        frame = generator.forecast_variants()

    assert frame["what"].tolist() == ["grounded · scripted", "seed · scripted", "grounded · other"]
    assert frame["chunks"].tolist() == [24, 24, 24]
    assert frame["cost_usd_low"].isna().tolist() == [False, False, True]


def test_the_first_chunks_refine_the_forecast(tmp_path):
    with endpoint.serve() as server:
        bench = make_bench(tmp_path, server, documents=60)
        with DatasetGenerator(bench.settings(**PRICES), environ={}) as generator:
            report = generator.generate()
        fields = bench.out.read()

    wide, narrow = fields["forecast"]["instructions"], fields["forecast"]["instructions, after the pilot"]
    assert "after the first 32 chunks" in fields["told"][-1]
    assert narrow["cost_usd_low"] <= report.cost_usd <= narrow["cost_usd_high"]
    assert narrow["cost_usd_high"] - narrow["cost_usd_low"] < wide["cost_usd_high"] - wide["cost_usd_low"]


def test_the_first_chunks_tell_what_thinking_costs(tmp_path):
    with endpoint.serve(thinks=1_500, thinks_sigma=0.1) as server:
        bench = make_bench(tmp_path, server, documents=160)
        with DatasetGenerator(bench.settings(**PRICES), environ={}) as generator:
            report = generator.generate()
        fields = bench.out.read()

    narrow = fields["forecast"]["instructions, after the pilot"]
    assert report.reasoning_tokens > 20 * 1_000
    assert narrow["completion_tokens"] == pytest.approx(report.completion_tokens, rel=0.25)


def test_one_limit_is_for_tuning_and_dataset_together(bench):
    settings = bench.settings(max_cost_usd=0.08, judge_model="judge", tune_sample=8, concurrency=2, **PRICES)
    with DatasetGenerator(settings, environ={}) as generator, pytest.raises(BudgetReached, match=r"0\.08"):
        do_all(generator)

    with sqlite3.connect(bench.folder / "answers.sqlite") as db:
        assert 0 < db.execute("SELECT sum(cost_usd) FROM requests").fetchone()[0] <= 0.08
    assert 0.03 < accounts.spent_usd(generator.run.read()) <= 0.08


@pytest.mark.slow
def test_a_limit_holds_however_often_a_run_is_resumed(bench, capsys):
    settings = {"max_cost_usd": 0.02, "concurrency": 1, "batch_size": 1} | PRICES
    bench.params_file.write_text(json.dumps(bench.values(**settings)))
    command = ["run", str(bench.params_file), "--out", str(bench.out.path), "--only", "3"]
    codes, first = [main(command)], bench.server.stats()["requests"]
    codes.append(main(command))

    assert (codes, bench.server.stats()["requests"]) == ([5, 5], first)
    assert 0.005 < accounts.spent_usd(bench.out.read()) <= 0.02


@pytest.mark.parametrize("more", [{"models": ("x",)}, {"judge_model": "x"}], ids=["model", "judge"])
def test_a_limit_wants_the_price_of_every_model(more):
    settings = Params(endpoint="https://api.openai.com/v1", model="gpt-4o-mini", max_cost_usd=1.0, **more)

    with pytest.raises(ParamsError, match="price of x is unknown"):
        check_prices(settings, environ={"OPENAI_API_KEY": "sk-x"})


def test_what_is_mended_in_the_store_is_told(bench):
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        generator.generate()
    path = bench.folder / "answers.sqlite"
    raw = bytearray(path.read_bytes())
    for page in range(6, len(raw) // 4096, 2):
        raw[4096 * page + 100 : 4096 * page + 1500] = bytes(1400)
    path.write_bytes(raw)
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        generator.answers()

    assert "answers.sqlite was damaged" in bench.out.read()["told"][-1]
