"""The dataset: rows, files, manifest, publishing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from published_pairs import ledger_of, make_pair, publish

from llmtwin_data.datasets import COLUMNS, read_manifest, sides_of
from llmtwin_data.errors import QualityGate, RunIncomplete

PAIRS = [make_pair(number) for number in range(10)]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_rows_have_the_columns_in_their_order(tmp_path):
    publish(tmp_path, [make_pair(0, judge_score=4, judge_reason="specific"), *PAIRS[1:]])

    first = lines(tmp_path / "dataset/train.jsonl")[0]
    assert list(first) == list(COLUMNS)
    assert list(first)[:4] == ["id", "instruction", "content", "content_id"]
    assert list(first)[4:10] == ["start", "end", "author", "platform", "link", "data_type"]
    assert (first["judge_score"], first["judge_reason"]) == (4, "specific")


def test_a_pair_without_a_side_is_left_out(tmp_path):
    others = ledger_of([make_pair(11)], "rejected", "leak")

    publish(tmp_path, PAIRS, others=others)

    assert len(lines(tmp_path / "dataset/train.jsonl")) == 8
    assert len(lines(tmp_path / "dataset/test.jsonl")) == 2


def test_the_manifest_names_every_file_but_itself(tmp_path):
    manifest = publish(tmp_path, PAIRS)

    files = tree(tmp_path / "dataset")
    files.pop("manifest.json")
    assert {name: entry["sha256"] for name, entry in manifest.files.items()} == files
    assert manifest.files["formats/course/cleaned_posts_training.json"]["rows"] == 8
    assert read_manifest(tmp_path / "dataset/manifest.json") == manifest


def test_the_same_rows_give_the_same_bytes(tmp_path):
    publish(tmp_path / "one", PAIRS)
    publish(tmp_path / "two", PAIRS)

    assert tree(tmp_path / "one/dataset") == tree(tmp_path / "two/dataset")


def test_what_an_answer_cost_leaves_no_mark_on_the_dataset(tmp_path):
    costs = ({}, {"requests": 4, "prompt_tokens": 360, "cost_usd": None})

    for name, cost in zip(("one", "two"), costs, strict=True):
        failed = make_pair(11, state="failed", reason="refused", **cost)
        publish(tmp_path / name, PAIRS, others=[failed])

    assert tree(tmp_path / "one/dataset") == tree(tmp_path / "two/dataset")


def test_publishing_again_replaces_the_dataset_and_leaves_no_trace(tmp_path):
    publish(tmp_path, PAIRS)
    publish(tmp_path, PAIRS[:5], test=1)

    assert len(lines(tmp_path / "dataset/train.jsonl")) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "ledger.jsonl", "run.json"]


def test_sides_of_contents_that_are_gone_stay_known(tmp_path):
    publish(
        tmp_path,
        PAIRS[:4],
        test=1,
        previous_sides={"cleaned_posts/gone": "test", "cleaned_posts/id-0": "train"},
    )

    sides = sides_of(read_manifest(tmp_path / "dataset/manifest.json"))
    assert sides["cleaned_posts/gone"] == "test"
    assert sides["cleaned_posts/id-0"] == "train"
    assert sides["cleaned_posts/id-3"] == "test"


def test_pending_instructions_are_not_published(tmp_path):
    with pytest.raises(RunIncomplete, match="1 of 11"):
        publish(tmp_path, PAIRS, others=ledger_of([make_pair(11)], "pending"))

    assert not (tmp_path / "dataset").exists()


def test_a_ledger_that_does_not_account_for_the_rows_is_refused(tmp_path):
    with pytest.raises(QualityGate, match="accepts 11 instructions, found 10 rows"):
        publish(tmp_path, PAIRS, others=ledger_of([make_pair(11)]))


def test_an_empty_run_still_publishes_local_files(tmp_path):
    publish(tmp_path, [], test=0, others=ledger_of(PAIRS, "rejected", "copied"))

    assert (tmp_path / "dataset/train.jsonl").read_bytes() == b""
    assert read_manifest(tmp_path / "dataset/manifest.json").counts == {"train": 0, "test": 0}
