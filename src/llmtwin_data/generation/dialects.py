"""How one endpoint wants its requests: the body's fields, found out once and kept for the run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.errors import ParamsError
from llmtwin_data.generation.slots import Batch
from llmtwin_data.prompts import (
    Message,
    Recipe,
    answer_schema,
    batch_boundary,
    build_messages,
    output_tokens,
)

MODES = ("json_schema", "json_object", "text")
# What servers say when they do not know structured output, or not this kind of it.
NO_SCHEMA = re.compile(r"response[_ ]format|json[_ ]?schema|json[_ ]object|grammar|guided|structured", re.I)
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
OPTIONAL = ("temperature", "n", "reasoning_effort")


class Dialect:
    """The request fields that the endpoint takes; it learns from refusals until the first success."""

    def __init__(self, model: str, *, tokens_field: str = "max_tokens", effort: str = "") -> None:
        self.model = model
        self.effort = effort
        self.mode = "json_schema"
        self.tokens_field = tokens_field
        self.dropped: set[str] = set()
        self._tails: dict[tuple[str, int, int, int], str] = {}

    def body(
        self,
        recipe: Recipe,
        messages: Sequence[Message],
        *,
        count: int,
        choices: int = 1,
        limit: int = 0,
    ) -> bytes:
        """Write the request for ``count`` texts, with a limit of tokens, else the one for their answers."""
        key = (recipe.sha256, count, choices, limit or output_tokens(recipe, count))
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = _dump(self._fields(recipe, *key[1:]))[1:]
        return f'{{"messages":{_dump(messages)},{tail}'.encode()

    def learn(self, problem: Problem, recipe: Recipe) -> bool:
        """Adapt to a refusal; True if the request, said differently, may now be taken.

        Raises
        ------
        ParamsError
            The field refused is one that ``request_extra`` asked for.
        """
        named = self._named_field(problem)
        if named and named in json.loads(recipe.request_extra):
            raise ParamsError(f"request_extra: the endpoint refuses {named!r}: {problem.detail}")
        adapted = self._swap_tokens(named) or self._lower_mode(problem) or self._drop(named)
        if adapted:
            self._tails.clear()
        return adapted

    @property
    def takes_choices(self) -> bool:
        """Whether several answers can be had with one request."""
        return "n" not in self.dropped

    def _fields(self, recipe: Recipe, count: int, choices: int, limit: int) -> dict[str, Any]:
        fields = {"model": self.model, "temperature": recipe.temperature, self.tokens_field: limit}
        if self.effort:
            fields["reasoning_effort"] = self.effort
        if choices > 1:
            fields["n"] = choices
        if self.mode != "text":
            fields["response_format"] = _response_format(self.mode, recipe, count)
        kept = {name: value for name, value in fields.items() if name not in self.dropped}
        extra: dict[str, Any] = json.loads(recipe.request_extra)
        return kept | extra

    def _named_field(self, problem: Problem) -> str:
        known = (*TOKEN_FIELDS, *OPTIONAL, "response_format")
        if problem.param:
            return problem.param.split(".")[0]
        quoted = re.findall(r"[`'\"]([a-z_]+)[`'\"]", problem.detail)
        # Some write a name without quotes; "n" would be found in any text.
        bare = [name for name in re.findall(r"[a-z_]{2,}", problem.detail) if name in known]
        return next((name for name in (*quoted, *bare) if name in known), quoted[0] if quoted else "")

    def _swap_tokens(self, named: str) -> bool:
        if named not in TOKEN_FIELDS or named in self.dropped:
            return False
        self.dropped.add(named)
        self.tokens_field = next((name for name in TOKEN_FIELDS if name not in self.dropped), named)
        return True

    def _lower_mode(self, problem: Problem) -> bool:
        if self.mode == "text" or not NO_SCHEMA.search(f"{problem.param} {problem.detail}"):
            return False
        self.mode = MODES[MODES.index(self.mode) + 1]
        return True

    def _drop(self, named: str) -> bool:
        if named not in OPTIONAL or named in self.dropped:
            return False
        self.dropped.add(named)
        return True


@dataclass(frozen=True, slots=True)
class Written:
    """A request ready to go, the key that makes its repetition free, and the boundary of its texts."""

    body: bytes
    key: str
    boundary: str


def write_request(batch: Batch, dialect: Dialect) -> Written:
    """Write the request of a batch, for as many candidates as its texts still want."""
    texts, recipe = batch.texts(), batch.slots[0].question.recipe
    boundary = batch_boundary(texts)
    messages = build_messages(recipe, texts, boundary=boundary)
    choices = max(slot.missing() for slot in batch.slots) if dialect.takes_choices else 1
    body = dialect.body(recipe, messages, count=len(texts), choices=choices, limit=batch.token_limit())
    key = idempotency_key(body, batch.attempt, retried=batch.retried)
    return Written(body, key, boundary)


def idempotency_key(body: bytes, attempt: int, *, retried: int = 0) -> str:
    """Give the key that makes a repeated request free where the endpoint honours it.

    Equal for the same body after an unknown outcome, in this run or the next; a new attempt, after an
    answer that was an error or no use, has a new one, and so has what is asked again after it failed.
    """
    salt = f"{attempt}+{retried}" if retried else str(attempt)
    return hashlib.sha256(body + salt.encode()).hexdigest()


def _response_format(mode: str, recipe: Recipe, count: int) -> dict[str, Any]:
    if mode == "json_object":
        return {"type": "json_object"}
    schema = answer_schema(recipe, count)
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
