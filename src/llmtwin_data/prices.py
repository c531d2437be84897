"""What tokens cost, and what a run will cost; an unknown price is None and never 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from llmtwin_data.languages.tokens import estimate_tokens

MILLION = 1_000_000
# Share of the list price that providers ask in their Batch API (OpenAI, Anthropic, Mistral: half).
BATCH_SHARE = 0.5
# Tokens of one instruction with its JSON: shorter and longer ones are rare with the prompts of this project.
FEWEST_TOKENS, MOST_TOKENS = 25, 90
# Estimated tokens of a whole collection lie within this share of a tokenizer's.
ESTIMATE_ERROR = 0.15
BLOCK = 1_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How chunks become requests; ``seen_tokens`` of a pilot batch narrow the forecast: in, out per chunk."""

    batch_size: int
    instructions: int = 1  # for each chunk: k times candidates
    frame_tokens: Callable[[str, int], int]  # of a request of this data type and so many chunks, texts aside
    seen_tokens: tuple[float, float] | None = None


class Sized(Protocol):
    """The part of a chunk that a forecast looks at."""

    @property
    def collection(self) -> str: ...
    @property
    def content_id(self) -> str: ...
    @property
    def data_type(self) -> str: ...
    @property
    def text(self) -> str: ...


@dataclass(slots=True)
class _Group:
    contents: int = 0
    last_content: str | None = None
    chunks: int = 0
    answered: int = 0
    batches: dict[int, int] = field(default_factory=dict)
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


def forecast(
    chunks: Iterable[Sized],
    *,
    key_of: Callable[[Sized], str],
    answered: Callable[[Sequence[str]], AbstractSet[str]],
    price: Price,
    workload: Workload,
) -> list[Forecast]:
    """Say for each collection and data type what is still to be asked, in the order they come.

    Parameters
    ----------
    chunks
        In the order in which they will be asked; read once, never held.
    key_of, answered
        The key of a chunk's answer, and which of many keys are answered (`AnswerStore.answered`).
        A second chunk with the same key is answered by the first.
    """
    groups: dict[tuple[str, str], _Group] = {}
    for position, chunk, is_answered in _marked(chunks, key_of, answered):
        group = groups.setdefault((chunk.collection, chunk.data_type), _Group())
        _count(group, chunk, is_answered, batch=position // workload.batch_size)
    return [
        _forecast(Forecast(*name, group.contents, group.chunks, group.answered), group, price, workload)
        for name, group in groups.items()
    ]


def _marked(
    chunks: Iterable[Sized],
    key_of: Callable[[Sized], str],
    answered: Callable[[Sequence[str]], AbstractSet[str]],
) -> Iterator[tuple[int, Sized, bool]]:
    seen: set[int] = set()
    remaining, position = iter(chunks), 0
    while block := list(islice(remaining, BLOCK)):
        keys = [key_of(chunk) for chunk in block]
        known = answered(keys)
        for chunk, key in zip(block, keys, strict=True):
            yield position, chunk, key in known or hash(key) in seen
            seen.add(hash(key))
            position += 1


def _count(group: _Group, chunk: Sized, is_answered: bool, *, batch: int) -> None:
    # The chunks of a content follow each other.
    group.contents += chunk.content_id != group.last_content
    group.last_content = chunk.content_id
    group.chunks += 1
    group.answered += is_answered
    if not is_answered:
        group.batches[batch] = group.batches.get(batch, 0) + 1
        group.text_tokens += estimate_tokens(chunk.text)


def _forecast(empty: Forecast, group: _Group, price: Price, workload: Workload) -> Forecast:
    (few_in, some_in, most_in), (few_out, some_out, most_out) = _tokens(empty.data_type, group, workload)
    return replace(
        empty,
        requests=len(group.batches),
        prompt_tokens=some_in,
        completion_tokens=some_out,
        cost_usd_low=cost_usd(price, few_in, few_out),
        cost_usd_high=cost_usd(price, most_in, most_out),
    )


def _tokens(data_type: str, group: _Group, workload: Workload) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the tokens to send and to get, each as fewest, likely and most."""
    open_chunks = group.chunks - group.answered
    frames = sum(workload.frame_tokens(data_type, count) for count in group.batches.values())
    prompt, written = float(group.text_tokens + frames), float(open_chunks * workload.instructions)
    if workload.seen_tokens:
        prompt, per_chunk = open_chunks * workload.seen_tokens[0], open_chunks * workload.seen_tokens[1]
        fewest, most = per_chunk * (1 - ESTIMATE_ERROR), per_chunk * (1 + ESTIMATE_ERROR)
    else:
        fewest, most = written * FEWEST_TOKENS, written * MOST_TOKENS
    spread = (prompt * (1 - ESTIMATE_ERROR), prompt, prompt * (1 + ESTIMATE_ERROR))
    return tuple(map(round, spread)), tuple(map(round, (fewest, (fewest + most) / 2, most)))


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
