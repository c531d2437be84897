"""Publishing to Comet, both ways: the real SDK sends to a loopback backend and fetches back from it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from comet_sink import CometSink
from finished_run import finish_run, picture_bytes

from llmtwin_data.folders import PROJECT_ROOT, run_lock
from llmtwin_data.tracking import publish_run, quiet_environ

NAME = "posts-instruct-dataset"
# The course's client expects two assets, tells them apart by name and reads the keys of the first row.
COURSE_CLIENT = """
import comet_ml, json, sys
artifact = comet_ml.API(cache=False).get_artifact("ws", sys.argv[1]).download(sys.argv[2])
assert len(artifact.assets) == 2, artifact.assets
paths = [asset.logical_path for asset in artifact.assets]
train, test = ([f"{sys.argv[2]}/{path}" for path in paths if word in path][0] for word in ("train", "test"))
rows = [json.load(open(path, encoding="utf-8")) for path in (train, test)]
assert list(rows[0][0].keys()) == ["instruction", "content"]
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    run = finish_run(tmp_path_factory.mktemp("runs") / "first")
    with CometSink() as sink:
        publication = publish_run(run.path, environ=sink.environ)
        (experiment,) = sink.experiments.values()
        yield SimpleNamespace(run=run, sink=sink, publication=publication, experiment=experiment)


def run_sdk(script, *arguments, sink):
    environ = quiet_environ(os.environ) | sink.environ
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environ, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def test_a_published_run_says_where_it_is(published):
    assert published.publication.state == "published"
    assert published.publication.url.startswith(published.sink.root)
    assert published.publication.line.startswith(f"Comet: published {NAME} 1.0.0, http://")
    assert published.sink.untaught == []


def test_parameters_totals_and_measures_are_logged(published):
    metrics = published.experiment.metrics

    assert published.experiment.parameters["model"] == "tiny"
    assert published.experiment.parameters["collections"] == '["cleaned_posts"]'
    assert published.experiment.others["ledger.csv"] == "5 of 5 rows; all are in the artifact of files"
    assert published.experiment.others["verdict 1"] == "Ready to train: no alarm, and nothing is pending."
    assert float(metrics["totals/accepted"]) == 4
    assert (float(metrics["dataset/train"]), float(metrics["dataset/test"])) == (3, 1)
    assert (float(metrics["changes/added"]), float(metrics["changes/removed"])) == (2, 1)
    assert float(metrics["measures/grounding/mean"]) == 0.15
    assert float(metrics["measures/grounding/median"]) == 0.15
    assert float(metrics["judging/judge/precision"]) == 0.75
    assert "judging/judge/recall" not in metrics


def test_report_notebooks_figures_and_ledger_are_assets_by_name(published):
    assets = published.sink.loose_assets()

    assert assets["report.html"].body == published.run.report.read_bytes()
    assert published.experiment.html == published.run.report.read_text("utf-8")
    assert assets["3_generate_dataset.ipynb"].kind == "notebook"
    assert assets["3_generate_dataset-01.png"].body == picture_bytes()
    assert assets["ledger.csv"].body.decode().splitlines()[-1].split(",")[6] == "'=cmd()"


def test_everything_else_is_in_the_artifact_of_files(published):
    files = published.sink.files_of(f"{NAME}-files")

    expected = [path for path in published.run.dataset.rglob("*") if path.is_file()]
    expected += [published.run.ledger_file]
    assert files == {path.relative_to(published.run.path).as_posix(): path.read_bytes() for path in expected}


def test_the_artifact_names_its_dataset(published):
    version = published.sink.versions[0]
    metadata = json.loads(version.metadata)

    assert metadata["counts"] == {"train": 3, "test": 1}
    assert metadata["params"]["model"] == "tiny"
    assert metadata["changes"]["added"] == 2
    assert f"manifest-{metadata['manifest_sha256'][:12]}" in version.aliases


