"""Params: what a run is asked to do; each name, type, bound, default and help stands here and nowhere else."""

from __future__ import annotations

import ast
import difflib
import ipaddress
import json
import logging
import os
import re
import socket
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass

from llmtwin_data.errors import KeyRejected, ParamsError
from llmtwin_data.folders import PROJECT_ROOT, project_path, resolve
from llmtwin_data.screening import find_secrets
from llmtwin_data.texts import language_name

DEMO = "params/demo.yaml"
# Names another file than .env of the project's root; empty reads none, as the tests do.
ENV_FILE = "LLMTWIN_ENV_FILE"
OUR_KEYS = {"OPENAI_API_KEY", "QDRANT_API_KEY", "COMET_API_KEY"}
# Bytes. A params file has some forty lines, a prompt not many more; the limit is there for what is neither.
MAX_BYTES = 64 * 1024


def _matching(pattern: str) -> StringConstraints:
    return StringConstraints(pattern=rf"\A(?!\s)(?:{pattern})(?<!\s)\Z")


def _language(tag: str) -> str:
    if tag != "same" and not language_name(tag):
        raise ValueError(tag)
    return tag


def _each_once(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(parts)) < len(parts):
        raise ValueError(parts)
    return parts


def _word_for_false(word: str) -> BeforeValidator:
    # papermill reads `off` and `no` of a params file by YAML 1.1, as false.
    return BeforeValidator(lambda value: word if value is False else value)


def _value(default: Any, description: str, **bounds: float) -> Any:
    return Field(default, description=description, **bounds)  # type: ignore[call-overload]


# A text in Annotated is what errors and docs/parameters.md say is expected; pydantic heeds the rest.
# Names become file names on any system, so: few characters, no path, nothing that Windows reserves.
_NAME = r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z))[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME_WORDS = "of letters, digits, '.', '_' and '-'"
_LINE = r"[^\x00-\x1f\x7f]"
_NUMBER_AS_TEXT = BeforeValidator(lambda value: str(value) if type(value) is int else value)
_LIST = (
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list | tuple) else (value,)),
    AfterValidator(_each_once),
)
Name = Annotated[str, _NUMBER_AS_TEXT, _matching(_NAME), f"a name {_NAME_WORDS}"]
NameOrNone = Annotated[str, _matching(rf"|{_NAME}"), f"a name {_NAME_WORDS}, or nothing"]
Names = Annotated[tuple[Name, ...], *_LIST, f"a list of names {_NAME_WORDS}, each once"]
Collections = Annotated[tuple[Name, ...], *_LIST, f"a list of names {_NAME_WORDS}, each once, at least 1"]
Place = Annotated[str, _matching(rf"{_LINE}{{0,1000}}"), "text on one line"]
# A word that switches other parameters off would be asked for as a model, once the instructions are paid.
ModelOrNone = Annotated[
    str, _matching(rf"(?!(?i:off)\Z){_LINE}{{0,1000}}"), "a model's name; leave it empty for no judge"
]  # fmt: skip
Cluster = Annotated[
    str, _matching(r"|local|auto|[A-Za-z0-9.-]{1,253}:[0-9]{1,5}"),
    "local, auto, or a cluster's address such as 10.0.0.1:6379, or nothing",
]  # fmt: skip
PlaceOrOff = Annotated[Place, _word_for_false("off")]
Word = Annotated[str, _NUMBER_AS_TEXT, _matching(rf"{_LINE}{{1,1000}}")]
Words = Annotated[tuple[Word, ...], *_LIST, "a list of short texts, each once"]
_TAG = (_word_for_false("no"), AfterValidator(_language))
Language = Annotated[str, *_TAG, "same, or a BCP 47 tag such as en or zh-Hant"]
Languages = Annotated[
    tuple[Language, ...], *_LIST, "a list of BCP 47 tags such as en or zh-Hant, or same, each once"
]
_SLOT = r"\{(?:author|platform|data_type)\}"
System = Annotated[
    str, _matching(rf"(?:[^\x00-\x1f\x7f{{}}]|{_SLOT}){{0,1000}}"),
    "one line of text, braces only around author, platform and data_type",
]  # fmt: skip
Size = Annotated[int, Field(ge=1, le=100)]
Sizes = Annotated[tuple[Size, ...], *_LIST, "a list of whole numbers from 1 to 100, each once"]
Extra = Annotated[dict[str, Any], "a mapping such as {reasoning_effort: low}"]
Treatment = Literal["drop", "mask", "keep"]
Tracking = Annotated[
    Literal["auto", "online", "off"], _word_for_false("off"),
    "auto, online or off; offline cannot carry the dataset; take off now, and llmtwin-data publish later",
]  # fmt: skip


