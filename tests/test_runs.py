"""The driver as a person meets it: params and sweep files, folders, endings, lines."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import threading
from pathlib import Path

import nbformat
import product
import pytest
from running import canaries_in
from store_records import fill

from llmtwin_data.answers import AnswerStore
from llmtwin_data.checks import check_run
from llmtwin_data.cli import main
from llmtwin_data.endpoints import told_endpoint
from llmtwin_data.errors import ParamsError, RunLocked
from llmtwin_data.folders import RunFolder, publish_folder, run_lock
from llmtwin_data.params import Params
from llmtwin_data.pipeline import process_costs
from llmtwin_data.prices import spent
from llmtwin_data.runs import (
    RunLog,
    closing_lines,
    counted_signals,
    execute_notebook,
    point_latest,
    recover_run,
    studies_of,
    summary_lines,
    working_folder,
)

NOTHING = {"requests": 0, "tokens": 0, "cost_usd": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_whole_run_again_sends_nothing_and_says_so_and_replaces_the_folder_at_the_end(bench):
    first = bench.run()
    manifest, calls = bench.manifest(), bench.server.stats()["requests"]
    second = bench.run()

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "24 contents" in first.stdout
    assert re.search(r"\d+ requests sent, [\d,]+ tokens, cost unknown", first.stdout)
    assert "0 requests sent: every answer was already stored" in second.stdout
    assert (bench.manifest(), bench.server.stats()["requests"]) == (manifest, calls)
    assert sorted(path.name for path in bench.out.path.parent.glob("*out*")) == ["out"]
    assert check_run(bench.out.path) == []
    assert canaries_in(bench.folder) == []


@pytest.mark.slow
def test_only_one_notebook_leaves_the_run_to_go_on(bench):
    done = bench.run("--only", "1")

    assert (done.returncode, bench.out.read()["state"]) == (0, "incomplete")
    assert [path.name for path in bench.out.notebooks.iterdir()] == ["1_explore_content.ipynb"]
    assert bench.server.stats()["requests"] == 0


@pytest.mark.slow
def test_two_notebooks_may_be_named_and_the_last_makes_the_dataset(bench):
    done = bench.run("--only", "3", "--only", "1")

    assert (done.returncode, bench.out.read()["state"]) == (0, "complete"), done.stderr
    assert sorted(path.name[0] for path in bench.out.notebooks.iterdir()) == ["1", "3"]
    assert "Notebook 1 of 2: 1_explore_content" in done.stdout
    assert "Dry run" in bench.run("--dry-run", "--only", "1", "--only", "3").stdout


@pytest.mark.slow
def test_a_run_that_ends_before_it_asks_leaves_no_folder_of_ours(bench, capsys, monkeypatch):
    monkeypatch.setattr("llmtwin_data.folders.RUNS", bench.folder / "runs")
    # What only a notebook finds out: a limit that does not pay for the first request.
    poor = {"max_cost_usd": 1e-9, "usd_per_million_input": 5.0, "usd_per_million_output": 20.0}
    bench.write_params(**poor)

    assert main(["run", str(bench.params_file), "--only", "3"]) == 2
    assert not (bench.folder / "runs" / "study").exists()
    assert "run folder: none is left, for nothing was asked" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_ends_after_it_asked_keeps_its_folder(bench, capsys, monkeypatch):
    monkeypatch.setattr("llmtwin_data.folders.RUNS", bench.folder / "runs")
    bench.server.change([{"when": {"request": {"from": 4}}, "do": {"status": 401}}])
    bench.write_params(concurrency=1, batch_size=1)

    code = main(["run", str(bench.params_file), "--only", "3"])

    (folder,) = (bench.folder / "runs" / "study").glob("2*")
    assert (code, RunFolder(folder).read()["state"]) == (3, "failed")


def test_a_previous_that_is_not_there_is_said_before_anything_is_asked(bench, capsys):
    bench.write_params(previous=str(bench.folder / "gone.json"))

    assert main(["run", str(bench.params_file), "--out", str(bench.out.path)]) == 2
    assert "gone.json: expected a manifest.json" in capsys.readouterr().err
    assert bench.server.stats()["requests"] == 0


@pytest.mark.parametrize("number", ["1", "2"])
@pytest.mark.parametrize("name", ["out", ".out.before"], ids=["in its place", "set aside by a kill"])
def test_only_one_notebook_never_replaces_a_complete_run(bench, number, name, capsys):
    bench.write_params()
    write_run(bench.folder / name, state="complete", given=bench.settings().given())

    assert main(["run", str(bench.params_file), "--out", str(bench.out.path), "--only", number]) == 2
    assert "complete run" in capsys.readouterr().err
    assert bench.out.read()["state"] == "complete"


def test_a_dry_run_leaves_nothing(bench):
    done = bench.run("--dry-run")

    assert done.returncode == 0
    assert "Dry run: nothing was sent" in done.stdout
    assert not bench.out.path.exists()
    assert bench.server.stats()["requests"] == 0


def write_run(folder, **fields):
    run = RunFolder(folder)
    run.update(**fields)
    return run


# What run.json holds, if there is one, and the params of the run that now works in its folder.
WORKED_IN = {
    "no run": ({}, Params()),
    "an incomplete one of the same params": ({"state": "incomplete", "given": {"limit": 3}}, Params(limit=3)),
    "a higher limit": ({"state": "incomplete", "given": {"max_cost_usd": 1.0}}, Params(max_cost_usd=2.0)),
}


@pytest.mark.parametrize(("fields", "settings"), WORKED_IN.values(), ids=WORKED_IN)
def test_a_run_begins_or_goes_on_in_its_folder(tmp_path, fields, settings):
    out = tmp_path / "out"
    assert working_folder(Params(), out) == out
    out.mkdir()
    if fields:
        write_run(out, **fields)

    assert working_folder(settings, out) == out


@pytest.mark.parametrize(
    ("settings", "kept"), [(Params(max_cost_usd=2.0), True), (Params(limit=3), False)], ids=["limit", "study"]
)
def test_a_replacement_that_was_begun_goes_on_with_a_higher_limit(tmp_path, settings, kept):
    write_run(tmp_path / "out", state="complete", given=settings.given() | {"max_cost_usd": 1.0})
    begun = write_run(tmp_path / ".out.next", state="incomplete", given={"max_cost_usd": 1.0})

    assert working_folder(settings, tmp_path / "out") == begun.path
    assert bool(begun.read()) == kept


def test_a_complete_run_stands_until_the_new_one_is_complete(tmp_path):
    write_run(tmp_path / "out", state="complete", given={})
    work = working_folder(Params(), tmp_path / "out")
    RunFolder(work).update(state="complete", given={}, number=2)

    assert RunFolder(tmp_path / "out").read().get("number") is None
    publish_folder(work, tmp_path / "out")
    assert RunFolder(tmp_path / "out").read()["number"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_that_a_cut_replacement_set_aside_comes_back(tmp_path):
    write_run(tmp_path / ".out.before", state="complete", number=1)
    (tmp_path / "out" / ".work").mkdir(parents=True)
    recover_run(tmp_path / "out")

    assert RunFolder(tmp_path / "out").read()["number"] == 1
    assert not (tmp_path / ".out.before").exists()


def test_a_replacement_at_work_is_left_alone(tmp_path):
    aside = write_run(tmp_path / ".out.before", state="complete")

    with run_lock(aside), pytest.raises(RunLocked):
        recover_run(tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("state", ["complete", "incomplete", "gated", "failed", "running"])
def test_a_run_of_other_params_is_refused_and_names_them(tmp_path, state):
    write_run(tmp_path / "out", state=state, given={"limit": 3, "seed": 1})

    with pytest.raises(ParamsError, match="differs in limit, model, seed"):
        working_folder(Params(model="x"), tmp_path / "out")


def test_latest_leads_to_the_newest(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        point_latest(tmp_path / name)

    assert (tmp_path / "latest").resolve() == tmp_path / "two"


def test_a_log_holds_no_secret_and_shows_progress_once(tmp_path):
    said, shown = [], []
    run = write_run(tmp_path, progress={"what": "instructions", "answered": 3, "failed": 1, "total": 9})
    log = RunLog(run, environ={"A_KEY": "hunter2"}, say=said.append, progress=shown.append)
    log.say("with hunter2")
    log.enter("Notebook 3: Ask")
    log.tick()
    log.tick()

    assert said == ["with [key]"]
    assert shown == ["instructions: 3 of 9 answered, 1 failed", "Notebook 3: Ask"]
    assert "hunter2" not in run.log.read_text()


def test_what_the_kernel_tells_is_said_once(tmp_path):
    said = []
    run = write_run(tmp_path, notes=["one"])
    log = RunLog(run, environ={}, say=said.append, progress=said.append)
    log.tick()
    run.note("one")
    run.note("two", aloud=False)
    log.tick()

    assert said == ["one", "two"]


def used() -> float:
    return process_costs(resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)["cpu_seconds"]


@pytest.mark.slow
def test_totals_are_of_all_that_was_asked_and_of_this_run_alone(bench):
    bench.write_params(judge_model="judge")
    before = used()

    assert main(["run", str(bench.params_file), "--out", str(bench.out.path), "--only", "3"]) == 0
    totals, asked = bench.out.read()["totals"], bench.out.read()["asked"].values()
    assert totals["tokens"] == sum(part["tokens"] for part in asked) > 0
    assert not {"prompt_tokens", "completion_tokens"} & totals.keys()
    assert totals["cpu_seconds"] <= used() - before + 0.05


def test_what_was_asked_adds_up_and_an_unknown_cost_stays_unknown():
    part = {"requests": 2, "tokens": 10, "reasoning_tokens": 3, "cost_usd": 0.5, "seconds": 1.25}
    total = {"requests": 4, "tokens": 20, "reasoning_tokens": 6, "cost_usd": 1.0, "generation_seconds": 2.5}

    assert spent([part, part]) == total
    assert spent([part, part | {"cost_usd": None}])["cost_usd"] is None


@pytest.mark.parametrize(
    ("asked", "why"),
    [({}, ""), ({"instructions": NOTHING}, ": every answer was already stored")],
    ids=["only looked", "stored"],
)
def test_a_summary_of_nothing_sent_says_so(tmp_path, asked, why):
    lines = list(summary_lines(write_run(tmp_path, asked=asked), seconds=61))

    assert lines[-1] == f"0 requests sent{why}, 1 min 1 s"


def test_a_summary_counts_reasons_and_the_last_lines_say_whether_it_is_ready(tmp_path):
    vague = [{"number": number, "state": "rejected", "reason": "vague"} for number in (7, 8)]
    product.write_run(tmp_path, [{"number": number} for number in range(3)], test=1, others=vague)
    run = RunFolder(tmp_path)
    run.update(state="complete", dataset_name="posts")
    run.report.touch()

    assert "Rejected 2: vague 2" in list(summary_lines(run, seconds=61))
    first, second, third, fourth = closing_lines(run)
    assert first.startswith("posts: 2 pairs to train on (en 2; 2 authors) and 1 to test with")
    assert second == "Not ready to train: fewer than 50 pairs to train on."
    assert third == f"Open: {run.report}"
    assert fourth.startswith("Next: load more texts, `llmtwin-data load PATH... --collection")


def test_what_a_damaged_store_says_when_the_driver_opens_it_stands_in_the_run_s_log(bench, capsys):
    answers = Path(bench.settings().answers)
    with AnswerStore(answers) as store:
        fill(store, [1])
    answers.write_bytes(b"\0" * 90 + answers.read_bytes()[90:])
    bench.write_params(endpoint="http://127.0.0.1:1/v1")

    assert main(["run", str(bench.params_file), "--out", str(bench.out.path)]) == 5
    assert capsys.readouterr().out.count("answers.sqlite was damaged") == 1
    assert "answers.sqlite was damaged" in bench.out.log.read_text()


@pytest.mark.parametrize("endpoint", ["", "embedded"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_model_that_the_embedded_endpoint_lacks_ends_before_any_folder(
    bench, endpoint, more, capsys, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    bench.write_params(endpoint=endpoint, model="gpt-4o-mini")

    code = main(["run", str(bench.params_file), "--out", str(bench.out.path), *more])

    said = "path of a GGUF file" if endpoint else "no OPENAI_API_KEY is set and endpoint is empty"
    assert code == (2 if endpoint else 3)
    assert said in capsys.readouterr().err
    assert not bench.out.path.exists()


def test_a_collection_that_is_not_there_ends_before_any_folder(bench, capsys):
    bench.write_params(collections=["cleaned_post"])

    assert main(["run", str(bench.params_file), "--out", str(bench.out.path)]) == 4
    assert "cleaned_posts" in capsys.readouterr().err
    assert not bench.out.path.exists()


def test_the_small_model_is_named_as_what_it_is():
    assert "name an endpoint for a real dataset" in told_endpoint("embedded", "")
    assert told_endpoint("https://host/v1", "m") == "Endpoint https://host/v1, model m"


@pytest.fixture
def execute(tmp_path):
    """Give what executes a cell in a run folder, and gives how it ended and what was printed meanwhile."""
    run = RunFolder(tmp_path / "run")
    run.work.mkdir(parents=True)
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}

    def executed(source):
        cell = nbformat.v4.new_code_cell(source)
        notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": spec})
        nbformat.write(notebook, tmp_path / "study.ipynb")
        printed = []
        given = {"run": run, "parameters": {}, "environ": dict(os.environ), "keep": printed.append}
        with counted_signals() as signals:
            ended = execute_notebook(tmp_path / "study.ipynb", signals=signals, **given)
        return ended, "\n".join(printed)

    return executed


def test_what_cells_print_is_kept_and_a_flood_of_it_is_bounded(execute):
    ended, printed = execute(
        "import sys, time\nprint('to out')\nprint('to err', file=sys.stderr, flush=True)\n"
        "time.sleep(1)\nprint('xxxx\\n' * 100_000)"
    )

    assert ended.error == ""
    assert "to out" in printed
    assert "to err" in printed
    assert len(printed) < 250_000


def test_a_kernel_holds_the_lock_that_the_next_one_waits_for(execute, tmp_path, monkeypatch):
    monkeypatch.setattr("llmtwin_data.runs.GONE_SECONDS", 0.3)
    inherited = """
