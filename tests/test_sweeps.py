"""Params files and sweep files."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from llmtwin_data.cli import main
from llmtwin_data.errors import ParamsError
from llmtwin_data.runs import studies_of


@pytest.fixture
def write(tmp_path):
    (tmp_path / "base.yaml").write_text("limit: 5\nseed: 1\n")

    def written(text):
        (tmp_path / "sweep.yaml").write_text(text)
        return tmp_path / "sweep.yaml"

    return written


def test_a_params_file_is_one_study(write, tmp_path):
    (study,) = studies_of(tmp_path / "base.yaml", [("seed", "2")])

    assert (study.stem, study.varied, study.settings.given()) == ("base", "", {"limit": 5, "seed": 2})


def test_a_sweep_is_every_combination_of_its_values(write):
    studies = studies_of(
        write("params: base.yaml\nvary:\n  temperature: [0.0, 1.0]\n  prompt: [seed, small]\n")
    )

    assert [(item.settings.temperature, item.settings.prompt) for item in studies] == [
        (0.0, "seed"),
        (0.0, "small"),
        (1.0, "seed"),
        (1.0, "small"),
    ]
    assert studies[0].varied == "temperature-0.0_prompt-seed"
    assert {item.settings.limit for item in studies} == {5}


def test_a_list_may_be_a_value(write):
    studies = studies_of(write("params: base.yaml\nvary:\n  collections: [[a], [a, b]]\n"))

    assert [item.settings.collections for item in studies] == [("a",), ("a", "b")]


@pytest.mark.parametrize(
    "text",
    [
        "vary: {limit: [1]}",
        "params: base.yaml\nvary: {}",
        "params: base.yaml\nvary: {limit: 1}",
        "params: base.yaml\nvary: {limit: []}",
        "params: missing.yaml\nvary: {limit: [1]}",
        "params: base.yaml\nvary: {limits: [1]}",
        "params: base.yaml\nvary: {limit: [1, -1]}",
        "params: base.yaml\nlimit: 3\nvary: {limit: [1]}",
        "params: base.yaml\nvary: {seed: [" + ", ".join(map(str, range(65))) + "]}",
    ],
)
def test_a_sweep_that_cannot_be_is_refused(write, text):
    with pytest.raises(ParamsError):
        studies_of(write(text))


@pytest.fixture
def sweep(bench):
    """Give the command line of a sweep over values of the bench's params."""
    bench.params_file.write_text(json.dumps(bench.values()))

    def made(**vary):
        path = bench.folder / "sweep.yaml"
        path.write_text(json.dumps({"params": "study.yaml", "vary": vary}))
        return ["run", str(path)]

    return made


def test_a_study_that_cannot_be_read_leaves_the_others_to_run(sweep, capsys):
    code = main([*sweep(collections=[["missing"], ["cleaned_posts"]]), "--dry-run"])

    told = capsys.readouterr()
    assert (code, "sweep collections--missing: " in told.err) == (4, True)
    assert told.out.count("Dry run: nothing was sent") == 1


def test_dry_runs_of_several_studies_end_well(sweep, capsys):
    assert main([*sweep(limit=[1, 2]), "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert said.count("Dry run: nothing was sent") == 2
    assert "sweep limit-1: Endpoint" in said
    assert "unknown" in said
    assert "None" not in said
    assert "All 2 runs: " in said


@pytest.mark.slow
def test_a_sweep_of_the_last_notebook_ends_in_a_comparison_too(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.sessions.PROJECT_ROOT", tmp_path)

    assert main([*sweep(limit=[8, 16]), "--only", "3"]) == 0
    assert (tmp_path / "runs" / "sweep" / "comparison.html").exists()


@pytest.mark.slow
def test_a_signal_ends_the_whole_sweep(sweep, bench, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.sessions.PROJECT_ROOT", tmp_path)
    command = [*sweep(limit=[8, 16]), "--only", "3"]
    bench.server.change([{"when": {}, "do": {"latency_ms": 500}}])

    def stop():
        bench.wait_for_requests(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()

    assert main(command) == 130
    assert len([*(tmp_path / "runs" / "sweep").glob("2*")]) == 1
