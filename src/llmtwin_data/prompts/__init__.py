"""Prompts: the recipe that identifies an answer, and the messages and schema sent for a batch of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from string import Template as Slots
from typing import Any, Literal

from llmtwin_data.prompts.templates import Template as Template
from llmtwin_data.prompts.templates import load_template as load_template

# Part of every recipe: raised when what is asked changes, so that no old answer is taken for a new one.
# Numbers and openings only say how one asks.
SCHEMA_VERSION = 1
# Characters; without it a model under a grammar that never stops is cut by max_tokens inside a string.
MAX_INSTRUCTION_CHARS = 320
# Stands before the content in a question about a pair, whose opening is the content's.
CONTENT_LINE = "\nContent:\n"
# Never doubled more often than this for an answer that was cut.
MAX_STRETCH = 2
LANGUAGE_NAMES = {
    "same": "the language of each content",
    "en": "English",
    "es": "Spanish",
    "de": "German",
    "fr": "French",
    "ja": "Japanese",
    "zh-Hant": "Traditional Chinese",
    "zh-TW": "Traditional Chinese",
    "zh-Hans": "Simplified Chinese",
    "zh-CN": "Simplified Chinese",
}

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
        """Give every field, the template's words included, as canonical JSON."""
        fields = asdict(self) | {"schema_version": SCHEMA_VERSION}
        fields.pop("sha256")
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
    """Give the key of the answer to this text under this recipe: the sha256 of both hashes."""
    text_hash = hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(f"{text_hash}{recipe_sha256}".encode()).hexdigest()


def batch_boundary(texts: Sequence[str]) -> str:
    """Give six characters that no text of the batch holds and that only depend on the batch."""
    seed = "\0".join(texts)
    while True:
        boundary = hashlib.sha256(seed.encode()).hexdigest()[:6]
        if not any(boundary in text for text in texts):
            return boundary
        seed = boundary + seed


def build_messages(recipe: Recipe, texts: Sequence[str], *, boundary: str) -> list[Message]:
    """Fill the template with the texts, numbered from 1, examples first as earlier turns."""
    template = recipe.template
    messages = [{"role": "system", "content": template.system}] if template.system else []
    for text, answer in template.examples:
        # A boundary of their own keeps the examples a common prefix, which servers keep in their cache.
        example = DataFormatter.format_data([text], boundary=template.sha256[:6])
        question = _fill(recipe, example, count=1)
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": _example(recipe, answer)},
        ]
    contents = DataFormatter.format_data(texts, boundary=boundary)
    if len(texts) > 1:
        contents = f"{_opening_order(recipe)}\n{contents}"
    return [*messages, {"role": "user", "content": _fill(recipe, contents, count=len(texts))}]


def answer_schema(recipe: Recipe, count: int) -> dict[str, Any]:
    """Give the JSON schema of the answer for a batch of ``count`` texts; numbers are 1 to count."""
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
    """Give the tokens to allow for an answer: as asked for, else 120 an instruction, 40 an opening or frame.

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
    def format_prompt(cls, inference_posts: Sequence[str], recipe: Recipe) -> list[Message]:
        """Give the whole prompt for one batch, as sent."""
        return build_messages(recipe, inference_posts, boundary=batch_boundary(inference_posts))


def _fill(recipe: Recipe, contents: str, *, count: int) -> str:
    return contents.join(_around(recipe, count))


@lru_cache(maxsize=64)
def _around(recipe: Recipe, count: int) -> list[str]:
    """Give what stands around the contents, filled in once for all requests of a run."""
    language = LANGUAGE_NAMES.get(recipe.language, recipe.language)
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
