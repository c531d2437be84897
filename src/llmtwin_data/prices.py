"""What tokens cost, and what a run will cost; an unknown price is None and never 0."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import pandas as pd

from llmtwin_data.errors import ParamsError
from llmtwin_data.prompts import Question, Recipe, batches_of, blocks_of, build_messages
from llmtwin_data.texts import counted, estimate_tokens

MILLION = 1_000_000
# Share of the list price that providers ask in their Batch API (OpenAI, Anthropic, Mistral: half).
BATCH_SHARE = 0.5
# Tokens of one instruction with its JSON: shorter and longer ones are rare with the prompts of this project.
FEWEST_TOKENS, MOST_TOKENS = 25, 90
# How much longer a text may be than an instruction.
TWIN_TIMES = 10
# Estimated tokens of a whole collection lie within this share of a tokenizer's.
ESTIMATE_ERROR = 0.15
# The columns of a forecast that add up: counts, and USD from low to high, missing where a price is unknown.
COUNTS = ["contents", "chunks", "answered", "requests", "prompt_tokens", "completion_tokens"]
COSTS = ["cost_usd_low", "cost_usd_high"]
Tokens = TypeVar("Tokens", float, "pd.Series[Any]")
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
        """Return whether a cost can be told from it."""
        return self.usd_per_million_input is not None and self.usd_per_million_output is not None


def price_of(
    model: str,
    *,
    base_url: str,
    usd_per_million_input: float = 0.0,
    usd_per_million_output: float = 0.0,
    batch: bool = False,
) -> Price:
    """Return the price of a model: as the params say, else as genai-prices lists it, else unknown.

    The list is the one inside the installed package; no network is used. Of a price in the params,
    a side that is 0 counts as not given. The Batch API costs half.
    """
    from genai_prices import Usage, __version__, calc_price

    if base_url == "embedded":
        return Price(0.0, 0.0, "embedded: free")
    sent, written, source = None, None, "unknown"
    with suppress(LookupError):
        # A thousand tokens, since some models cost more from some hundred thousand on.
        usage = Usage(input_tokens=1000, output_tokens=1000)
        listed = calc_price(usage, model, provider_api_url=base_url)
        sent, written = float(listed.input_price * 1000), float(listed.output_price * 1000)
        source = f"genai-prices {__version__}"
    if usd_per_million_input or usd_per_million_output:
        sent, written, source = usd_per_million_input or sent, usd_per_million_output or written, "params"
    if batch and sent is not None and written is not None:
        return Price(sent * BATCH_SHARE, written * BATCH_SHARE, f"{source}, batch")
    return Price(sent, written, source)


def cost_usd(price: Price, prompt_tokens: Tokens, completion_tokens: Tokens) -> Tokens | None:
    """Return what these tokens cost, None where the price is unknown."""
    sent, written = price.usd_per_million_input, price.usd_per_million_output
    if sent is None or written is None:
        return None
    return (prompt_tokens * sent + completion_tokens * written) / MILLION


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
    answered: Callable[[Sequence[str]], Container[str]],
    price: Price,
    batch_size: int,
    seen: set[int],
    one_by_one: bool = False,
) -> pd.DataFrame:
    """Return for each collection and data type what is still to be asked, in the order they come.

    Columns ``collection``, ``data_type``, `COUNTS` and `COSTS`. ``answered`` returns which of many keys are
    answered. ``seen`` holds hashes of keys that were asked before, and takes these. ``one_by_one``: each
    candidate is a request of its own.
    """
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    contents = set[tuple[str, str, str]]()

    def noted() -> Iterator[Question]:
        for question in questions:
            content = question.collection, question.recipe.data_type, question.content_id
            groups[content[:2]].update(chunks=1, contents=content not in contents)
            contents.add(content)
            yield question

    for block in blocks_of(noted(), batch_size=batch_size):
        known = answered([*block])
        waiting = {key for key in block if key not in known and hash(key) not in seen}
        seen.update(map(hash, block))
        for batch in batches_of(block, batch_size=batch_size) if waiting else ():
            asked = [one for key, one in batch.items() if key in waiting]
            for place, one in enumerate(asked):
                recipe = one.recipe
                times, written = recipe.candidates if one_by_one else 1, recipe.k * recipe.candidates
                frame = 0 if place else _frame_tokens(recipe, len(asked))
                groups[one.collection, recipe.data_type].update(
                    asked=1,
                    requests=0 if place else times,
                    prompt_tokens=(frame + estimate_tokens(one.text)) * times,
                    fewest=written * FEWEST_TOKENS,
                    most=written * MOST_TOKENS * (TWIN_TIMES if recipe.kind == "twins" else 1),
                )
    index = pd.MultiIndex.from_tuples(groups, names=["collection", "data_type"])
    table = pd.DataFrame([*groups.values()], index, [*COUNTS, "asked", "fewest", "most"])
    table = table.fillna(0).astype(int)
    table = table.assign(
        answered=table.chunks - table.asked,
        completion_tokens=(table.fewest + table.most) // 2,
        cost_usd_low=cost_usd(price, (table.prompt_tokens * (1 - ESTIMATE_ERROR)).round(), table.fewest),
        cost_usd_high=cost_usd(price, (table.prompt_tokens * (1 + ESTIMATE_ERROR)).round(), table.most),
    )
    table = table[[*COUNTS, *COSTS]].astype(dict.fromkeys(COSTS, float))
    # Nothing to ask costs nothing, whatever the price.
    table.loc[table.requests == 0, [*COSTS]] = 0.0
    return table.reset_index()


@cache
def _frame_tokens(recipe: Recipe, count: int) -> int:
    """Return the tokens of a request for so many texts, the texts aside."""
    messages = build_messages(recipe, [""] * count, boundary="0" * 6)
    return sum(estimate_tokens(message["content"]) for message in messages)


def add_up(forecast: pd.DataFrame | Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of a forecast as run.json keeps them; a cost is None if one of its parts is unknown."""
    sums = pd.DataFrame(forecast)[[*COUNTS, *COSTS]].astype(float).sum(skipna=False)
    costs = {name: None if pd.isna(sums[name]) else float(sums[name]) for name in COSTS}
    return {"collection": "", "data_type": ""} | {name: int(sums[name]) for name in COUNTS} | costs


