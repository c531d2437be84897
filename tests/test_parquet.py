"""Parquet: typed columns, the same bytes, no version."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from published_pairs import make_pair, publish

from llmtwin_data.datasets import COLUMNS, read_parquet, stored_sides, write_parquet


@pytest.fixture
def rows(tmp_path):
    publish(tmp_path, [make_pair(number) for number in range(7)], test=0)
    return list(stored_sides(tmp_path / "dataset")["train"])


def test_rows_come_back_as_they_were(tmp_path, rows):
    write_parquet(tmp_path / "rows.parquet", rows)

    assert list(read_parquet(tmp_path / "rows.parquet")) == rows


def test_columns_have_types_even_without_rows(tmp_path):
    write_parquet(tmp_path / "rows.parquet", [])

    schema = pq.read_schema(tmp_path / "rows.parquet")
    assert schema.names == list(COLUMNS)
    assert [str(schema.field(name).type) for name in ("id", "start", "grounding", "language_ok")] == [
        "string",
        "int64",
        "double",
        "bool",
    ]


def test_no_version_stands_in_the_file(tmp_path, rows):
    write_parquet(tmp_path / "rows.parquet", rows)

    assert pq.read_metadata(tmp_path / "rows.parquet").created_by == "llmtwin_data"
    assert b"parquet-cpp" not in (tmp_path / "rows.parquet").read_bytes()


def test_other_readers_take_the_renamed_file(tmp_path, rows):
    write_parquet(tmp_path / "rows.parquet", rows)

    table = pq.read_table(tmp_path / "rows.parquet", filters=[("start", "=", 0)])
    assert table.num_rows == 7


def test_many_row_groups_hold_every_row(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("llmtwin_data.datasets.GROUP_ROWS", 3)

    write_parquet(tmp_path / "rows.parquet", iter(rows))

    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 3
    assert list(read_parquet(tmp_path / "rows.parquet")) == rows
