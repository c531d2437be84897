"""Vectors of an endpoint: asked once, paid, stored, counted, and trusted only whole."""

import json
import sqlite3
from contextlib import closing, nullcontext

import endpoint as scripted
import numpy as np
import pandas as pd
import pytest
from asking import QUICK
from running import make_bench, start_python

from llmtwin_data import embeddings, pipeline
from llmtwin_data.answers import AnswerStore, Origin, vectors_of
from llmtwin_data.checks import check_run
from llmtwin_data.cli import main
from llmtwin_data.embeddings import PackagedModel, compare, encode_packaged, pack, unpack
from llmtwin_data.endpoints import endpoint_of, with_embeddings
from llmtwin_data.errors import BudgetReached, ParamsError
from llmtwin_data.replies import Completion, read_embeddings

FOREIGN = {"when": {}, "do": {"foreign": True}}
NAMED = {"embedding_model": "vectors-1", "instruction_language": "zh-Hant"}
# Two languages, 24 contents: all chunks and all instructions are compared as vectors.
TEXTS = 48


@pytest.fixture
def bench(tmp_path):
    with scripted.serve(script=[FOREIGN]) as server:
        yield make_bench(tmp_path, server)


def spoil(bench, *rules):
    bench.server.change([FOREIGN, *({"when": {"kind": "embeddings"} | when, "do": do} for when, do in rules)])


def publish(bench, **values):
    return pipeline.make_dataset(bench.settings(**NAMED | values), environ={}, patience=QUICK)


def test_pairs_in_two_languages_are_measured_by_the_named_model(bench):
    ledger = publish(bench)
    fields = bench.out.read()

    assert set(ledger.measured_by) == {"embeddings"}
    assert (ledger.grounding_rank == 1).all()
    assert (ledger.evidence >= 0.5).all()
    assert fields["totals"]["measured"] == {"words": 0, "embeddings": 24, "nothing": 0}
    assert check_run(bench.out.path) == []


def test_each_text_is_paid_once_over_two_runs(bench):
    publish(bench)
    publish(bench)
    stats = bench.server.stats()

    assert (stats["embedded_total"], stats["embedded_distinct"]) == (TEXTS, TEXTS)
    assert bench.out.read()["asked"]["embeddings"]["answered_before"] == TEXTS


def test_where_words_measure_no_vector_is_asked(bench):
    bench.server.change([{"when": {}, "do": {"copy": True}}])
    settings = bench.settings(**NAMED | {"instruction_language": "en"})
    settings, source, asked, store = pipeline.open_study(settings, environ={})
    chunks = pipeline.read_chunks(source, settings, store)
    pipeline.ask_instructions(chunks, settings, asked, store)
    ledger = pipeline.with_answers(chunks, settings, store)

    measured = pipeline.measure(ledger, settings, asked, store)

    assert set(measured.measured_by) == {"words"}
    assert bench.server.stats()["embedded_total"] == 0


def test_price_and_forecast_are_in_the_totals(bench):
    prices = {"usd_per_million_input": 5.0, "usd_per_million_output": 20.0}
    publish(bench, **prices)
    fields = bench.out.read()
    asked, forecast = fields["asked"]["embeddings"], fields["forecast"]["embeddings"]

    assert asked["cost_usd"] == pytest.approx(asked["tokens"] * 5.0 / 1e6)
    assert asked["cost_usd"] > 0
    assert fields["totals"]["cost_usd"] == pytest.approx(
        sum(step["cost_usd"] for step in fields["asked"].values()), abs=1e-6
    )
    assert (forecast["requests"], forecast["completion_tokens"]) == (2, 0)
    assert forecast["prompt_tokens"] > 0


def test_a_listed_price_is_that_of_the_named_model(bench):
    settings = bench.settings(**NAMED | {"embedding_model": "text-embedding-3-small"})
    environ = {"OPENAI_API_KEY": "sk-CANARY-0123456789"}
    asked = with_embeddings(endpoint_of("", model="", environ=environ), settings.embedding_model)

    assert pipeline.price_for(settings, asked).usd_per_million_input == 0.02


