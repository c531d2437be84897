"""Params: one flat table of typed, bounded values that all three notebooks share."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llmtwin_data.errors import ParamsError
from llmtwin_data.params.values import NAME, PATHS, TEXT, check_value, looks_secret, parse_value
from llmtwin_data.strict_yaml import parse, read_mapping

_SECRET_NAME = re.compile(r"(?i)(api_?key|secret|password|passwd|credential|token|bearer|_key$|^key$)")
_LANGUAGE = r"same|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*"
_WHY_NO_SECRET = "a secret is never a parameter; put it into the environment or .env, such as OPENAI_API_KEY"


def _number(default: Any, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str, *choices: str, off: str = "") -> Any:
    return field(default=default, metadata={"choices": choices, "false_word": off})


def _text(default: str = "", pattern: str = TEXT, *, off: str = "") -> Any:
    return field(default=default, metadata={"pattern": pattern, "false_word": off})


def _names(*default: str, pattern: str = TEXT, least: int = 0, off: str = "") -> Any:
    return field(default=default, metadata={"pattern": pattern, "least": least, "false_word": off})


@dataclass(frozen=True, slots=True)
class Params:
    """What one run is asked to do; the notebooks' parameters cells say what each value means."""

    collections: tuple[str, ...] = _names("cleaned_posts", pattern=NAME, least=1)
    data_type: str = _text()
    qdrant: str = _text(pattern=PATHS)
    answers: str = _text(".llmtwin/answers.sqlite", PATHS)
    authors: tuple[str, ...] = _names()
    platforms: tuple[str, ...] = _names()
    limit: int = _number(0, 0, 100_000_000)
    chunk_chars: int = _number(2000, 100, 100_000)
    endpoint: str = _text(pattern=PATHS)
    model: str = _text(pattern=PATHS)
    temperature: float = _number(0.7, 0, 2)
    max_output_tokens: int = _number(0, 0, 1_000_000)
    request_extra: dict[str, Any] = field(default_factory=dict)
    prompt: str = _text("grounded", NAME)
    prompts: tuple[str, ...] = _names("seed", "grounded", pattern=NAME)
    models: tuple[str, ...] = _names(pattern=PATHS)
    languages: tuple[str, ...] = _names(pattern=_LANGUAGE, off="no")
    batch_sizes: tuple[int, ...] = _number((), 1, 100)
    tune_sample: int = _number(50, 1, 100_000)
    instruction_language: str = _text("same", _LANGUAGE, off="no")
    instructions_per_content: int = _number(1, 1, 20)
    candidates: int = _number(1, 1, 20)
    batch_size: int = _number(8, 1, 100)
    concurrency: int = _number(64, 1, 2048)
    timeout_seconds: float = _number(120.0, 0.1, 86_400)
    requests_per_minute: int = _number(0, 0, 10_000_000)
    mode: str = _choice("live", "live", "batch")
    max_cost_usd: float = _number(0.0, 0, 1_000_000)
    usd_per_million_input: float = _number(0.0, 0, 100_000)
    usd_per_million_output: float = _number(0.0, 0, 100_000)
    judge_model: str = _text(pattern=PATHS)
    min_judge_score: int = _number(0, 0, 5)
    min_grounding: float = _number(0.5, 0, 1)
    max_copied: float = _number(0.6, 0, 1)
    near_duplicate: float = _number(0.8, 0, 1)
    max_pair_tokens: int = _number(2048, 0, 10_000_000)
    quality_gate: str = _choice("stop", "stop", "warn")
    secrets: str = _choice("drop", "drop", "mask", "keep")
    personal_data: str = _choice("keep", "drop", "mask", "keep")
    test_fraction: float = _number(0.1, 0, 0.9)
    seed: int = _number(42, 0, 2**32 - 1)
    previous: str = _text(pattern=PATHS)
    dataset_name: str = _text(pattern=f"|{NAME}")
    comet: str = _choice("auto", "auto", "offline", "online", "off", off="off")
    run_dir: str = _text(pattern=PATHS)

    def given(self) -> dict[str, Any]:
        """Give what differs from the defaults, without ``run_dir``: what makes two runs the same study."""
        default = Params().as_dict() | {"run_dir": self.run_dir}
        return {key: value for key, value in self.as_dict().items() if value != default[key]}

    def as_dict(self) -> dict[str, Any]:
        """Give all values as plain ones, such as papermill and JSON take."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def load_params(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Params:
    """Read a params file and ``-p KEY VALUE`` pairs, the pairs winning.

    Raises
    ------
    ParamsError
        Naming every key that is unknown, of another type or out of its bounds, at most eight.
    """
    return make_params(with_overrides(read_mapping(path), overrides), place=str(path))


def with_overrides(values: Mapping[str, Any], overrides: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Give the values with these pairs of the command line, each read by its key's type."""
    known = {item.name: item for item in fields(Params)}
    given = {
        key: parse_value(known[key], text, parse=parse) if key in known else text for key, text in overrides
    }
    return dict(values) | given


def make_params(values: Mapping[str, Any], *, place: str) -> Params:
    """Check plain values and give them as Params; ``place`` names their origin in errors."""
    known = {item.name: item for item in fields(Params)}
    problems: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in values.items():
        problem = _refuse_key(key, value, known)
        if not problem:
            checked[key], problem = check_value(known[key], value)
        problems += [f"{place}: {problem}"] if problem else []
    if problems:
        raise ParamsError("\n".join(problems[:8]))
    return Params(**checked)


def check_parameters(namespace: Mapping[str, Any]) -> Params:
    """Check a notebook's parameters, injected ones included: ``settings = check_parameters(globals())``."""
    known = {item.name for item in fields(Params)}
    values = {key: namespace[key] for key in namespace if key in known}
    for key in _names_set(namespace.get("In", ()), known) - known:
        values[key] = namespace.get(key)
    return make_params(values, place="parameters")


def _refuse_key(key: str, value: Any, known: Mapping[str, Field[Any]]) -> str:
    if looks_secret(value) or (key not in known and _SECRET_NAME.search(key)):
        return f"{key[:40]}: {_WHY_NO_SECRET}"
    if key in known:
        return ""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    # Two letters that changed places are the commonest slip: modle means model, not mode.
    near.sort(key=lambda name: sorted(name) != sorted(key))
    return f"{key[:40]} is not a parameter" + (f"; did you mean {near[0]}?" if near else "")


def _names_set(sources: Iterable[str], known: set[str]) -> set[str]:
    """Names that a parameters cell, or the one papermill injects after it, sets; other cells are free."""
    names: set[str] = set()
    for source in sources:
        annotated = _targets(source, ast.AnnAssign)
        names |= annotated if annotated & known else set()
        names |= _targets(source, ast.Assign) if source.startswith("# Parameters\n") else set()
    return names


def _targets(source: str, kind: type[ast.AnnAssign] | type[ast.Assign]) -> set[str]:
    try:
        lines = ast.parse(source).body
    except SyntaxError:
        return set()
    nodes: list[ast.expr] = []
    for line in lines:
        if isinstance(line, kind):
            nodes += line.targets if isinstance(line, ast.Assign) else [line.target]
    return {node.id for node in nodes if isinstance(node, ast.Name)}
