"""The spine, from a collection to a published dataset, on the real engine and the scripted endpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import endpoint
import pytest
from asking import IMPATIENT, QUICK
from running import make_bench

from llmtwin_data.datasets.checks import check_run
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.endpoints import open_endpoint
from llmtwin_data.errors import BillingRefused, BudgetReached, ParamsError, QualityGate, RunIncomplete
from llmtwin_data.folders import PROMPTS
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.prompts import load_template


def publish(settings, **collaborators):
    with DatasetGenerator(settings, environ={}, **collaborators) as generator:
        generator.publish()
    return generator


def test_a_run_publishes_and_keeps_every_promise(bench):
    generator = publish(bench.settings())
    fields = bench.out.read()

    assert check_run(bench.out.path) == []
    assert (fields["state"], fields["totals"]["accepted"], fields["totals"]["requests"]) == (
        "complete",
        24,
        3,
    )
    assert [pair.instruction.count(f"DOC-{pair.chunk.content_id})") for pair in generator.pairs()] == [1] * 24


def test_every_model_is_reached_through_the_collaborator_given(bench):
    models = []

    def opened(address, *, model, environ):
        models.append(model)
        return open_endpoint(address, model=model, environ=environ)

    publish(bench.settings(judge_model="other"), open_endpoint=opened)

    assert set(models) == {"scripted", "other"}


def test_the_same_again_sends_nothing_and_gives_the_same_bytes(bench):
    publish(bench.settings())
    before = bench.manifest()
    generator = publish(bench.settings())

    assert bench.manifest() == before
    assert generator.totals()["requests"] == 0
    assert bench.server.stats()["requests"] == 3


def test_a_step_is_made_once_and_calls_the_one_before_it(bench):
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        assert len(generator.sides()) == 24
        assert generator.generate() is generator.generate()
        assert generator.measure() is generator.measure()
    assert bench.server.stats()["requests"] == 3


def test_the_values_as_resolved_stand_in_the_run_file(bench):
    publish(bench.settings())
    fields = bench.out.read()

    assert fields["params"]["endpoint"] == bench.server.base_url
    assert (fields["params"]["batch_size"], fields["params"]["model"]) == (8, "scripted")
    assert "run_dir" not in fields["given"]
    assert {"llmtwin_data", "python"} <= fields["versions"].keys()


def test_a_forecast_names_what_is_left_to_ask(bench):
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        before = generator.forecast()
        generator.generate()
    with DatasetGenerator(bench.settings(), environ={}) as generator:
        after = generator.forecast()

    assert (before["requests"].sum(), after["requests"].sum(), after["answered"].sum()) == (3, 0, 24)


def test_new_contents_send_only_what_is_new(bench, tmp_path):
    publish(bench.settings())
    (tmp_path / "more").mkdir()
    more = make_bench(tmp_path / "more", bench.server, documents=28)
    publish(replace(more.settings(), answers=bench.settings().answers, run_dir=bench.settings().run_dir))

    assert bench.server.stats()["texts_paid_total"] == 28
    assert bench.server.stats()["texts_paid_distinct"] == 28


def test_an_alarm_of_the_pilot_stops_before_the_rest_is_paid(tmp_path):
    same = [{"when": {}, "do": {"instruction": "Write a post about what you learned at work this year."}}]
    with endpoint.serve(script=same) as server:
        bench = make_bench(tmp_path, server, documents=60)
        with pytest.raises(QualityGate, match="nothing is published"):
            publish(bench.settings(quality_gate="stop", concurrency=1))

        assert server.stats()["requests"] <= 5
        assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("gated", False)


@pytest.mark.parametrize("gate", ["stop", "warn"])
def test_a_run_of_which_every_pair_is_rejected_publishes_nothing(tmp_path, gate):
    with endpoint.serve(script=[{"when": {}, "do": {"copy": True}}]) as server:
        bench = make_bench(tmp_path, server, documents=2)
        with pytest.raises(
            QualityGate, match="empty: expected at least 1, found 0 of 2 instructions accepted"
        ):
            publish(bench.settings(quality_gate=gate))

    assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("gated", False)


def test_a_gated_run_leaves_a_ledger_with_what_is_pending(tmp_path):
    same = [{"when": {}, "do": {"instruction": "Write a post about what you learned at work this year."}}]
    with endpoint.serve(script=same) as server:
        bench = make_bench(tmp_path, server, documents=60)
        with pytest.raises(QualityGate):
            publish(bench.settings(quality_gate="stop", concurrency=1))

    states = {row.state for row in read_ledger(bench.out.ledger_file)}
    assert states == {"accepted", "pending"}
    assert check_run(bench.out.path) == []


def test_a_server_that_fails_leaves_the_run_incomplete_and_the_next_one_completes_it(tmp_path):
    down = [{"when": {"request": {"from": 3, "to": 10_000}}, "do": {"status": 503}}]
    with endpoint.serve(script=down) as server:
        bench = make_bench(tmp_path, server)
        with pytest.raises(RunIncomplete):
            publish(bench.settings(batch_size=4), patience=IMPATIENT)
        assert bench.out.read()["state"] == "incomplete"
        assert check_run(bench.out.path) == []
        server.change([])
        publish(bench.settings(batch_size=4), patience=QUICK)

    assert bench.out.read()["state"] == "complete"
    assert check_run(bench.out.path) == []


def test_what_fails_for_good_is_told_and_not_asked_again_unless_wanted(tmp_path):
    refusing = [{"when": {"doc": 3}, "do": {"refusal": "I cannot."}}]
    with endpoint.serve(script=refusing) as server:
        bench = make_bench(tmp_path, server)
        totals = publish(bench.settings()).totals()
        calls = server.stats()["requests"]
        publish(bench.settings())
        assert (totals["failed"], totals["accepted"], server.stats()["requests"]) == (1, 23, calls)
        server.change([])
        with DatasetGenerator(bench.settings(), environ={"LLMTWIN_RETRY_FAILED": "1"}) as generator:
            generator.publish()

    assert (generator.totals()["failed"], generator.totals()["accepted"]) == (0, 24)


def test_a_budget_ends_the_run_resumable(bench):
    prices = {"usd_per_million_input": 1000, "usd_per_million_output": 1000}
    with pytest.raises(BudgetReached):
        publish(bench.settings(max_cost_usd=0.4, batch_size=1, concurrency=1, **prices))

    assert bench.out.read()["state"] == "incomplete"
    assert bench.server.stats()["requests"] < 24


def test_a_budget_without_a_price_sends_nothing(bench):
    with pytest.raises(ParamsError, match="price"):
        publish(bench.settings(max_cost_usd=1))

    assert bench.server.stats()["requests"] == 0


def test_a_judge_s_verdicts_stand_in_the_rows_and_cost_nothing_twice(bench):
    publish(bench.settings(judge_model="judge"))
    calls = bench.server.stats()["requests"]
    publish(bench.settings(judge_model="judge"))
    row = json.loads((bench.out.dataset / "train.jsonl").open(encoding="utf-8").readline())

    assert 1 <= row["judge_score"] <= 5
    assert bench.server.stats()["requests"] == calls


def test_verdicts_that_the_server_owes_leave_the_run_incomplete(tmp_path):
    """A judge that only ever failed left a complete run without verdicts."""
    down = [{"when": {"asks": "verdicts", "doc": 3}, "do": {"status": 500}}]
    with endpoint.serve(script=down) as server:
        bench = make_bench(tmp_path, server)
        with pytest.raises(RunIncomplete, match="verdicts are pending"):
            publish(bench.settings(judge_model="judge", batch_size=1), patience=QUICK)
        assert bench.out.read()["state"] == "incomplete"
        server.change([])
        publish(bench.settings(judge_model="judge", batch_size=1), patience=QUICK)

    assert bench.out.read()["state"] == "complete"


def test_a_verdict_without_a_valid_score_fails_is_shown_and_asked_again_only_when_wanted(tmp_path):
    wrong = '{"verdicts":[{"content":1,"reason":"fine","score":7}]}'
    script = [{"when": {"asks": "verdicts", "doc": 3}, "do": {"raw": wrong}}]
    settings = {"judge_model": "judge", "batch_size": 1, "min_judge_score": 1}
    with endpoint.serve(script=script) as server:
        bench = make_bench(tmp_path, server)
        generator = publish(bench.settings(**settings))
        assert [judged.score for judged in generator.judged()].count(0) == 1
        assert generator.totals()["rejected"] == 1
        assert bench.out.read()["asked"]["verdicts"]["requests"] > 24
        server.change([])
        with DatasetGenerator(bench.settings(**settings), environ={"LLMTWIN_RETRY_FAILED": "1"}) as again:
            again.publish()

    assert all(judged.score for judged in again.judged())


def test_the_run_keeps_what_the_judge_said_of_every_pair(bench):
    generator = publish(bench.settings(judge_model="judge"))
    lines = (bench.out.path / "verdicts.jsonl").read_text().splitlines()
    choosers = bench.out.read()["judge"]

    assert [json.loads(line)["pair_id"] for line in lines] == [pair.id for pair in generator.pairs()]
    assert [chooser["chooser"] for chooser in choosers] == ["judge, 4 or more", "longest", "random"]


def test_several_collections_are_split_together(bench, tmp_path):
    from llmtwin_data.sources import open_source
    from llmtwin_data.sources.loading import load_jsonl

    with open_source(bench.settings().qdrant) as source:
        load_jsonl(source, tmp_path / "posts.jsonl", collection="cleaned_articles")
    generator = publish(bench.settings(collections=["cleaned_posts", "cleaned_articles"]))

    assert generator.dataset_name() == "posts-instruct-dataset"
    assert generator.totals()["contents"] == 48
    assert check_run(bench.out.path) == []


def test_the_sides_of_the_dataset_before_are_kept(bench, tmp_path):
    first = publish(bench.settings(previous="", test_fraction=0.3))
    (tmp_path / "more").mkdir()
    more = make_bench(tmp_path / "more", bench.server, documents=40)
    settings = more.settings(previous="", test_fraction=0.3)
    second = publish(replace(settings, answers=bench.settings().answers))
    sides = dict(zip((pair.id for pair in second.pairs()), second.sides(), strict=True))

    before = zip(first.pairs(), first.sides(), strict=True)
    assert {pair.id: side for pair, side in before}.items() <= sides.items()


def test_without_a_run_folder_it_makes_one_of_its_own(bench, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.processes.sessions.PROJECT_ROOT", tmp_path)
    generator = publish(replace(bench.settings(), run_dir=""))

    assert generator.run.path.parent == tmp_path / "runs" / "notebook"
    assert check_run(generator.run.path) == []


def test_an_instruction_that_repeats_the_prompts_example_is_rejected(tmp_path):
    template = load_template("small", folder=PROMPTS)
    parrot = [{"when": {}, "do": {"instruction": template.examples[0][1]}}]
    with endpoint.serve(script=parrot) as server:
        bench = make_bench(tmp_path, server)
        with DatasetGenerator(bench.settings(prompt="small", quality_gate="warn"), environ={}) as generator:
            reasons = {decision.reason for decision in generator.curate()}

    assert reasons == {"boundary"}


def test_the_run_file_says_what_changed_since_the_dataset_before(bench, tmp_path):
    publish(bench.settings())
    first = bench.out.read()["changes"]
    (tmp_path / "more").mkdir()
    more = make_bench(tmp_path / "more", bench.server, documents=28)
    publish(replace(more.settings(), answers=bench.settings().answers))
    changes = more.out.read()["changes"]

    assert first == {}
    assert (changes["added"], changes["removed"], changes["changed"]) == (4, 0, 0)
    assert changes["moved"] == len(changes["moved_rows"])


def test_what_changed_is_still_said_after_a_run_that_went_on(bench, tmp_path):
    publish(bench.settings())
    (tmp_path / "more").mkdir()
    more = make_bench(tmp_path / "more", bench.server, documents=28)
    settings = replace(more.settings(), answers=bench.settings().answers)
    publish(settings)
    more.out.update(state="incomplete")  # as after a kill while the report was made
    publish(settings)

    assert more.out.read()["changes"]["added"] == 4


@pytest.mark.parametrize("broken", [False, True], ids=["in one go", "gone on with"])
def test_the_same_candidates_are_chosen_whatever_the_order(tmp_path, broken):
    one_by_one = {"when": {"field": "n"}, "do": {"status": 400, "error": {"param": "n", "message": "n?"}}}
    every_other = {"attempt": [1, 3, 5, 7]}
    stray = {"when": every_other, "do": {"instruction": "Write a short piece on some DOC for everyone"}}
    stop = {"when": {"request": 25, "times": 1}, "do": {"status": 402}}
    chosen = []
    for concurrency in (1, 8):
        script = [one_by_one, *([stop] if broken else []), stray]
        (tmp_path / str(concurrency)).mkdir()
        with endpoint.serve(script=script, latency_ms=3, sigma=1.0) as server:
            bench = make_bench(tmp_path / str(concurrency), server)
            settings = bench.settings(candidates=2, batch_size=1, concurrency=concurrency)
            if broken:
                with pytest.raises(BillingRefused):
                    publish(settings)
            publish(settings)
        rows = [json.loads(line) for path in bench.out.dataset.glob("t*.jsonl") for line in path.open()]
        chosen.append({row["content_id"]: row["instruction"] for row in rows})

    assert chosen[0] == chosen[1]
    assert all(f"instruction for DOC-{content})" in told for content, told in chosen[0].items())
    assert len(chosen[0]) == 24
