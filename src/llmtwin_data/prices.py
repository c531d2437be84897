"""What tokens cost, and what a run will cost; an unknown price is None and never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from llmtwin_data.errors import ParamsError
from llmtwin_data.prompts import Question, Recipe, form_batches
from llmtwin_data.texts import counted, estimate_tokens

MILLION = 1_000_000
# Share of the list price that providers ask in their Batch API (OpenAI, Anthropic, Mistral: half).
BATCH_SHARE = 0.5
# Tokens of one instruction with its JSON: shorter and longer ones are rare with the prompts of this project.
FEWEST_TOKENS, MOST_TOKENS = 25, 90
# Estimated tokens of a whole collection lie within this share of a tokenizer's.
ESTIMATE_ERROR = 0.15
# The name under which run.json keeps what a pilot made of the forecast.
REFINED = "instructions, after the pilot"


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, and who says so."""

    usd_per_million_input: float | None
    usd_per_million_output: float | None
    source: str

    @property
    def is_known(self) -> bool:
        """Whether a cost can be told from it."""
        return self.usd_per_million_input is not None and self.usd_per_million_output is not None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is still to be asked of one collection and data type, and what it will cost, from low to high."""

    collection: str
    data_type: str
    contents: int = 0
    chunks: int = 0
    answered: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd_low: float | None = None
    cost_usd_high: float | None = None


@dataclass(slots=True)
class _Group:
    recipe: Recipe
    contents: int = 0
    last_content: str | None = None
    chunks: int = 0
    asked: int = 0
    batches: list[int] = field(default_factory=list)  # texts in each
    text_tokens: int = 0


def price_of(
    model: str,
    *,
    base_url: str,
    usd_per_million_input: float = 0.0,
    usd_per_million_output: float = 0.0,
    batch: bool = False,
) -> Price:
    """Give the price of a model: as the params say, else as genai-prices lists it, else unknown.

    The list is the one inside the installed package; no network is used. Of a price in the params,
    a side that is 0 counts as not given. The Batch API costs half.
    """
    if base_url == "embedded":
        return Price(0.0, 0.0, "embedded: free")
    listed = _listed(model, base_url)
    given = (usd_per_million_input or None, usd_per_million_output or None)
    if any(given):
        listed = Price(
            given[0] or listed.usd_per_million_input, given[1] or listed.usd_per_million_output, "params"
        )
    return _halved(listed) if batch and listed.is_known else listed


def cost_usd(price: Price, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Give what these tokens cost, None where the price is unknown."""
    if price.usd_per_million_input is None or price.usd_per_million_output is None:
        return None
    sides = (prompt_tokens * price.usd_per_million_input, completion_tokens * price.usd_per_million_output)
    return sum(sides) / MILLION


def check_price(price: Price, *, model: str, max_cost_usd: float) -> None:
    """Raise ParamsError if there is a limit, and no price by which it could hold."""
    if max_cost_usd and not price.is_known:
        raise ParamsError(
            f"max_cost_usd: the price of {model} is unknown, so no limit can hold; "
            "give usd_per_million_input and usd_per_million_output, or leave max_cost_usd out"
        )


def forecast(
    questions: Iterable[Question],
    *,
    answered: Callable[[Sequence[str]], AbstractSet[str]],
    price: Price,
    batch_size: int,
    frame_tokens: Callable[[Recipe, int], int],
    seen: set[int] | None = None,
    one_by_one: bool = False,
) -> list[Forecast]:
    """Say for each collection and data type what is still to be asked, in the order they come.

    Parameters
    ----------
    questions
        In the order in which they will be asked; read once, never held.
    answered
        Which of many keys are answered (`AnswerStore.answered`).
    frame_tokens
        Of a request by this recipe for so many texts, the texts aside.
    seen
        Hashes of the keys that were asked before these; these are added. A key is asked once.
    one_by_one
        The endpoint gives one candidate a request, so that each is a request with the whole prompt.
    """
    groups: dict[tuple[str, str], _Group] = {}
    seen = set() if seen is None else seen

    def counted(questions: Iterable[Question]) -> Iterator[Question]:
        for question in questions:
            group = groups.setdefault(
                (question.collection, question.recipe.data_type), _Group(question.recipe)
            )
            # The chunks of a content follow each other.
            group.contents += question.content_id != group.last_content
            group.last_content = question.content_id
            group.chunks += 1
            yield question

    for batches in form_batches(counted(questions), batch_size=batch_size):
        known = answered([key for batch in batches for key in batch])
        for batch in batches:
            asked = [one for key, one in batch.items() if key not in known and hash(key) not in seen]
            seen.update(map(hash, batch))
            for question in asked:
                group = groups[question.collection, question.recipe.data_type]
                group.asked += 1
                group.text_tokens += estimate_tokens(question.text)
            if asked:
                groups[asked[0].collection, asked[0].recipe.data_type].batches.append(len(asked))
    return [_forecast(name, group, price, frame_tokens, one_by_one) for name, group in groups.items()]


