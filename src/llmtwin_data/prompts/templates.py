"""Prompt templates: the named files under ``params/prompts/``, checked when they are loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template as Slots
from typing import Any, Literal

import yaml

from llmtwin_data.errors import ParamsError

SLOTS = {"data_type", "count", "language", "k", "answer", "contents"}


@dataclass(frozen=True, slots=True)
class Template:
    """A file under ``params/prompts/``: what is said to the model around a batch of texts."""

    name: str
    kind: Literal["instructions", "verdicts"]
    system: str
    user: str
    examples: tuple[tuple[str, str], ...]
    sha256: str


def load_template(name: str, *, folder: Path) -> Template:
    """Load ``<name>.yaml`` of the folder.

    Raises
    ------
    ParamsError
        No such file, a missing or unknown key, or a slot that nothing fills.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ParamsError(
            f"prompt: expected the name of a file in {folder.name}/, found {name!r}. There are: {known}"
        )
    fields = _read_fields(path)
    examples = tuple((str(item["content"]), str(item["answer"])) for item in fields.get("examples", ()))
    words = {"kind": fields["kind"], "system": fields["system"].strip(), "user": fields["user"].strip()}
    digest = hashlib.sha256(json.dumps([words, examples], sort_keys=True).encode()).hexdigest()
    return Template(name=name, examples=examples, sha256=digest, **words)


def _read_fields(path: Path) -> dict[str, Any]:
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = {"kind", "system", "user", "examples"}
    if not isinstance(fields, dict) or not {"kind", "system", "user"} <= set(fields) <= expected:
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise ParamsError(f"prompt {path.name}: expected the keys {sorted(expected)}, found {found}")
    if fields["kind"] not in ("instructions", "verdicts"):
        raise ParamsError(
            f"prompt {path.name}: kind must be instructions or verdicts, found {fields['kind']!r}"
        )
    _check_slots(path.name, fields["user"])
    return fields


def _check_slots(name: str, user: str) -> None:
    slots = Slots(user)
    unknown = set(slots.get_identifiers()) - SLOTS
    if unknown or "contents" not in slots.get_identifiers() or not slots.is_valid():
        raise ParamsError(
            f"prompt {name}: user must hold $contents and may hold {sorted('$' + slot for slot in SLOTS)}; "
            f"a dollar sign is written $$. Found unknown: {sorted(unknown) or 'none'}"
        )
