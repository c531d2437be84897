"""The README says what the code says: parameters with their defaults, modules, commands, files."""

from __future__ import annotations

import ast
import re

import pytest

from llmtwin_data.arguments import make_parser
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import Params

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = PROJECT_ROOT / "src" / "llmtwin_data"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def room_of(module):
    return module.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def default_in_words(value):
    if isinstance(value, list):
        return "`[" + ", ".join(value) + "]`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if value != "" else "empty"


@pytest.mark.parametrize("key", Params().as_dict())
def test_every_parameter_stands_in_the_table_with_its_default(key):
    default = default_in_words(Params().as_dict()[key])

    assert f"| `{key}` | {default} | " in README


def test_no_parameter_stands_there_that_is_none():
    table = README.partition("| key | default | meaning |")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(Params().as_dict())


@pytest.mark.parametrize("module", MODULES, ids=room_of)
def test_every_module_has_its_line(module):
    first = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))).splitlines()[0]

    assert f"- `{room_of(module)}`: {first.rstrip(':')}\n" in README


def test_no_module_has_a_line_that_is_none():
    named = re.findall(r"^ *- `([\w/]+)`: ", README, re.MULTILINE)

    assert sorted(named) == sorted(room_of(module) for module in MODULES)


def test_every_command_is_named():
    (commands,) = (action for action in make_parser()._actions if action.choices)

    assert [
        name for name in commands.choices if f"`llmtwin-data {name} " not in README.replace("`\n", " ")
    ] == ["answers"]
    assert "`llmtwin-data answers`" in README


def test_the_files_that_it_names_exist():
    named = re.findall(r"\((data/[^)]+)\)|`((?:params|notebooks)/[\w/]+\.(?:yaml|ipynb))`", README)
    paths = {first or second for first, second in named} - {"params/mine.yaml"}

    assert [path for path in sorted(paths) if not (PROJECT_ROOT / path).exists()] == []
