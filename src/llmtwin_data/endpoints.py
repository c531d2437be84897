"""Which endpoint is asked: its address, model and key, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint; ``identity`` and ``model_identity`` are what recipes hold."""

    base_url: str
    identity: str
    model: str
    model_identity: str
    api_key: str = field(repr=False, default="")


@contextmanager
def open_endpoint(endpoint: str, *, model: str, environ: Mapping[str, str]) -> Iterator[Endpoint]:
    """Give the endpoint these parameters mean, with the embedded server running while it is open."""
    raise NotImplementedError
    yield
