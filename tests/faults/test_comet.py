"""Faults in publishing: the run stays as it is and can be published again (FAULTS.md, *Comet*)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import product
from comet_sink import KEY, CometSink
from documents import busy
from running import Out

NAME = "posts-instruct-dataset"
# Names and values that no machine but this test has; none may reach Comet.
CANARIES = {"OPENAI_API_KEY": "sk-CANARY", "QDRANT_API_KEY": "qd-CANARY", "CANARY_VARIABLE": "env-CANARY"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
def run(tmp_path):
    """A complete run with a report and a notebook that shows a picture."""
    run = Out(tmp_path / "run")
    rejected = {"number": 9, "state": "rejected", "reason": "generic"}
    product.write_run(run.path, [{"number": number} for number in range(4)], test=1, others=[rejected])
    (run.path / "report.html").write_text("<!doctype html><title>報告</title>", encoding="utf-8")
    shown = nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
    cell = nbformat.v4.new_code_cell("", outputs=[shown], execution_count=1)
    run.notebooks.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), run.notebooks / "3_generate_dataset.ipynb")
    return run


@pytest.fixture
def sink():
    with CometSink() as sink:
        yield sink


def dataset_bytes(run):
    return {path: path.read_bytes() for path in sorted(run.dataset.rglob("*")) if path.is_file()}


def pending_note(run):
    return json.loads((run.path / "upload_pending.json").read_text())


def files_that_hold(folder, secret):
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def publishing_processes(run):
    """Ids of the processes that publish this run, found by the folder they work in."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += (
                [process.name] if str(process.joinpath("cwd").readlink()).startswith(str(run.path)) else []
            )
        except OSError:
            continue
    return found


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_m01_without_a_key_the_run_is_whole_and_says_how_to_upload(run):
    before = dataset_bytes(run)

    publication = product.publish_to_comet(run.path, environ={})

    command = f"llmtwin-data publish {run.path}"
    assert (publication["state"], publication["reason"]) == ("pending", "no_key")
    assert publication["line"].endswith(command)
    assert "\n" not in publication["line"]
    assert pending_note(run)["command"] == command
    assert dataset_bytes(run) == before


def test_m02_a_wrong_key_is_named_but_never_shown(run, sink):
    wrong = "cm-CANARY-wrong-key"

    publication = product.publish_to_comet(run.path, environ=sink.environ | {"COMET_API_KEY": wrong})

    assert (publication["state"], publication["reason"]) == ("pending", "bad_key")
    assert "COMET_API_KEY" in publication["line"]
    assert wrong not in publication["line"]
    assert files_that_hold(run.path, wrong) == []


def test_m03_without_network_the_decision_takes_seconds(run):
    environ = {"COMET_API_KEY": KEY, "COMET_URL_OVERRIDE": "http://127.0.0.1:1/clientlib/"}
    started = time.monotonic()

    publication = product.publish_to_comet(run.path, environ=environ)

    assert time.monotonic() - started < busy(15)
    assert publication["reason"] == "no_network"
    assert "127.0.0.1 cannot be reached; nothing is lost" in publication["line"]


def test_m04_an_upload_that_fails_can_be_repeated(run, sink):
    sink.fault = "drop_uploads"
    failed = product.publish_to_comet(run.path, environ=sink.environ)
    marked = {version.state for version in sink.versions}

    sink.fault = ""
    repeated = product.publish_to_comet(run.path, environ=sink.environ)

    assert (failed["state"], failed["reason"], marked) == ("pending", "failed", {"ERROR"})
    assert repeated["state"] == "published"
    assert len(sink.experiments) == 1
    assert set(sink.files_of(NAME)) == {"cleaned_posts_training.json", "cleaned_posts_testing.json"}
    assert not (run.path / "upload_pending.json").exists()