def add_up(rows: Iterable[Forecast]) -> Forecast:
    """Give several forecasts as one; its cost is unknown if one of theirs is."""
    found = list(rows)
    costs = [[row.cost_usd_low for row in found], [row.cost_usd_high for row in found]]
    low, high = (None if None in side else sum(cost or 0.0 for cost in side) for side in costs)
    names = ("contents", "chunks", "answered", "requests", "prompt_tokens", "completion_tokens")
    counts = {name: sum(getattr(row, name) for row in found) for name in names}
    return Forecast("", "", **counts, cost_usd_low=low, cost_usd_high=high)


def forecast_words(row: Forecast) -> str:
    """Say in a line what is still to be asked, and what it will cost."""
    if not row.requests:
        return "nothing, every answer is stored"
    tokens = f"{row.prompt_tokens:,} tokens in, {row.completion_tokens:,} out"
    cost = f"{cost_range(row.cost_usd_low, row.cost_usd_high)} USD"
    cost = "cost unknown" if row.cost_usd_high is None else cost
    return f"{counted(row.requests, 'request')}, {tokens}, {cost}"


def forecasts_of(rows: pd.DataFrame) -> list[Forecast]:
    """Return the rows of a forecast's table as records, whatever step they are of."""
    known: Any = rows[[item.name for item in fields(Forecast)]]
    return [Forecast(**row) for row in known.astype(object).where(known.notna(), None).to_dict("records")]


def format_usd(value: float | None) -> str:
    """Return money so that small sums stay readable: 0.0042 USD, not 0.00."""
    if value is None:
        return "unknown"
    if value >= 1 or value <= 0:
        return f"{value:,.2f}"
    digits = max(4, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def cost_range(low: float | None, high: float | None) -> str:
    """Return a cost from low to high as people read it."""
    return format_usd(low) if low == high else f"{format_usd(low)} to {format_usd(high)}"


def spent(asked: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up requests, tokens, cost and time of all that was asked in a run; an unknown cost is None."""
    parts = list(asked)
    costs = [part["cost_usd"] for part in parts]
    return {
        "requests": sum(part["requests"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "reasoning_tokens": sum(part.get("reasoning_tokens", 0) for part in parts),
        "cost_usd": None if None in costs else round(sum(costs), 6),
        "generation_seconds": round(sum(part.get("seconds", 0.0) for part in parts), 3),
    }


def refine(rough: Forecast, *, prompt: float, completion: float, price: Price) -> Forecast:
    """Narrow a forecast by what a pilot took of the tokens that were forecast for it."""
    sent, written = rough.prompt_tokens * prompt, rough.completion_tokens * completion
    low, high = 1 - ESTIMATE_ERROR, 1 + ESTIMATE_ERROR
    return replace(
        rough,
        prompt_tokens=round(sent),
        completion_tokens=round(written),
        cost_usd_low=cost_usd(price, round(sent * low), round(written * low)),
        cost_usd_high=cost_usd(price, round(sent * high), round(written * high)),
    )


def _forecast(
    name: tuple[str, str],
    group: _Group,
    price: Price,
    frame_tokens: Callable[[Recipe, int], int],
    one_by_one: bool,
) -> Forecast:
    times = group.recipe.candidates if one_by_one else 1
    frames = sum(frame_tokens(group.recipe, count) for count in group.batches)
    prompt = (group.text_tokens + frames) * times
    written = group.asked * group.recipe.k * group.recipe.candidates
    fewest, most = written * FEWEST_TOKENS, written * MOST_TOKENS
    return Forecast(
        *name,
        contents=group.contents,
        chunks=group.chunks,
        answered=group.chunks - group.asked,
        requests=len(group.batches) * times,
        prompt_tokens=prompt,
        completion_tokens=(fewest + most) // 2,
        cost_usd_low=cost_usd(price, round(prompt * (1 - ESTIMATE_ERROR)), fewest),
        cost_usd_high=cost_usd(price, round(prompt * (1 + ESTIMATE_ERROR)), most),
    )


def _listed(model: str, base_url: str) -> Price:
    from genai_prices import Usage, __version__, calc_price

    # A thousand tokens, since some models cost more from some hundred thousand on.
    try:
        told = calc_price(Usage(input_tokens=1000, output_tokens=1000), model, provider_api_url=base_url)
    except LookupError:
        return Price(None, None, "unknown")
    return Price(
        float(told.input_price * 1000), float(told.output_price * 1000), f"genai-prices {__version__}"
    )


def _halved(price: Price) -> Price:
    sides = (price.usd_per_million_input or 0.0, price.usd_per_million_output or 0.0)
    return Price(sides[0] * BATCH_SHARE, sides[1] * BATCH_SHARE, f"{price.source}, batch")
