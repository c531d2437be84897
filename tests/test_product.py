"""The rule of the tests under faults/: command, HTTP, files, and one helper of few names and plain data."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FAULTS = sorted((TESTS / "faults").glob("*.py"))
MOST_NAMES = 30
# Of `running`, what hands out the package's own records is for tests of modules.
OF_MODULES = {"settings"}


def imported(tree):
    """Give the modules that code imports, in functions too, by their first name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def trees(path):
    """Give a file's code, and what it holds as text to be run by another process."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                yield ast.parse(node.value)
            except SyntaxError:
                continue


def reaches_package(module):
    """Tell whether a module beside the tests, `product` and `running` aside, imports the package."""
    path = TESTS / f"{module}.py"
    if module in ("product", "running") or not path.exists():
        return module == "llmtwin_data"
    return any(reaches_package(name) for name in imported(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: path.stem)
def test_no_fault_test_imports_the_package(path):
    for tree in trees(path):
        assert [name for name in imported(tree) if reaches_package(name)] == []
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert used & OF_MODULES == set()


def test_the_helper_has_few_names():
    tree = ast.parse((TESTS / "product.py").read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names |= {
        node.id for each in tree.body for node in ast.walk(each)
        if isinstance(each, (ast.Assign, ast.AnnAssign)) and isinstance(getattr(node, "ctx", None), ast.Store)
    }  # fmt: skip

    assert len([name for name in names if not name.startswith("_")]) <= MOST_NAMES


def test_an_import_of_the_package_is_found(tmp_path):
    for code in (
        "from llmtwin_data.answers import AnswerStore",
        "def test():\n    import llmtwin_data.cli",
        "CODE = 'from asking import ask_about'",
        "import written_pairs",
    ):
        (tmp_path / "test.py").write_text(code)
        assert any(reaches_package(name) for tree in trees(tmp_path / "test.py") for name in imported(tree))
