"""The commands besides `run`, on a run folder and a store made for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import product
import pytest
from published_pairs import make_pair, publish

from llmtwin_data.answers import AnswerStore
from llmtwin_data.cli import main, progress_lines
from llmtwin_data.pipeline import make_dataset
from llmtwin_data.reviews import pairs_to_review, review_of, reviews_file, save_review


@pytest.fixture
def made(bench):
    """Give a bench with a published run."""
    make_dataset(bench.settings(), environ={})
    return bench


def first_row(bench):
    return json.loads((bench.out.dataset / "train.jsonl").open(encoding="utf-8").readline())


def test_loading_again_says_what_was_there(tmp_path, capsys):
    posts = tmp_path / "posts.jsonl"
    for text in ('{"id": 1, "content": "one"}\n', '{"id": 1, "content": "one"}\n{"content": "two"}\n') * 2:
        posts.write_text(text)
        main(["load", str(posts), "--collection", "cleaned_posts", "--qdrant", str(tmp_path / "qdrant")])

    posts.write_text('{"id": 1, "content": "other"}\n{"content": "two"}\n')
    main(["load", str(posts), "--collection", "cleaned_posts", "--qdrant", str(tmp_path / "qdrant")])

    told = [line.split(" into ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told[:2] == ["Loaded 1 line", "Loaded 2 lines (1 new)"]
    assert told.pop() == "Loaded 2 lines (none new, 1 changed)"
    assert told[2:] == ["Loaded 1 line (none new)", "Loaded 2 lines (none new)"]


def test_report_is_written_again_and_still_checks(made, capsys):
    assert main(["report", str(made.out.path)]) == 0
    assert (made.out.path / "report.html").is_file()
    assert main(["check", str(made.out.path)]) == 0


def review(bench, *decisions):
    """Decide on the first pairs as notebook 4 does."""
    path, ledger = reviews_file(Path(bench.settings().answers)), make_dataset(bench.settings(), environ={})
    pairs = list(pairs_to_review(ledger, [], most=len(decisions), seed=1).itertuples())
    for pair, decision in zip(pairs, decisions, strict=True):
        words = "Write a post about the one thing that matters here."
        save_review(path, review_of(pair, decision, instruction=words))
    return pairs


def test_label_writes_what_people_decided_and_sets_the_judge_against_it(bench, capsys):
    make_dataset(bench.settings(judge_model="judge"), environ={})
    pairs = review(bench, *["accept"] * 5, "edit", *["reject"] * 2)

    assert main(["label", str(bench.out.path)]) == 0
    labels = [json.loads(line) for line in (bench.out.path / "labels.jsonl").open(encoding="utf-8")]
    lines = capsys.readouterr().out.splitlines()
    assert {label["id"] for label in labels if label["accepted"]} == {pair.id for pair in pairs[:6]}
    assert "9 labels, 6 good as worded, 1 edited" in lines[0]
    assert lines[1].split()[-3:] == ["labelled", "precision", "recall"]
    assert main(["check", str(bench.out.path)]) == 0


def test_label_without_a_decision_says_where_to_make_one(made, capsys):
    made.out.ledger_file.unlink()
    made.out.run_file.write_text('{"state": "failed"}')

    assert main(["label", str(made.out.path)]) == 2
    assert "4_review_pairs.ipynb" in capsys.readouterr().err
    assert not (made.out.path / "labels.jsonl").exists()


@pytest.mark.parametrize("contents", ["cleaned_posts", "posts.jsonl"], ids=["collection", "file"])
def test_audit_of_our_own_dataset_finds_nothing(made, capsys, monkeypatch, contents):
    monkeypatch.chdir(made.folder)
    source = ["--contents", contents, "--qdrant", made.settings().qdrant]

    code = main(["audit", str(made.out.dataset), "--out", "audit", *source[: 2 if "." in contents else 4]])

    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("given", ["dataset", "run"])
def test_audit_writes_where_it_is_called_not_into_the_run(made, capsys, monkeypatch, given):
    (made.folder / "here").mkdir()
    monkeypatch.chdir(made.folder / "here")
    before = sorted(made.out.path.rglob("*"))
    folder = {"dataset": made.out.dataset, "run": made.out.path}[given]

    assert main(["audit", str(folder)]) == 0, capsys.readouterr().out

    assert sorted(made.out.path.rglob("*")) == before
    assert {path.name for path in Path(f"{folder.name}-audit").iterdir()} == {"rows.jsonl", "report.html"}


def test_trace_asks_which_dataset_where_several_word_a_row_otherwise(tmp_path, capsys):
    pair = make_pair(0)
    for name, words in (("a", "Write of bread."), ("b", "Write of rivers.")):
        publish(tmp_path / name, [make_pair(0, instruction=words), make_pair(1)], test=1)
    AnswerStore(tmp_path / "answers.sqlite").close()
    command = ["trace", pair.id, "--answers", str(tmp_path / "answers.sqlite"), "--runs", str(tmp_path / "a")]

    assert main([*command, str(tmp_path / "b")]) == 2
    assert f"{tmp_path / 'b'}, train" in capsys.readouterr().err
    assert main(command) == 0
    assert "instruction 1: Write of bread." in capsys.readouterr().out


def test_diff_of_a_run_with_itself_is_empty(made, capsys):
    assert main(["diff", str(made.out.path), str(made.out.path)]) == 0
    assert "added 0" in capsys.readouterr().out


def test_forget_tells_first_what_would_go(made, capsys, monkeypatch):
    monkeypatch.setattr("llmtwin_data.cli.RUNS", made.folder / "runs")
    row = first_row(made)
    wanted = ["--content", row["content_id"], "--runs", str(made.out.path)]

    assert main(["forget", *wanted, "--dry-run", "--answers", made.settings().answers]) == 0
    told = capsys.readouterr().out
    assert f"{row['content_id']} in {made.out.path}: {row['content'][:20]}" in told
    assert "in all 1 content, 1 piece in the store, 1 piece in 1 run folder; nothing was changed" in told
    with AnswerStore(Path(made.settings().answers)) as store:
        assert store.forgotten_hashes() == frozenset()
    assert main(["check", str(made.out.path)]) == 0


def test_forget_looks_once_at_a_run_that_is_named_as_well(made, capsys, monkeypatch):
    monkeypatch.setattr("llmtwin_data.cli.RUNS", made.folder / "runs")
    (made.folder / "runs" / "mine").mkdir(parents=True)
    run = made.out.path.rename(made.folder / "runs" / "mine" / "20260101T000000Z")
    named = ["--runs", str(run), "--answers", made.settings().answers]

    assert main(["forget", "--content", "1", *named]) == 0
    assert "run folders looked at: 1;" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["trace", "forget"])
def test_a_run_folder_that_is_not_there_is_refused(made, capsys, command):
    what = ["some-id"] if command == "trace" else ["--author", "nobody"]
    gone = ["--runs", str(made.folder / "gone"), "--answers", made.settings().answers]

    assert main([command, *what, *gone]) == 2
    assert "gone: expected a run folder with run.json, found none" in capsys.readouterr().err


def test_answers_shows_what_is_stored(made, capsys):
    assert main(["answers", "--answers", made.settings().answers]) == 0
    lines = capsys.readouterr().out.splitlines()[:3]
    assert lines == ["Answers: ok 24", "Requests: ok 3", "Kept: 24 texts, 0 forgotten marks, 0.1 MB"]


def test_publish_without_a_key_says_how_to_do_it_later(made, capsys):
    assert main(["publish", str(made.out.path)]) == 5
    assert "COMET_API_KEY" in capsys.readouterr().out


NOWHERE = {name: [name, "nowhere"] for name in ("check", "publish", "report", "label", "audit", "run")}
NOWHERE |= {"diff": ["diff", "nowhere", "nowhere"], "answers": ["answers", "--answers", "nowhere"]}
NOWHERE["trace"] = ["trace", "abc", "--answers", "nowhere"]


@pytest.mark.parametrize("arguments", NOWHERE.values(), ids=NOWHERE)
def test_what_is_not_there_ends_with_2_in_few_lines(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 10


def test_a_traceback_is_shown_only_when_asked_for(capsys):
    main(["check", "nowhere"])
    assert "Traceback" not in capsys.readouterr().err
    main(["check", "nowhere", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys):
    for every_seconds in (60, 0):
        progress_lines(every_seconds=every_seconds)(f"every {every_seconds}")

    assert capsys.readouterr().out == "every 0\n"


def test_a_pattern_of_runs_gives_each_once(made, capsys):
    link = made.folder / "latest"
    link.symlink_to(made.out.path)

    assert main(["report", str(made.out.path), str(link), str(made.folder / "comparison.html")]) == 0
    assert capsys.readouterr().out.startswith("Report: ")


def test_n21_a_command_prints_control_sequences_by_their_escapes(tmp_path):
    words = "Write \x1b]0;pwned\x07of bread \u202eand tea."
    publish(
        tmp_path / "run", [make_pair(0, "Notes on \x1b[2Jbread.", instruction=words), make_pair(1)], test=1
    )
    AnswerStore(tmp_path / "answers.sqlite").close()

    code, output, _ = product.command(
        "trace", make_pair(0, "Notes on \x1b[2Jbread.").id, "--runs", tmp_path / "run",
        "--answers", tmp_path / "answers.sqlite",
    )  # fmt: skip

    assert code == 0
    assert r"Write \u001b]0;pwned\u0007of bread \u202eand tea." in output
    assert [each for each in "\x1b\x07\u202e" if each in output] == []


def command_of(tmp_path: Path, *arguments: object, **environ: str) -> list[str]:
    """Do a command that must fail; give exit code and the lines it prints."""
    code, output, errors = product.command(*arguments, environ={"LLMTWIN_ENV_FILE": ""} | environ)
    assert "Traceback" not in output + errors
    return [str(code), *errors.splitlines()]


ENV_FILES = [
    (
        "OPENAI_API_KEY=sk-a\nNAME=é\n".encode("utf-16"),
        "2",
        "/.env: expected UTF-8 text, found other bytes at",
    ),
    (b"OTHER_API_KEY=sk-a\0b\n", "3", "OTHER_API_KEY: expected one line"),
]


@pytest.mark.parametrize(("data", "code", "said"), ENV_FILES, ids=["utf-16", "nul"])
def test_p21_what_is_wrong_with_an_env_file_is_named(tmp_path, data, code, said):
    (tmp_path / ".env").write_bytes(data)

    ended, line = command_of(tmp_path, "answers", LLMTWIN_ENV_FILE=str(tmp_path / ".env"))

    assert (ended, said in line) == (code, True), line


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "QDRANT_API_KEY", "COMET_API_KEY"])
@pytest.mark.parametrize(
    "value", ["sk-a\nsk-b", "sk-a\rsk-b", "sk-a\x1bsk-b"], ids=["line", "return", "escape"]
)
def test_p21_a_key_with_a_line_break_is_named_and_not_shown(tmp_path, name, value):
    (code, line) = command_of(tmp_path, "answers", **{name: value})

    assert code == "3"
    assert line.startswith(f"llmtwin-data: {name}: expected one line")
    assert "sk-" not in line


def test_a_line_feed_behind_a_key_is_no_fault(tmp_path):
    code, _ = command_of(tmp_path, "answers", "--answers", tmp_path / "none", OPENAI_API_KEY="sk-a\n")

    assert code == "2"


@pytest.mark.parametrize("kind", ["params", "sweep"])
def test_p21_a_pipe_as_params_file_is_refused_at_once(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "sweep.yaml").write_text("params: pipe.yaml\nvary: {seed: [1]}\n")
    file = {"params": "pipe.yaml", "sweep": "sweep.yaml"}[kind]

    (code, line) = command_of(tmp_path, "run", tmp_path / file)

    assert code == "2"
    assert line.endswith("pipe.yaml: expected a file, found a pipe or a device; write the params into a file")


def test_p21_a_foreign_out_folder_is_refused_and_left_untouched(tmp_path):
    (tmp_path / "study.yaml").write_text("comet: off\n")
    folders = {"texts": "notes.txt", "other": "run.json", "hidden": ".git"}
    for folder, name in folders.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))

    for folder, name in folders.items():
        (code, line) = command_of(tmp_path, "run", tmp_path / "study.yaml", "--out", tmp_path / folder)
        assert code == "2"
        assert f"{tmp_path / folder}: expected a run folder or nothing, found {name}; choose a new" in line
    (code, line) = command_of(tmp_path, "run", tmp_path / "study.yaml", "--out", "/")

    assert (code, line.startswith("llmtwin-data: /: expected a run folder or nothing, found ")) == ("2", True)
    assert not Path("/.work").exists()
    assert sorted(tmp_path.rglob("*")) == before


DAMAGED = [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"name": "a"}', b"NULL"]


@pytest.mark.parametrize("data", DAMAGED, ids=range(len(DAMAGED)))
def test_p21_a_damaged_manifest_of_before_is_named_before_anything_is_asked(tmp_path, data):
    name = tmp_path / "published" / "mine.json"
    name.parent.mkdir()
    name.write_bytes(data)
    answers = tmp_path / "answers.sqlite"
    (tmp_path / "study.yaml").write_text(
        f"endpoint: http://127.0.0.1:9\nmodel: m\nanswers: {answers}\ndataset_name: mine\n"
    )

    (code, line) = command_of(tmp_path, "run", tmp_path / "study.yaml", "--out", tmp_path / "out")

    assert code == "8"
    assert line.startswith(f"llmtwin-data: {name}: expected a manifest of this version")
    assert line.endswith("so move it away")


def test_p21_a_shell_that_allows_too_few_files_is_named(bench):
    command = f"ulimit -n 48; exec {sys.executable} -m llmtwin_data.cli run {bench.write_params()} --out out"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=bench.folder
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "llmtwin-data: this shell allows 48 open files, expected at least 128; "
        "run again where ulimit -n 128 is allowed\n"
    )
    assert not (bench.folder / "out").exists()
