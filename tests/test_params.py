"""Params, their table in the notebooks, and the files that come with the project."""

from __future__ import annotations

from dataclasses import fields

import pytest
from papermill import inspect_notebook

from llmtwin_data.curation import Rules
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import Params, check_parameters, load_params, make_params
from llmtwin_data.runs.preflight import notebooks_of, parameters_of

NOTEBOOKS = [*notebooks_of(0), *(PROJECT_ROOT / "notebooks").glob("4_*.ipynb")]
FILES = sorted((PROJECT_ROOT / "params").glob("*.yaml"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_has_every_parameter_with_its_default(notebook):
    assert parameters_of(notebook) == Params().as_dict()


@each_notebook
def test_papermill_sees_every_parameter_with_help(notebook):
    seen = inspect_notebook(str(notebook))

    assert list(seen) == [item.name for item in fields(Params)]
    assert [name for name, parameter in seen.items() if not parameter["help"]] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_params_file_loads(path):
    assert load_params(path).given()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_params_file_opens_with_its_question(path):
    first = path.read_text().splitlines()[0]

    assert first.startswith("# ")
    assert first.endswith("?")


def test_every_threshold_of_the_rules_is_a_parameter():
    assert {item.name for item in fields(Rules)} <= {item.name for item in fields(Params)}


def test_values_come_back_as_they_were_given():
    given = {"collections": ["a", "b"], "limit": 3, "temperature": 0.0, "request_extra": {"effort": "low"}}

    assert make_params(given, place="test").given() == given


def test_the_run_folder_is_no_part_of_a_study():
    assert make_params({"run_dir": "runs/x"}, place="test").given() == {}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("limit", "5", 5),
        ("temperature", "1e-1", 0.1),
        ("temperature", "0", 0.0),
        ("model", "12", "12"),
        ("comet", "off", "off"),
        ("collections", "a,b", ("a", "b")),
        ("collections", "[a, b]", ("a", "b")),
        ("authors", "7", ("7",)),
        ("batch_sizes", "1, 4", (1, 4)),
        ("models", "a,b:8b", ("a", "b:8b")),
        ("request_extra", "{effort: low}", {"effort": "low"}),
    ],
)
def test_a_word_of_the_command_line_is_read_by_its_keys_type(tmp_path, key, text, value):
    (tmp_path / "study.yaml").write_text("seed: 1\n")

    assert getattr(load_params(tmp_path / "study.yaml", [(key, text)]), key) == value


def test_the_command_line_wins_over_the_file(tmp_path):
    (tmp_path / "study.yaml").write_text("limit: 1\n")

    assert load_params(tmp_path / "study.yaml", [("limit", "2")]).limit == 2


def test_norwegian_survives_yaml_that_reads_it_as_false():
    assert check_parameters({"languages": ["en", False]}).languages == ("en", "no")


def test_an_author_may_be_a_number():
    assert check_parameters({"authors": [7, "anna"]}).authors == ("7", "anna")
