"""The ledger: writing, reading, counting."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from published_pairs import make_pair
from written_pairs import table_of

from llmtwin_data.datasets import LEDGER, fates_sha256, ledger_totals, read_ledger, write_ledger
from llmtwin_data.errors import DiskFailed

ROWS = table_of(
    [
        make_pair(0),
        make_pair(0, k=2, state="rejected", reason="copied", value="0.61"),
        make_pair(1, content_id="空", end=12, state="skipped", reason="blank"),
        make_pair(2, state="failed", reason="refused", cost_usd=None),
    ]
)


def test_rows_come_back_as_they_were(tmp_path):
    write_ledger(tmp_path / "ledger.jsonl", ROWS)

    pd.testing.assert_frame_equal(read_ledger(tmp_path / "ledger.jsonl"), ROWS[list(LEDGER)])


def test_keys_stand_in_their_order(tmp_path):
    write_ledger(tmp_path / "ledger.jsonl", ROWS)

    first = json.loads((tmp_path / "ledger.jsonl").read_text().split("\n")[0])
    assert list(first) == [
        "content_id", "start", "end", "k", "state", "reason", "value",
        "requests", "prompt_tokens", "completion_tokens", "cost_usd", "collection",
    ]  # fmt: skip


def test_totals_count_contents_chunks_and_states():
    assert ledger_totals(ROWS) == {
        "contents": 3, "chunks": 3, "accepted": 1, "rejected": 1, "failed": 1, "skipped": 1, "pending": 0,
    }  # fmt: skip


def test_fates_forget_what_answers_cost():
    retried = ROWS.assign(requests=9, cost_usd=1.0)
    otherwise = ROWS.assign(state=["failed", *ROWS.state[1:]], reason=["refused", *ROWS.reason[1:]])

    assert fates_sha256(retried) == fates_sha256(ROWS)
    assert fates_sha256(otherwise) != fates_sha256(ROWS)


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"not json", b'{"content_id": "a"}', b"\xff"],
    ids=["empty", "list", "text", "short", "bytes"],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    write_ledger(tmp_path / "ledger.jsonl", ROWS)
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(line + b"\n")

    with pytest.raises(DiskFailed, match=r"ledger.jsonl, line 5"):
        read_ledger(tmp_path / "ledger.jsonl")


def test_a_row_of_other_types_is_refused(tmp_path):
    write_ledger(tmp_path / "ledger.jsonl", ROWS)
    text = (tmp_path / "ledger.jsonl").read_text()
    (tmp_path / "ledger.jsonl").write_text(text.replace('"start": 0', '"start": "0"', 1))

    with pytest.raises(DiskFailed, match="line 1"):
        read_ledger(tmp_path / "ledger.jsonl")
