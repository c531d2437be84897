"""A small finished run, written with the project's own writers, for tests that publish or report it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from written_pairs import DTYPES

from llmtwin_data.datasets import COLUMNS, publish_dataset, write_ledger
from llmtwin_data.folders import RunFolder

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
COSTS = {"requests": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": None}
REFUSED = COSTS | {
    "content_id": "c99", "start": 0, "end": 5, "k": 1, "collection": "cleaned_posts", "state": "rejected",
    "reason": "generic", "value": "=cmd()", "side": "",
}  # fmt: skip
EMPTY = {"str": "", "Int64": 0, "float64": 0.5, "boolean": True}


def dataset_row(number: int, **given: Any) -> dict[str, Any]:
    origin = {
        "id": f"row{number}",
        "content_id": f"c{number}",
        "collection": "cleaned_posts",
        "k": 1,
        "end": 9,
    }
    texts = {"instruction": f"Write post {number}, 用中文", "content": f"Post {number} 內容 \u2028 end"}
    return {name: EMPTY[kind] for name, kind in COLUMNS.items()} | origin | texts | given


def finish_run(
    path: Path,
    *,
    train: int = 3,
    test: int = 1,
    name: str = "posts-instruct-dataset",
    texts: Sequence[Mapping[str, Any]] = (),
) -> RunFolder:
    """Write a run folder with everything that a complete run has; ``texts`` are fields of the first rows."""
    run = RunFolder(path)
    own = [*texts, *[{}] * (train + test - len(texts))]
    rows = [dataset_row(number, grounding=number / 10, **fields) for number, fields in enumerate(own)]
    sides = ["train"] * train + ["test"] * test
    kept = {"state": "accepted", "reason": "", "value": ""}
    ledger = [row | kept | COSTS | {"side": side} for row, side in zip(rows, sides, strict=True)] + [REFUSED]
    path.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(ledger, columns=list(DTYPES)).astype(DTYPES)
    table.attrs |= {"sides": {}, "certificate": {}}
    write_ledger(run.ledger_file, table)
    publish_dataset(table, run, name=name, rules={}, screened={})
    totals = {"accepted": len(rows), "rejected": 1, "cost_usd": 0.25, "generation_seconds": 3.5}
    judge = [{"chooser": "judge, 4 or more", "kept": 2, "precision": 0.75, "recall": None}]
    params = {"model": "tiny", "collections": ["cleaned_posts"]}
    verdict = ["Ready to train: no alarm, and nothing is pending."]
    changes = {"against": "ab" * 32, "added": 2, "removed": 1, "changed": 0, "moved": 0, "moved_rows": []}
    run.update(state="complete", verdict=verdict, params=params, totals=totals, judge=judge, changes=changes)
    run.report.write_text("<!doctype html><title>報告</title>", encoding="utf-8")
    run.notebooks.mkdir(exist_ok=True)
    notebook = {"cells": [picture_cell(PIXEL)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (run.notebooks / "3_generate_dataset.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return run


def picture_cell(picture: str) -> dict[str, Any]:
    data = {"image/png": picture, "text/plain": "<Figure>"}
    output = {"output_type": "display_data", "data": data, "metadata": {}}
    return {
        "cell_type": "code",
        "source": "",
        "outputs": [output],
        "metadata": {},
        "execution_count": 1,
        "id": "a",
    }


def picture_bytes() -> bytes:
    return base64.b64decode(PIXEL)
