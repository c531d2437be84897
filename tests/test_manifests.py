"""The manifest: what it holds, and what is not one."""

from __future__ import annotations

import json

import pytest
from published_pairs import make_pair, publish

from llmtwin_data.datasets import file_entry, hashed_write, read_manifest, sides_of
from llmtwin_data.errors import DiskFailed, ParamsError


def test_a_manifest_comes_back_as_it_was_and_names_itself(tmp_path):
    manifest = publish(tmp_path, [make_pair(number) for number in range(4)])

    path = tmp_path / "dataset/manifest.json"
    assert read_manifest(path) == manifest
    assert file_entry(path)["sha256"] == manifest.sha256


def test_it_holds_no_time_cost_host_path_or_version(tmp_path):
    publish(tmp_path, [make_pair(number) for number in range(4)], notes=["Small."])

    found = json.loads((tmp_path / "dataset/manifest.json").read_text(encoding="utf-8"))
    assert list(found) == [
        "name",
        "counts",
        "files",
        "sides",
        "certificate",
        "rules",
        "ledger_sha256",
        "notes",
        "screened",
    ]


def test_a_manifest_from_before_findings_were_counted_is_read(tmp_path):
    publish(tmp_path, [make_pair(number) for number in range(4)])
    path = tmp_path / "dataset/manifest.json"
    path.write_text(path.read_text().replace(',\n "screened": {}', ""))

    assert read_manifest(path).screened == {}


def test_sides_are_given_by_content(tmp_path):
    manifest = publish(tmp_path, [make_pair(number) for number in range(3)], test=1)

    assert sides_of(manifest) == {
        "cleaned_posts/id-0": "train",
        "cleaned_posts/id-1": "train",
        "cleaned_posts/id-2": "test",
    }


def test_a_missing_manifest_is_a_matter_of_params(tmp_path):
    with pytest.raises(ParamsError, match="found no such file"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("text", ['{"name": 1}', "[]", "{", "1"], ids=["short", "list", "torn", "number"])
def test_a_broken_manifest_is_a_matter_of_the_disk(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(DiskFailed, match="manifest of this version"):
        read_manifest(tmp_path / "manifest.json")


def test_a_written_file_has_the_entry_that_is_read_of_it(tmp_path):
    written = hashed_write(tmp_path / "folder" / "file", [b"one\n", "二\n".encode()])

    assert written == file_entry(tmp_path / "folder" / "file")
    assert written["bytes"] == 8
