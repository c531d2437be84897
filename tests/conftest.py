"""For all tests: no key, address or .env of this machine, helpers beside the tests, and how often to kill."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A server named by QDRANT_URL is the one thing that a developer may want a test to see.
for _name in [*os.environ]:
    if _name.startswith(("OPENAI_", "COMET_", "STUDY")):
        del os.environ[_name]
os.environ["LLMTWIN_ENV_FILE"] = ""
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=20, help="random kills of P01")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[object]:
    """Give a collection of numbered documents and a scripted endpoint, for the command itself."""
    import endpoint
    import running

    with endpoint.serve() as server:
        yield running.make_bench(tmp_path, server)