def test_the_budget_stops_before_it_is_crossed_and_the_run_goes_on(bench):
    prices = {"usd_per_million_input": 500.0, "usd_per_million_output": 1.0}
    publish(bench, embedding_model="off", quality_gate="warn", **prices)
    spent = bench.out.read()["totals"]["cost_usd"]

    # Every text of the first request may be as many tokens as it could be at worst.
    with pytest.raises(BudgetReached) as caught:
        publish(bench, max_cost_usd=round(spent + 0.01, 6), **prices)

    assert caught.value.exit_code == 5
    assert bench.server.stats()["embedded_total"] == 0
    publish(bench, max_cost_usd=100.0, **prices)
    assert bench.server.stats()["embedded_total"] == TEXTS


@pytest.mark.parametrize("spoilt", ["short", "long", "ragged", "nan", "zero", "twice", "text"])
def test_a_list_that_is_not_whole_is_trusted_in_none_of_its_parts(bench, spoilt):
    spoil(bench, ({"times": 1}, {"vectors": spoilt}))

    ledger = publish(bench)

    assert set(ledger.measured_by) == {"embeddings"}
    assert (ledger.grounding_rank == 1).all()


def test_vectors_of_another_length_are_asked_again(bench):
    publish(bench, limit=20)
    spoil(bench, ({"times": 1}, {"vectors": "wide"}))

    ledger = publish(bench)

    assert (ledger.measured_by == "embeddings").sum() >= 20


def test_an_endpoint_without_vectors_is_named(bench):
    spoil(bench, ({}, {"status": 404, "error": {"message": "no such path"}}))

    with pytest.raises(ParamsError, match="/embeddings"):
        publish(bench)

    assert bench.out.read()["state"] == "failed"


def test_a_text_that_is_refused_leaves_its_pair_unmeasured(bench):
    refusal = {"status": 400, "error": {"message": "maximum context length exceeded"}}
    spoil(bench, ({"text": "DOC-7 "}, refusal))

    ledger = publish(bench)

    # Others are told apart without it.
    assert ledger.measured_by.tolist() == ["" if n == "7" else "embeddings" for n in ledger.content_id]


KILLED = """
import sys
from asking import QUICK
from llmtwin_data import pipeline
from pathlib import Path
from llmtwin_data.params import load_params

pipeline.EMBEDDED_TOGETHER = 4
pipeline.make_dataset(load_params(Path(sys.argv[1])), environ={}, patience=QUICK)
"""


def test_what_came_before_a_kill_is_not_paid_again(bench):
    spoil(bench, ({}, {"latency_ms": 100}))
    values = NAMED | {"concurrency": 1, "run_dir": str(bench.out.path)}
    process = start_python(KILLED, bench.write_params(**values))
    bench.wait_for_requests(3 + 5)
    process.kill()
    process.wait()
    spoil(bench)

    publish(bench, concurrency=1)
    stats = bench.server.stats()

    assert stats["embedded_distinct"] == TEXTS
    # What was on its way when the process died may have been paid for nothing.
    assert stats["embedded_total"] <= TEXTS + 4


def test_a_name_with_the_embedded_endpoint_is_refused(bench, capsys):
    params = bench.write_params(**NAMED | {"endpoint": "embedded", "model": ""})

    assert main(["run", str(params), "--dry-run"]) == 2
    assert "embedding_model" in capsys.readouterr().err


def test_what_is_forgotten_takes_its_vectors_along(bench):
    publish(bench)
    file = bench.folder / "answers.sqlite"
    with AnswerStore(file) as store:
        before = store.totals()["answers"]["ok"]
        store.forget(Origin(content_id="3"))
        after = store.totals()["answers"]["ok"]

    assert before - after == 3  # the instruction's words, its vector and the chunk's


def count_of(file):
    with closing(sqlite3.connect(file)) as db:
        return db.execute("SELECT count(*) FROM vectors").fetchone()[0]


def test_vectors_of_the_packaged_model_are_kept_until_something_is_forgotten(bench):
    publish(bench, embedding_model="")
    store = bench.folder / "answers.sqlite"
    kept = count_of(vectors_of(store))
    with AnswerStore(store) as answers:
        answers.forget(Origin(content_id="3"))

    assert kept == TEXTS + 24  # and of each chunk its longer words
    assert not vectors_of(store).exists()


