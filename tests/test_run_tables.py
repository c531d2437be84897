"""Tables about a run as a whole."""

from __future__ import annotations

import json

import pandas

from llmtwin_data.generation import GenerationReport
from llmtwin_data.summaries import run_tables


def test_generation_is_told_in_words():
    shown = run_tables.generation_frame(GenerationReport(questions=1200, answered=1200, cost_usd=None))

    assert dict(shown.values)["instructions asked for"] == "1,200"
    assert dict(shown.values)["cost"] == "unknown USD"


def test_a_forecast_stands_beside_what_was_needed():
    forecast = pandas.DataFrame({"requests": [3, 2], "prompt_tokens": [10, 10], "cost_usd_high": [0.1, None]})

    shown = run_tables.forecast_check(forecast, GenerationReport(requests=6, prompt_tokens=19, cost_usd=None))

    assert shown["what"].tolist() == ["requests", "prompt tokens", "cost usd high, USD"]
    assert shown["forecast"].tolist()[:2] == [5, 20]
    assert shown["forecast"].isna().tolist() == [False, False, True]


def test_published_files_are_listed_from_the_manifest(tmp_path):
    files = {"train.jsonl": {"sha256": "ab" * 32, "bytes": 12, "rows": 3}}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files}))

    assert run_tables.files_frame(tmp_path).values.tolist() == [["train.jsonl", 3, 12, "ab" * 6]]


def test_no_manifest_lists_nothing(tmp_path):
    assert run_tables.files_frame(tmp_path).empty


def test_a_certificate_is_laid_out_in_words_without_blanks():
    shown = run_tables.certificate_frame({"leaks_rejected": 1200, "sides": {"train": 9}, "note": ""})

    assert shown.values.tolist() == [["leaks rejected", "1,200"], ["sides", "train: 9"]]
