"""The dataset: ledger, rows, files, formats, card, manifest; each format is loaded as its consumer does."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from finished_run import dataset_row
from published_pairs import ledger_of, make_pair, publish
from written_pairs import changed, table_of

from llmtwin_data import datasets
from llmtwin_data.cluster import BLOCK_ROWS
from llmtwin_data.datasets import (
    COLUMNS,
    FORMATS,
    LEDGER,
    file_entry,
    find_breaks,
    ledger_totals,
    read_ledger,
    read_manifest,
    rendered_files,
    stored_sides,
    training_files,
    write_course_pair,
    write_ledger,
)
from llmtwin_data.errors import DiskFailed, ParamsError, QualityGate, RunIncomplete
from llmtwin_data.params import make_params

HOSTILE = '第一行\u2028第二行。「引號」 e\u0301 👩‍👩‍👧 \u202eRTL\u202c tab\tquote" back\\slash\r\nend 龍龜'
PAIRS = [make_pair(number) for number in range(12)]
PAIRS.append(make_pair(12, HOSTILE, instruction="寫一篇貼文\u2028。", judge_score=5, judge_reason="good"))
TEXTS = (
    "Yesterday I walked along the river for an hour and thought about how bread rises in the cold.",
    "昨天我沿著河邊走了一個小時，想著麵包在寒冷中如何發酵，還有這座城市的電車為什麼總是準時抵達。",
    "The tram was late again this morning, so I counted the people who read a book on paper.",
)
LEDGER_ROWS = table_of(
    [
        make_pair(0),
        make_pair(0, k=2, state="rejected", reason="copied", value="0.61"),
        make_pair(1, content_id="空", end=12, state="skipped", reason="blank"),
        make_pair(2, state="failed", reason="refused", cost_usd=None),
    ]
)


@pytest.fixture
def dataset(tmp_path):
    publish(tmp_path, PAIRS)
    return tmp_path / "dataset"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`datasets.load_dataset` with no network and a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return lambda *args, **options: datasets.load_dataset(*args, cache_dir=str(tmp_path / "cache"), **options)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def published_card(folder: Path, pairs=None, **options) -> tuple[str, dict]:
    """Return the card and its metadata."""
    publish(folder, pairs or [make_pair(n, text) for n, text in enumerate(TEXTS)], **{"test": 1} | options)
    card = (folder / "dataset/README.md").read_text(encoding="utf-8")
    return card, yaml.safe_load(card.split("---\n")[1])


def test_rows_have_the_columns_of_the_design_in_their_order(dataset):
    row = [*stored_sides(dataset)["test"]][1]

    assert list(row) == list(COLUMNS) == [
        "id", "instruction", "content", "content_id", "start", "end", "author", "platform", "link",
        "data_type", "prompt", "prompt_sha256", "model", "answer_key",
        "grounding", "grounding_rank", "grounding_margin", "copied_instruction", "copied_content",
        "genericness", "repeats", "language", "language_asked", "language_ok", "characters", "tokens",
        "self_contained", "judge_score", "judge_reason", "collection", "k", "masked",
        "evidence", "measured_by", "repeated_bigrams", "boilerplate", "title", "published",
    ]  # fmt: skip
    assert (row["judge_score"], row["judge_reason"], row["content"]) == (5, "good", HOSTILE)


def test_the_manifest_names_itself_and_every_other_file_and_holds_no_time_cost_host_or_path(tmp_path):
    manifest = publish(tmp_path, PAIRS, notes=["Small."])
    path, files = tmp_path / "dataset/manifest.json", tree(tmp_path / "dataset")

    assert files.pop("manifest.json") == file_entry(path)["sha256"] == manifest.sha256
    assert {name: entry["sha256"] for name, entry in manifest.files.items()} == files
    assert manifest.files["formats/course/cleaned_posts_training.json"]["rows"] == 11
    assert read_manifest(path) == manifest
    assert list(json.loads(path.read_bytes())) == [
        "name", "counts", "files", "sides", "certificate", "rules", "ledger_sha256", "notes", "screened",
    ]  # fmt: skip


def test_what_an_answer_cost_leaves_no_mark_on_the_dataset(tmp_path):
    costs = ({}, {"requests": 4, "prompt_tokens": 360, "cost_usd": None})

    for name, cost in zip(("one", "two"), costs, strict=True):
        failed = make_pair(13, state="failed", reason="refused", **cost)
        publish(tmp_path / name, PAIRS, others=[failed])

    assert tree(tmp_path / "one/dataset") == tree(tmp_path / "two/dataset")


def test_sides_of_contents_that_are_gone_stay_known(tmp_path):
    gone = {"cleaned_posts/gone": "test", "cleaned_posts/id-0": "train"}

    publish(tmp_path, PAIRS[:3], test=1, previous_sides=gone)

    assert read_manifest(tmp_path / "dataset/manifest.json").sides == {
        "train": ["cleaned_posts/id-0", "cleaned_posts/id-1"],
        "test": ["cleaned_posts/gone", "cleaned_posts/id-2"],
    }


def test_pending_instructions_are_not_published(tmp_path):
    with pytest.raises(RunIncomplete, match="1 of 14"):
        publish(tmp_path, PAIRS, others=ledger_of([make_pair(13)], "pending"))

    assert not (tmp_path / "dataset").exists()


def test_a_ledger_that_does_not_account_for_the_rows_is_refused(tmp_path):
    with pytest.raises(QualityGate, match="accepts 14 instructions, found 13 rows"):
        publish(tmp_path, PAIRS, others=ledger_of([make_pair(13)]))


def test_an_empty_run_still_publishes_local_files(tmp_path):
    publish(tmp_path, [], test=0, others=ledger_of(PAIRS, "rejected", "copied"))

    assert (tmp_path / "dataset/train.jsonl").read_bytes() == b""
    assert read_manifest(tmp_path / "dataset/manifest.json").counts == {"train": 0, "test": 0}


@pytest.mark.parametrize("text", ['{"name": 1}', "[]", "{", "1"], ids=["short", "list", "torn", "number"])
def test_a_broken_manifest_is_a_matter_of_the_disk(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DiskFailed, match="manifest of this version"):
        read_manifest(tmp_path / "manifest.json")
    with pytest.raises(ParamsError, match="found no such file"):
        read_manifest(tmp_path / "nowhere/manifest.json")


def test_files_of_before_are_read(tmp_path):
    publish(tmp_path, PAIRS[:4])
    manifest, ledger = tmp_path / "dataset/manifest.json", tmp_path / "ledger.jsonl"
    manifest.write_text(manifest.read_text().replace(',\n "screened": {}', ""))
    ledger.write_text(re.sub(', "instruction_sha256": "[0-9a-f]*"', "", ledger.read_text()))

    assert read_manifest(manifest).screened == {}
    assert read_ledger(ledger).instruction_sha256.tolist() == [""] * 4


def test_ledger_rows_come_back_as_they_were_with_their_keys_in_order(tmp_path):
    table = LEDGER_ROWS.assign(instruction=[*LEDGER_ROWS.instruction[:3], None])
    write_ledger(tmp_path / "ledger.jsonl", table)

    hashes = [hashlib.sha256(words.encode()).hexdigest() for words in table.instruction[:3]] + [""]
    expected = table.assign(instruction_sha256=hashes)[list(LEDGER)]
    pd.testing.assert_frame_equal(read_ledger(tmp_path / "ledger.jsonl"), expected)
    assert list(json.loads((tmp_path / "ledger.jsonl").read_text().split("\n")[0])) == list(LEDGER) == [
        "content_id", "start", "end", "k", "state", "reason", "value",
        "requests", "prompt_tokens", "completion_tokens", "cost_usd", "collection", "instruction_sha256",
    ]  # fmt: skip


def test_totals_count_contents_chunks_and_states():
    assert ledger_totals(LEDGER_ROWS) == {
        "contents": 3, "chunks": 3, "accepted": 1, "rejected": 1, "failed": 1, "skipped": 1, "pending": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"not json", b'{"content_id": "a"}', b"\xff", None],
    ids=["empty", "list", "text", "short", "bytes", "other types"],
)
def test_a_bad_line_of_a_ledger_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, LEDGER_ROWS)
    good = path.read_bytes().split(b"\n")[0]
    with path.open("ab") as file:
        file.write((line or good.replace(b'"start": 0', b'"start": "0"')) + b"\n")

    with pytest.raises(DiskFailed, match=r"ledger.jsonl, line 5: expected a"):
        read_ledger(path)


def test_parquet_holds_the_same_rows_with_types_even_without_any(tmp_path):
    publish(tmp_path, PAIRS, test=0)
    dataset = tmp_path / "dataset"

    schema = pq.read_schema(dataset / "test.parquet")
    assert pq.read_table(dataset / "train.parquet").to_pylist() == [*stored_sides(dataset)["train"]]
    assert schema.names == list(COLUMNS)
    assert [str(schema.field(name).type) for name in ("id", "start", "grounding", "language_ok")] == [
        "string", "int64", "double", "bool",
    ]  # fmt: skip


def test_a_dataset_is_the_same_bytes_in_whatever_pieces_it_is_rendered(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(datasets, "RENDERED_ROWS", 3)
    monkeypatch.setattr(datasets, "GROUP_ROWS", 12)

    publish(tmp_path / "pieces", PAIRS)

    assert tree(tmp_path / "pieces/dataset") == tree(dataset)


def texts_in(value: object) -> list[str]:
    """Give every string in nested lists and dicts."""
    inner = list(value.values()) if isinstance(value, dict) else value
    nested = inner if isinstance(inner, list) else []
    return [value] if isinstance(value, str) else [text for item in nested for text in texts_in(item)]


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
    keys, roles = {"role", "content", "name", "weight"}, ("system", "user", "assistant")
    found = ["message_missing_key" for message in messages if not {"role", "content"} <= set(message)]
    found += ["message_unrecognized_key" for message in messages if set(message) - keys]
    found += ["unrecognized_role" for message in messages if message["role"] not in roles]
    found += ["missing_content" for message in messages if not message["content"]]
    assistant = any(message["role"] == "assistant" for message in messages)
    return found if assistant else [*found, "example_missing_assistant_message"]


@pytest.mark.parametrize("name", ["default", *FORMATS])
def test_the_folder_loads_with_datasets_in_every_format(dataset, load, name):
    loaded = load(str(dataset), name)

    assert {side: len(rows) for side, rows in loaded.items()} == {"train": 11, "test": 2}
    assert HOSTILE in texts_in(loaded["test"][1])
    if name == "default":
        assert loaded["train"].column_names == list(COLUMNS)
        assert loaded["test"]["judge_score"][:] == [None, 5]


def test_one_row_and_an_empty_test_set_load_too(tmp_path, load):
    publish(tmp_path, PAIRS[:1], test=0)

    paths = write_course_pair(tmp_path / "dataset", tmp_path)

    assert list(load(str(tmp_path / "dataset"))) == ["train"]
    assert len(course_client(list(paths), "train")["content"]) == 1
    assert opik_items(tmp_path) == []


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


def test_s44_s45_the_course_client_and_its_evaluation_load_both_sides(dataset):
    files = sorted((dataset / "formats/course").iterdir())

    assert [path.name for path in files] == ["cleaned_posts_testing.json", "cleaned_posts_training.json"]
    assert list(course_client(files, "train")) == ["instruction", "content"]
    assert course_client(files, "train")["content"][0] == PAIRS[0].content
    assert course_client(files, "test")["content"][1] == HOSTILE
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


def test_the_artifact_is_written_without_holding_all_rows(tmp_path):
    line = json.dumps({"collection": "cleaned_posts", "instruction": "Write.", "content": "x" * 1000}) + "\n"
    (tmp_path / "train.jsonl").write_text(line * 8 * BLOCK_ROWS)
    (tmp_path / "test.jsonl").write_text("")

    tracemalloc.start()
    training, testing = write_course_pair(tmp_path, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(json.loads(training.read_bytes())) == 8 * BLOCK_ROWS
    assert json.loads(testing.read_bytes()) == []
    assert peak < training.stat().st_size


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
    assert found[0].startswith("train.jsonl: line 2")
    assert said in found[0]
    assert f"found {rows[0]['id']} again" in find_breaks({"train": rows[:1], "test": rows[:1]})[0]


def test_such_rows_are_not_published(tmp_path):
    with pytest.raises(QualityGate, match="consumers would break"):
        publish(tmp_path, [*PAIRS[:3], make_pair(40, instruction="\n")])

    assert list(tmp_path.iterdir()) == []


def test_metadata_of_the_card_names_languages_size_and_configs_and_leaves_the_licence(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    card, metadata = published_card(tmp_path)

    assert hub.DatasetCard(card).data.pretty_name == "posts-instruct-dataset"
    assert (metadata["language"], metadata["language_bcp47"]) == (["en", "zh"], ["zh-Hant"])
    assert metadata["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in metadata["configs"]] == ["default", *FORMATS]
    assert metadata["configs"][0]["data_files"][1] == {"split": "test", "path": "test.jsonl"}
    assert "license" not in metadata
    assert ("# license: yours to choose" in card, "**Not chosen yet.**" in card) == (True, True)


def test_the_card_tells_notes_and_fates(tmp_path):
    others = ledger_of([make_pair(3)], "rejected", "copied")

    card, _ = published_card(tmp_path, others=others, notes=["A 135M model wrote these instructions."])

    assert "> A 135M model wrote these instructions.\n" in card
    assert "| rejected: copied | 1 |" in card
    assert "| train | 2 |" in card


def test_no_text_of_the_source_can_break_the_card(tmp_path):
    hostile = make_pair(0, model="`</script>` | x\n# y", prompt="---\nlicense: mit\n---")

    card, metadata = published_card(tmp_path, [hostile], test=0)

    assert "license" not in metadata
    assert "\n# y" not in card


SYSTEM = "You are {author}, who writes {data_type} on {platform}."


def training_of(train, test, *, tokens=200):
    """Return the values of the file for each trainer, and the rest by name."""
    sides = ["train"] * train + ["test"] * test
    table = pd.DataFrame([dataset_row(1, tokens=tokens)] * len(sides)).assign(side=sides)
    files = dict(training_files(table, name="posts"))
    trainers = ("llamafactory", "trl")
    return [yaml.safe_load(files[f"training/{trainer}.yaml"]) for trainer in trainers], files


@pytest.mark.parametrize(
    ("rows", "tokens", "cutoff", "epochs", "rank"),
    [(50, 100, 256, 3, 8), (300, 500, 768, 2, 16), (4000, 1500, 2048, 1, 32)],
)
def test_values_for_trainers_go_by_how_many_rows_there_are_and_how_long(rows, tokens, cutoff, epochs, rank):
    (factory, trl), _ = training_of(rows, 5, tokens=tokens)

    assert [factory[key] for key in ("cutoff_len", "num_train_epochs", "lora_rank")] == [cutoff, epochs, rank]
    assert [trl[key] for key in ("max_length", "num_train_epochs", "lora_r")] == [cutoff, epochs, rank]


def test_llama_factory_finds_the_rows_of_both_sides_and_the_script_is_python():
    (config, _), files = training_of(3, 1)
    info = json.loads(files["training/dataset_info.json"])
    rendered = {path for path, _, _ in rendered_files({"train": [dataset_row(1)], "test": []})}

    named = [info[config[key]]["file_name"] for key in ("dataset", "eval_dataset")]
    assert {name.removeprefix("../") for name in named} < rendered
    compile(files["training/trl_sft.py"], "trl_sft.py", "exec")


def test_without_a_test_side_nothing_is_evaluated():
    configs, files = training_of(3, 0)

    assert not [key for config in configs for key in config if "eval" in key or "best" in key]
    assert list(json.loads(files["training/dataset_info.json"])) == ["posts"]


def test_a_system_turn_stands_in_the_formats_that_have_one():
    row = dataset_row(1, author="{platform} Ana", platform="linkedin", data_type="posts")
    words = "You are {platform} Ana, who writes posts on linkedin."
    rendered = rendered_files({"train": [row], "test": []}, system=SYSTEM)
    shaped = {path: piece.decode() for path, _, piece in rendered if "train.jsonl" in path}
    sharegpt, trl = (json.loads(shaped[f"formats/{name}/train.jsonl"]) for name in ("sharegpt", "trl"))

    assert [path.split("/")[1] for path, text in shaped.items() if words in text] == [
        "sharegpt",
        "openai",
        "trl",
    ]
    assert trl["prompt"][0] == {"role": "system", "content": words}
    assert sharegpt["conversations"][0] == {"from": "system", "value": words}


@pytest.mark.parametrize("words", ["as {name}", "a { b", "two\nlines"])
def test_a_system_turn_takes_only_fields_that_a_row_has(words):
    with pytest.raises(ParamsError, match="braces only around author, platform and data_type"):
        make_params({"system": words}, place="test")
