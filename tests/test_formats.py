"""Formats: each is loaded as its consumer loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_pairs import make_pair, publish
from written_pairs import changed

from llmtwin_data.datasets import COLUMNS, FORMATS, course_name, find_breaks, stored_sides, write_course_pair
from llmtwin_data.errors import QualityGate

HOSTILE = '第一行\u2028第二行。「引號」 e\u0301 👩‍👩‍👧 \u202eRTL\u202c tab\tquote" back\\slash\r\nend 龍龜'
PAIRS = [make_pair(number) for number in range(12)] + [
    make_pair(12, HOSTILE, instruction="寫一篇貼文\u2028。")
]


@pytest.fixture
def dataset(tmp_path):
    publish(tmp_path, [*PAIRS[:-1], changed(PAIRS[-1], judge_score=5, judge_reason="good")])
    return tmp_path / "dataset"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`datasets.load_dataset` with no network and a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return lambda *args, **options: datasets.load_dataset(*args, cache_dir=str(tmp_path / "cache"), **options)


def texts_in(value: object) -> list[str]:
    """Give every string in nested lists and dicts."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else [text for item in inner for text in texts_in(item)]


def course_client(paths: list[Path], split: str) -> dict[str, list[str]]:
    """Load as the course's trainer does (rule S44): the first whose path has the side's word."""
    assert len(paths) == 2
    picked = [path for path in paths if split in path.name][0]  # noqa: RUF015 (the rule itself)
    data = json.loads(picked.read_text(encoding="utf-8"))
    return {key: [str(row[key]) for row in data] for key in data[0]}


def opik_items(folder: Path) -> list[dict]:
    """Load as the course's evaluation does (rule S45): exactly one testing file."""
    (found,) = folder.glob("*_testing.json")
    return json.loads(found.read_text(encoding="utf-8"))


def openai_errors(example: dict) -> list[str]:
    """Check one example as OpenAI's guide to fine-tuning data does."""
    messages = example.get("messages")
    if not messages:
        return ["missing_messages_list"]
    found = ["message_missing_key" for message in messages if not {"role", "content"} <= set(message)]
    found += [
        "message_unrecognized_key"
        for message in messages
        if set(message) - {"role", "content", "name", "weight"}
    ]
    found += [
        "unrecognized_role" for message in messages if message["role"] not in ("system", "user", "assistant")
    ]
    found += ["missing_content" for message in messages if not message["content"]]
    assistant = any(message["role"] == "assistant" for message in messages)
    return found if assistant else [*found, "example_missing_assistant_message"]


def test_the_folder_loads_with_datasets(dataset, load):
    loaded = load(str(dataset))

    assert {side: len(rows) for side, rows in loaded.items()} == {"train": 11, "test": 2}
    assert loaded["train"].column_names == list(COLUMNS)
    assert loaded["test"][1]["content"] == HOSTILE
    assert loaded["test"]["judge_score"][:] == [None, 5]


@pytest.mark.parametrize("name", [shape.name for shape in FORMATS])
def test_every_format_loads_as_a_config(dataset, load, name):
    loaded = load(str(dataset), name)

    assert {side: len(rows) for side, rows in loaded.items()} == {"train": 11, "test": 2}
    assert HOSTILE in texts_in(loaded["test"][1])


def test_an_empty_test_set_loads_too(tmp_path, load):
    publish(tmp_path, PAIRS, test=0)

    assert list(load(str(tmp_path / "dataset"))) == ["train"]


def test_json_lines_load_by_themselves(dataset, load):
    loaded = load("json", data_files=str(dataset / "train.jsonl"), split="train")

    assert loaded["instruction"][0] == PAIRS[0].instruction


def test_trl_takes_messages_and_prompt_with_completion(dataset, load):
    prompts, messages = load(str(dataset), "trl")["train"], load(str(dataset), "openai")["train"]

    # TRL, dataset formats: conversational prompt-completion, and conversational language modelling.
    assert prompts.column_names == ["prompt", "completion"]
    assert prompts[0]["prompt"] == [{"role": "user", "content": PAIRS[0].instruction}]
    assert prompts[0]["completion"] == [{"role": "assistant", "content": PAIRS[0].content}]
    assert messages.column_names == ["messages"]
    assert messages[0]["messages"] == prompts[0]["prompt"] + prompts[0]["completion"]


def test_openai_finds_no_error(dataset):
    examples = [json.loads(line) for line in (dataset / "formats/openai/train.jsonl").open("rb")]

    assert len(examples) >= 10
    assert [error for example in examples for error in openai_errors(example)] == []


