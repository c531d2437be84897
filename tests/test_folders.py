"""Writing whole or not at all, and the run folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmtwin_data import folders
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.folders import PROJECT_ROOT, RunFolder, project_path, publish_folder, resolve
from llmtwin_data.folders import write_atomically as write


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def staged(tmp_path):
    (tmp_path / "staged" / "deep").mkdir(parents=True)
    (tmp_path / "staged" / "deep" / "new.txt").write_text("new")
    return tmp_path / "staged"


def test_a_path_is_relative_to_the_project_not_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert resolve("runs/x") == PROJECT_ROOT / "runs" / "x"
    assert (project_path(PROJECT_ROOT / "runs" / "x"), project_path(tmp_path)) == ("runs/x", str(tmp_path))


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "a" / "file.txt", "one")
    write(tmp_path / "a" / "file.txt", b"two")

    assert tree(tmp_path) == {"a/file.txt": "two"}


def test_a_failing_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    write(tmp_path / "file.txt", "old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left")))

    with pytest.raises(DiskFailed, match="No space left"):
        write(tmp_path / "file.txt", "new")
    assert tree(tmp_path) == {"file.txt": "old"}


def test_p16_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    steps = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (steps.append((tmp_path / "file").exists()), real(handle))
    )
    write(tmp_path / "file", "text")

    assert steps == [False, True]


def test_a_folder_takes_the_place_of_another_whole(tmp_path, staged):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").write_text("old")
    publish_folder(staged, tmp_path / "target")

    assert tree(tmp_path) == {"target/deep/new.txt": "new"}


def test_a_run_file_keeps_what_it_is_not_told_about(tmp_path):
    run = RunFolder(tmp_path)
    run.update(state="running", totals={"accepted": 1})
    run.update(state="complete")

    assert run.read() == {"state": "complete", "totals": {"accepted": 1}}


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_damaged_run_file_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)

    with pytest.raises(DiskFailed, match=r"run\.json"):
        RunFolder(tmp_path).read()


def test_installed_without_its_clone_it_says_so_in_a_line_and_writes_nothing(tmp_path):
    site = tmp_path / "lib" / "site-packages"
    shutil.copytree(Path(folders.__file__).parent, site / "llmtwin_data")
    (tmp_path / "posts.jsonl").write_text('{"content": "one"}\n')
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
    command = [sys.executable, "-m", "llmtwin_data.cli", "load", "posts.jsonl", "--collection", "posts"]
    environ = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "it runs from a clone" in done.stderr
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize("name", ["loop", "~nobody-has-this-home/x"], ids=["loop", "home"])
def test_a_path_that_leads_nowhere_is_a_wrong_parameter(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    with pytest.raises(ParamsError, match="leads somewhere"):
        folders.resolve(tmp_path / name if name == "loop" else name)


def test_json_lines_end_at_newlines_only(tmp_path):
    rows = [{"content": "a\u2028b\x85c\rd 內"}, {"content": "e"}]
    (tmp_path / "rows.jsonl").write_bytes(folders.json_lines(rows))

    assert folders.read_json_lines(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"\xff", b"", b"[" * 9999], ids=["torn", "list", "bytes", "blank", "nested"]
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    (tmp_path / "rows.jsonl").write_bytes(b"{}\n" + line + b"\n")

    with pytest.raises(DiskFailed, match=r"rows\.jsonl, line 2"):
        folders.read_json_lines(tmp_path / "rows.jsonl")
