"""A collection, params and the command itself, for tests that run the driver as a person does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import endpoint
import product
from documents import document

CANARIES = {"OPENAI_API_KEY": "sk-CANARY-0123456789", "QDRANT_API_KEY": "qd-CANARY-0123456789"}


@dataclass(frozen=True)
class Out:
    """The places of a run folder that tests look at."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset"

    @property
    def notebooks(self) -> Path:
        return self.path / "notebooks"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def read(self) -> dict[str, Any]:
        """Give what ``run.json`` holds."""
        return json.loads(self.run_file.read_text(encoding="utf-8"))

    def update(self, **fields: Any) -> None:
        """Write these fields into ``run.json`` beside those that are there."""
        self.run_file.write_text(json.dumps(self.read() | fields), encoding="utf-8")


@dataclass
class Bench:
    """A folder with a collection of numbered documents, answers and params, and a scripted endpoint."""

    folder: Path
    server: endpoint.Server

    @property
    def out(self) -> Out:
        """The run folder of the commands."""
        return Out(self.folder / "out")

    @property
    def params_file(self) -> Path:
        """The params that commands are given."""
        return self.folder / "study.yaml"

    def values(self, **values: Any) -> dict[str, Any]:
        """Give params that need nothing but this bench."""
        own = {"qdrant": str(self.folder / "qdrant"), "answers": str(self.folder / "answers.sqlite")}
        usual = {"endpoint": self.server.base_url, "model": "scripted", "tune_sample": 2, "comet": "off"}
        return (
            own | usual | {"quality_gate": "warn", "previous": "none", "instruction_language": "en"} | values
        )

    def study(self, **values: Any) -> dict[str, Any]:
        """Give them with the bench's run folder, as the steps themselves want them."""
        return self.values(**{"run_dir": str(self.out.path)} | values)

    def publish(self, *, environ: dict[str, str] | None = None, **values: Any) -> dict[str, Any]:
        """Write the dataset of these params in this process, without notebooks; give the totals."""
        with product.Study(self.study(**values), environ=environ) as study:
            return study.publish()

    def settings(self, **values: Any) -> Any:
        """Give them as the package's own record, for tests of modules."""
        from llmtwin_data.params import make_params

        return make_params(self.study(**values), place="test")

    def start(
        self, *arguments: str, values: dict[str, Any] | None = None, environ: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a run of these params into the out folder."""
        command = ("run", str(self.write_params(**(values or {}))), "--out", str(self.out.path), *arguments)
        return self.start_command(*command, environ=environ)

    def write_params(self, **values: Any) -> Path:
        """Write these params for a command, and give the file."""
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in self.values(**values).items()]
        self.params_file.write_text("".join(lines))
        return self.params_file

    def start_command(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start any command, with canaries for keys."""
        return subprocess.Popen(
            [sys.executable, "-m", "llmtwin_data.cli", *arguments],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            env=os.environ | CANARIES | (environ or {}), cwd=self.folder,
        )  # fmt: skip

    def run(
        self, *arguments: str, environ: dict[str, str] | None = None, **values: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run these params and wait for the end."""
        return finish(self.start(*arguments, values=values, environ=environ))

    def wait_for_requests(self, count: int, *, seconds: float = 60) -> None:
        """Wait until the endpoint has had this many requests."""
        end = time.monotonic() + seconds
        while self.server.stats()["requests"] < count:
            assert time.monotonic() < end, f"fewer than {count} requests in {seconds} s"
            time.sleep(0.02)

    def manifest(self) -> bytes:
        """Give the manifest, which names every byte of the dataset."""
        return (self.out.dataset / "manifest.json").read_bytes()


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end."""
    output, errors = process.communicate(timeout=110)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[Any]:
    """Start Python on a few lines that may import what lies beside the tests."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environ, **options)


def load(address: Path | str, rows: Iterable[dict[str, Any]], *, file: Path) -> None:
    """Load points, a payload and its id each, into ``cleaned_posts`` with the command, by this file."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    code, _, errors = product.command("load", file, "--collection", "cleaned_posts", "--qdrant", address)
    assert code == 0, errors


def make_bench(folder: Path, server: endpoint.Server, *, documents: int = 24) -> Bench:
    """Load numbered documents into a collection of their own."""
    usual = {"author_id": "a", "type": "posts"}
    rows = [{"id": n, "cleaned_content": document(n)} | usual for n in range(documents)]
    load(folder / "qdrant", rows, file=folder / "posts.jsonl")
    return Bench(folder, server)


def findings_of(run: Path) -> list[str]:
    """Give the lines in which `check` says what a run does not keep of the promises."""
    code, output, errors = product.command("check", run)
    assert code in (0, 6), errors
    lines = output.splitlines()
    assert bool(lines[:-1]) == bool(code)
    return lines[:-1]


def canaries_in(folder: Path) -> list[Path]:
    """Name the files that hold a key."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(key.encode() in path.read_bytes() for key in CANARIES.values())]
