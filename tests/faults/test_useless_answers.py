"""Answers that came and cannot be used, runs of which nothing is left, and nothing to ask: L57, L35, Q24."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint
from product import ask_documents, read_totals
from qdrant_server import qdrant_server
from running import CANARIES, Bench, make_bench
from written import read_lines

KEY = CANARIES["OPENAI_API_KEY"]
USAGE = {"prompt_tokens": 900, "completion_tokens": 60}
CALLED = {"type": "function", "function": {"name": "write_instruction", "arguments": '{"n": 1}'}}


def body_of(message):
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
    return {"choices": [choice], "usage": USAGE, "model": "scripted"}


# What the endpoint does, and what the run quotes of it.
KINDS = {
    "tool_calls": ({"body": body_of({"content": None, "tool_calls": [CALLED]})}, "write_instruction"),
    "prose": (
        {"raw": f"Here is\x1b[31m what I think, {KEY}.\nFirst,"},
        "Here is\\x1b[31m what I think, [key]",
    ),
    "think": ({"raw": "<think>The user wants " * 90, "finish": "length"}, "<think>The user wants"),
    "numbers": ({"number": 1.0}, '{"content": 1.0'),
    "blank": ({"instruction": " ..."}, '"instruction": " ..."'),
    "shape": ({"raw": '{"briefs": ["a", "b"]}'}, '{"briefs": ["a", "b"]}'),
    "bare_number": ({"raw": "8"}, "'8'"),
    "nothing": ({"null_content": True}, '"content": null'),
    "html": ({"html": True}, "<html><body>502 from a proxy"),
}


def always(do):
    return [{"when": {}, "do": do}]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Load 200 documents once for all kinds."""
    with endpoint.serve() as server:
        return make_bench(tmp_path_factory.mktemp("collection"), server, documents=200).folder / "qdrant"


def totals_of(bench):
    return read_totals(bench.folder / "answers.sqlite")


def assert_gated(bench, ended, *, words):
    """The run ended as gated, in a few lines with these words, and published nothing."""
    assert ended.returncode == 6, ended.stderr
    assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("gated", False)
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) <= 10
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_l57_answers_of_no_use_end_a_run_within_eight_requests(tmp_path, collection, kind):
    do, quoted = KINDS[kind]
    with endpoint.serve(script=always(do)) as server:
        bench = Bench(tmp_path, server)
        ended = bench.run("--only", "3", qdrant=str(collection))
        requests = server.stats()["requests"]

    assert_gated(bench, ended, words=quoted)
    assert KEY not in ended.stderr
    assert "request_extra" in ended.stderr
    assert len(max(ended.stderr.splitlines(), key=len)) < 700
    assert requests <= 8
    assert totals_of(bench)["answers"] == {}
    assert sum(totals_of(bench)["outcomes"].values()) == requests
    assert {row["state"] for row in read_lines(bench.out.ledger_file)} == {"pending"}


def test_l57_a_whole_run_ends_as_soon_and_the_same_command_completes_it_once_mended(tmp_path, collection):
    with endpoint.serve(script=always(KINDS["numbers"][0])) as server:
        bench = Bench(tmp_path, server)
        ended = bench.run(qdrant=str(collection), quality_gate="stop", min_evidence=0)
        assert_gated(bench, ended, words="were of no use")
        requests = server.stats()["requests"]
        server.change([])
        again = bench.run(qdrant=str(collection), quality_gate="stop", min_evidence=0)

    assert requests <= 8
    assert again.returncode == 0, again.stderr
    assert bench.out.read()["totals"]["accepted"] == 200