def forecast_words(sums: Mapping[str, Any]) -> str:
    """Return in a line what is still to be asked, and what it will cost."""
    if not sums["requests"]:
        return "nothing, every answer is stored"
    tokens = f"{sums['prompt_tokens']:,} tokens in, {sums['completion_tokens']:,} out"
    low, high = (sums[name] for name in COSTS)
    cost = "cost unknown" if high is None else f"{cost_range(low, high)} USD"
    return f"{counted(sums['requests'], 'request')}, {tokens}, {cost}"


def format_usd(value: float) -> str:
    """Return money so that small sums stay readable: 0.0042 USD, not 0.00."""
    digits = 2 if value >= 1 or value <= 0 else max(4, 1 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}"


def cost_range(low: float, high: float) -> str:
    """Return a cost from low to high as people read it."""
    return format_usd(low) if low == high else f"{format_usd(low)} to {format_usd(high)}"


def spent(asked: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return requests, tokens, cost and time of all that was asked in a run; an unknown cost is None."""
    parts = list(asked)
    costs = [part["cost_usd"] for part in parts]
    return {
        "requests": sum(part["requests"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "reasoning_tokens": sum(part.get("reasoning_tokens", 0) for part in parts),
        "cost_usd": None if None in costs else round(sum(costs), 6),
        "generation_seconds": round(sum(part.get("seconds", 0.0) for part in parts), 3),
    }


def spent_words(asked: Mapping[str, Mapping[str, Any]]) -> str:
    """Return in a line what a run has sent, of it what for tuning; ``asked`` is that of its run.json."""
    total = spent(asked.values())
    if not total["requests"]:
        return "0 requests sent" + (": every answer was already stored" if asked else "")
    tuned = sum(part["requests"] for what, part in asked.items() if what.startswith("tuning"))
    share = f" ({tuned:,} of them to tune)" if tuned else ""
    cost = "cost unknown" if total["cost_usd"] is None else f"{format_usd(total['cost_usd'])} USD"
    return f"{counted(total['requests'], 'request')} sent, {counted(total['tokens'], 'token')}, {cost}{share}"