@dataclass(
    frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False, regex_engine="python-re", extra="forbid")
)
class Params:
    """All parameters of a run; a study sets some, and every notebook reads the same."""

    # fmt: off
    study: Place = _value("", "a params file; empty: $STUDY, else params/demo.yaml")
    collections: Collections = _value(("cleaned_posts",), "Qdrant collections; several are split together", min_length=1)
    data_type: Place = _value("", "the contents' word in the prompt; empty: the payload's type or the collection")
    qdrant: Place = _value("", "URL or folder; empty: QDRANT_URL, else the embedded folder .llmtwin/qdrant")
    answers: Place = _value(".llmtwin/answers.sqlite", "store of answers; none is paid for twice")
    authors: Words = _value((), "author ids to keep, empty keeps all")
    platforms: Words = _value((), "platforms to keep, empty keeps all")
    limit: int = _value(0, "contents to read at most, shared by the collections; 0 reads all", ge=0, le=100_000_000)
    chunk_chars: int = _value(2000, "longest chunk in characters; longer contents are cut at sentence ends", ge=100, le=100_000)
    endpoint: Place = _value("", "embedded or a URL; empty: OPENAI_BASE_URL, OpenAI if there is a key, embedded")
    model: Place = _value("", "as the endpoint knows it, or the path of a GGUF; empty: a sensible one")
    temperature: float = _value(0.7, "sampling temperature", ge=0, le=2)
    max_output_tokens: int = _value(0, "tokens of one completion at most, 0 is automatic", ge=0, le=1_000_000)
    request_extra: Extra = Field(default_factory=dict, description="extra fields of the request for this endpoint, such as a reasoning effort")
    prompt: Name = _value("grounded", "template under params/prompts/ that the dataset is made with")
    prompts: Names = _value(("seed", "grounded"), "templates that notebook 2 compares")
    models: Words = _value((), "models that notebook 2 compares, each with prompt; empty: only model")
    languages: Languages = _value((), "instruction languages that notebook 2 compares; empty: only instruction_language")
    batch_sizes: Sizes = _value((), "batch sizes that notebook 2 compares with batch_size; empty: 1")
    tune_sample: int = _value(50, "contents that notebook 2 tries, fewer of a small job; pairs that notebook 4 shows", ge=1, le=100_000)
    instruction_language: Language = _value("same", "same as the content, or a BCP 47 tag such as en or zh-Hant")
    instructions_per_content: int = _value(1, "different instructions written for each chunk", ge=1, le=20)
    candidates: int = _value(1, "answers asked for each instruction, the best grounded is kept", ge=1, le=20)
    batch_size: int = _value(8, "chunks in one request; an embedded model gets 1 in place of the default", ge=1, le=100)
    concurrency: int = _value(64, "requests in flight at most, adapted below that; an embedded model gets 1 in place of the default", ge=1, le=2048)
    timeout_seconds: float = _value(120.0, "total deadline of one request in seconds", ge=0.1, le=86_400)
    requests_per_minute: int = _value(0, "known limit of the endpoint, 0 is none", ge=0, le=10_000_000)
    partitions: int = _value(0, "parts asked about at once, each by its own process; 0: one, on a cluster one for each CPU", ge=0, le=1024)
    mode: Literal["live", "batch"] = _value("live", "live, or batch for the provider's Batch API at about half the price")
    max_cost_usd: float = _value(0.0, "stop before this many US dollars are crossed, 0 is no limit", ge=0, le=1_000_000)
    usd_per_million_input: float = _value(0.0, "US dollars, where the price list does not know the model", ge=0, le=100_000)
    usd_per_million_output: float = _value(0.0, "US dollars, where the price list does not know the model", ge=0, le=100_000)
    judge_model: ModelOrNone = _value("", "model that judges the pairs, empty is no judge")
    min_judge_score: int = _value(0, "lowest verdict that is accepted, 1 to 5, 0 switches the rule off", ge=0, le=5)
    embedding_model: PlaceOrOff = _value("", "measures where words cannot; empty: the packaged one; a name: the endpoint's; off: none")
    min_grounding: float = _value(0.5, "lowest grounding that is accepted, 0 switches the rule off", ge=0, le=1)
    min_evidence: float = _value(0.5, "lowest evidence that this chunk fits its instruction, 0 switches the rule off", ge=0, le=1)
    max_copied: float = _value(0.6, "largest share of an instruction found in its content, or the reverse; 1 is off", ge=0, le=1)
    near_duplicate: float = _value(0.8, "shared text that makes two pairs near-duplicates, 1 rejects only equal texts", ge=0, le=1)
    max_boilerplate: float = _value(0.5, "largest share of a content's words that five or more contents share, 1 is off", ge=0, le=1)
    max_pair_tokens: int = _value(2048, "tokens of instruction and content at most, 0 switches the rule off", ge=0, le=10_000_000)
    quality_gate: Literal["stop", "warn"] = _value("stop", "stop publishes nothing after an alarm, warn only shows it")
    secrets: Treatment = _value("drop", "drop, mask or keep chunks that hold a key or password")
    personal_data: Treatment = _value("keep", "drop, mask or keep chunks with e-mail addresses, phone numbers, ...")
    test_fraction: float = _value(0.1, "share of contents that goes to test, 0 makes no test set", ge=0, le=0.9)
    seed: int = _value(42, "seed of every random choice", ge=0, le=2**32 - 1)
    previous: Place = _value("", "manifest whose sides are kept; empty: the last of this dataset_name; none: no manifest")
    system: System = _value("", "system turn of the formats that have one, with {author}, {platform}, {data_type}; empty: none")
    dataset_name: NameOrNone = _value("", "name of dataset and Comet artifact; empty: from the data type")
    comet: Tracking = _value("auto", "auto, online or off")
    twins: int = _value(3, "test instructions that notebook 5 lets the endpoint answer; 0 asks none", ge=0, le=100)
    cluster: Cluster = _value("", "Ray that works on many rows: local, auto or its address; empty: this machine's cores, without Ray")
    run_dir: Place = _value("", "run folder, set by llmtwin-data run")
    # fmt: on

    def given(self) -> dict[str, Any]:
        """Return what differs from the defaults and makes two runs the same study, whatever its file is called."""
        own, usual = self.as_dict(), Params().as_dict()
        return {key: own[key] for key in own if own[key] != usual[key] and key not in ("study", "run_dir")}

    def as_dict(self) -> dict[str, Any]:
        """Return all values as plain ones, such as papermill and JSON take."""
        return {key: list(it) if isinstance(it, tuple) else it for key, it in asdict(self).items()}

    def __str__(self) -> str:
        """Name the study and the values that are not the defaults, as a notebook's first output does."""
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in self.given().items()]
        nameless = "This run" if self.run_dir else "No study, only values given"
        name = f"Study {self.study}" if self.study else nameless
        return "\n  ".join([f"{name}; beside the defaults:" if lines else f"{name}; defaults only", *lines])


