"""Rows of anyone's dataset: an instruction and the text that answers it, whatever they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtwin_data.errors import SourceError

INSTRUCTION = ("instruction", "prompt", "question", "query")
TEXT = ("content", "output", "answer", "response", "completion", "chosen")
# Turns of a chat: ShareGPT's words and OpenAI's.
TURNS = ("messages", "conversations", "conversation")
ASKING = ("user", "human")
TELLING = ("assistant", "gpt", "model")
SIDES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SUFFIXES = (".jsonl", ".json", ".parquet")
SHAPES = (
    "instruction with content, output, answer or response; prompt with completion; messages; conversations"
)


@dataclass(frozen=True, slots=True)
class ForeignRow:
    """One row; ``side`` is empty where the dataset does not tell train from test."""

    place: str
    instruction: str
    text: str
    side: str = ""
    content_id: str = ""
    author: str = ""


def read_dataset(path: Path) -> list[ForeignRow]:
    """Read a JSON, JSONL or Parquet file, or a folder's train and test files.

    Raises
    ------
    SourceError
        No such file, nothing to read, or a row of unknown shape; the message names file and row.
    """
    if not path.exists():
        raise SourceError(f"audit: expected a dataset at {path.name}, found nothing there")
    rows = [row for file, side in _files(path) for row in _rows(file, side)]
    if not rows:
        raise SourceError(f"audit: expected rows in {path.name}, found none ({', '.join(SUFFIXES)} are read)")
    return rows


def _files(path: Path) -> list[tuple[Path, str]]:
    """Give the files and their sides: of a folder the train and test files of one kind."""
    if path.is_file():
        return [(path, _side(path.stem))]
    for suffix in SUFFIXES:
        found = [file for folder in (path, path / "data") for file in sorted(folder.glob(f"*{suffix}"))]
        sided = [(file, _side(file.stem)) for file in found if _side(file.stem)]
        if sided:
            return sided
    return [(file, "") for file in sorted(path.glob("*")) if file.suffix in SUFFIXES]


def _side(stem: str) -> str:
    """Read the side off a file's name: train, test-00000-of-00001, cleaned_posts_training."""
    names = stem.replace("-", "_").lower().split("_")
    return next((SIDES[name] for name in (names[0], names[-1]) if name in SIDES), "")


def _rows(file: Path, side: str) -> Iterator[ForeignRow]:
    for number, (found, own_side) in enumerate(_objects(file), start=1):
        place = f"{file.name}, row {number}"
        instruction, text = _exchange(found, place)
        told = SIDES.get(str(found.get("split", "")).lower(), "")
        content_id = str(found.get("content_id") or "")
        yield ForeignRow(
            place, instruction, text, told or own_side or side, content_id, str(found.get("author") or "")
        )


def _objects(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the rows of a file, with a side where the file is one object of train and test."""
    if file.suffix == ".parquet":
        yield from ((row, "") for row in _parquet(file))
        return
    text = _text(file)
    try:
        whole = json.loads(text)
    except ValueError:
        yield from ((row, "") for row in _lines(file, text))
        return
    if isinstance(whole, dict) and any(name in SIDES and isinstance(whole[name], list) for name in whole):
        yield from ((row, SIDES[name]) for name in whole if name in SIDES for row in whole[name])
    else:
        yield from ((row, "") for row in _listed(whole))


def _listed(whole: Any) -> list[Any]:
    if isinstance(whole, dict):
        return next((value for value in whole.values() if _is_rows(value)), [whole])
    return whole if isinstance(whole, list) else [whole]


def _is_rows(value: Any) -> bool:
    turn = {"role", "from"}
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not turn & set(value[0])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"audit: expected UTF-8 text in {file.name}, found {error}") from error


def _lines(file: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                yield json.loads(line)
        except ValueError as error:
            raise SourceError(f"audit: expected JSON in {file.name}, line {number}, found {error}") from error


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except ArrowException as error:
        raise SourceError(f"audit: expected Parquet in {file.name}, found {error}") from error


def _exchange(row: Any, place: str) -> tuple[str, str]:
    """Give instruction and text of a row; of a chat the first question and its answer."""
    fields = row if isinstance(row, Mapping) else {}
    turns = next((fields[name] for name in TURNS if isinstance(fields.get(name), list)), None)
    if turns is not None:
        return _turn(turns, ASKING), _turn(turns, TELLING)
    instruction, text = _first(fields, INSTRUCTION), _first(fields, TEXT)
    if instruction is None or text is None:
        found = ", ".join(map(str, fields)) or type(row).__name__
        raise SourceError(f"audit: {place}: expected {SHAPES}; found {found}")
    return _said(instruction, ASKING), _said(text, TELLING)


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _said(value: Any, roles: Sequence[str]) -> str:
    return _turn(value, roles) if isinstance(value, list) else str(value)


def _turn(turns: Sequence[Any], roles: Sequence[str]) -> str:
    told = [turn for turn in turns if isinstance(turn, Mapping)]
    spoken = (turn for turn in told if str(turn.get("role", turn.get("from"))).lower() in roles)
    first = next(spoken, {})
    return str(first.get("content", first.get("value", "")))
