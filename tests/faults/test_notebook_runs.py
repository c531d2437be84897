"""Kernels that fail, stop, die or talk too much: FAULTS.md, Notebooks and report."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import endpoint
import nbformat
import pytest
from product import Failed, Study, command, execute_cells, hold_lock, show_progress
from running import CANARIES, Out, canaries_in, findings_of, finish, make_bench

PROJECT = Path(__file__).parents[2]
# What only a notebook finds out: a limit that does not pay for the first request.
TOO_POOR = {"max_cost_usd": 1e-9, "usd_per_million_input": 5.0, "usd_per_million_output": 20.0}


def test_a_notebook_that_reaches_its_end_has_no_error(tmp_path):
    ended, notebook = execute_cells(tmp_path, "print(run_dir)")

    assert ended["error"] == ""
    assert notebook["cells"][-1]["outputs"][0]["text"] == ["x\n"]


def test_n01_a_cell_that_raises_is_kept_and_named(tmp_path):
    ended, notebook = execute_cells(tmp_path, "raise LookupError('no such collection')", "print('never')")

    assert (ended["error"], ended["message"]) == ("LookupError", "no such collection")
    assert notebook["cells"][-1]["execution_count"] is None


@pytest.mark.slow
def test_n01_the_run_has_failed_and_nothing_is_published(bench):
    failed = bench.run("--only", "3", **TOO_POOR)

    assert failed.returncode == 2
    assert (bench.out.read()["state"], bench.out.dataset.exists()) == ("failed", False)
    assert len(failed.stderr.splitlines()) <= 10
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), 9)", "os._exit(0)"], ids=["killed", "exited"])
def test_n02_a_dead_kernel_is_an_error(tmp_path, death):
    ended, notebook = execute_cells(tmp_path, f"import os\n{death}", "print('never')")

    assert (ended["error"], notebook) == ("DeadKernelError", None)


@pytest.mark.parametrize("cells", [["import sys; sys.exit(0)", "1"], ["1", "import sys; sys.exit(0)"]])
def test_n03_a_cell_that_exits_leaves_the_run_incomplete(tmp_path, cells):
    ended, _ = execute_cells(tmp_path, *cells)

    assert ended["error"] == "RunIncomplete"
    assert "ended before its last cell" in ended["message"]


def test_p05_a_notebook_torn_by_a_full_disk_is_a_disk_error(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        ended, notebook = execute_cells(tmp_path, "print('x' * 180_000)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (ended["error"], notebook) == ("DiskFailed", None)


@pytest.mark.slow
def test_a_report_that_cannot_be_written_hides_no_exit_code(bench):
    given = bench.values(**TOO_POOR)
    bench.params_file.write_text(json.dumps(given))
    bench.out.path.mkdir()
    bench.out.run_file.write_text(json.dumps({"state": "failed", "given": given}))
    (bench.out.path / "report.html" / "in the way").mkdir(parents=True)

    code, _, errors = command("run", bench.params_file, "--out", bench.out.path, "--only", "3")

    assert code == 2
    assert "max_cost_usd" in errors
    assert "no report: " in bench.out.log.read_text()


@pytest.mark.slow
def test_n04_no_kill_of_the_driver_leaves_a_torn_notebook(bench):
    dice = random.Random(4)
    for _ in range(4):
        driver = bench.start("--only", "1")
        try:
            driver.wait(3 + dice.random() * 3)
        except subprocess.TimeoutExpired:
            driver.kill()
        driver.communicate()
        for path in bench.out.notebooks.glob("*"):
            json.loads(path.read_text())

    assert bench.run("--only", "1").returncode == 0


def interrupt_soon(server, *, after: int) -> threading.Thread:
    """Press the stop button once the endpoint has had so many requests."""

    def press() -> None:
        while server.stats()["requests"] < after:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_n05_n06_the_stop_button_ends_the_calls_and_the_cell_runs_again(tmp_path):
    with endpoint.serve(latency_ms=300) as server:
        bench = make_bench(tmp_path, server)
        with Study(bench.study(batch_size=1, concurrency=2)) as study:
            study.read()
            pressing = interrupt_soon(server, after=3)
            with pytest.raises((Failed, KeyboardInterrupt)) as stopped:
                study.ask()
            pressing.join()
            calls = server.stats()["requests"]
            time.sleep(1)

            assert getattr(stopped.value, "exit_code", 130) == 130
            assert server.stats()["requests"] == calls
            assert bench.out.read()["state"] == "incomplete"
            assert study.ask()["answered_before"] >= 3
            assert server.stats()["paid_twice"] == 0
            study.publish()
    assert findings_of(bench.out.path) == []


def test_n07_a_step_works_inside_a_running_loop(bench):
    async def cell() -> int:
        with Study(bench.study()) as study:
            return len(study.decide())

    assert asyncio.run(cell()) == 24


def test_n08_a_later_step_first_does_the_earlier_ones(bench):
    with Study(bench.study()) as study:
        assert len(study.decide()) == 24


def last_cell(notebook: str) -> str:
    """Give the source of a notebook's last code cell."""
    cells = nbformat.read(PROJECT / "notebooks" / notebook, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"][-1]


def test_n08_a_cell_without_its_generator_says_which_cells_to_run_first(tmp_path):
    ended, _ = execute_cells(tmp_path, last_cell("3_generate_dataset.ipynb"), hints=True)

    assert ended["error"] == "NameError"
    assert re.fullmatch(r"name '\w+' is not defined", ended["message"])
    assert "Run All Above Selected Cell" in ended["traceback"]


def test_n09_a_secret_in_a_traceback_is_in_no_file(tmp_path):
    code = "import os\nkey = os.environ['OPENAI_API_KEY']\nprint(key)\nraise ValueError(f'Bearer {key}')"
    ended, _ = execute_cells(tmp_path, code, environ=CANARIES)

    assert ended["message"] == "Bearer [key]"
    assert "CANARY" not in ended["traceback"]
    assert canaries_in(tmp_path / "run") == []


@pytest.fixture
def commit(tmp_path):
    """Give what commits a text in a new repository with the project's hook, and gives how that ended."""
    shutil.copytree(PROJECT / ".githooks", tmp_path / ".githooks")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environ = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.hooksPath=.githooks"]

    def git(*arguments):
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, env=environ, text=True, capture_output=True
        )

    def commit_file(name, text):
        (tmp_path / name).write_text(text)
        git("add", name)
        return git("commit", "-m", "Try")

    git("init", "-q")
    return commit_file


