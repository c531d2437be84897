"""Pairs and ledger rows, as the stored answers make them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.chunks import Chunk, Span
from llmtwin_data.prompts import Question, Recipe

# Collection, content id, start, end, and the number of the instruction.
Place = tuple[str, str, int, int, int]
# Chunks looked up at once.
WINDOW = 1_000


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the chunk it was written for, with its origin."""

    chunk: Chunk
    k: int  # from 1
    instruction: str
    prompt: str
    prompt_sha256: str
    model: str
    answer_key: str

    @property
    def place(self) -> Place:
        """Which chunk, and which instruction of it."""
        return *self.chunk.span, self.k

    @property
    def id(self) -> str:
        """Name the place in the contents, not the wording: equal for every model and prompt."""
        return row_id(self.place)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one chunk and instruction, and what that cost."""

    content_id: str
    start: int
    end: int
    k: int
    state: str
    reason: str = ""
    value: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    collection: str = ""

    @property
    def span(self) -> Span:
        """The chunk that the row is about."""
        return self.collection, self.content_id, self.start, self.end

    @property
    def place(self) -> Place:
        """What no two rows share: the chunk and the number of the instruction."""
        return *self.span, self.k


def row_id(place: Place) -> str:
    """Give the id that pairs and dataset rows of this place have."""
    return hashlib.sha256("\0".join(map(str, place)).encode()).hexdigest()[:20]


def question_of(chunk: Chunk, recipe: Recipe, *, text: str = "") -> Question:
    """Ask this recipe about this chunk, or about a text that is made of it."""
    return Question(
        text=text or chunk.text,
        recipe=recipe,
        content_id=chunk.content_id,
        collection=chunk.collection,
        start=chunk.start,
        end=chunk.end,
        author=chunk.author,
        link=chunk.link,
    )


def collect_pairs(
    chunks: Iterable[Chunk], questions_for: Callable[[Chunk], Question], answers: AnswerStore
) -> tuple[list[Pair], list[LedgerRow]]:
    """Make pairs of the stored answers, and a ledger row for every chunk and instruction.

    A row is ``accepted`` until curation says otherwise; what an answer cost stands in its first row only.
    """
    pairs: list[Pair] = []
    rows: list[LedgerRow] = []
    paid: set[str] = set()
    for window in _windows(chunks):
        questions = [questions_for(chunk) for chunk in window]
        keys = [question.key for question in questions]
        found = answers.answers(keys)
        for chunk, question, key in zip(window, questions, keys, strict=True):
            answer = found.get(key)
            if answer is not None and answer.state == "ok":
                pairs += _pairs_of(chunk, question.recipe, answer)
            rows += _rows_of(chunk, question.recipe.k, answer, charged=key not in paid)
            paid.add(key)
    return pairs, rows


def _windows(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    remaining = iter(chunks)
    while window := list(islice(remaining, WINDOW)):
        yield window


def _pairs_of(chunk: Chunk, recipe: Recipe, answer: Answer) -> list[Pair]:
    template = recipe.template
    return [
        Pair(chunk, k, instruction, template.name, template.sha256, recipe.model, answer.key)
        for k, instruction in enumerate(answer.values, start=1)
    ]


def _rows_of(chunk: Chunk, k: int, answer: Answer | None, *, charged: bool) -> list[LedgerRow]:
    state = "pending" if answer is None else {"ok": "accepted", "failed": "failed"}[answer.state]
    row = LedgerRow(
        chunk.content_id,
        chunk.start,
        chunk.end,
        1,
        state,
        answer.reason if answer else "",
        answer.value if answer else "",
        collection=chunk.collection,
    )
    first = row
    if answer and charged:
        first = replace(
            row,
            requests=answer.requests,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=answer.cost_usd,
        )
    return [first, *(replace(row, k=number) for number in range(2, k + 1))]
