"""House rules that every committed notebook keeps."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import replace

import nbformat
import pytest
from nbclient import NotebookClient

from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import load_params

PATHS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [nbformat.read(path, as_version=4) for path in PATHS]
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in PATHS])
PARAMETER = re.compile(r"[a-z_]+: (?:str|int|float|list|dict) = [^=#|]+  # [^=#|]+")


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_of(notebook):
    return next(cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))


def test_the_notebooks_are_numbered_and_say_what_is_done():
    assert [path.name for path in PATHS] == [
        "1_explore_content.ipynb",
        "2_tune_prompt.ipynb",
        "3_generate_dataset.ipynb",
        "4_review_pairs.ipynb",
        "5_meet_your_twin.ipynb",
    ]


@each_notebook
def test_n10_notebooks_are_committed_without_outputs_and_traces_of_a_run(notebook):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_of(notebook))
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@each_notebook
def test_a_notebook_opens_with_question_reads_and_writes(notebook):
    title = notebook.cells[0]

    assert title.cell_type == "markdown"
    assert all(word in title.source for word in ("**Question.**", "**Reads.**", "**Writes.**"))


@each_notebook
def test_the_second_cell_holds_parameters_the_third_imports(notebook):
    imports = ast.parse(notebook.cells[2].source).body

    assert notebook.cells[1].metadata.get("tags") == ["parameters"]
    assert all(isinstance(node, ast.ImportFrom | ast.Import) for node in imports)
    assert len(notebook.cells[2].source.splitlines()) <= 3


@each_notebook
def test_a_parameters_cell_keeps_the_grammar_that_papermill_reads(notebook):
    for line in parameters_of(notebook).splitlines():
        assert PARAMETER.fullmatch(line), line


@each_notebook
def test_the_first_output_says_which_settings_there_are(notebook):
    first = code_of(notebook)[2]

    assert first.source == "settings = params.settings_of(globals())\nprint(settings)"


@each_notebook
def test_no_cell_defines_or_forks_anything(notebook):
    forbidden = (
        ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If | ast.Try | ast.While | ast.Lambda
    )
    nodes = [node for cell in code_of(notebook) for node in ast.walk(ast.parse(cell.source))]

    assert [ast.unparse(node) for node in nodes if isinstance(node, forbidden)] == []


@each_notebook
def test_cells_keep_their_budgets(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code_of(notebook) if not cell.metadata.get("tags")]

    assert len(code_of(notebook)) <= 25
    assert max(lengths) <= 10


@each_notebook
def test_prose_stands_before_every_step(notebook):
    headings = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]

    assert len(headings) >= 3
    assert all(heading.strip() for heading in headings)


@each_notebook
def test_cells_hold_no_comment_that_narrates(notebook):
    cells = [cell for cell in code_of(notebook) if not cell.metadata.get("tags")]
    tokens = [t for cell in cells for t in tokenize.generate_tokens(io.StringIO(cell.source).readline)]

    assert [token.string for token in tokens if token.type == tokenize.COMMENT] == []


@each_notebook
def test_a_notebook_by_hand_has_the_settings_of_its_study_and_says_so(notebook, tmp_path, monkeypatch):
    """As JupyterLab runs it: in the notebook's folder, with what `make lab STUDY=...` sets."""
    (tmp_path / "mine.yaml").write_text("collections: mine\nmodel: some-model\nlimit: 7\n")
    monkeypatch.setenv("STUDY", str(tmp_path / "mine.yaml"))
    cells = [nbformat.v4.new_code_cell(cell.source) for cell in code_of(notebook)[:3]]
    opened = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(opened, kernel_name="python3", resources={"metadata": {"path": PATHS[0].parent}}).execute()

    headless = load_params(tmp_path / "mine.yaml")
    first = next(output.text for cell in opened.cells for output in cell.outputs)
    assert first == f"{replace(headless, study=str(tmp_path / 'mine.yaml'))}\n"
    assert "  limit: 7\n" in first
