"""The dataset's rows as Parquet: typed columns, and the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.rows import COLUMNS, Rows

# Rows in one row group: about 10 MB of text.
GROUP_ROWS = 5_000
# What stands in the footer as the file's writer; pyarrow would name its version there.
WRITER = b"llmtwin_data"


def write_parquet(path: Path, rows: Rows) -> None:
    """Write the rows with the columns of `rows.COLUMNS`; no version and no time stands in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    options: dict[str, Any] = {"compression": "zstd", "write_statistics": False, "store_schema": False}
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, **options) as writer:
        while group := list(islice(remaining, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    _name_writer(path, created_by=pq.read_metadata(path).created_by)


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows, a row group's worth at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=GROUP_ROWS):
            yield from batch.to_pylist()


def _name_writer(path: Path, *, created_by: str) -> None:
    """Put our name in place of pyarrow's in the footer, whose length stands in its last eight bytes.

    The footer is Thrift's compact protocol: a string is its length in one byte (below 128), then its bytes.
    """
    with path.open("r+b") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        start = file.seek(-8 - length, 2)
        before, found, after = file.read(length).rpartition(bytes([len(created_by)]) + created_by.encode())
        footer = before + bytes([len(WRITER)]) + WRITER + after if found else after
        file.seek(start)
        file.write(footer + len(footer).to_bytes(4, "little") + b"PAR1")
        file.truncate()