def test_l57_an_endpoint_that_changes_on_the_way_stops_the_run_and_what_was_good_stays(tmp_path, collection):
    script = [{"when": {"request": {"from": 9, "to": 10_000}}, "do": {"raw": "What a nice list of posts!"}}]
    # Made-up words say nothing to embeddings: evidence is not what is tested here.
    sizes = {"concurrency": 8, "batch_size": 4, "min_evidence": 0}
    with endpoint.serve(script=script, latency_ms=30) as server:
        bench = Bench(tmp_path, server)
        ended = bench.run("--only", "3", qdrant=str(collection), **sizes)
        assert_gated(bench, ended, words="What a nice list of posts!")
        requests, answers = server.stats()["requests"], totals_of(bench)["answers"]
        server.change([])
        again = bench.run("--only", "3", qdrant=str(collection), **sizes)

    assert answers == {"ok": 32}
    assert requests <= 8 + 8 + 16
    assert again.returncode == 0, again.stderr
    assert bench.out.read()["totals"]["accepted"] == 200


def test_l57_a_batch_whose_lines_are_all_of_no_use_stops_the_run(tmp_path, collection):
    script = [{"when": {"kind": "line"}, "do": {"raw": "What a nice list of posts!"}}]
    with endpoint.serve(script=script, batch_polls=0) as server:
        bench = Bench(tmp_path, server)
        ended = bench.run("--only", "3", qdrant=str(collection), mode="batch")
        lines = server.stats()["batch_lines"]

    assert_gated(bench, ended, words="What a nice list of posts!")
    assert lines <= 8
    assert totals_of(bench)["answers"] == {}


def test_l57_a_model_that_fails_on_several_texts_only_is_not_given_up(tmp_path):
    script = [{"when": {"contents": {"from": 2, "to": 8}}, "do": {"raw": "one, two, three"}}]
    with endpoint.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=40)
        ended = bench.run("--only", "3")

    assert ended.returncode == 0, ended.stderr
    assert bench.out.read()["totals"]["accepted"] == 40


@pytest.mark.parametrize("concurrency", [1, 64])
@pytest.mark.parametrize("bad", [range(20), range(90, 110), range(180, 200)], ids=["first", "middle", "last"])
def test_l57_twenty_bad_texts_in_a_row_stop_nothing(tmp_path, bad, concurrency):
    script = [{"when": {"doc": [*bad]}, "do": {"raw": "no"}}]
    store = tmp_path / "answers.sqlite"
    with endpoint.serve(script=script) as server:
        outcome = ask_documents(range(200), server.base_url, store, concurrency=concurrency)
        again = ask_documents(range(200), server.base_url, store)

    assert (outcome.error, outcome.failed()) == ("", dict.fromkeys(bad, "malformed"))
    assert (len(outcome.good()), again.report["requests"]) == (180, 0)


@pytest.mark.parametrize(
    ("do", "gate", "told"),
    [
        ({"refusal": "No."}, "stop", "failed refused 32"),  # by its pilot, which the gate lets it stop at
        ({"refusal": "No."}, "warn", "failed refused 40"),
        ({"instruction": "寫一篇貼文"}, "warn", "rejected language 40"),
    ],
    ids=["refused_stop", "refused_warn", "rejected_warn"],
)
def test_l35_a_run_of_which_nothing_is_accepted_publishes_nothing(tmp_path, do, gate, told):
    with endpoint.serve(script=always(do)) as server:
        bench = make_bench(tmp_path, server, documents=40)
        ended = bench.run("--only", "3", quality_gate=gate)

    assert_gated(bench, ended, words=told)
    assert "set another model or prompt; what failed is asked again only with --retry-failed" in ended.stderr


@pytest.mark.parametrize(
    ("texts", "told"), [([], ""), ([" ", None, 7], ": skipped ")], ids=["empty", "all_skipped"]
)
def test_q24_a_collection_with_nothing_to_ask_about_is_a_fault_of_the_source(tmp_path, texts, told):
    with endpoint.serve() as server, qdrant_server() as qdrant:
        qdrant.put((n, {"cleaned_content": text}) for n, text in enumerate(texts))
        bench = Bench(tmp_path, server)
        ended = bench.run(qdrant=qdrant.url)
        requests = server.stats()["requests"]

    assert ended.returncode == 4, ended.stderr
    assert f"cleaned_posts: expected a content to ask about, found none{told}" in ended.stderr
    assert (bench.out.read()["state"], bench.out.dataset.exists(), requests) == ("failed", False, 0)