def notebook_as_run(*, count):
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=count)
    cell.outputs = [nbformat.v4.new_output("stream", text="2")] * bool(count)
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


def test_n10_a_notebook_with_outputs_is_refused_and_goes_in_without(commit):
    refused = commit("study.ipynb", notebook_as_run(count=1))

    assert refused.returncode == 1
    assert "study.ipynb: a run left execution_count, outputs; clear them" in refused.stderr
    assert commit("study.ipynb", notebook_as_run(count=None)).returncode == 0


def test_n10_a_line_with_a_secret_is_refused_and_not_shown(commit):
    key = "sk-" + "proj-Zq8Lw2Xr5Tn7Bv4Km9Pd3Hs6"
    refused = commit("notes.md", f"OPENAI_API_KEY={key}\n")

    assert refused.returncode == 1
    assert "notes.md: looks like a secret (openai_key)" in refused.stderr
    assert key not in refused.stderr
    assert commit("notes.md", "OPENAI_API_KEY in .env\n").returncode == 0


def test_n11_a_flood_of_output_is_bounded(tmp_path):
    execute_cells(tmp_path, "for line in range(100_000): print('x' * 40, line)")

    assert (tmp_path / "run/notebooks/study.ipynb").stat().st_size < 1_000_000


def test_n11_progress_of_100_000_steps_is_short(tmp_path, capfd):
    show_progress(tmp_path, ((done, 0) for done in range(100_000)), total=100_000)

    assert len(capfd.readouterr().err) < 20_000


def test_n12_a_second_kernel_in_the_folder_is_refused(bench):
    with (
        Study(bench.study()) as study,
        hold_lock(bench.out.path),
        pytest.raises(Failed, match="is in use by process") as refused,
    ):
        study.ask()

    assert refused.value.exit_code == 7


def test_n13_state_file_and_bar_show_how_far_a_run_is(tmp_path, capfd):
    show_progress(tmp_path, [(4, 1)], total=10)

    expected = {"answered": 4, "failed": 1, "total": 10, "what": "instructions"}
    assert Out(tmp_path).read()["progress"] == expected
    assert "4/10" in capfd.readouterr().err


def test_a_signal_ends_a_cell_and_no_later_one_begins(tmp_path):
    threading.Timer(2.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    ended, notebook = execute_cells(tmp_path, "import time; time.sleep(60)", "print('never')")

    assert ended["error"] == "Interrupted"
    assert notebook["cells"][-1]["execution_count"] is None


@pytest.mark.slow
def test_a_sweep_runs_every_combination_and_one_that_fails_does_not_stop_the_rest(bench, tmp_path):
    bench.start("--dry-run").communicate()
    (tmp_path / "sweep.yaml").write_text("params: study.yaml\nvary:\n  limit: [6, 8]\n")
    (tmp_path / "bad.yaml").write_text("limit: -1\n")
    files = [str(tmp_path / "bad.yaml"), str(tmp_path / "sweep.yaml")]
    done = finish(bench.start_command("run", *files, "--dry-run"))

    assert done.returncode == 2
    assert done.stdout.count("Dry run: nothing was sent") == 2
