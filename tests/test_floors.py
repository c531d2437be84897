"""The house: rooms stand on floors and import from lower floors only; functions stay short."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from llmtwin_data.folders import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "src" / "llmtwin_data"
MODULES = sorted(PACKAGE.rglob("*.py"))
# From the ground up. A room is a module, or a package whose modules stand on a floor of their own making.
FLOORS = (
    ("errors",),
    ("folders", "strict_yaml", "languages", "figures"),
    ("environment",),
    ("prompts", "sources"),
    ("prices", "answers", "endpoints", "contents"),
    ("chunks", "measures"),
    ("generation", "screening"),
    ("judging", "params"),
    ("curation",),
    ("splits", "summaries"),
    ("audits", "datasets", "processes"),
    ("tracking", "generator"),
    ("reports",),
    ("runs",),
    ("arguments", "commands"),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LONGEST_BODY = 40


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(module: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmtwin_data."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "llmtwin_data":
            found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def functions_of(module: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    return [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_room_stands_on_a_floor():
    assert {room_of(module) for module in MODULES} - {"__init__"} == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_room_imports_from_lower_floors_only(module):
    floor = FLOOR_OF.get(room_of(module), 0)

    above = {room for room in imported_rooms(module) - {room_of(module)} if FLOOR_OF[room] >= floor}

    assert above == set()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_no_function_is_longer_than_a_screen(module):
    long = {node.name for node in functions_of(module) if body_lines(node) > LONGEST_BODY}

    assert long == set()


@pytest.mark.skipif(not (PROJECT_ROOT / ".git").exists() or not shutil.which("git"), reason="no git checkout")
def test_git_ignores_no_module_so_that_a_clone_has_them_all():
    names = "\n".join(module.relative_to(PROJECT_ROOT).as_posix() for module in MODULES)
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    found = subprocess.run(command, input=names, text=True, capture_output=True, cwd=PROJECT_ROOT, timeout=30)
    assert (found.returncode, found.stdout) == (1, "")
