"""Foreign: rows of anyone's dataset."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmtwin_data.audits import read_dataset
from llmtwin_data.errors import SourceError

ASKED, TOLD = "Write about bees.", "Bees fly at dawn."
TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": TOLD},
]
SHAPES = {
    "instruction/content": {"instruction": ASKED, "content": TOLD},
    "instruction/answer": {"instruction": ASKED, "answer": TOLD},
    "alpaca": {"instruction": ASKED, "input": "", "output": TOLD},
    "prompt/completion": {"prompt": ASKED, "completion": TOLD},
    "conversational prompt": {"prompt": TURNS[:2], "completion": TURNS[2:]},
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": TOLD}]},
    "preference": {"prompt": ASKED, "chosen": TOLD, "rejected": "no"},
}


def exchanges(rows):
    return list(rows[["instruction", "content"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_every_shape_in_every_file(tmp_path, shape, suffix):
    file = tmp_path / f"set.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([shape]), file)
    else:
        file.write_text(json.dumps([shape] if suffix == "json" else shape))

    assert exchanges(read_dataset(file)) == [(ASKED, TOLD)]


def row(number, **fields):
    return {"instruction": f"i{number}", "content": f"c{number}"} | fields


def test_sides_from_a_split_field(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text(
        "\n".join(json.dumps(row(n, split=side)) for n, side in enumerate(("train", "test", "other")))
    )

    assert read_dataset(file).side.tolist() == ["train", "test", ""]


def test_sides_from_an_object(tmp_path):
    file = tmp_path / "set.json"
    file.write_text(json.dumps({"train": [row(1)], "test": [row(2), row(3)]}))

    assert read_dataset(file).side.tolist() == ["train", "test", "test"]


@pytest.mark.parametrize(
    "names",
    [
        ("train.json", "test.json"),
        ("data/train-00000-of-00001.json", "data/test-00000-of-00001.json"),
        ("cleaned_posts_training.json", "cleaned_posts_testing.json"),
    ],
    ids=["plain", "shards", "course"],
)
def test_sides_from_a_folder(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps([row(number)]))

    assert sorted(read_dataset(tmp_path).side) == ["test", "train"]


def test_of_a_folder_one_kind_of_file_is_read(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(row(1)))
    (tmp_path / "train.json").write_text(json.dumps([row(1)]))

    assert len(read_dataset(tmp_path)) == 1


def test_rows_below_a_key_are_found(tmp_path):
    file = tmp_path / "set.json"
    file.write_text(json.dumps({"version": 2, "data": [row(1)]}))

    assert exchanges(read_dataset(file)) == [("i1", "c1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none"),
        ('{"instruction": "a", "content": "b"}\n{oops', "line 2"),
        ('[{"title": "a", "body": "b"}]', "found title, body"),
        ("[1, 2]", "found int"),
    ],
    ids=["empty", "broken line", "other columns", "no rows"],
)
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    file = tmp_path / "set.jsonl"
    file.write_text(text)

    with pytest.raises(SourceError, match=message):
        read_dataset(file)


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match="found nothing"):
        read_dataset(tmp_path / "none.json")
