"""Rows: columns, and the JSON lines in which they are kept."""

from __future__ import annotations

import pytest
from published_pairs import make_pair, publish

from llmtwin_data.datasets import COLUMNS, StoredRows, collections_of, json_lines, stored_sides
from llmtwin_data.errors import DiskFailed
from llmtwin_data.measures import MEASURES


def test_columns_stand_in_the_order_of_the_design():
    names = list(COLUMNS)

    assert names[:9] == [
        "id",
        "instruction",
        "content",
        "content_id",
        "start",
        "end",
        "author",
        "platform",
        "link",
    ]
    assert names[9:14] == ["data_type", "prompt", "prompt_sha256", "model", "answer_key"]
    assert names[14:-5] == list(MEASURES)
    assert names[-5:] == ["judge_score", "judge_reason", "collection", "k", "masked"]


def test_stored_rows_are_read_anew_each_time(tmp_path):
    publish(tmp_path, [make_pair(number) for number in range(3)], test=0)
    rows = stored_sides(tmp_path / "dataset")["train"]

    assert list(rows) == list(rows)
    assert len(list(rows)) == 3


def test_lines_end_at_newlines_only(tmp_path):
    rows = [{"content": "a\u2028b\x85c\rd"}, {"content": "e"}]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(json_lines(rows)))

    assert list(StoredRows(tmp_path / "rows.jsonl")) == rows


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff", b""], ids=["torn", "list", "bytes", "blank"])
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    (tmp_path / "rows.jsonl").write_bytes(b"{}\n" + line + b"\n")

    with pytest.raises(DiskFailed, match=r"rows\.jsonl, line 2"):
        list(StoredRows(tmp_path / "rows.jsonl"))


def test_collections_are_named_once():
    sides = {"train": [{"collection": "b"}, {"collection": "a"}], "test": [{"collection": "b"}]}

    assert collections_of(sides) == ["a", "b"]
