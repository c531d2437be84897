"""Prompt templates: the named files under ``params/prompts/``, checked when they are loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template as Slots
from typing import Any, Literal

from llmtwin_data.errors import ParamsError
from llmtwin_data.strict_yaml import read_mapping

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

    @property
    def words(self) -> str:
        """All that the prompt itself says; an instruction that repeats it says nothing of its content."""
        examples = (word for example in self.examples for word in example)
        return "\n".join([self.system, self.user, *examples])


def load_template(
    name: str, *, folder: Path, kind: Literal["instructions", "verdicts"] | None = None
) -> Template:
    """Load ``<name>.yaml`` of the folder, of this kind if one is given.

    Raises
    ------
    ParamsError
        No such file, one of another kind, a missing or unknown key, or a slot that nothing fills.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ParamsError(
            f"prompt: expected the name of a file in {folder.name}/, found {name!r}. There are: {known}"
        )
    fields = _read_fields(path)
    if kind not in (None, fields["kind"]):
        raise ParamsError(f"prompt {path.name}: expected one that asks for {kind}, found {fields['kind']}")
    examples = tuple((item["content"], item["answer"]) for item in fields.get("examples", ()))
    words = {"kind": fields["kind"], "system": fields["system"].strip(), "user": fields["user"].strip()}
    digest = hashlib.sha256(json.dumps([words, examples], sort_keys=True).encode()).hexdigest()
    return Template(name=name, examples=examples, sha256=digest, **words)


def _read_fields(path: Path) -> dict[str, Any]:
    fields = read_mapping(path)
    expected = {"kind", "system", "user", "examples"}
    if not {"kind", "system", "user"} <= set(fields) <= expected:
        raise ParamsError(f"prompt {path.name}: expected the keys {sorted(expected)}, found {sorted(fields)}")
    if fields["kind"] not in ("instructions", "verdicts"):
        raise ParamsError(
            f"prompt {path.name}: kind must be instructions or verdicts, found {fields['kind']!r}"
        )
    for name in ("system", "user"):
        if not isinstance(fields[name], str):
            raise ParamsError(f"prompt {path.name}: {name} must be text, found {fields[name]!r}")
    if not _are_examples(fields.get("examples", [])):
        raise ParamsError(f"prompt {path.name}: examples must be a list of texts as content and answer")
    _check_slots(path.name, fields["user"])
    return fields


def _are_examples(found: Any) -> bool:
    items = found if isinstance(found, list) else [None]
    return all(
        isinstance(item, dict)
        and set(item) == {"content", "answer"}
        and all(isinstance(text, str) for text in item.values())
        for item in items
    )


def _check_slots(name: str, user: str) -> None:
    slots = Slots(user)
    unknown = set(slots.get_identifiers()) - SLOTS
    if unknown or "contents" not in slots.get_identifiers() or not slots.is_valid():
        raise ParamsError(
            f"prompt {name}: user must hold $contents and may hold {sorted('$' + slot for slot in SLOTS)}; "
            f"a dollar sign is written $$. Found unknown: {sorted(unknown) or 'none'}"
        )
