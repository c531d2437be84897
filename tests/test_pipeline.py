"""The sequence, from a collection to a published dataset, on the real engine and the scripted endpoint."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import endpoint
import pandas as pd
import pytest
from asking import QUICK
from documents import document
from running import load, make_bench

from llmtwin_data import pipeline
from llmtwin_data.answers import Note
from llmtwin_data.checks import check_run
from llmtwin_data.cli import main
from llmtwin_data.errors import BillingRefused, BudgetReached, ParamsError, QualityGate, RunIncomplete
from llmtwin_data.folders import PROMPTS
from llmtwin_data.prompts import load_template
from llmtwin_data.runs import Study, check_before, dry_run

PRICES = {"usd_per_million_input": 5.0, "usd_per_million_output": 20.0}
SAME = [{"when": {}, "do": {"instruction": "Write a post about what you learned at work this year."}}]


def publish(settings, **more):
    return pipeline.make_dataset(settings, environ={}, **more)


def opened(settings):
    settings, source, endpoint, store = pipeline.open_study(settings, environ={})
    chunks = pipeline.read_chunks(source, settings, store)
    return chunks, settings, endpoint, store


def grown(bench, documents, **values):
    """Return a bench whose collection has more documents, and its settings with the same answers."""
    (bench.folder / "more").mkdir()
    more = make_bench(bench.folder / "more", bench.server, documents=documents)
    return more, replace(more.settings(**values), answers=bench.settings().answers)


def test_a_run_keeps_every_promise_and_the_same_again_sends_nothing(bench):
    ledger = publish(bench.settings())
    fields, manifest = bench.out.read(), bench.manifest()
    broken = check_run(bench.out.path)
    publish(bench.settings())

    totals, params = fields["totals"], fields["params"]
    assert (broken, fields["state"], totals["accepted"], totals["requests"]) == ([], "complete", 24, 3)
    asked = (params["endpoint"], params["batch_size"], params["model"])
    assert asked == (bench.server.base_url, 8, "scripted")
    assert {"llmtwin_data", "python"} <= fields["versions"].keys()
    assert [row.instruction.count(f"DOC-{row.content_id})") for row in ledger.itertuples()] == [1] * 24
    assert (bench.manifest(), bench.server.stats()["requests"]) == (manifest, 3)


def test_no_step_drops_or_reorders_a_row(bench):
    place = ["collection", "content_id", "start", "end"]
    chunks, settings, endpoint, store = opened(
        bench.settings(instructions_per_content=2, judge_model="judge")
    )
    pipeline.ask_instructions(chunks, settings, endpoint, store)
    ledger = pipeline.with_answers(chunks, settings, store)
    rows = ledger[[*place, "k"]]

    measured = pipeline.with_measures(ledger, settings, store)
    pipeline.ask_verdicts(measured, settings, endpoint, store)
    judged = pipeline.with_verdicts(measured, settings, store)
    decided = pipeline.with_decisions(judged, settings)
    split = pipeline.with_sides(decided, settings, {})

    assert len(rows) == 2 * len(chunks)
    assert rows.drop_duplicates(place)[place].values.tolist() == chunks[place].values.tolist()
    for step in (measured, judged, decided, split):
        pd.testing.assert_frame_equal(step[[*place, "k"]], rows)


def test_what_is_read_sends_nothing_and_writes_nothing(bench):
    chunks, settings, endpoint, store = opened(bench.settings(judge_model="judge"))

    pipeline.forecast(chunks, settings, endpoint, store)
    ledger = pipeline.with_measures(pipeline.with_answers(chunks, settings, store), settings, store)
    ledger = pipeline.with_decisions(pipeline.with_verdicts(ledger, settings, store), settings)
    pipeline.with_sides(ledger, settings, pipeline.previous_of(ledger, settings))

    assert set(ledger.state) == {"pending"}
    assert bench.server.stats()["requests"] == 0
    assert not bench.out.path.exists()


def test_what_is_asked_again_has_a_line_of_its_own_in_the_forecast(bench):
    publish(bench.settings())
    changed = {"id": 3, "cleaned_content": document(30), "author_id": "a", "type": "posts"}
    load(
        bench.folder / "qdrant",
        [changed, changed | {"id": 40, "cleaned_content": document(40)}],
        file=bench.folder / "more.jsonl",
    )
    chunks, settings, endpoint, store = opened(bench.settings())

    rows = pipeline.forecast(chunks, settings, endpoint, store)

    assert rows.what.str.partition(":")[0].unique().tolist() == ["instructions"]
    assert (rows.chunks - rows.answered).tolist() == [1, 1]
    assert rows.what.str.endswith("cut anew").tolist() == [False, True]


def test_an_alarm_of_the_pilot_stops_before_the_rest_is_paid(tmp_path):
    with endpoint.serve(script=SAME) as server:
        bench = make_bench(tmp_path, server, documents=60)
        with pytest.raises(QualityGate, match="nothing is published"):
            publish(bench.settings(quality_gate="stop", concurrency=1))

        assert server.stats()["requests"] <= 5
        assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("gated", False)
        assert "collapsed" in [alarm["name"] for alarm in bench.out.read()["alarms"]]
        assert (bench.out.path / "pairs.html").read_text(encoding="utf-8").count(
            "what you learned at work"
        ) == 32


@pytest.mark.parametrize(("gate", "asked"), [("stop", 32), ("warn", 60)])
def test_nothing_waits_for_a_pilot_that_cannot_stop_the_run(tmp_path, gate, asked):
    with endpoint.serve() as server:
        chunks, *study = opened(make_bench(tmp_path, server, documents=60).settings(quality_gate=gate))

        pilot = pipeline.ask_pilot(chunks, *study)

        assert len(pilot) == 32
        assert server.stats()["texts_paid_total"] == asked


def test_another_model_s_verdicts_on_every_pair_are_kept_and_cost_nothing_twice(bench):
    ledger = publish(bench.settings(judge_model="other"))
    calls, asked = bench.server.stats()["requests"], bench.out.read()["asked"]["verdicts"]
    publish(bench.settings(judge_model="other"))
    row = json.loads((bench.out.dataset / "train.jsonl").open(encoding="utf-8").readline())
    lines = (bench.out.path / "verdicts.jsonl").read_text().splitlines()
    choosers = bench.out.read()["judge"]

    assert asked["models"] == {"other": 24}
    assert bench.server.stats()["requests"] == calls
    assert 1 <= row["judge_score"] <= 5
    assert [json.loads(line)["pair_id"] for line in lines] == ledger.id.tolist()
    assert [chooser["chooser"] for chooser in choosers] == ["judge, 4 or more", "longest", "random"]


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
        ledger = publish(bench.settings(**settings))
        assert ledger.judge_score.isna().sum() == 1
        assert ledger.reason.tolist().count("judge") == 1
        assert bench.out.read()["asked"]["verdicts"]["requests"] > 24
        server.change([])
        study = Study("study", bench.settings(**settings), notebooks=(3,))
        for retries in (False, True):
            (total,) = dry_run(replace(study, retry_failed=retries), environ={}, say=lambda line: None)
            assert total["requests"] == retries
        environ = {pipeline.RETRY_FAILED: "1"}
        again = pipeline.make_dataset(bench.settings(**settings), environ=environ)

    assert again.judge_score.notna().all()


def test_several_collections_are_split_together(bench, tmp_path):
    from llmtwin_data.loading import load_files
    from llmtwin_data.sources import open_source

    with open_source(bench.settings().qdrant) as source:
        load_files(source, [tmp_path / "posts.jsonl"], collection="cleaned_articles")
    publish(bench.settings(collections=["cleaned_posts", "cleaned_articles"]))

    assert bench.out.read()["dataset_name"] == "posts-instruct-dataset"
    assert bench.out.read()["totals"]["contents"] == 48
    assert check_run(bench.out.path) == []


def test_the_sides_of_the_dataset_before_are_kept(bench):
    first = publish(bench.settings(previous="", test_fraction=0.3))
    second = publish(grown(bench, 40, previous="", test_fraction=0.3)[1])

    before, after = (dict(zip(ledger.id, ledger.side, strict=True)) for ledger in (first, second))
    assert before.items() <= after.items()


def test_without_a_run_folder_it_makes_one_of_its_own(bench, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.folders.RUNS", tmp_path / "runs")
    publish(replace(bench.settings(), run_dir=""))

    [run] = (tmp_path / "runs" / "notebook").iterdir()
    assert check_run(run) == []


def test_an_instruction_that_repeats_the_prompts_example_is_rejected(tmp_path):
    template = load_template("small", folder=PROMPTS)
    parrot = [{"when": {}, "do": {"instruction": template.examples[0][1]}}]
    with endpoint.serve(script=parrot) as server:
        bench = make_bench(tmp_path, server)
        chunks, settings, asked, store = opened(bench.settings(prompt="small"))
        pipeline.ask_instructions(chunks, settings, asked, store)
        ledger = pipeline.with_measures(pipeline.with_answers(chunks, settings, store), settings, store)
        ledger = pipeline.with_decisions(pipeline.with_verdicts(ledger, settings, store), settings)

    assert set(ledger.reason) == {"boundary"}


def test_new_contents_send_only_what_is_new_and_what_changed_is_said(bench):
    publish(bench.settings())
    first = bench.out.read()["changes"]
    more, settings = grown(bench, 28)
    publish(settings)
    changes, stats = more.out.read()["changes"], bench.server.stats()
    more.out.update(state="incomplete")  # as after a kill while the report was made
    publish(settings)

    assert (stats["texts_paid_total"], stats["texts_paid_distinct"]) == (28, 28)
    assert first == {}
    assert (changes["added"], changes["removed"], changes["changed"]) == (4, 0, 0)
    assert changes["moved"] == len(changes["moved_rows"])
    assert more.out.read()["changes"]["added"] == 4


@pytest.mark.slow
def test_a_limit_holds_however_often_a_run_is_resumed(bench, capsys):
    settings = {"max_cost_usd": 0.02, "concurrency": 1, "batch_size": 1} | PRICES
    bench.params_file.write_text(json.dumps(bench.values(**settings)))
    command = ["run", str(bench.params_file), "--out", str(bench.out.path), "--only", "3"]
    codes, first = [main(command)], bench.server.stats()["requests"]
    codes.append(main(command))

    assert (codes, bench.server.stats()["requests"]) == ([5, 5], first)
    assert 0.005 < pipeline.spent_usd(bench.out.read()) <= 0.02


def test_what_a_killed_session_had_in_flight_counts_towards_the_limit(bench):
    chunks, settings, endpoint, store = opened(bench.settings(max_cost_usd=0.02, **PRICES))
    asking = {"answers": str(store.path), "paid_usd": 0.0}
    bench.out.path.mkdir(exist_ok=True)
    bench.out.run_file.write_text(json.dumps({"asking": asking, "spent_before": 0.005}))
    (bench.out.path / ".work").mkdir(exist_ok=True)
    Note(bench.out.path / ".work" / "asking").pledge(0.0199)
    with pytest.raises(BudgetReached, match=r"0\.0199 USD are spent"):
        pipeline.ask_instructions(chunks, settings, endpoint, store)
    assert bench.server.stats()["requests"] == 0


def test_rows_come_from_stored_answers_and_add_up_to_what_was_paid(bench):
    chunks, settings, endpoint, store = opened(bench.settings(instructions_per_content=2))
    pipeline.ask_instructions(chunks.head(8), settings, endpoint, store)
    ledger = pipeline.with_answers(
        pd.concat([chunks, chunks.head(2).assign(content_id="copy")]), settings, store
    )

    assert ledger.groupby("state").size().to_dict() == {"accepted": 20, "pending": 32}
    with sqlite3.connect(bench.folder / "answers.sqlite") as db:
        paid = db.execute("SELECT sum(prompt_tokens), sum(completion_tokens) FROM requests").fetchone()
    assert (ledger.prompt_tokens.sum(), ledger.completion_tokens.sum()) == paid
    assert ledger.id[:16].is_unique
    assert set(ledger.id.str.len()) == {20}


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


@pytest.mark.parametrize("thinks", [0, 1_500], ids=["plain", "thinking"])
def test_the_first_chunks_refine_the_forecast(tmp_path, thinks):
    with endpoint.serve(thinks=thinks, thinks_sigma=0.1) as server:
        chunks, *study = opened(make_bench(tmp_path, server, documents=160).settings(**PRICES))
        settings, asked, store = study
        expected = pipeline.forecast(chunks, *study)
        pipeline.announce(expected, settings)
        reports = [pipeline.ask_instructions(chunks.head(pipeline.PILOT_CHUNKS), *study)]
        first = pipeline.with_answers(chunks.head(pipeline.PILOT_CHUNKS), settings, store)
        pipeline.announce(pipeline.narrowed(expected, first, settings, asked), settings)
        reports.append(pipeline.ask_instructions(chunks, *study))
        fields = pipeline.run_of(settings).read()

    wide, narrow = fields["forecast"]["instructions"], fields["forecast"]["instructions, after the pilot"]
    written = sum(report.completion_tokens for report in reports)
    assert "after the pilot" in fields["notes"][-1]
    assert narrow["completion_tokens"] == pytest.approx(written, rel=0.25)
    assert narrow["cost_usd_low"] <= sum(report.cost_usd for report in reports) <= narrow["cost_usd_high"]
    if not thinks:
        assert narrow["cost_usd_high"] - narrow["cost_usd_low"] < wide["cost_usd_high"] - wide["cost_usd_low"]


@pytest.mark.parametrize("more", [{"models": ("x",)}, {"judge_model": "x"}], ids=["model", "judge"])
def test_a_limit_wants_the_price_of_every_model(bench, more):
    openai = {"endpoint": "https://api.openai.com/v1", "model": "gpt-6-luna", "max_cost_usd": 1.0}

    with pytest.raises(ParamsError, match="price of x is unknown"):
        check_before(bench.settings(**openai, **more), environ={"OPENAI_API_KEY": "sk-x"})