def test_the_artifact_loads_by_the_rules_of_the_course_client(published, tmp_path):
    printed = run_sdk(COURSE_CLIENT, NAME, str(tmp_path / "fetched"), sink=published.sink)

    train, test = json.loads(printed.splitlines()[-1])
    assert [row["instruction"] for row in train + test] == [f"Write post {n}, 用中文" for n in range(4)]
    assert test[0]["content"] == "Post 3 內容 \u2028 end"


def test_the_same_dataset_from_another_folder_joins_the_same_experiment(published, tmp_path):
    elsewhere = tmp_path / "copy"
    shutil.copytree(published.run.path, elsewhere, ignore=shutil.ignore_patterns("comet.json"))

    again = publish_run(elsewhere, environ=published.sink.environ)

    assert (again.state, again.url) == ("unchanged", published.publication.url)
    assert len(published.sink.experiments) == 1
    assert [version.version for version in published.sink.versions] == ["1.0.0", "1.0.0"]
    assert len({asset.name for asset in published.sink.assets}) == len(published.sink.assets)


def changed_run(folder):
    run = finish_run(folder)
    (run.dataset / "train.jsonl").write_text("{}\n")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: finish_run(folder, train=0), "found none"),
        (changed_run, "train.jsonl is not what its manifest says"),
        (lambda folder: None, "holds no dataset"),
    ],
    ids=["empty train set", "changed file", "no dataset"],
)
def test_what_is_no_dataset_is_refused_with_the_reason(tmp_path, make, said):
    make(tmp_path / "run")
    existed = (tmp_path / "run").exists()

    publication = publish_run(tmp_path / "run", environ={})

    assert publication.state == "refused"
    assert said in publication.line
    assert (tmp_path / "run").exists() == existed


def test_off_does_nothing(tmp_path):
    assert publish_run(tmp_path / "none", environ={}, mode="off").state == "off"
    assert not (tmp_path / "none").exists()


def test_a_second_publishing_at_the_same_time_is_refused(tmp_path):
    run = finish_run(tmp_path / "run")

    with run_lock(run):
        second = publish_run(run.path, environ={})

    assert second.state == "refused"
    assert "in use by process" in second.line


def test_nothing_is_left_lying_about(tmp_path):
    run = finish_run(tmp_path / "run")
    before = {path.name for path in run.path.iterdir()}

    publish_run(run.path, environ={})

    assert {path.name for path in run.path.iterdir()} - before == {"upload_pending.json"}


def test_only_needed_variables_reach_the_process():
    keys = {"OPENAI_API_KEY": "sk-1", "COMET_API_KEY": "cm-1"}

    kept = quiet_environ({"PATH": "/bin", "https_proxy": "p:1", "EXTRA": "1"} | keys)

    assert {"OPENAI_API_KEY", "EXTRA"} & set(kept) == set()
    assert kept["COMET_API_KEY"] == "cm-1"
    assert "https_proxy" not in kept


def test_m20_neither_user_nor_places_of_this_machine_reach_comet(tmp_path):
    user, home = pwd.getpwuid(os.getuid()).pw_name, pwd.getpwuid(os.getuid()).pw_dir
    run = finish_run(tmp_path / "private" / "first")
    params = {"answers": "/srv/someone/store/answers.sqlite", "qdrant": str(tmp_path / "points"), "seed": 42}
    run.update(params=params)
    places = [str(run.path), str(PROJECT_ROOT), f"{home}/notes", "/srv/someone/store/answers.backup.sqlite"]
    text = run.report.read_text("utf-8") + " ".join(places)
    run.report.write_text(text, encoding="utf-8")
    notebook = run.notebooks / "3_generate_dataset.ipynb"
    cells = json.loads(notebook.read_text()) | {"metadata": {"places": places}}
    notebook.write_text(json.dumps(cells))

    with CometSink() as sink:
        assert publish_run(run.path, environ=os.environ | sink.environ).state == "published"

    heard = b"\n".join(sink.heard)
    own = [tmp_path, tmp_path.parent, PROJECT_ROOT, f"{home}/", "/srv/someone", sys.prefix]
    assert [place for place in own if str(place).encode() in heard] == []
    assert [words for words in (f'"{user}"', f"={user}&", f"/{user}/") if words.encode() in heard] == []
    assert run.report.read_text("utf-8") == text