def test_m04_a_file_that_comet_does_not_take_is_named_and_sent_again(run, sink):
    sink.fault = "refuse_loose"
    lacking = product.publish_to_comet(run.path, environ=sink.environ)

    sink.fault = ""
    repeated = product.publish_to_comet(run.path, environ=sink.environ)

    assert (lacking["state"], repeated["state"]) == ("published", "unchanged")
    assert "Comet does not hold ledger.csv, 3_generate_dataset.ipynb, report.html" in lacking["line"]
    assert "does not hold" not in repeated["line"]
    assert "report.html" in sink.loose_assets()
    assert not (run.path / "upload_pending.json").exists()


def test_m01_a_config_file_at_home_is_not_read(run, sink, tmp_path):
    with CometSink() as elsewhere:
        config = f"[comet]\napi_key={KEY}\nworkspace=ws-at-home\nurl_override={elsewhere.root}clientlib/\n"
        (tmp_path / ".comet.config").write_text(config)
        home = {"HOME": str(tmp_path)}
        key_at_home = product.publish_to_comet(run.path, environ=home)
        named = product.publish_to_comet(run.path, environ=home | sink.environ | {"COMET_WORKSPACE": ""})

    assert (key_at_home["reason"], named["state"]) == ("no_key", "published")
    assert elsewhere.heard == []
    assert not any(b"ws-at-home" in heard for heard in sink.heard)


@pytest.mark.parametrize("how", ["file", "override"])
def test_m05_offline_is_refused_and_says_what_to_do_instead(tmp_path, how):
    (tmp_path / "study.yaml").write_text("comet: offline\n" if how == "file" else "seed: 1\n")
    override = ["-p", "comet", "offline"] if how == "override" else []

    code, _, errors = product.command("run", tmp_path / "study.yaml", "--out", tmp_path / "out", *override)

    assert (code, len(errors.splitlines())) == (2, 1)
    assert "cannot carry the dataset; take off now, and llmtwin-data publish later" in errors
    assert not (tmp_path / "out").exists()


def test_m06_killed_during_the_upload_the_next_one_completes_it(run, sink):
    before, sink.fault = dataset_bytes(run), "hang_uploads"
    command = [sys.executable, "-m", "llmtwin_data.cli", "publish", str(run.path)]
    driver = subprocess.Popen(command, env=os.environ | sink.environ)
    assert sink.uploading.wait(30)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert wait_until(lambda: not publishing_processes(run))

    sink.fault = ""
    repeated = product.publish_to_comet(run.path, environ=sink.environ)

    assert repeated["state"] == "published"
    assert len(sink.experiments) == 1
    assert dataset_bytes(run) == before


def test_m07_a_server_that_never_answers_is_left(run, sink):
    sink.fault = "hang"

    publication = product.publish_to_comet(run.path, environ=sink.environ, patience_seconds=4)

    assert (publication["state"], publication["reason"]) == ("pending", "no_answer")
    assert publishing_processes(run) == []
    assert product.publish_to_comet(run.path, environ={})["patience_seconds"] <= 60


def test_m08_m09_nothing_unasked_is_sent_and_what_is_sent_is_what_lies_here(run, sink, monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)

    product.publish_to_comet(run.path, environ=dict(os.environ) | sink.environ)

    heard = b"\n".join(sink.heard)
    words = [*CANARIES.values(), f'"{os.uname().nodename}"', "installed_packages", "gitMetadata", __file__]
    assert [word for word in words if word.encode() in heard] == []
    manifest = (run.dataset / "manifest.json").read_bytes()
    assert {json.loads(version.metadata)["manifest_sha256"] for version in sink.versions} == {
        hashlib.sha256(manifest).hexdigest()
    }
    sent = [asset for asset in sink.assets if asset.version_id]
    assert [json.loads(asset.metadata)["sha256"] for asset in sent] == [asset.sha256 for asset in sent]


def test_m10_the_same_dataset_makes_no_second_version(run, sink):
    first = product.publish_to_comet(run.path, environ=sink.environ)
    second = product.publish_to_comet(run.path, environ=sink.environ)

    assert (first["state"], second["state"]) == ("published", "unchanged")
    assert first["url"] == second["url"]
    assert [version.version for version in sink.versions] == ["1.0.0", "1.0.0"]
