"""The house: modules import only from those before them in docs/generate.py; functions stay short."""

from __future__ import annotations

import ast
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from llmtwin_data.folders import PROJECT_ROOT

GENERATED = runpy.run_path(str(PROJECT_ROOT / "docs" / "generate.py"))
PACKAGE = PROJECT_ROOT / "src" / "llmtwin_data"
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = [name for _, names in GENERATED["ROWS"] for name in names.split()]
LONGEST_BODY = 40


def path_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").as_posix()


def module_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(source: str) -> set[str]:
    """Return the modules of ours that a source text imports, at its head or inside a function."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "llmtwin_data" and not part[1].startswith("_")}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def functions_of(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_module_has_one_place_in_the_order_and_a_group_that_is_told():
    assert [name for name in GENERATED["modules"]() if ORDER.count(name) != 1] == []
    assert {group for group, _ in GENERATED["ROWS"]} == set(GENERATED["GROUPS"])


@pytest.mark.parametrize("file", FILES, ids=path_of)
def test_a_module_imports_only_from_modules_before_it(file):
    name = module_of(file)
    before = ORDER[: ORDER.index(name)] if name in ORDER else []

    assert imported_modules(file.read_text(encoding="utf-8")) - {name} - set(before) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import llmtwin_data.runs",
        "from llmtwin_data import runs as other",
        "from llmtwin_data.runs.sweeps import x",
        "def f():\n    from llmtwin_data.runs import x",
    ],
)
def test_an_import_is_seen_however_it_is_written(source):
    assert imported_modules(source) == {"runs"}


@pytest.mark.parametrize("file", FILES, ids=path_of)
def test_no_function_is_longer_than_a_screen(file):
    long = {node.name for node in functions_of(file) if body_lines(node) > LONGEST_BODY}

    assert long == set()


@pytest.mark.skipif(not (PROJECT_ROOT / ".git").exists() or not shutil.which("git"), reason="no git checkout")
def test_git_ignores_no_module_so_that_a_clone_has_them_all():
    names = "\n".join(file.relative_to(PROJECT_ROOT).as_posix() for file in FILES)
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    found = subprocess.run(command, input=names, text=True, capture_output=True, cwd=PROJECT_ROOT, timeout=30)
    assert (found.returncode, found.stdout) == (1, "")