def test_alpaca_and_sharegpt_have_the_keys_of_their_trainers(dataset):
    alpaca = json.loads((dataset / "formats/alpaca/train.jsonl").open("rb").readline())
    sharegpt = json.loads((dataset / "formats/sharegpt/train.jsonl").open("rb").readline())

    assert alpaca == {"instruction": PAIRS[0].instruction, "input": "", "output": PAIRS[0].content}
    assert [turn["from"] for turn in sharegpt["conversations"]] == ["human", "gpt"]


def test_s44_the_course_client_loads_both_sides(dataset):
    files = sorted((dataset / "formats/course").iterdir())

    assert [path.name for path in files] == ["cleaned_posts_testing.json", "cleaned_posts_training.json"]
    assert list(course_client(files, "train")) == ["instruction", "content"]
    assert course_client(files, "train")["content"][0] == PAIRS[0].content
    assert course_client(files, "test")["content"][1] == HOSTILE


def test_s45_the_course_evaluation_finds_one_testing_file(dataset):
    items = opik_items(dataset / "formats/course")

    assert [set(item) for item in items] == [{"instruction", "content"}] * 2


@pytest.mark.parametrize(
    "collection", ["cleaned_training_notes", "latest_posts", "train_test", "Train", "cleaned_posts"]
)
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_b18_a_collection_named_train_does_not_break_the_picking(tmp_path, collection, backwards):
    pairs = [changed(pair, collection=collection) for pair in PAIRS]
    publish(tmp_path, pairs)

    files = sorted((tmp_path / "dataset/formats/course").iterdir(), reverse=backwards)

    assert len(course_client(files, "train")["content"]) == 11
    assert len(course_client(files, "test")["content"]) == 2


def test_s35_each_collection_has_its_two_files_and_the_artifact_is_one_pair(tmp_path):
    articles = [make_pair(number, collection="cleaned_articles") for number in range(20, 24)]
    publish(tmp_path, [*PAIRS, *articles], test=4)
    dataset = tmp_path / "dataset"

    training, testing = write_course_pair(dataset, tmp_path)

    assert len(list((dataset / "formats/course").iterdir())) == 4
    assert (training.name, testing.name) == ("twin_training.json", "twin_testing.json")
    assert len(course_client([training, testing], "train")["content"]) == 13
    assert len(opik_items(tmp_path)) == 4


def test_one_collection_gives_the_artifact_its_name(dataset, tmp_path):
    training, testing = write_course_pair(dataset, tmp_path)

    assert training.read_bytes() == (dataset / "formats/course/cleaned_posts_training.json").read_bytes()
    assert testing.name == "cleaned_posts_testing.json"


def test_b15_an_empty_train_set_is_refused_for_comet_with_the_reason(tmp_path):
    publish(tmp_path, [], test=0)

    with pytest.raises(QualityGate, match=r"expected rows in train.jsonl, found none"):
        write_course_pair(tmp_path / "dataset", tmp_path)


def test_b15_one_row_is_enough(tmp_path):
    publish(tmp_path, PAIRS[:1], test=0)

    training, testing = write_course_pair(tmp_path / "dataset", tmp_path)

    assert len(course_client([training, testing], "train")["content"]) == 1
    assert opik_items(tmp_path) == []


def test_b21_alpaca_rows_join_other_alpaca_rows_without_a_none(dataset, load):
    datasets = pytest.importorskip("datasets")
    other = datasets.Dataset.from_list([{"instruction": "Add 2 and 2.", "input": "", "output": "4"}])

    joined = datasets.concatenate_datasets([load(str(dataset), "alpaca")["train"], other])

    assert None not in joined["output"][:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": " "}, "expected text in instruction"),
        ({"content": ""}, "expected text in content"),
        ({"content": "a\0b"}, "lone surrogate or NUL"),
        ({"instruction": "a\ud800b"}, "lone surrogate or NUL"),
        ({"extra": 1}, "expected the keys"),
    ],
    ids=["blank", "empty", "nul", "surrogate", "key"],
)
def test_what_a_consumer_would_break_on_is_named(dataset, change, said):
    rows = list(stored_sides(dataset)["train"])

    found = find_breaks({"train": [rows[0], rows[1] | change], "test": []})

    assert len(found) == 1
    assert found[0].startswith("train.jsonl, line 2")
    assert said in found[0]


def test_a_repeated_id_is_named_across_sides(dataset):
    row = next(iter(stored_sides(dataset)["train"]))

    assert "found " + row["id"] in find_breaks({"train": [row], "test": [row]})[0]


def test_such_rows_are_not_published(tmp_path):
    with pytest.raises(QualityGate, match="consumers would break"):
        publish(tmp_path, [*PAIRS[:3], make_pair(40, instruction="\n")])

    assert list(tmp_path.iterdir()) == []


def test_course_names_are_left_alone_where_they_can_be():
    assert course_name("cleaned_posts") == "cleaned_posts"
    assert course_name("cleaned_training_notes") == "cleaned_tr-aining_notes"
    assert course_name("latest_posts") == "late-st_posts"