from pathlib import Path
links = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.exists()]
assert "kernel.lock" in links, links
"""
    assert execute(inherited)[0].error == ""

    with (tmp_path / "run" / ".work" / "kernel.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunLocked, match="a kernel of an earlier run is still there"):
            execute("1")

    assert execute("1")[0].error == ""


@pytest.fixture
def sweep_file(tmp_path):
    """Return what writes a sweep file beside the params that it varies."""
    (tmp_path / "base.yaml").write_text("limit: 5\nseed: 1\n")

    def written(text):
        (tmp_path / "sweep.yaml").write_text(text)
        return tmp_path / "sweep.yaml"

    return written


def test_a_params_file_is_one_study(sweep_file, tmp_path):
    (study,) = studies_of(tmp_path / "base.yaml", [("seed", "2")])

    assert (study.stem, study.varied, study.settings.given()) == ("base", "", {"limit": 5, "seed": 2})


def test_a_sweep_is_every_combination_of_its_values(sweep_file):
    studies = studies_of(
        sweep_file("params: base.yaml\nvary:\n  temperature: [0.0, 1.0]\n  collections: [[a], [a, b]]\n")
    )

    varied = [(item.settings.temperature, "".join(item.settings.collections)) for item in studies]
    assert varied == [(0.0, "a"), (0.0, "ab"), (1.0, "a"), (1.0, "ab")]
    assert studies[0].varied.startswith("temperature-0.0_collections-")
    assert {item.settings.limit for item in studies} == {5}


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
def test_a_sweep_that_cannot_be_is_refused(sweep_file, text):
    with pytest.raises(ParamsError):
        studies_of(sweep_file(text))


@pytest.fixture
def sweep(bench):
    """Give the command line of a sweep over values of the bench's params."""
    bench.write_params()

    def made(**vary):
        path = bench.folder / "sweep.yaml"
        path.write_text(json.dumps({"params": "study.yaml", "vary": vary}))
        return ["run", str(path)]

    return made


