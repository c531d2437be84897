"""What is asked about a chunk: the recipe that settings and endpoint make, and the question itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Generic, TypeVar

from llmtwin_data.chunks import Chunk
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.folders import PROMPTS
from llmtwin_data.generation import Asking
from llmtwin_data.generation.pairs import question_of
from llmtwin_data.params import Params
from llmtwin_data.prices import Price, price_of
from llmtwin_data.prompts import Question, Recipe
from llmtwin_data.prompts.templates import Template, load_template

T = TypeVar("T")
JUDGE_TEMPLATE = "judge"
# Chunks that the candidates of each chunk are compared with: enough to tell a telling word from a common one.
REFERENCE_CHUNKS = 32


class Questions(Generic[T]):
    """The questions about a sequence, made one by one each time it is read; its length is known."""

    def __init__(self, items: Sequence[T], make: Callable[[T], Question]) -> None:
        self._items, self._make = items, make

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Question]:
        return map(self._make, self._items)


def recipe_of(settings: Params, endpoint: Endpoint, template: Template, *, data_type: str) -> Recipe:
    """Give all that decides the answers to chunks of this data type."""
    return Recipe(
        endpoint=endpoint.identity,
        model=endpoint.model_identity,
        template=template,
        data_type=data_type,
        language=settings.instruction_language,
        k=settings.instructions_per_content,
        candidates=settings.candidates,
        temperature=settings.temperature,
        max_output_tokens=settings.max_output_tokens,
        request_extra=json.dumps(settings.request_extra, sort_keys=True, ensure_ascii=False),
    )


def judge_recipe(settings: Params, endpoint: Endpoint) -> Recipe:
    """Give the recipe of verdicts: the judge's template, greedy, one answer, else as for instructions."""
    template = load_template(JUDGE_TEMPLATE, folder=PROMPTS, kind="verdicts")
    recipe = recipe_of(settings, endpoint, template, data_type="pairs")
    return replace(recipe, k=1, candidates=1, temperature=0.0)


def question_maker(settings: Params, endpoint: Endpoint) -> Callable[[Chunk], Question]:
    """Give the function that makes a chunk's question."""
    template = load_template(settings.prompt, folder=PROMPTS, kind="instructions")

    @cache
    def recipe(data_type: str) -> Recipe:
        return recipe_of(settings, endpoint, template, data_type=data_type)

    return lambda chunk: question_of(chunk, recipe(chunk.data_type))


def prompt_words(settings: Params) -> str:
    """Give what the prompt of these settings says itself."""
    return load_template(settings.prompt, folder=PROMPTS).words


def asking_of(
    settings: Params,
    endpoint: Endpoint,
    *,
    chunks: Sequence[Chunk],
    pilot: Callable[[], None] | None,
    patience: Patience,
    spent_usd: float = 0.0,
) -> Asking:
    """Give how to ask, this much of the limit being spent; an embedded model has sizes of its own.

    Parameters
    ----------
    chunks
        All of the run: the sample that candidates are compared with is drawn from them, so that the same
        candidate is chosen whatever was asked before, in whichever order.
    """
    batch_size, concurrency = sizes_of(settings, endpoint)
    return Asking(
        price=price_for(settings, endpoint),
        batch_size=batch_size,
        concurrency=concurrency,
        timeout_seconds=settings.timeout_seconds,
        requests_per_minute=settings.requests_per_minute,
        max_cost_usd=settings.max_cost_usd,
        spent_usd=spent_usd,
        patience=patience,
        pilot=pilot,
        reference=_reference(chunks, seed=settings.seed) if settings.candidates > 1 else (),
        mode=settings.mode,
    )


def _reference(chunks: Sequence[Chunk], *, seed: int) -> tuple[str, ...]:
    places = random.Random(seed).sample(range(len(chunks)), min(REFERENCE_CHUNKS, len(chunks)))
    return tuple(chunks[place].text for place in sorted(places))


def sizes_of(settings: Params, endpoint: Endpoint) -> tuple[int, int]:
    """Give batch size and concurrency; their defaults become 1 for the embedded model."""
    default = Params()
    sizes = (settings.batch_size, settings.concurrency)
    if endpoint.identity != "embedded":
        return sizes
    usual = (default.batch_size, default.concurrency)
    batch_size, concurrency = (1 if size == its else size for size, its in zip(sizes, usual, strict=True))
    return batch_size, concurrency


def price_for(settings: Params, endpoint: Endpoint) -> Price:
    """Give the endpoint's price; the one in the params is the model's, and a judge's if no list knows it."""
    batch = settings.mode == "batch"
    listed = price_of(endpoint.model, base_url=endpoint.identity, batch=batch)
    if listed.is_known and endpoint.model == settings.judge_model != settings.model:
        return listed
    return price_of(
        endpoint.model,
        base_url=endpoint.identity,
        usd_per_million_input=settings.usd_per_million_input,
        usd_per_million_output=settings.usd_per_million_output,
        batch=batch,
    )
