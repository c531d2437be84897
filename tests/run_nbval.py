"""Run nbval over the notebooks on a study without a value, in a copy of the project, on a scripted endpoint.

nbval cannot inject parameters, but a kernel inherits the environment: so the package is found in the copy,
whose folders are empty, and the addresses point at loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import endpoint

PROJECT = Path(__file__).resolve().parents[1]
POSTS = 24
STUDY = "params/posts_of_the_copy.yaml"
COMMAND = [
    sys.executable,
    "-m",
    "pytest",
    "--nbval-lax",
    "--nbval-current-env",
    "-n",
    "2",
    "--dist",
    "loadfile",
]
NO_CACHE = ["-p", "no:cacheprovider", "--timeout", "300"]


def main() -> int:
    """Give pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder, endpoint.serve() as server:
        copy = Path(folder)
        places = {"OPENAI_BASE_URL": server.base_url, "QDRANT_URL": str(copy / "qdrant"), "STUDY": STUDY}
        environ = copy_project(copy) | places
        load_posts(copy, environ)
        return subprocess.run([*COMMAND, *NO_CACHE, "notebooks"], cwd=copy, env=environ).returncode


def copy_project(copy: Path) -> dict[str, str]:
    """Copy what notebooks need into an empty folder, and give the environment in which they use the copy."""
    for name in ("src", "params", "notebooks"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(PROJECT / name, copy)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    return plain | {"PYTHONPATH": str(copy / "src"), "LLMTWIN_ENV_FILE": ""}


def load_posts(copy: Path, environ: dict[str, str]) -> None:
    """Load a few sample posts, and write the study that reads them."""
    with (PROJECT / "data/sample/posts.jsonl").open(encoding="utf-8") as lines:
        (copy / "posts.jsonl").write_text("".join(islice(lines, POSTS)), encoding="utf-8")
    (copy / STUDY).write_text("collections: cleaned_posts\n", encoding="utf-8")
    command = [sys.executable, "-m", "llmtwin_data.cli", "load", "posts.jsonl", "--collection"]
    subprocess.run([*command, "cleaned_posts"], cwd=copy, env=environ, check=True)


if __name__ == "__main__":
    sys.exit(main())
