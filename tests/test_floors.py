"""Modules stand on floors and import only from lower ones; budgets of the house style, measured."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "llmtwin_data"
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.glob("*.py"))}
# From the ground up, as in DESIGN.md; rooms that modules were split into stand beside or below them.
LANDMARKS = [
    {"errors"},
    {"folders"},
    {"sources", "languages"},
    {"contents"},
    {"chunks"},
    {"prompts", "screening", "prices", "answers"},
    {"endpoints"},
    {"generation"},
    {"judging"},
    {"curation", "splits"},
    {"datasets"},
    {"generator"},
    {"runs"},
    {"cli"},
]
MOST_LINES = 225
MOST_BODY = 40


def imports_of(tree: ast.AST, *, typing_too: bool = False) -> set[str]:
    """Name the modules of ours that this one imports, lazily or not; imports for types are not counted."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing_too:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").removeprefix("llmtwin_data").strip(".")
            if node.level or (node.module or "").startswith("llmtwin_data"):
                found |= {module} if module else {name.name for name in node.names}
    return found & TREES.keys()


IMPORTS = {name: imports_of(tree) for name, tree in TREES.items()}


def reached_from(name: str) -> set[str]:
    """Name everything that a module stands on."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        new = IMPORTS[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


@pytest.mark.parametrize("name", TREES)
def test_no_module_stands_on_itself(name):
    assert name not in reached_from(name)


@pytest.mark.parametrize("floor", range(len(LANDMARKS)))
def test_nothing_on_a_floor_stands_on_a_higher_one(floor):
    higher = set().union(*LANDMARKS[floor:])

    assert {
        name: sorted(reached_from(name) & higher) for name in LANDMARKS[floor] if reached_from(name) & higher
    } == {}


def functions() -> dict[str, int]:
    """Give the lines of every function's body, its docstring aside."""
    lengths = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                lengths[f"{module}.{node.name}:{node.lineno}"] = length
    return lengths


def test_functions_are_short():
    lengths = functions()

    assert {name: length for name, length in lengths.items() if length > MOST_BODY} == {}
    assert statistics.median(lengths.values()) <= 10
    assert sum(length <= 20 for length in lengths.values()) >= 0.85 * len(lengths)


def test_modules_are_a_page_or_two():
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.glob("*.py")}

    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_names_are_those_of_the_house():
    classes = {
        node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    roles = ("Manager", "Handler", "Helper", "Processor")

    assert TREES.keys() & {"utils", "common", "helpers", "models", "core"} == set()
    assert [name for name in classes if name.endswith(roles)] == []


def test_every_module_says_what_it_holds_in_one_sentence():
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("name", TREES)
def test_only_the_edges_read_the_environment_or_print(name):
    reads = [
        node for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute) and node.attr == "environ"
    ]
    of_os = [node for node in reads if isinstance(node.value, ast.Name) and node.value.id == "os"]
    prints = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Name) and node.id == "print"]

    assert not of_os or name in {"environment", "leash", "experiments"}
    assert not prints or name == "cli"
