"""The generated pages under docs/ say what the code says today."""

from __future__ import annotations

import runpy

import pytest

from llmtwin_data.cli import make_parser
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import Params, explained

GENERATED = runpy.run_path(str(PROJECT_ROOT / "docs" / "generate.py"))
PAGES = {name: page() for name, page in GENERATED["PAGES"].items()}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_make_docs_writes_it(name):
    assert (PROJECT_ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == PAGES[name]


@pytest.mark.parametrize("key", Params().as_dict())
def test_every_parameter_has_its_row_with_its_help(key):
    (row,) = [line for line in PAGES["parameters"].splitlines() if line.startswith(f"| `{key}` |")]

    assert explained(key) in row


def test_every_command_has_its_heading_and_every_argument_its_help():
    (commands,) = (action for action in make_parser()._actions if isinstance(action.choices, dict))

    assert [f"## {name}" for name in commands.choices if f"\n## {name}\n" not in PAGES["commands"]] == []
    assert "| None |" not in PAGES["commands"]


def test_every_measure_stands_in_the_page_of_measures():
    page = (PROJECT_ROOT / "docs" / "measures.md").read_text(encoding="utf-8")

    assert [name for name in MEASURES if f"`{name}`" not in page] == []
