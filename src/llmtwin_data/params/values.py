"""One parameter's value: its type, bounds and form, and how a word of the command line becomes one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import Field
from typing import Any

from llmtwin_data.errors import ParamsError
from llmtwin_data.screening import find_secrets

# Names become file names on any system, so: few characters, no path, nothing that Windows reserves.
NAME = r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
TEXT = r"[^\x00-\x1f\x7f]{0,200}"
PATHS = r"[^\x00-\x1f\x7f]{0,1000}"
_FORMS = {NAME: "a name of letters, digits, '.', '_' and '-'", f"|{NAME}": "a name, or nothing"}
_USER_IN_URL = re.compile(r"^[a-z+]+://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)


def check_value(item: Field[Any], value: Any) -> tuple[Any, str]:
    """Give the value as the field wants it, or what is wrong with it in one line."""
    expected, fitting = _CHECKS[str(item.type)](item, value)
    if not expected:
        return fitting, ""
    return None, f"{item.name}: expected {expected}, found {shown_value(value)}"


def parse_value(item: Field[Any], text: str, *, parse: Callable[..., Any]) -> Any:
    """Read a word of the command line by the field's type; what does not fit is left for the check."""
    if str(item.type) == "str":
        return text
    if str(item.type).startswith("tuple") and not text.lstrip().startswith("["):
        if "int" not in str(item.type):
            return [part.strip() for part in text.split(",") if part.strip()]
        text = f"[{text}]"
    try:
        return parse(text, place=f"-p {item.name}")
    except ParamsError:
        return text


def looks_secret(value: Any) -> bool:
    """Tell whether a value, or one inside it, has the shape of a key or carries a password."""
    if isinstance(value, dict):
        return any(looks_secret(part) for part in [*value, *value.values()])
    if isinstance(value, list | tuple):
        return any(looks_secret(part) for part in value)
    if not isinstance(value, str):
        return False
    return bool(_SECRET_VALUE.search(value) or _USER_IN_URL.match(value) or find_secrets(value[:2000]))


def shown_value(value: Any) -> str:
    """Give a value for an error text: short, with its type, and nothing of what may be secret."""
    if looks_secret(value):
        return "something that looks like a secret"
    text = repr(value)
    kinds = {str: "text", bool: "yes/no", int: "number", float: "number", list: "list", dict: "mapping"}
    kind = "nothing" if value is None else kinds.get(type(value), type(value).__name__)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


# Beside the shapes that screening knows: the prefixes of keys this project is used with, also short ones.
_SECRET_VALUE = re.compile(r"(?:^|[\s=:\"'])(?:sk|pk|rk|qd|cm)-[A-Za-z0-9_-]{6,}|\bBearer\s+\S{8,}")


def _check_text(item: Field[Any], value: Any) -> tuple[str, Any]:
    word = item.metadata.get("false_word")
    if value is False and word:
        # papermill reads `off` and `no` of a params file by YAML 1.1, as false.
        return "", word
    choices = item.metadata.get("choices", ())
    if choices:
        right = isinstance(value, str) and value in choices
        return ("", value) if right else (f"one of {', '.join(choices)}", None)
    pattern = item.metadata["pattern"]
    if isinstance(value, str) and re.fullmatch(pattern, value) and value == value.strip():
        return "", value
    return _FORMS.get(pattern, "short text on one line"), None


def _check_number(item: Field[Any], value: Any) -> tuple[str, Any]:
    low, high = item.metadata["low"], item.metadata["high"]
    whole = str(item.type) == "int"
    kinds = (int,) if whole else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if right and low <= value <= high:
        return "", value if whole else float(value)
    return f"a {'whole ' if whole else ''}number from {low:,} to {high:,}", None


def _check_list(item: Field[Any], value: Any) -> tuple[str, Any]:
    pattern, least = item.metadata["pattern"], item.metadata["least"]
    expected = f"a list of {_FORMS.get(pattern, 'short texts').replace('a name', 'names')}"
    if not isinstance(value, list | tuple):
        return expected, None
    # An author's id may be a number in the payload; papermill reads the language `no` as false.
    given = [item.metadata["false_word"] if part is False else part for part in value]
    words = [str(part) if isinstance(part, int) and not isinstance(part, bool) else part for part in given]
    right = all(isinstance(word, str) and word and re.fullmatch(pattern, word) for word in words)
    if right and len(words) >= least and len(set(words)) == len(words):
        return "", tuple(words)
    return f"{expected}, each once" + (f", at least {least}" if least else ""), None


def _check_numbers(item: Field[Any], value: Any) -> tuple[str, Any]:
    low, high = item.metadata["low"], item.metadata["high"]
    right = isinstance(value, list | tuple) and all(
        type(part) is int and low <= part <= high for part in value
    )
    if right and len(set(value)) == len(value):
        return "", tuple(value)
    return f"a list of whole numbers from {low:,} to {high:,}, each once", None


def _check_mapping(item: Field[Any], value: Any) -> tuple[str, Any]:
    right = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return ("", dict(value)) if right else ("a mapping such as {reasoning_effort: low}", None)


_CHECKS: dict[str, Callable[[Field[Any], Any], tuple[str, Any]]] = {
    "str": _check_text,
    "int": _check_number,
    "float": _check_number,
    "tuple[str, ...]": _check_list,
    "tuple[int, ...]": _check_numbers,
    "dict[str, Any]": _check_mapping,
}
