"""Templates, the recipe that identifies an answer, and the messages and schema sent for a batch of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from string import Template as Slots
from typing import Any, Literal

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROMPTS
from llmtwin_data.params import read_mapping
from llmtwin_data.texts import language_name

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


# Part of every recipe: raised when what is asked changes, so that no old answer is taken for a new one.
# Numbers and openings only say how one asks.
SCHEMA_VERSION = 1
# Characters; without it a model under a grammar that never stops is cut by max_tokens inside a string.
MAX_INSTRUCTION_CHARS = 320
# Stands before the content in a question about a pair, whose opening is the content's.
CONTENT_LINE = "\nContent:\n"
# Never doubled more often than this for an answer that was cut.
MAX_STRETCH = 2

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides an answer, besides the text: same text and same recipe are never asked twice."""

    endpoint: str
    model: str
    template: Template
    data_type: str
    language: str = "same"
    k: int = 1
    candidates: int = 1
    temperature: float = 0.7
    max_output_tokens: int = 0
    request_extra: str = "{}"
    trial: str = ""  # names what a trial varies that no request says, such as the size of its batches
    sha256: str = ""

    def __post_init__(self) -> None:
        """Compute the hash once, since every key needs it."""
        digest = hashlib.sha256(self.as_json().encode()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    @property
    def kind(self) -> Literal["instructions", "verdicts"]:
        """What is asked for: instructions, or verdicts on them."""
        return self.template.kind

    def as_json(self) -> str:
        """Return every field, the template's words included, as canonical JSON."""
        fields = asdict(self) | {"schema_version": SCHEMA_VERSION}
        fields.pop("sha256")
        if not self.trial:
            fields.pop("trial")
        # The words count, not what the file is called.
        fields["template"].pop("name")
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Question:
    """One text to be answered by one recipe, and where the text comes from."""

    text: str
    recipe: Recipe
    content_id: str
    collection: str
    start: int
    end: int
    author: str
    link: str

    @property
    def material(self) -> str:
        """The text whose first words an answer copies: of a pair, the content."""
        pair = self.recipe.kind == "verdicts"
        return (self.text.partition(CONTENT_LINE)[2] if pair else "") or self.text

    @property
    def key(self) -> str:
        """The key under which the answer is stored."""
        return answer_key(self.text, self.recipe.sha256)


def answer_key(text: str, recipe_sha256: str) -> str:
    """Return the key of the answer to this text under this recipe: the sha256 of both hashes."""
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(f"{text_hash}{recipe_sha256}".encode()).hexdigest()


def batch_boundary(texts: Sequence[str]) -> str:
    """Return six characters that no text of the batch holds and that only depend on the batch."""
    seed = "\0".join(texts)
    while True:
        boundary = hashlib.sha256(seed.encode()).hexdigest()[:6]
        if not any(boundary in text for text in texts):
            return boundary
        seed = boundary + seed


def build_messages(
    recipe: Recipe,
    texts: Sequence[str],
    *,
    boundary: str,
    formatter: type[DataFormatter] | None = None,
) -> list[Message]:
    """Fill the template with the texts, numbered from 1, examples first as earlier turns."""
    formatter = formatter or DataFormatter
    template = recipe.template
    messages = [{"role": "system", "content": template.system}] if template.system else []
    for text, answer in template.examples:
        # A boundary of their own keeps the examples a common prefix, which servers keep in their cache.
        example = formatter.format_data([text], boundary=template.sha256[:6])
        question = _fill(recipe, example, count=1)
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": _example(recipe, answer)},
        ]
    prompt = formatter.format_prompt(texts, recipe=recipe, boundary=boundary)
    return [*messages, {"role": "user", "content": prompt}]


def answer_schema(recipe: Recipe, count: int) -> dict[str, Any]:
    """Return the JSON schema of the answer for a batch of ``count`` texts; numbers are 1 to count."""
    number: dict[str, Any] = {"content": {"type": "integer", "enum": list(range(1, count + 1))}}
    if count > 1:
        number["opening"] = _string(recipe)
    if recipe.kind == "verdicts":
        score: dict[str, Any] = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
        return _list_of("verdicts", number | {"reason": _string(recipe), "score": score})
    if recipe.k == 1:
        return _list_of("instructions", number | {"instruction": _string(recipe)})
    several: dict[str, Any] = {"type": "array", "items": _string(recipe)}
    if recipe.endpoint == "embedded":
        several |= {"minItems": recipe.k, "maxItems": recipe.k}
    return _list_of("instructions", number | {"instructions": several})


