"""Errors of ours as a notebook shows them."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from llmtwin_data.errors import DEBUG, ParamsError, SourceError, exit_code_of


def shown(code, *, environ=None):
    """Give what the one cell of a notebook shows, executed in a kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client = NotebookClient(notebook, kernel_name="python3", allow_errors=True)
    client.execute(env=environ) if environ else client.execute()
    (output,) = notebook.cells[0].outputs
    return output


RAISE = "from llmtwin_data.errors import ParamsError\nraise ParamsError('limit: expected\\nless')"


def test_a_notebook_shows_an_error_of_ours_in_lines_without_a_traceback():
    output = shown(RAISE)

    assert (output.ename, output.evalue) == ("ParamsError", "limit: expected\nless")
    assert output.traceback == ["ParamsError: limit: expected", "less"]


def test_a_foreign_error_keeps_its_traceback():
    assert len(shown("1 / 0").traceback) > 2


def test_with_debug_the_traceback_of_ours_is_shown_too(monkeypatch):
    monkeypatch.setenv(DEBUG, "1")
    with pytest.raises(SourceError) as caught:
        raise SourceError("no such collection")

    assert caught.value._render_traceback_()[0].startswith("Traceback")


@pytest.mark.parametrize(
    ("name", "code"), [("ParamsError", 2), ("SourceError", 4), ("KeyboardInterrupt", 130), ("KeyError", 1)]
)
def test_an_error_has_its_exit_code_by_name(name, code):
    assert exit_code_of(name) == code
    assert ParamsError.exit_code == 2
