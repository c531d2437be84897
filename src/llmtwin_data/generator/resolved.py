"""The values of a run as resolved, and the versions it was made with: what run.json holds of them."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from llmtwin_data.endpoints import Endpoint
from llmtwin_data.folders import shown
from llmtwin_data.generator.questions import sizes_of
from llmtwin_data.params import Params

# Those whose behaviour shows in the result; the lock file names all others.
_PACKAGES = (
    "llmtwin_data",
    "qdrant-client",
    "qdrant-edge-py",
    "aiohttp",
    "xllamacpp",
    "papermill",
    "genai-prices",
)


def opening_fields(settings: Params, endpoint: Endpoint, *, source: str) -> dict[str, Any]:
    """Give what run.json holds from the first request on: the values as resolved, and the versions."""
    batch_size, concurrency = sizes_of(settings, endpoint)
    effort = {"reasoning_effort": endpoint.effort} if endpoint.effort else {}
    resolved = settings.as_dict() | {
        "qdrant": source if "://" in source else shown(source),
        "endpoint": endpoint.identity,
        "model": endpoint.model,
        "request_extra": effort | settings.request_extra,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "run_dir": shown(settings.run_dir) if settings.run_dir else "",
    }
    fields = {"state": "running", "given": settings.given(), "params": resolved, "versions": versions()}
    return fields | {"model_identity": endpoint.model_identity}


def versions() -> dict[str, str]:
    """Give the versions that a run was made with."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
