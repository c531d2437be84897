"""What differs between two datasets."""

from __future__ import annotations

from collections import Counter

import pytest
from published_pairs import ledger_of, make_pair, publish

from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.lineage import diff_datasets, diff_versions, parse_version, previous_sides, read_version
from llmtwin_data.params import Params

PAIRS = [make_pair(number) for number in range(6)]


def test_a_dataset_does_not_differ_from_itself(tmp_path):
    publish(tmp_path, PAIRS)

    diff = diff_datasets(tmp_path, tmp_path / "dataset")
    assert diff.counts == {"added": 0, "removed": 0, "changed": 0, "moved": 0}


def test_contents_that_come_and_go_are_added_and_removed(tmp_path):
    publish(tmp_path / "a", PAIRS)
    publish(tmp_path / "b", [*PAIRS[1:], make_pair(9)])

    diff = diff_datasets(tmp_path / "a", tmp_path / "b/dataset/manifest.json")

    assert [change.id for change in diff.added] == [make_pair(9).id]
    assert [change.id for change in diff.removed] == [make_pair(0).id]


def test_an_edited_content_is_changed_though_its_offsets_moved(tmp_path):
    publish(tmp_path / "a", PAIRS)
    edited = make_pair(0, "Notes on bread, second edition, with a word about salt.")
    publish(tmp_path / "b", [edited, make_pair(1, instruction="Another one."), *PAIRS[2:]])

    diff = diff_datasets(tmp_path / "a", tmp_path / "b")

    assert {change.what for change in diff.changed} == {"content", "instruction"}
    assert diff.counts == {"added": 0, "removed": 0, "changed": 2, "moved": 0}


def test_rows_whose_state_or_side_the_others_changed_are_moved(tmp_path):
    publish(tmp_path / "a", PAIRS, others=ledger_of([make_pair(8)], "rejected", "ungrounded"))
    others = ledger_of(PAIRS[:1], "rejected", "near_duplicate")
    publish(tmp_path / "b", [make_pair(8), *PAIRS[1:]], test=1, others=others)

    diff = diff_datasets(tmp_path / "a", tmp_path / "b")

    assert {(change.place[1], change.before, change.after) for change in diff.moved} == {
        ("id-0", "train", "rejected: near_duplicate"),
        ("id-8", "rejected: ungrounded", "train"),
        ("id-4", "test", "train"),
    }
    assert sum(diff.counts.values()) == 3


def test_a_version_can_be_read_before_it_is_replaced(tmp_path):
    publish(tmp_path, PAIRS)
    before = read_version(tmp_path)
    manifest = publish(tmp_path, PAIRS[:4])

    diff = diff_versions(before, read_version(tmp_path))

    assert diff.against == before.manifest_sha256 != manifest.sha256
    assert diff.as_fields()["removed"] == 2


def test_the_printed_difference_counts_and_names(tmp_path):
    publish(tmp_path / "a", PAIRS)
    publish(tmp_path / "b", [make_pair(number) for number in range(40)])

    told = str(diff_datasets(tmp_path / "a", tmp_path / "b")).split("\n")

    assert told[0] == "added 34  removed 0  changed 0  moved 2"
    assert told[-3] == "added    and 14 more"
    assert told[-1].endswith("#1  test -> train")


def test_the_id_of_a_change_is_that_of_the_row(tmp_path):
    publish(tmp_path / "a", PAIRS)
    publish(tmp_path / "b", PAIRS[1:])

    (change,) = diff_datasets(tmp_path / "a", tmp_path / "b").removed
    assert (change.id, change.place) == (PAIRS[0].id, ("cleaned_posts", "id-0", 0, PAIRS[0].end, 1))


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"expected a manifest\.json"):
        diff_datasets(tmp_path, tmp_path)


def test_a_manifest_without_its_rows_is_refused(tmp_path):
    publish(tmp_path, PAIRS)
    (tmp_path / "dataset/train.jsonl").unlink()

    with pytest.raises(ParamsError, match=r"found no train\.jsonl"):
        read_version(tmp_path)


def test_a_kept_version_comes_back_as_it_was(tmp_path):
    publish(tmp_path, PAIRS, others=ledger_of([make_pair(8)], "rejected", "copied"))
    version = read_version(tmp_path)

    assert parse_version(version.as_json()) == version
    with pytest.raises(DiskFailed, match="expected the version of a dataset"):
        parse_version("[]")


@pytest.mark.parametrize(
    "named", ["", "dataset", "dataset/manifest.json"], ids=["run", "dataset", "manifest"]
)
def test_sides_are_kept_of_a_run_a_dataset_or_a_manifest(tmp_path, named):
    publish(tmp_path, PAIRS, test=2)

    sides = previous_sides(Params(previous=str(tmp_path / named)), "any")

    assert Counter(sides.values()) == {"train": len(PAIRS) - 2, "test": 2}