_FIELDS = Params.__pydantic_fields__  # type: ignore[attr-defined]


def expected(name: str) -> str:
    """Return in words what this parameter takes."""
    kind, more = _FIELDS[name].annotation, _FIELDS[name].metadata
    if words := [it for it in more if isinstance(it, str)]:
        return words[0]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    low, high = (getattr(bound, side) for bound, side in zip(more, ("ge", "le"), strict=True))
    return f"a {'whole ' if kind is int else ''}number from {low:,} to {high:,}"


def explained(name: str) -> str:
    """Return the help of this parameter."""
    return str(_FIELDS[name].description)


def load_params(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Params:
    """Read a params file and ``-p KEY VALUE`` pairs, the pairs winning; raises as `make_params` does."""
    return make_params(read_mapping(path), place=str(path), overrides=overrides)


def make_params(
    values: Mapping[str, Any], *, place: str, overrides: Iterable[tuple[str, str]] | None = None
) -> Params:
    """Check plain values and return them as Params; ``place`` names their origin in errors.

    ``overrides``, pairs of the command line, win over a study's values; each is read by its key's type.
    Raises ParamsError: naming every key that is unknown, of another type or out of its bounds, at most eight.
    """
    if overrides is not None:
        values = dict(values) | {key: _read_word(key, text) for key, text in overrides}
        if "study" in values:
            raise ParamsError("study: expected in a notebook or as STUDY, found beside the params of a study")
    problems = {key: problem for key, value in values.items() if (problem := _refusal_of(key, value))}
    try:
        params = Params(**{key: value for key, value in values.items() if key not in problems})
    except ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors(include_url=False, include_context=False)}
        problems |= {key: f"{key}: expected {expected(key)}, found {_typed(values[key])}" for key in wrong}
    if problems:
        raise ParamsError("\n".join([f"{place}: {problems[key]}" for key in values if key in problems][:8]))
    return params


