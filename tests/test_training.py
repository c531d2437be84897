"""What a trainer is given beside the rows, and the system turn of the formats that have one."""

from __future__ import annotations

import json

import pytest
import yaml
from finished_run import dataset_row

from llmtwin_data.datasets import FORMATS, rendered_files
from llmtwin_data.errors import ParamsError
from llmtwin_data.params import make_params
from llmtwin_data.training import training_files

SYSTEM = "You are {author}, who writes {data_type} on {platform}."
ANA = {"author": "{platform} Ana", "platform": "linkedin", "data_type": "posts"}


def files_of(train, test, *, tokens=200, system=""):
    sides = {side: [dataset_row(n, tokens=tokens)] * n for side, n in (("train", train), ("test", test))}
    return dict(training_files(sides, name="posts", system=system))


def values_of(files, name):
    return yaml.safe_load(files[f"training/{name}.yaml"])


@pytest.mark.parametrize(
    ("rows", "tokens", "cutoff", "epochs", "rank"),
    [(50, 100, 256, 3, 8), (300, 500, 768, 2, 16), (4000, 1500, 2048, 1, 32)],
)
def test_values_go_by_how_many_rows_there_are_and_how_long(rows, tokens, cutoff, epochs, rank):
    files = files_of(rows, 5, tokens=tokens)
    factory, trl = values_of(files, "llamafactory"), values_of(files, "trl")

    assert (factory["cutoff_len"], factory["num_train_epochs"], factory["lora_rank"]) == (
        cutoff,
        epochs,
        rank,
    )
    assert (trl["max_length"], trl["num_train_epochs"], trl["lora_r"]) == (cutoff, epochs, rank)


def test_llama_factory_finds_the_rows_of_both_sides():
    files = files_of(3, 1)
    config, info = values_of(files, "llamafactory"), json.loads(files["training/dataset_info.json"])
    rendered = {path for path, _, _ in rendered_files({"train": [dataset_row(1)], "test": []})}

    named = [info[config[key]]["file_name"] for key in ("dataset", "eval_dataset")]
    assert {name.removeprefix("../") for name in named} < rendered


def test_without_a_test_side_nothing_is_evaluated():
    files = files_of(3, 0)

    assert not any("eval" in key or "best" in key for key in values_of(files, "llamafactory"))
    assert not any("eval" in key or "best" in key for key in values_of(files, "trl"))
    assert list(json.loads(files["training/dataset_info.json"])) == ["posts"]


def test_the_script_is_python():
    compile(files_of(3, 1)["training/trl_sft.py"], "trl_sft.py", "exec")


def test_a_system_turn_stands_in_the_formats_that_have_one():
    row = dataset_row(1, **ANA)
    words = "You are {platform} Ana, who writes posts on linkedin."
    shaped = {name: json.dumps(render(row, SYSTEM)) for name, render in FORMATS.items()}

    assert [name for name, text in shaped.items() if words in text] == ["sharegpt", "openai", "trl"]
    assert json.loads(shaped["trl"])["prompt"][0] == {"role": "system", "content": words}
    assert json.loads(shaped["sharegpt"])["conversations"][0] == {"from": "system", "value": words}


@pytest.mark.parametrize("words", ["as {name}", "a { b", "two\nlines"])
def test_a_system_turn_takes_only_fields_that_a_row_has(words):
    with pytest.raises(ParamsError, match="braces only around author, platform and data_type"):
        make_params({"system": words}, place="test")
