"""A row of the dataset: its columns in their order, and the JSON lines in which rows are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llmtwin_data.errors import DiskFailed
from llmtwin_data.generation.pairs import Place
from llmtwin_data.measures import Measures

Row = Mapping[str, Any]
Rows = Iterable[Row]
SIDES = ("train", "test")

_ORIGIN = {
    "content_id": "str",
    "start": "int",
    "end": "int",
    "author": "str",
    "platform": "str",
    "link": "str",
}
_MAKING = {"data_type": "str", "prompt": "str", "prompt_sha256": "str", "model": "str", "answer_key": "str"}
_MEASURES = {field.name: str(field.type).removesuffix(" | None") for field in fields(Measures)}
_VERDICT = {"judge_score": "int", "judge_reason": "str", "collection": "str", "k": "int", "masked": "str"}
# Column and type, in the order in which every row is written.
COLUMNS = {"id": "str", "instruction": "str", "content": "str"} | _ORIGIN | _MAKING | _MEASURES | _VERDICT


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a JSON-lines file, read anew at each iteration, so that none need stay in memory."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Bytes are split at \n only; str.splitlines would also split at U+2028 inside a text.
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _parsed(line, f"{self.path.name}, line {number}")


def stored_sides(dataset: Path) -> dict[str, StoredRows]:
    """Give the rows of a dataset folder by side."""
    return {side: StoredRows(dataset / f"{side}.jsonl") for side in SIDES}


def json_lines(rows: Rows, *, render: Callable[[Row], Row] = dict) -> Iterator[bytes]:
    """Render one object a line, UTF-8, characters as they are."""
    for row in rows:
        yield json.dumps(render(row), ensure_ascii=False).encode() + b"\n"


def collections_of(sides: Mapping[str, Rows]) -> list[str]:
    """Name the collections that the rows come from, sorted."""
    return sorted({str(row["collection"]) for side in SIDES for row in sides[side]})


def place_of_row(row: Row) -> Place:
    """Give what no two rows share: the chunk and the number of the instruction."""
    return row["collection"], row["content_id"], row["start"], row["end"], row["k"]


def content_of_row(row: Row) -> str:
    """Name the content as the manifest's sides do: ``collection/content_id``."""
    return f"{row['collection']}/{row['content_id']}"


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DiskFailed(f"{place}: expected a JSON object, {error}") from error
    if not isinstance(row, dict):
        raise DiskFailed(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row
