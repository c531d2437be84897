"""Tables about a run as a whole."""

from __future__ import annotations

import json

import pandas

from llmtwin_data.generation import GenerationReport
from llmtwin_data.summaries import run_tables


def test_generation_is_told_in_words():
    shown = run_tables.generation_frame(GenerationReport(questions=1200, answered=1200, cost_usd=None))

    assert dict(shown.values)["instructions asked for"] == "1,200"
    assert dict(shown.values)["cost"] == "unknown"


def test_a_forecast_stands_beside_what_was_asked_step_by_step():
    row = {"collection": "", "data_type": "", "requests": 5, "prompt_tokens": 20, "completion_tokens": 4}
    part = {"requests": 3, "tokens": 12, "cost_usd": None}
    fields = {"forecast": {"tuning": row}, "asked": {"tuning: seed": part, "tuning: grounded": part}}

    shown = run_tables.forecast_check(fields)

    assert shown.values.tolist() == [["tuning", 5, 6, 24, 24, "unknown", "unknown"]]


def test_a_total_adds_up_what_is_to_be_sent():
    row = {"what": "instructions", "chunks": 3, "requests": 2, "prompt_tokens": 10, "completion_tokens": 5}
    rows = [row | {"cost_usd_low": 0.1, "cost_usd_high": cost} for cost in (0.3, None)]

    total = run_tables.with_total(pandas.DataFrame(rows)).iloc[-1].to_dict()

    assert (total["what"], total["chunks"], total["requests"], total["prompt_tokens"]) == ("total", "", 4, 20)
    assert (total["cost_usd_low"], pandas.isna(total["cost_usd_high"])) == (0.2, True)


def test_a_forecast_is_added_up_by_step():
    row = {
        "requests": 2,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_usd_low": 0.5,
        "cost_usd_high": 1.5,
    }
    rows = [row | {"what": what} for what in ("tuning", "instructions", "instructions")]

    shown = run_tables.by_step(pandas.DataFrame(rows), total=True)

    assert shown["what"].tolist() == ["tuning", "instructions", "all"]
    assert shown["requests"].tolist() == [2, 4, 6]
    assert shown["cost, USD"].tolist()[-1] == "1.50 to 4.50"


def test_published_files_are_listed_from_the_manifest(tmp_path):
    files = {"train.jsonl": {"sha256": "ab" * 32, "bytes": 12, "rows": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files}))

    assert run_tables.files_frame(tmp_path).values.tolist() == [["train.jsonl", 3, 12, "ab" * 6]]


def test_no_manifest_lists_nothing(tmp_path):
    assert run_tables.files_frame(tmp_path).empty


def test_a_certificate_is_laid_out_in_words_without_blanks():
    shown = run_tables.certificate_frame({"leaks_rejected": 1200, "sides": {"train": 9}, "note": ""})

    assert shown["statement"].tolist() == ["chunks left out for sharing more than that limit", "sides"]
    assert shown["value"].tolist() == ["1,200", "train: 9"]
