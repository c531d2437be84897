"""What is asked about a chunk: the recipe that settings and endpoint make, and the question itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, replace
from functools import cache
from typing import Any, Generic, TypeVar, cast

from llmtwin_data.chunks import Chunk
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.folders import PROMPTS
from llmtwin_data.generation import Asking, GenerationReport
from llmtwin_data.generation.pairs import question_of
from llmtwin_data.languages.tokens import estimate_tokens
from llmtwin_data.params import Params
from llmtwin_data.prices import Price, Workload, forecast, price_of
from llmtwin_data.prompts import Question, Recipe, build_messages
from llmtwin_data.prompts.templates import Template, load_template

T = TypeVar("T")
JUDGE_TEMPLATE = "judge"


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
    template = load_template(JUDGE_TEMPLATE, folder=PROMPTS)
    recipe = recipe_of(settings, endpoint, template, data_type="pairs")
    return replace(recipe, k=1, candidates=1, temperature=0.0)


def question_maker(settings: Params, endpoint: Endpoint, *, prompt: str = "") -> Callable[[Chunk], Question]:
    """Give the function that makes a chunk's question with this prompt, or with the settings' own."""
    template = load_template(prompt or settings.prompt, folder=PROMPTS)

    @cache
    def recipe(data_type: str) -> Recipe:
        return recipe_of(settings, endpoint, template, data_type=data_type)

    return lambda chunk: question_of(chunk, recipe(chunk.data_type))


def prompt_words(settings: Params) -> str:
    """Give what the prompt itself says; an instruction that repeats it says nothing of its content."""
    template = load_template(settings.prompt, folder=PROMPTS)
    examples = (word for example in template.examples for word in example)
    return "\n".join([template.system, template.user, *examples])


def asking_of(
    settings: Params, endpoint: Endpoint, *, pilot: Callable[[], None] | None, patience: Patience
) -> Asking:
    """Give how to ask; an embedded model takes one chunk at a time unless the params say another number."""
    batch_size, concurrency = sizes_of(settings, endpoint)
    return Asking(
        price=price_for(settings, endpoint),
        batch_size=batch_size,
        concurrency=concurrency,
        timeout_seconds=settings.timeout_seconds,
        requests_per_minute=settings.requests_per_minute,
        max_cost_usd=settings.max_cost_usd,
        patience=patience,
        pilot=pilot,
        mode=settings.mode,
    )


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
    """Give the endpoint's price, as listed or as the params say."""
    return price_of(
        endpoint.model,
        base_url=endpoint.identity,
        usd_per_million_input=settings.usd_per_million_input,
        usd_per_million_output=settings.usd_per_million_output,
        batch=settings.mode == "batch",
    )


def with_budget_left(settings: Params, reports: Iterable[GenerationReport]) -> Params:
    """Give the settings with what earlier questions of this run left of its budget."""
    spent = sum(report.cost_usd or 0.0 for report in reports)
    if not settings.max_cost_usd or not spent:
        return settings
    # Never 0, which would mean that there is no limit.
    return replace(settings, max_cost_usd=max(settings.max_cost_usd - spent, 1e-9))


def forecast_rows(
    chunks: Sequence[Chunk],
    settings: Params,
    *,
    endpoint: Endpoint,
    answered: Callable[[Sequence[str]], AbstractSet[str]],
) -> list[dict[str, Any]]:
    """Say what is still to be asked and what it will cost, one row a collection and data type."""
    make = question_maker(settings, endpoint)
    rows = forecast(
        chunks,
        key_of=lambda chunk: make(cast(Chunk, chunk)).key,
        answered=answered,
        price=price_for(settings, endpoint),
        workload=_workload(settings, endpoint),
    )
    return [asdict(row) for row in rows]


def _workload(settings: Params, endpoint: Endpoint) -> Workload:
    template = load_template(settings.prompt, folder=PROMPTS)

    @cache
    def frame_tokens(data_type: str, count: int) -> int:
        recipe = recipe_of(settings, endpoint, template, data_type=data_type)
        messages = build_messages(recipe, [""] * count, boundary="0" * 6)
        return sum(estimate_tokens(message["content"]) for message in messages)

    instructions = settings.instructions_per_content * settings.candidates
    batch_size, _ = sizes_of(settings, endpoint)
    return Workload(batch_size=batch_size, instructions=instructions, frame_tokens=frame_tokens)
