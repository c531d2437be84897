"""Rows of the table with the written instructions, and their measures."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pandas as pd
from written import written

from llmtwin_data.contents import PLACE, row_id
from llmtwin_data.datasets import COLUMNS, LEDGER
from llmtwin_data.measures import MEASURES, with_measures
from llmtwin_data.params import Params

DTYPES = COLUMNS | LEDGER | {"side": "str"}
# A row as `pipeline.with_answers` and `with_verdicts` leave it.
ROW = {
    "content_id": "0", "collection": "posts", "start": 0, "end": 0, "content": "", "data_type": "posts",
    "author": "0", "platform": "linkedin", "link": "", "masked": "", "k": 1, "id": "", "instruction": "",
    "prompt": "grounded", "prompt_sha256": "0" * 64, "model": "model", "answer_key": "", "state": "accepted",
    "reason": "", "value": "", "review": "", "requests": 1, "prompt_tokens": 90, "completion_tokens": 12,
    "cost_usd": 0.0001, "judge_score": None, "judge_reason": None, "side": "", "title": "", "published": "",
}  # fmt: skip
MEASURED = {
    "grounding": 1.0, "grounding_rank": 1, "grounding_margin": 0.5, "copied_instruction": 0.0,
    "copied_content": 0.0, "genericness": 0.0, "repeats": 0, "language": "en", "language_asked": "same",
    "language_ok": True, "characters": 20, "tokens": 5, "self_contained": True, "evidence": 1.0,
    "measured_by": "words", "repeated_bigrams": 0.0, "boilerplate": 0.0,
}  # fmt: skip


def changed(row: SimpleNamespace, **columns: Any) -> SimpleNamespace:
    """Give the row with other values, and the id of its place."""
    values = vars(row) | columns
    return SimpleNamespace(**values | {"id": row_id(tuple(values[name] for name in PLACE))})


def pair(instruction: str, text: str, number: int = 0, *, start: int = 0, **columns: Any) -> SimpleNamespace:
    """Make a row of the table that has an instruction."""
    given = {"content_id": str(number), "author": str(number % 3), "start": start, "end": start + len(text)}
    given |= {"instruction": instruction, "content": text, "answer_key": f"key-{number}-{start}"}
    return changed(SimpleNamespace(**ROW), **given | columns)


def table_of(rows: Iterable[SimpleNamespace], **measures: Any) -> pd.DataFrame:
    """Lay rows out as the table; every one is given these measures, if any, and else good ones."""
    table = pd.DataFrame([vars(row) for row in rows], columns=list(ROW)).assign(**MEASURED | measures)
    return table.astype({name: DTYPES.get(name, "str") for name in table} | MEASURES)


def written_pairs() -> list[SimpleNamespace]:
    """Give the written instructions as pairs, one content each."""
    return [pair(instruction, text, number) for number, (instruction, text) in enumerate(written())]


def measured(rows: Iterable[SimpleNamespace], *, language: str = "same") -> pd.DataFrame:
    """Lay rows out as the table, measured against one another's chunks."""
    return with_measures(table_of(rows), Params(instruction_language=language))
