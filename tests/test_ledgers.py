"""The ledger: writing, reading, counting."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from published_pairs import ledger_of, make_pair

from llmtwin_data.contents import LedgerRow
from llmtwin_data.datasets import fates_sha256, ledger_totals, read_ledger, write_ledger
from llmtwin_data.errors import DiskFailed

ROWS = [
    *ledger_of([make_pair(0)]),
    replace(ledger_of([make_pair(0)], "rejected", "copied")[0], k=2, value="0.61"),
    LedgerRow("空", 0, 12, 1, "skipped", "blank", collection="cleaned_posts"),
    replace(ledger_of([make_pair(2)], "failed", "refused")[0], cost_usd=None),
]


def test_rows_come_back_as_they_were(tmp_path):
    write_ledger(tmp_path / "ledger.jsonl", ROWS)

    assert read_ledger(tmp_path / "ledger.jsonl") == ROWS


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
    retried = [replace(row, requests=9, cost_usd=1.0) for row in ROWS]
    otherwise = [replace(ROWS[0], state="failed", reason="refused"), *ROWS[1:]]

    assert fates_sha256(retried) == fates_sha256(ROWS)
    assert fates_sha256(otherwise) != fates_sha256(ROWS)


def test_a_row_has_the_place_of_its_pair():
    assert ROWS[0].place == make_pair(0).place


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