def output_tokens(recipe: Recipe, count: int, *, stretch: int = 0) -> int:
    """Return the tokens to allow for an answer: as asked, else 120 an instruction, 40 an opening or frame.

    ``stretch`` doubles them, twice at most.
    """
    each = 120 * recipe.k + (40 if count > 1 else 0)
    return recipe.max_output_tokens or (40 + count * each) << min(stretch, MAX_STRETCH)


class DataFormatter:
    """The seed's front door: contents to prompt, with data type, numbering and the exact count asked."""

    @classmethod
    def format_data(
        cls, data_points: Sequence[str], is_example: bool = False, start_index: int = 1, *, boundary: str = ""
    ) -> str:
        """List the texts, each under its own number line; examples go without one."""
        if is_example:
            return "".join(f"{text}\n" for text in data_points)
        head = "Content number {} " + boundary if boundary else "Content number {}"
        return "".join(
            f"{head.format(start_index + index)}\n{text}\n" for index, text in enumerate(data_points)
        )

    @classmethod
    def format_batch(cls, context_msg: str, data_points: Sequence[str], start_index: int = 1) -> str:
        """Put the context message before the numbered texts."""
        return context_msg + cls.format_data(data_points, start_index=start_index)

    @classmethod
    def format_prompt(
        cls,
        inference_posts: Sequence[str],
        start_index: int = 1,
        *,
        recipe: Recipe | None = None,
        boundary: str = "",
    ) -> str:
        """Return the user's turn for one batch, as it is sent; without a recipe it is the seed's own."""
        if recipe is None:
            recipe = Recipe("", "", load_template("seed", folder=PROMPTS), "posts")
        order = f"{_opening_order(recipe)}\n" if len(inference_posts) > 1 else ""
        numbered = cls.format_data(inference_posts, start_index=start_index, boundary=boundary)
        return _fill(recipe, order + numbered, count=len(inference_posts))


def _fill(recipe: Recipe, contents: str, *, count: int) -> str:
    return contents.join(_around(recipe, count))


@lru_cache(maxsize=64)
def _around(recipe: Recipe, count: int) -> list[str]:
    """Return what stands around the contents, filled in once for all requests of a run."""
    same = recipe.language == "same"
    language = "the language of each content" if same else language_name(recipe.language) or recipe.language
    values = {"data_type": recipe.data_type, "count": count, "language": language, "k": recipe.k}
    filled = Slots(recipe.template.user).substitute(values, answer=_answer_form(recipe, count), contents="\0")
    return filled.split("\0")


def _opening_order(recipe: Recipe) -> str:
    # Six, so that four are left where a sign or two among them are no words.
    whose = "the content's" if recipe.kind == "verdicts" else "its"
    return f'"opening": {whose} first six words, copied.'


def _answer_form(recipe: Recipe, count: int) -> str:
    # For endpoints that take no schema: what the answer looks like, in as few tokens as it can be said.
    number, words = '"content":N', '"..."'
    if count > 1:  # small models copy dots as if they were a text's words
        number, words = f'{number},"opening":""', '""'
    if recipe.kind == "verdicts":
        return f'{{"verdicts":[{{{number},"reason":{words},"score":S}}]}}'
    if recipe.k == 1:
        return f'{{"instructions":[{{{number},"instruction":{words}}}]}}'
    return f'{{"instructions":[{{{number},"instructions":[{words},{words}]}}]}}'


def _example(recipe: Recipe, answer: str) -> str:
    field: dict[str, Any] = (
        {"instruction": answer} if recipe.k == 1 else {"instructions": [answer] * recipe.k}
    )
    return json.dumps({"instructions": [{"content": 1} | field]}, ensure_ascii=False)


def _string(recipe: Recipe) -> dict[str, Any]:
    # Some hosted endpoints refuse maxLength in strict mode; the embedded grammar needs it.
    return (
        {"type": "string", "maxLength": MAX_INSTRUCTION_CHARS}
        if recipe.endpoint == "embedded"
        else {"type": "string"}
    )


def _list_of(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    item = _object(properties)
    return _object({name: {"type": "array", "items": item}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
