"""Templates, the recipe that identifies an answer, and the messages and schema sent for a batch of texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from string import Template as Slots
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROMPTS
from llmtwin_data.params import read_mapping
from llmtwin_data.texts import is_spaceless, language_name, normal_form, text_sha256, words

Kind = Literal["instructions", "verdicts", "embeddings", "twins"]
SLOTS = {"data_type", "count", "language", "k", "answer", "contents"}


@dataclass(frozen=True, slots=True)
class Template:
    """A file under ``params/prompts/``: what is said to the model around a batch of texts."""

    name: str
    kind: Kind
    system: str
    user: str
    examples: tuple[tuple[str, str], ...]
    sha256: str

    @property
    def words(self) -> str:
        """All that the prompt itself says; an instruction that repeats it says nothing of its content."""
        examples = (word for example in self.examples for word in example)
        return "\n".join([self.system, self.user, *examples])


# What a recipe for vectors has in the place of words: texts go out as they are.
EMBEDDINGS = Template("embeddings", "embeddings", "", "", (), "")


class _Example(BaseModel, extra="forbid", strict=True):
    content: str
    answer: str


class _File(BaseModel, extra="forbid", strict=True):
    kind: Literal["instructions", "verdicts", "twins"]
    system: str
    user: str
    examples: list[_Example] = []


def load_template(name: str, *, folder: Path, kind: Kind | None = None) -> Template:
    """Load ``<name>.yaml`` of the folder, of this kind if one is given.

    Raises ParamsError for no such file, one of another kind, a wrong key, or a slot that nothing fills.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ParamsError(
            f"prompt: expected the name of a file in {folder.name}/, found {name!r}. There are: {known}"
        )
    try:
        file = _File(**read_mapping(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, value = ".".join(map(str, first["loc"])), repr(first["input"])[:60]
        raise ParamsError(f"prompt {path.name}: {key}: {first['msg'].lower()}, found {value}") from error
    if kind and file.kind != kind:
        raise ParamsError(f"prompt {path.name}: expected one that asks for {kind}, found {file.kind}")
    slots = Slots(file.user)
    unknown = set(slots.get_identifiers()) - SLOTS
    if unknown or "contents" not in slots.get_identifiers() or not slots.is_valid():
        raise ParamsError(
            f"prompt {path.name}: user must hold $contents and may hold "
            f"{sorted('$' + slot for slot in SLOTS)}; a dollar sign is written $$. "
            f"Found unknown: {sorted(unknown) or 'none'}"
        )
    words = {"kind": file.kind, "system": file.system.strip(), "user": file.user.strip()}
    turns = tuple((one.content, one.answer) for one in file.examples)
    digest = text_sha256(json.dumps([words, turns], sort_keys=True))
    return Template(name, file.kind, words["system"], words["user"], turns, digest)


# Part of every recipe: raised when what is asked changes, so that no old answer is taken for a new one.
# Numbers and openings only say how one asks.
SCHEMA_VERSION = 1
# Characters; without it a model under a grammar that never stops is cut by max_tokens inside a string.
MAX_INSTRUCTION_CHARS = 320
# Tokens of a text written for an instruction: a chunk of 2,000 characters in a script of many tokens.
TWIN_TOKENS = 1200
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
        object.__setattr__(self, "sha256", text_sha256(self.as_json()))

    @property
    def kind(self) -> Kind:
        """What is asked for."""
        return self.template.kind

    def as_json(self) -> str:
        """Return every field, the template's words included, as canonical JSON."""
        fields = asdict(self) | {"schema_version": SCHEMA_VERSION}
        del fields["sha256"], fields["template"]["name"]  # the words count, not what the file is called
        if not self.trial:
            del fields["trial"]
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
    def head(self) -> Head:
        """The first lines that an answer to it copies from."""
        return head_of(self.text, kind=self.recipe.kind)

    @property
    def key(self) -> str:
        """The key under which the answer is stored."""
        return answer_key(self.text, self.recipe.sha256)


def answer_key(text: str, recipe_sha256: str) -> str:
    """Return the key of the answer to this text under this recipe: the sha256 of both hashes."""
    return key_of(text_sha256(text), recipe_sha256)


def key_of(text_hash: str, recipe_sha256: str) -> str:
    """Return the key of the answer to the text that this hash stands for."""
    return text_sha256(f"{text_hash}{recipe_sha256}")


# An opening stands in these first characters of its text.
HEAD_CHARS = 400
# Weight of the shortest opening: four words of 2 each, or eight characters of 1 in scripts without spaces.
LEAST_WEIGHT = 8
# Words of the longest one; what more would cost in an answer, a request of its own costs as well.
MOST_WORDS = 40


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of a text in normal form; empty without words."""

    words: tuple[str, ...]
    line: str
    least: int  # words of its shortest opening
    longest: str  # opening, as part of a line

    def differs_from(self, other: Head) -> bool:
        """Return whether either has an opening that the other has not."""
        both = bool(self.line and other.line)
        return both and self.longest not in other.line and other.longest not in self.line

    def opening_words(self, mates: Iterable[Head]) -> int:
        """Return how many of its first words tell the text from its batch-mates; 0 if none do."""
        lines = [mate.line for mate in mates]
        for count in range(self.least, min(len(self.words), MOST_WORDS) + 1):
            opening = line_of(self.words[:count])
            if opening and not any(opening in line for line in lines):
                return count
        return 0


@lru_cache(maxsize=4096)
def head_of(text: str, *, kind: str = "instructions") -> Head:
    """Return the head of a text; of a pair, its content's."""
    text = (text.partition(CONTENT_LINE)[2] if kind == "verdicts" else "") or text
    first = words(normal_form(text.strip()[:HEAD_CHARS]))
    weights = accumulate(map(_weight, first), initial=0)
    least = next((count for count, weight in enumerate(weights) if weight >= LEAST_WEIGHT), len(first))
    return Head(tuple(first), line_of(first), least, line_of(first[:MOST_WORDS]))


def weight_of(copied: Sequence[str]) -> int:
    """Return how much words say: 2 each, 1 for a character of a script without spaces."""
    return sum(map(_weight, copied))


def _weight(word: str) -> int:
    return 1 if is_spaceless(word) else 2


def line_of(copied: Sequence[str]) -> str:
    """Return words as a line, with blanks around it so that no word is found inside a longer one."""
    return f" {' '.join(copied)} " if copied else ""


def words_to_copy(heads: Sequence[Head]) -> int:
    """Return how many first words of each text an answer is to copy, so that they tell a batch apart.

    Half as many again as are needed, since a sign or two among them are no words; of scripts without spaces,
    a word is taken for two characters.
    """
    weights = [LEAST_WEIGHT]
    for place, head in enumerate(heads):
        weights.append(weight_of(head.words[: head.opening_words([*heads[:place], *heads[place + 1 :]])]))
    return max(weights) * 3 // 4


# Texts whose batches are formed together: as many as a pilot has, so that it takes whole batches.
FORMED_TOGETHER = 32


def form_batches(questions: Iterable[Question], *, batch_size: int) -> Iterator[list[dict[str, Question]]]:
    """Return the questions by key as they share requests, block by block, read lazily, equal ones once."""
    return (batches_of(block, batch_size=batch_size) for block in blocks_of(questions, batch_size=batch_size))


def blocks_of(questions: Iterable[Question], *, batch_size: int) -> Iterator[dict[str, Question]]:
    """Return the questions by key, those together whose batches are, read lazily, equal ones once."""
    remaining, asked = iter(questions), set[bytes]()
    while block := list(islice(remaining, -(-FORMED_TOGETHER // batch_size) * batch_size)):
        different = dict[str, Question]()
        for question in block:
            if bytes.fromhex(key := question.key) not in asked:
                different.setdefault(key, question)
        asked.update(map(bytes.fromhex, different))
        yield different


def batches_of(block: Mapping[str, Question], *, batch_size: int) -> list[dict[str, Question]]:
    """Return the questions of a block as they share requests.

    Each goes into the first batch of its recipe with room, in which openings tell all texts apart. A verdict
    says nothing that would tell it from its neighbour's, so each is asked alone; texts to be embedded are
    told apart by their place.
    """
    formed: list[tuple[str, list[Head], dict[str, Question]]] = []
    for key, question in block.items():
        recipe = question.recipe
        room = 1 if recipe.kind in ("verdicts", "twins") else batch_size
        is_compared = room > 1 and recipe.kind != "embeddings"
        fitting = (
            (heads, batch)
            for sha256, heads, batch in formed
            if sha256 == recipe.sha256
            and len(batch) < room
            and (not is_compared or all(map(question.head.differs_from, heads)))
        )
        heads, batch = next(fitting, ([], {}))
        if not batch:
            formed.append((recipe.sha256, heads, batch))
        if is_compared:
            heads.append(question.head)
        batch[key] = question
    return [batch for _, _, batch in formed]


def batch_boundary(texts: Sequence[str]) -> str:
    """Return six characters that no text of the batch holds and that only depend on the batch."""
    seed = "\0".join(texts)
    while True:
        boundary = text_sha256(seed)[:6]
        if not any(boundary in text for text in texts):
            return boundary
        seed = boundary + seed


def build_messages(
    recipe: Recipe, texts: Sequence[str], *, boundary: str, formatter: type[DataFormatter] | None = None
) -> list[Message]:
    """Fill the template with the texts, numbered from 1, examples first as earlier turns."""
    template, formatter = recipe.template, formatter or DataFormatter
    messages = [{"role": "system", "content": template.system}] if template.system else []
    for text, answer in template.examples:
        # A boundary of their own keeps the examples a common prefix, which servers keep in their cache.
        example = formatter.format_data([text], boundary=template.sha256[:6]).join(_around(recipe, 1))
        field = {"instruction": answer} if recipe.k == 1 else {"instructions": [answer] * recipe.k}
        reply = json.dumps({"instructions": [{"content": 1} | field]}, ensure_ascii=False)
        messages += [{"role": "user", "content": example}, {"role": "assistant", "content": reply}]
    prompt = formatter.format_prompt(texts, recipe=recipe, boundary=boundary)
    return [*messages, {"role": "user", "content": prompt}]


def answer_schema(recipe: Recipe, count: int) -> dict[str, Any]:
    """Return the JSON schema of the answer for a batch of ``count`` texts; numbers are 1 to count."""
    # Some hosted endpoints refuse maxLength in strict mode; the embedded grammar needs it, and the counts.
    embedded = recipe.endpoint == "embedded"
    text: dict[str, Any] = {"type": "string"} | ({"maxLength": MAX_INSTRUCTION_CHARS} if embedded else {})
    counts = {"minItems": recipe.k, "maxItems": recipe.k} if embedded else {}
    several = {"instructions": {"type": "array", "items": text} | counts}
    asked: dict[Kind, dict[str, Any]] = {
        "instructions": {"instruction": text} if recipe.k == 1 else several,
        "verdicts": {"reason": text, "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
        "twins": {"text": {"type": "string"}},
    }
    item = {"content": {"type": "integer", "enum": list(range(1, count + 1))}}
    item |= ({"opening": text} if count > 1 else {}) | asked[recipe.kind]
    return _object({recipe.kind: {"type": "array", "items": _object(item)}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties} | closed


def output_tokens(recipe: Recipe, count: int, *, stretch: int = 0, copied_words: int = 6) -> int:
    """Return the tokens to allow for an answer: as asked, else 120 an instruction, 40 an opening or frame.

    ``stretch`` doubles them, twice at most; each word that is copied beyond six adds three.
    """
    if recipe.kind == "embeddings":
        return 0
    each = TWIN_TOKENS if recipe.kind == "twins" else 120 * recipe.k
    each += 40 + 3 * (copied_words - 6) if count > 1 else 0
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
        numbered = cls.format_data(inference_posts, start_index=start_index, boundary=boundary)
        if len(inference_posts) > 1:
            copied = words_to_copy([head_of(text, kind=recipe.kind) for text in inference_posts])
            whose = "the content's" if recipe.kind == "verdicts" else "its"
            numbered = f'"opening": {whose} first {copied} words, copied.\n{numbered}'
        return numbered.join(_around(recipe, len(inference_posts)))


@lru_cache(maxsize=64)
def _around(recipe: Recipe, count: int) -> list[str]:
    """Return what stands around the contents, filled in once for all requests of a run."""
    same = recipe.language == "same"
    language = "the language of each content" if same else language_name(recipe.language) or recipe.language
    # For endpoints that take no schema: what the answer looks like, in as few tokens as it can be said.
    # Small models copy dots as if they were a text's words.
    number, words = ('"content":N,"opening":""', '""') if count > 1 else ('"content":N', '"..."')
    asked: dict[Kind, str] = {
        "instructions": f'"instruction":{words}' if recipe.k == 1 else f'"instructions":[{words},{words}]',
        "verdicts": f'"reason":{words},"score":S',
        "twins": f'"text":{words}',
        "embeddings": "",
    }
    answer = f'{{"{recipe.kind}":[{{{number},{asked[recipe.kind]}}}]}}'
    values = {"data_type": recipe.data_type, "count": count, "language": language, "k": recipe.k}
    user = Slots(recipe.template.user).substitute(values, answer=answer, contents="\0")
    return user.split("\0")