def _read_word(key: str, text: str) -> Any:
    kind = _FIELDS[key].annotation if key in _FIELDS else str
    if kind is str or get_origin(kind) is Literal:
        return text
    if get_origin(kind) is tuple and not text.lstrip().startswith("["):
        if get_args(kind)[0] is not Size:
            return [part.strip() for part in text.split(",") if part.strip()]
        text = f"[{text}]"
    return parse_yaml(text, place=f"-p {key}")


_SECRET_PARAMETER = re.compile(r"(?i)(api_?key|secret|password|passwd|credential|token|bearer|_key$|^key$)")
# Beside the shapes that screening knows: the prefixes of keys this project is used with, also short ones,
# and a password in a URL.
_SECRET_VALUE = re.compile(
    r"(?:^|[\s=:\"'])(?:sk|pk|rk|qd|cm)-[A-Za-z0-9_-]{6,}|\bBearer\s+\S{8,}"
    r"|(?:^|[\"'])(?i:[a-z+]+)://[^/@\s]*:[^/@\s]*@"
)


def _refusal_of(key: str, value: Any) -> str:
    text = str(value)
    looks_secret = _SECRET_VALUE.search(text) or find_secrets(text[:2000])
    if looks_secret or (key not in _FIELDS and _SECRET_PARAMETER.search(key)):
        return (
            f"{key[:40]}: a secret is never a parameter; put it into the environment or .env, "
            "such as OPENAI_API_KEY"
        )
    if key in _FIELDS:
        return ""
    near = difflib.get_close_matches(key, sorted(_FIELDS), n=3, cutoff=0.5)
    # Two letters that changed places are the commonest slip: modle means model, not mode.
    near.sort(key=lambda name: sorted(name) != sorted(key))
    return f"{key[:40]} is not a parameter" + (f"; did you mean {near[0]}?" if near else "")