def test_dry_runs_of_several_studies_end_well(sweep, capsys):
    assert main([*sweep(limit=[1, 2], model=["m" * 90]), "--dry-run"]) == 0

    output = capsys.readouterr().out
    assert max(len(line) for line in output.splitlines() if line.startswith("tuning")) <= 100
    assert output.count("Dry run: nothing was sent") == 2
    assert "sweep limit-1_model-mmm" in output
    assert "unknown" in output
    assert "None" not in output
    assert "All 2 runs: " in output


@pytest.mark.slow
def test_a_sweep_of_the_last_notebook_ends_in_a_comparison_too(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.folders.RUNS", tmp_path / "runs")

    assert main([*sweep(limit=[8, 16]), "--only", "3"]) == 0
    assert (tmp_path / "runs" / "sweep" / "comparison.html").exists()


@pytest.mark.slow
def test_a_signal_ends_the_whole_sweep(sweep, bench, monkeypatch, tmp_path):
    monkeypatch.setattr("llmtwin_data.folders.RUNS", tmp_path / "runs")
    command = [*sweep(limit=[8, 16]), "--only", "3"]
    bench.server.change([{"when": {}, "do": {"latency_ms": 500}}])

    def stop():
        bench.wait_for_requests(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()

    assert main(command) == 130
    assert len([*(tmp_path / "runs" / "sweep").glob("2*")]) == 1