WORDS = ["Docker images", "如何縮小容器映像", "bread", "Docker images", ""]


def test_a_vector_is_the_same_computed_stored_or_from_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "MANY_TEXTS", 1)
    monkeypatch.setattr(embeddings, "BLOCK_TEXTS", 1)
    totals, steps = [], []

    def progress(total):
        totals.append(total)
        return nullcontext(lambda done, failed: steps.append(done))

    packaged = PackagedModel(tmp_path / "vectors.sqlite", writes=True, progress=progress)
    by_others, stored = packaged(WORDS), packaged(WORDS[::-1])
    monkeypatch.undo()

    np.testing.assert_array_equal(encode_packaged(WORDS), by_others)
    np.testing.assert_array_equal(by_others[::-1], stored)
    assert (totals, steps) == ([4], [1, 2, 3, 4])


def spoil_file(file, how):
    with closing(sqlite3.connect(file)) as db:
        if how == "torn":
            file.write_bytes(file.read_bytes()[:40_000])
        elif how == "other":
            file.write_bytes(b"no database" * 9_000)
        elif how == "older":
            db.executescript("ALTER TABLE vectors RENAME TO old; PRAGMA user_version=7")
        else:
            db.executescript("UPDATE vectors SET vector=zeroblob(2048) WHERE rowid=2")


@pytest.mark.parametrize("how", ["torn", "other", "older", "flipped"])
def test_a_spoiled_file_of_vectors_is_made_anew(tmp_path, how):
    file = tmp_path / "vectors.sqlite"
    PackagedModel(file, writes=True)(WORDS)
    spoil_file(file, how)

    read, written = PackagedModel(file)(WORDS), PackagedModel(file, writes=True)(WORDS)

    np.testing.assert_array_equal(read, encode_packaged(WORDS))
    np.testing.assert_array_equal(written, read)
    assert count_of(file) == 4


def test_what_only_reads_vectors_writes_no_file(tmp_path):
    PackagedModel(tmp_path / "vectors.sqlite")(WORDS)

    assert [*tmp_path.iterdir()] == []


def reply(vectors, **more):
    data = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
    return json.dumps({"data": data, "model": "m", "usage": {"prompt_tokens": 7}} | more)


def test_vectors_come_back_as_they_were_sent_but_for_half_precision():
    read, dimensions = read_embeddings(reply([[3.0, 4.0], [0.0, -2.0]]), count=2)

    assert isinstance(read, Completion)
    assert dimensions == 2
    assert (read.prompt_tokens, read.completion_tokens) == (7, 0)
    np.testing.assert_allclose(unpack(read.choices[0].text.split()), [[0.6, 0.8], [0, -1]], atol=1e-3)


def test_a_missing_vector_is_no_number():
    vectors = unpack([pack([[1.0, 0.0]]), "", pack([[1.0, 0.0, 0.0]]), pack([[0.0, 1.0]])])

    assert np.isnan(vectors).any(axis=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("scale", "shift", "compared"), [(1.0, 0.0, 99), (1.0, 3.0, 99), (0.2, 1.0, 99), (1.0, 0.0, 12)]
)
def test_thresholds_go_by_the_spread_of_the_model(monkeypatch, scale, shift, compared):
    monkeypatch.setattr("llmtwin_data.embeddings.MOST_COMPARED", compared)
    dice = np.random.default_rng(5)
    texts = dice.normal(size=(30, 64))
    asked = texts + dice.normal(size=(30, 64)) * 1.2
    known = {f"t{n}": v for n, v in enumerate(texts)} | {f"i{n}": v for n, v in enumerate(asked)}
    wrong = [*range(15), *range(16, 30), 15]

    def encode(names):
        # A model whose vectors all point one way has higher cosines, and a narrower spread.
        moved = np.array([known[name] * scale + shift * np.ones(64) / 8 for name in names])
        return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)

    names = ([f"{kind}{n}" for n in range(30)] for kind in "it")
    columns = compare(
        next(names), wrong, pd.Series(next(names)), kinds=["en"] * 30, groups=["en"] * 30, encode=encode
    )

    assert (columns.evidence[:15] >= 0.5).all()
    assert (columns.grounding[:15] == 1).all()
    assert (columns.grounding[15:] < 0.5).mean() > 0.9
