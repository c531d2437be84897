"""The dataset's rows in the shapes that trainers read: Alpaca, ShareGPT, chat, TRL, and the course's."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.rows import COLUMNS, SIDES, Row, Rows, collections_of, json_lines, stored_sides
from llmtwin_data.errors import QualityGate

# The course's words for the two sides.
COURSE_SIDES = {"train": "training", "test": "testing"}


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of row that some trainer reads, written under ``formats/<name>/``."""

    name: str
    render: Callable[[Row], dict[str, Any]]

    def path(self, side: str) -> str:
        """Give the file of this side, relative to the dataset."""
        return f"formats/{self.name}/{side}.jsonl"


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A text file of the dataset that holds rows: how many, and what renders its bytes piece by piece."""

    rows: int
    render: Callable[[], Iterator[bytes]]


def rendered_files(sides: Mapping[str, Rows]) -> dict[str, RenderedFile]:
    """Give every text file that holds rows by its path in the dataset; each goes through its side once."""
    files: dict[str, RenderedFile] = {}
    counts = Counter((row["collection"], side) for side in SIDES for row in sides[side])
    collections = sorted({collection for collection, _ in counts})
    for side in SIDES:
        total = sum(counts[collection, side] for collection in collections)
        files[f"{side}.jsonl"] = RenderedFile(total, partial(json_lines, sides[side]))
        for shape in FORMATS:
            files[shape.path(side)] = RenderedFile(
                total, partial(json_lines, sides[side], render=shape.render)
            )
        for collection in collections:
            render = partial(_course_list, sides[side], collection)
            files[course_path(collection, side)] = RenderedFile(counts[collection, side], render)
    return files


def json_list(rows: Rows) -> Iterator[bytes]:
    """Render one JSON list, an object a line."""
    mark = b"[\n"
    for row in rows:
        yield mark + json.dumps(row, ensure_ascii=False).encode()
        mark = b",\n"
    yield b"\n]\n" if mark == b",\n" else b"[]\n"


def course_path(collection: str, side: str) -> str:
    """Give the course's file of this collection and side, relative to the dataset."""
    return f"formats/course/{course_name(collection)}_{COURSE_SIDES[side]}.json"


def course_name(collection: str) -> str:
    """Give the collection's name without the words by which the course's client tells the two files apart.

    It takes the first file whose name contains ``train`` or ``test``, so ``cleaned_training_notes`` becomes
    ``cleaned_tr-aining_notes``, and ``latest_posts`` becomes ``late-st_posts``.
    """
    return re.sub("(tr)(ain)|(te)(st)", _hyphenated, collection, flags=re.IGNORECASE)


def write_course_pair(dataset: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two files of the Comet artifact, training first; named after the one collection, or ``twin``.

    Raises
    ------
    QualityGate
        The train set is empty: the course's client reads the keys of its first row.
    """
    sides = stored_sides(dataset)
    if next(iter(sides["train"]), None) is None:
        raise QualityGate(
            "publish: expected rows in train.jsonl, found none; the course's client cannot load that. "
            "See the waterfall in the report for what rejected them"
        )
    collections = collections_of(sides)
    name = course_name(collections[0]) if len(collections) == 1 else "twin"
    written = tuple(folder / f"{name}_{word}.json" for word in COURSE_SIDES.values())
    for path, rows in zip(written, sides.values(), strict=True):
        with path.open("wb") as file:
            file.writelines(json_list(map(_course_row, rows)))
    return written[0], written[1]


def find_breaks(sides: Mapping[str, Rows]) -> list[str]:
    """Name what a consumer would refuse or misread: blank texts, lone surrogates, repeated ids, clashes."""
    breaks: list[str] = []
    seen: set[str] = set()
    for side in SIDES:
        for number, row in enumerate(sides[side], start=1):
            breaks += [f"{side}.jsonl, line {number}: {found}" for found in _row_breaks(row, seen)]
    names = [] if breaks else [course_name(collection) for collection in collections_of(sides)]
    if len(set(names)) < len(names):
        breaks.append(f"formats/course: expected a file name for each collection, found {names}")
    return breaks


def _row_breaks(row: Row, seen: set[str]) -> Iterator[str]:
    if tuple(row) != tuple(COLUMNS):
        yield f"expected the keys {list(COLUMNS)} in this order, found {list(row)}"
        return
    if row["id"] in seen:
        yield f"expected an id of its own, found {row['id']} again"
    seen.add(row["id"])
    for key in ("instruction", "content"):
        if not isinstance(row[key], str) or not row[key].strip():
            yield f"expected text in {key}, found {type(row[key]).__name__} without any"
        elif "\0" in row[key] or not _encodable(row[key]):
            yield f"expected {key} that UTF-8 can hold, found a lone surrogate or NUL"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hyphenated(word: re.Match[str]) -> str:
    return "-".join(part for part in word.groups() if part)


def _course_list(rows: Rows, collection: str) -> Iterator[bytes]:
    return json_list(_course_row(row) for row in rows if row["collection"] == collection)


def _course_row(row: Row) -> dict[str, Any]:
    return {"instruction": row["instruction"], "content": row["content"]}


def _alpaca(row: Row) -> dict[str, Any]:
    return {"instruction": row["instruction"], "input": "", "output": row["content"]}


def _sharegpt(row: Row) -> dict[str, Any]:
    turns = (("human", row["instruction"]), ("gpt", row["content"]))
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def _chat(row: Row) -> dict[str, Any]:
    return {"messages": [turn for turns in _trl(row).values() for turn in turns]}


def _trl(row: Row) -> dict[str, Any]:
    # Conversational: TRL puts the model's chat template around it, while it glues plain strings together.
    prompt = [{"role": "user", "content": row["instruction"]}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": row["content"]}]}


FORMATS = (
    Format("alpaca", _alpaca),  # LLaMA-Factory, Axolotl, Unsloth: instruction, input, output
    Format("sharegpt", _sharegpt),  # LLaMA-Factory, Axolotl, FastChat: conversations
    Format("openai", _chat),  # OpenAI chat fine-tuning and TRL: messages
    Format("trl", _trl),  # TRL's SFTTrainer: prompt, completion
)
