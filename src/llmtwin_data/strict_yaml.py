"""Read YAML without surprises: no repeated key, alias or tag, words as in YAML 1.2, bounded in size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from llmtwin_data.errors import ParamsError

# Bytes. A params file has some forty lines, a prompt not many more; the limit is there for what is neither.
MAX_BYTES = 64 * 1024

# The scalar forms of the YAML 1.2 core schema; YAML 1.1 would read `no` and `off` as false and 1e5 as text.
_SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a file that holds one mapping; ParamsError says what else was found."""
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
    found = parse(text, place=str(path))
    if not isinstance(found, dict):
        what = "nothing" if found is None else type(found).__name__
        raise ParamsError(f"{path}: expected `key: value` lines, found {what}")
    return found


def parse(text: str, *, place: str) -> Any:
    """Parse one YAML document; ``place`` names it in errors."""
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

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("aliases and anchors are refused", event)
        if getattr(event, "tag", None):
            raise _refusal("tags are refused", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refusal(f"key {key!r} is not text", key_node)
            if key in seen:
                raise _refusal(f"key {key!r} stands twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _construct_integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _construct_number(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _kind, _form in _SCALARS.items():
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_form})$"), None)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _construct_number)