def _typed(value: Any) -> str:
    """Return a value for an error text: short, with its type."""
    kinds = {str: "text", bool: "yes/no", int: "number", float: "number", list: "list", dict: "mapping"}
    kind = "nothing" if value is None else kinds.get(type(value), type(value).__name__)
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def settings_of(namespace: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Params:
    """Return a notebook's settings, from the names in its kernel: ``settings = settings_of(globals())``.

    Each over the next: what papermill injected; values of the parameters cell that are not the defaults (every
    committed cell holds the defaults); the study's file; the defaults. The study is the one that is named, else
    ``$STUDY``, else the demo's; where values are injected and no study is named, none is read. Without a kernel's
    history, ``In``, all known names of the namespace count as injected.

    Raises ParamsError: as for params, and for a name beside the parameters that is none.
    """
    declared, injected = _values_set(namespace)
    own = make_params(declared | injected, place="parameters")
    if injected and not own.study:
        return own
    usual = Params()
    over = {key: getattr(own, key) for key in declared if getattr(own, key) != getattr(usual, key)}
    over |= {key: getattr(own, key) for key in injected}
    environ = read_environ() if environ is None else environ
    path = resolve(own.study or environ.get("STUDY") or DEMO)
    return replace(load_params(path), **over | {"study": project_path(path)})


# A cell declares a dozen parameters, and takes all: papermill need not warn of the others.
logging.getLogger("papermill").addFilter(
    lambda record: record.getMessage().removeprefix("Passed unknown parameter: ") not in _FIELDS
)


def _values_set(namespace: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what parameters cells set, and what papermill injected; a name that a later cell takes is free."""
    if "In" not in namespace:
        return {}, {key: value for key, value in namespace.items() if key in _FIELDS}
    declared: dict[str, Any] = {}
    injected: dict[str, Any] = {}
    for source in namespace["In"]:
        try:
            lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign | ast.AnnAssign)]
        except SyntaxError:
            continue
        if source.startswith("# Parameters\n"):
            values = injected
        elif any(isinstance(line, ast.AnnAssign) and ast.unparse(line.target) in _FIELDS for line in lines):
            values = declared
        else:
            continue
        for line in lines:
            names = [
                it.id for it in ast.walk(line) if isinstance(it, ast.Name) and isinstance(it.ctx, ast.Store)
            ]
            values |= {name: namespace.get(name) for name in names}
            # What a name holds now may be a later cell's; a literal is the cell's own.
            if len(names) == 1 and line.value:
                with suppress(ValueError):
                    values[names[0]] = ast.literal_eval(line.value)
    return declared, injected


def read_environ() -> dict[str, str]:
    """Return the process's environment over what ``.env`` sets; an empty variable counts as not set.

    Raises ParamsError, KeyRejected: ``.env`` is not UTF-8, or a value is none that can be sent or handed on.
    """
    from dotenv import dotenv_values

    place = os.environ.get(ENV_FILE, str(PROJECT_ROOT / ".env"))
    try:
        stored = dotenv_values(place) if place and Path(place).is_file() else {}
    except UnicodeDecodeError as error:
        raise ParamsError(
            f"{place}: expected UTF-8 text, found other bytes at {error.start}; save it as UTF-8"
        ) from error
    environ = {key: value for key, value in (stored | dict(os.environ)).items() if value}
    for name, value in environ.items():
        # No header can hold such a key, and no process be given NUL.
        if "\0" in value or (name in OUR_KEYS and not value.strip().isprintable()):
            raise KeyRejected(f"{name}: expected one line of plain letters, found NUL or a line break; "
                              f"copy it again into {place or 'the environment'}")  # fmt: skip
    return environ


# KEY in any word of a name, as in APIKEY and KEYFILE, but in no word that only has its letters.
_SECRET_NAME = re.compile(
    r"(?<![A-Z])(?!(?:KEY(?:BOARD|MAP|NOTE|PAD|STROKE|WORD)|(?:HOC|JOC|MON|TUR|WHIS)KEY)S?(?![A-Z]))[A-Z]*?KEY"
    r"|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL",
    re.IGNORECASE,
)
# Shorter values would blacken ordinary words of a text.
_SHORTEST_SECRET = 6


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Return the values that must never appear in a file, longest first."""
    values = {it for name, it in environ.items() if _SECRET_NAME.search(name) and len(it) >= _SHORTEST_SECRET}
    return sorted(values, key=len, reverse=True)


def may_be_sent_key(url: str) -> bool:
    """Return whether a key may go to an address: over https, or to this machine, whatever the service."""
    parts = urlsplit(url)
    address = ip_of(parts.hostname or "")
    # Other names than localhost may be resolved elsewhere.
    is_here = address.is_loopback if address else parts.hostname == "localhost"
    return parts.scheme == "https" or (parts.scheme == "http" and is_here)


def withheld_key(url: str, name: str, *, environ: Mapping[str, str]) -> str:
    """Return that an address is asked without the key of this name; empty if it gets it, or has none."""
    if "://" not in url or not environ.get(name, "").strip() or may_be_sent_key(url):
        return ""
    host, rule = urlsplit(url).hostname, "a key goes over https, or to this machine"
    return f"{name} is not sent to {host}, which is asked without it: {rule}"


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address in any spelling: short, decimal, hex, octal, full-width, mapped; None for a name."""
    with suppress(UnicodeError, ValueError):
        host = host.encode("idna").decode()
        address = ipaddress.ip_address(host)
        return getattr(address, "ipv4_mapped", None) or address
    with suppress(OSError):
        if re.fullmatch(r"[\da-fx.]+", host, re.IGNORECASE):
            return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


# Where clouds hand out credentials, besides the link-local addresses.
METADATA_HOSTS = {
    "metadata", "metadata.goog", "metadata.google.internal", "instance-data", "instance-data.ec2.internal",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
}  # fmt: skip
# The first 96 bits of addresses that hold one of IPv4 in the last 32: compatible, mapped, translated, NAT64.
_HOLD_IPV4 = {0, 0xFFFF, 0xFFFF_0000, 0x64_FF9B << 64}


def is_metadata(host: str) -> bool:
    """Return whether a name, or an address in any spelling, is a cloud's metadata service or no single host."""
    host = unicodedata.normalize("NFKC", host).replace("。", ".").rstrip(".")
    address = ip_of(host)
    if address is None:
        return host.casefold() in METADATA_HOSTS
    several: set[Any] = {address}
    if isinstance(address, ipaddress.IPv6Address):
        several.add(address.sixtofour or address)
        if int(address) >> 32 in _HOLD_IPV4:
            several.add(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return any(
        str(it).partition("%")[0] in METADATA_HOSTS
        or it.is_link_local or it.is_multicast or str(it) == "255.255.255.255"
        for it in several
    )  # fmt: skip


# What has the shape of a key, wherever a text of others quotes one.
_KEY_SHAPE = re.compile(r"\b(?:sk|qd|cm|rk|pk|hf|gsk|xai)[-_][A-Za-z0-9_-]{6,}|(?<=Bearer )[^\s\"']+")


# How JSON, an address or HTML may spell a character that a key can hold.
_ESCAPE = re.compile(
    r"[\\%&](?:(?:(?<=\\)(?:u00|x)|(?<=%))([2-7][\da-fA-F])|(?<=&)#(?:[xX]0*([2-7][\da-fA-F])|0*(\d{2,3}));"
    r"|(?<=\\)/)"
)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text).replace("\\", "")


def _character(escape: re.Match[str]) -> str:
    hexadecimal = escape[1] or escape[2]
    return chr(int(hexadecimal, 16) if hexadecimal else int(escape[3] or ord("/")))


def redact(text: str, *secrets: str, shapes: bool = False) -> str:
    """Return the text without these values, and with ``shapes`` without whatever looks like a key.

    A value is seen also where JSON, or JSON within JSON, an address or HTML spells some of its characters.
    """
    for secret in [secret for secret in secrets if len(secret) >= _SHORTEST_SECRET]:
        text = text.replace(secret, "[key]")
        if _ESCAPE.search(text) and _unescaped(secret) in _unescaped(text):
            spellings = (
                rf"(?:\\{{0,8}}(?:{re.escape(char)}|(?i:u{code:04x}|x{code:02x}))"
                rf"|%(?i:{code:02x})|&#(?:0*{code}|(?i:x0*{code:x}));)"
                for char, code in zip(secret, map(ord, secret), strict=True)
            )
            text = re.sub("".join(spellings), "[key]", text)
    return _KEY_SHAPE.sub("[key]", text) if shapes else text


def shown_url(url: str) -> str:
    """Return an address for an error text, without what may be a user, a password or a query in it."""
    scheme, place, more = re.match(r"(?s)(\w*://)?([^?#]*)(.*)", url.strip()).groups("")  # type: ignore[union-attr]
    place = "" if "@" in more else place.rpartition("@")[2]
    return redact(f"{scheme}{place}"[:100], shapes=True)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; ParamsError says what else was found."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # to open a pipe is to wait for its other end
        raise ParamsError(f"{path}: expected a file, found a pipe or a device; write the params into a file")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: expected a readable file, found: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: expected UTF-8 text, found other bytes at {error.start}") from error
    if len(raw) > MAX_BYTES:
        raise ParamsError(f"{path}: expected at most {MAX_BYTES} bytes, found more; is this the right file?")
    values = parse_yaml(text, place=str(path))
    if not isinstance(values, dict):
        kind = "nothing" if values is None else type(values).__name__
        raise ParamsError(f"{path}: expected `key: value` lines, found {kind}")
    return values


def parse_yaml(text: str, *, place: str) -> Any:
    """Parse one document of YAML 1.2 without repeated keys, aliases and tags; ``place`` names it in errors."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0] or "nested too deep"
        raise ParamsError(f"{place}{where}: not YAML that can be trusted: {what}") from error


class _StrictLoader(yaml.SafeLoader):
    """Refuses what makes two readers of one file see different things."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own shape of this table

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        for name in ("anchor", "tag"):  # an alias has the anchor that it names
            if getattr(event, name, None):
                raise yaml.MarkedYAMLError(problem=f"{name} refused", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = "is not text" if not isinstance(key, str) else "stands twice" if key in seen else ""
            if problem:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} {problem}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# The scalar forms of the YAML 1.2 core schema; YAML 1.1 would read `no` and `off` as false and 1e5 as text.
for _name, _form in {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}.items():
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_form})$"), None)
# YAML 1.1 would read 010 as octal.
_StrictLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
