"""Faults that reach the dataset's files: full disks, hostile texts, tampering (FAULTS.md)."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from product import Failed, write_run
from running import findings_of

PAIRS = [{"number": number} for number in range(40)]
LINE_BREAKERS = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\r\neight"
SCRIPTS = "👩‍👩‍👧 e\u0301 繁體中文「引號」 简体 \u202eRTL\u202c مرحبا \ufeff zero\u200bwidth"
FORMULAS = ["=cmd()", "+1", "-1", "@x", "\ttab", "\rreturn"]
ACTIVE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "</textarea>",
]


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond a size, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def exit_code_of_writing(folder: Path, *, match: str = ".") -> int:
    """Fail to publish, and give the exit code that a command would end with."""
    with pytest.raises(Failed, match=match) as failed:
        write_run(folder, PAIRS)
    return failed.value.exit_code


def hostile_run(folder: Path, texts: list[str]) -> list[str]:
    """Publish one pair a text, as content and in the instruction; give the contents as read back."""
    pairs = [{"number": i, "text": text, "instruction": f"Write: {text}"} for i, text in enumerate(texts)]
    write_run(folder, pairs, test=0)
    with (folder / "dataset" / "train.jsonl").open("rb") as lines:
        return [json.loads(line)["content"] for line in lines]


@pytest.mark.parametrize("size", [0, 1_000, 4_096, 20_000, 30_000], ids=str)
def test_p06_disk_full_while_publishing_leaves_the_old_version(tmp_path, full_disk, size):
    write_run(tmp_path, PAIRS[:10])
    before = tree(tmp_path)

    full_disk(size)
    assert exit_code_of_writing(tmp_path) == 8

    assert tree(tmp_path / "dataset") == {
        name.removeprefix("dataset/"): digest
        for name, digest in before.items()
        if name.startswith("dataset/")
    }
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".dataset")] == []


def test_p06_the_same_command_publishes_when_there_is_room_again(tmp_path, full_disk):
    full_disk(1_000)
    assert exit_code_of_writing(tmp_path / "run") == 8
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    write_run(tmp_path / "run", PAIRS)
    write_run(tmp_path / "clean", PAIRS)

    assert tree(tmp_path / "run/dataset") == tree(tmp_path / "clean/dataset")


def test_p09_a_file_where_the_folder_should_be_is_a_disk_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")

    assert exit_code_of_writing(tmp_path / "file" / "run", match="cannot write") == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run as another user")
def test_p09_a_read_only_folder_is_a_disk_error(tmp_path):
    tmp_path.chmod(0o500)

    assert exit_code_of_writing(tmp_path / "run", match="cannot write") == 8


def test_p17_a_run_folder_holds_no_place_of_this_machine(tmp_path):
    write_run(tmp_path / "run", PAIRS)
    moved = shutil.copytree(tmp_path / "run", tmp_path / "elsewhere" / "run")

    assert findings_of(moved) == []
    for path in (file for file in moved.rglob("*") if file.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_i4_a_publishing_killed_between_the_renames_is_finished_by_the_next(tmp_path):
    write_run(tmp_path, PAIRS[:10])
    (tmp_path / "dataset").rename(tmp_path / ".dataset.before")
    (tmp_path / ".dataset.staged").mkdir()
    (tmp_path / ".dataset.staged/train.jsonl").write_text("half")

    write_run(tmp_path, PAIRS)

    assert findings_of(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "ledger.jsonl", "run.json"]


def test_i4_without_its_manifest_a_dataset_is_not_whole(tmp_path):
    write_run(tmp_path, PAIRS)
    (tmp_path / "dataset/manifest.json").unlink()

    assert findings_of(tmp_path)[0].startswith(
        "dataset/manifest.json: expected the manifest of a whole dataset"
    )


def test_i1_every_state_is_accounted_for(tmp_path):
    others = [
        {"number": 50, "state": "rejected", "reason": "leak"},
        {"number": 51, "state": "failed", "reason": "malformed"},
    ]

    write_run(tmp_path, PAIRS, others=others)

    assert findings_of(tmp_path) == []


def test_i7_the_same_rows_after_a_fault_give_the_same_bytes(tmp_path):
    write_run(tmp_path / "a", PAIRS)
    write_run(tmp_path / "b", PAIRS[:3])
    write_run(tmp_path / "b", PAIRS)

    assert tree(tmp_path / "a/dataset") == tree(tmp_path / "b/dataset")


def test_l36_every_row_is_one_line_of_valid_utf8(tmp_path):
    hostile_run(tmp_path, [LINE_BREAKERS, SCRIPTS, *FORMULAS])

    for path in (tmp_path / "dataset").rglob("*.jsonl"):
        data = path.read_bytes()
        data.decode("utf-8", "strict")
        rows = 8 if path.name == "train.jsonl" else 0
        assert data.count(b"\n") == rows
        assert len([json.loads(line) for line in data.split(b"\n")[:-1]]) == rows


def test_c08_c09_texts_come_back_as_they_were_from_every_file(tmp_path):
    texts = [LINE_BREAKERS, SCRIPTS, "\ufeffBOM first", "CRLF\r\nends\r\n"]

    dataset = tmp_path / "dataset"
    assert hostile_run(tmp_path, texts) == texts
    assert pq.read_table(dataset / "train.parquet")["content"].to_pylist() == texts
    assert [
        row["output"] for row in map(json.loads, (dataset / "formats/alpaca/train.jsonl").open("rb"))
    ] == texts
    course = json.loads((dataset / "formats/course/cleaned_posts_training.json").read_text(encoding="utf-8"))
    assert [row["content"] for row in course] == texts


def test_c08_traditional_chinese_stands_as_itself_in_every_file(tmp_path):
    hostile_run(tmp_path, ["昨天我沿著河邊走了一個小時"])

    texts = list((tmp_path / "dataset").rglob("train*.json*"))
    assert len(texts) == 5
    assert all("昨天我沿著河邊走了一個小時".encode() in path.read_bytes() for path in texts)


def test_c06_active_text_does_not_reach_the_card(tmp_path):
    assert hostile_run(tmp_path, ACTIVE) == ACTIVE

    card = (tmp_path / "dataset/README.md").read_text(encoding="utf-8")
    assert [text for text in ACTIVE if text in card] == []


def test_c10_contents_without_text_have_their_reason(tmp_path):
    write_run(tmp_path, PAIRS, others=[{"number": 60, "state": "skipped", "reason": "markup_only"}])

    assert findings_of(tmp_path) == []
    assert "| skipped: markup_only | 1 |" in (tmp_path / "dataset/README.md").read_text(encoding="utf-8")


def test_c13_no_file_is_a_spreadsheet_and_formulas_stay_text(tmp_path):
    assert hostile_run(tmp_path, FORMULAS) == FORMULAS

    kinds = {path.suffix for path in (tmp_path / "dataset").rglob("*") if path.is_file()}
    assert kinds == {".jsonl", ".json", ".parquet", ".md", ".yaml", ".py"}  # the last two for trainers


def test_c18_near_copies_on_both_sides_are_found(tmp_path):
    words = " ".join(f"word{number}" for number in range(60))
    pairs = [
        {"number": 70, "text": f"{words} and so on"},
        {"number": 71},
        {"number": 72, "text": f"Again: {words}"},
    ]
    write_run(tmp_path, pairs, test=1)

    (finding,) = findings_of(tmp_path)
    assert finding.startswith("dataset/test.jsonl: line 1: shares 9")


@pytest.mark.parametrize("config", [None, "alpaca"], ids=["README's line", "another config"])
def test_d22_folders_of_one_name_and_one_cache_give_each_its_own_rows(tmp_path, monkeypatch, config):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    told = {
        "one": "A first text about bread.",
        "two": "A second one, on trams.",
        "same": "A second one, on trams.",
    }
    for run, text in told.items():
        write_run(tmp_path / run / "latest", [{"number": 0, "text": text}, {"number": 1}], test=1)

    loaded = {
        run: datasets.load_dataset(
            str(tmp_path / run / "latest/dataset"), *filter(None, [config]), cache_dir=str(tmp_path / "cache")
        )
        for run in told
    }

    column = "output" if config else "content"
    assert {run: rows["train"][column] for run, rows in loaded.items()} == {
        run: [text] for run, text in told.items()
    }
    assert tree(tmp_path / "two/latest/dataset") == tree(tmp_path / "same/latest/dataset")


def test_d22_rows_that_change_in_place_are_read_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    write_run(tmp_path / "all", PAIRS, test=0)
    ids = [json.loads(line)["id"] for line in (tmp_path / "all/dataset/train.jsonl").read_text().splitlines()]
    found = []
    for pairs, test in [(PAIRS[:3], 0), (PAIRS[:4], 0), (PAIRS[:4], 1), ([*PAIRS[:3], PAIRS[5]], 1)]:
        write_run(tmp_path, pairs, test=test)
        loaded = datasets.load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
        found.append({side: list(rows["id"]) for side, rows in loaded.items()})

    assert found == [
        {"train": ids[:3]},
        {"train": ids[:4]},
        {"train": ids[:3], "test": ids[3:4]},
        {"train": ids[:3], "test": ids[5:6]},
    ]
