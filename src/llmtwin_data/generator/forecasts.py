"""What a run will ask, before it does: trials, instructions and verdicts, only what is not stored yet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from llmtwin_data.answers import AnswerStore
from llmtwin_data.chunks import Chunk
from llmtwin_data.endpoints import Endpoint, address_of, open_endpoint
from llmtwin_data.errors import ParamsError
from llmtwin_data.generation import LedgerRow, Pair, collect_pairs
from llmtwin_data.generator.questions import judge_recipe, price_for, question_maker, sizes_of
from llmtwin_data.generator.tuning import sizes_tried, variants_of
from llmtwin_data.judging import verdict_question
from llmtwin_data.languages.tokens import estimate_tokens
from llmtwin_data.params import Params
from llmtwin_data.prices import Forecast, check_price, forecast, refine
from llmtwin_data.prompts import Question, Recipe, build_messages
from llmtwin_data.summaries.displays import format_usd

if TYPE_CHECKING:
    import pandas

# Chunks looked up at once.
WINDOW = 1_000
TUNING = "tuning"
Opener = Callable[[str], AbstractContextManager[Endpoint]]
# What one step asks of one collection.
Row = tuple[str, Forecast]


@dataclass(slots=True)
class Outlook:
    """Forecasts of one step after another; what an earlier one will have asked, a later one finds stored."""

    open_endpoint: Opener  # by the name of a model
    rows: list[Row] = field(default_factory=list)
    _seen: dict[Path, set[int]] = field(default_factory=dict)

    def add(self, what: str, settings: Params, chunks: Sequence[Chunk], answers: AnswerStore) -> None:
        """Add what asking about these chunks takes, and judging what comes back where there is a judge."""
        with self.open_endpoint(settings.model) as endpoint:
            question = question_maker(settings, endpoint)
            self._add(what, map(question, chunks), settings, endpoint, answers)
        if settings.judge_model:
            with self.open_endpoint(settings.judge_model) as judge:
                verdicts = _verdict_questions(chunks, question, answers, judge_recipe(settings, judge))
                what = f"{what}, verdicts" if what.startswith(TUNING) else "verdicts"
                self._add(what, verdicts, settings, judge, answers)

    def _add(
        self,
        what: str,
        questions: Iterable[Question],
        settings: Params,
        endpoint: Endpoint,
        answers: AnswerStore,
    ) -> None:
        seen = self._seen.setdefault(answers.path, set())
        found = _forecast(questions, settings, endpoint, answered=answers.answered, seen=seen)
        self.rows += [(what, row) for row in found]


def add_trials(outlook: Outlook, settings: Params, sample: Sequence[Chunk], answers: AnswerStore) -> None:
    """Add what notebook 2 will ask about its sample, at live prices."""
    settings = replace(settings, mode="live")
    for variant in variants_of(settings):
        outlook.add(f"{TUNING}: {named(variant)}", variant, sample, answers)
    with outlook.open_endpoint(settings.model) as endpoint, tempfile.TemporaryDirectory() as nothing:
        for variant, path in sizes_tried(settings, endpoint):
            what = f"{TUNING}: {named(variant)} in batches of {variant.batch_size}"
            with AnswerStore(path if path.exists() else Path(nothing) / path.name) as store:
                outlook.add(what, variant, sample, store)


def variant_rows(
    settings: Params, chunks: Sequence[Chunk], open_endpoint: Opener, answers: AnswerStore
) -> list[Row]:
    """Say what the instructions for all chunks take with each variant, each alone."""
    settings = replace(settings, judge_model="")
    variants = [settings, *(one for one in variants_of(settings) if one != settings)]
    rows: list[Row] = []
    for variant in variants:
        outlook = Outlook(open_endpoint)
        outlook.add(named(variant), variant, chunks, answers)
        rows += outlook.rows
    return rows


def named(settings: Params) -> str:
    """Name a variant by what it may differ in."""
    words = [settings.prompt]
    words += [settings.model] if settings.models else []
    words += [settings.instruction_language] if settings.languages else []
    return " · ".join(filter(None, words))


def forecast_frame(rows: Iterable[Row]) -> pandas.DataFrame:
    """Lay a forecast out, one row a step, collection and data type."""
    import pandas

    columns = ["what", *(item.name for item in fields(Forecast))]
    return pandas.DataFrame([{"what": what} | asdict(row) for what, row in rows], columns=columns)


def by_step(rows: Iterable[Row]) -> dict[str, list[Forecast]]:
    """Give the forecasts of tuning, of instructions and of verdicts."""
    found: dict[str, list[Forecast]] = {}
    for what, row in rows:
        found.setdefault(what.split(":")[0], []).append(row)
    return found


def check_limit(
    chunks: Iterable[Chunk],
    settings: Params,
    *,
    endpoint: Endpoint,
    answered: Callable[[Sequence[str]], AbstractSet[str]],
) -> None:
    """Raise ParamsError if ``max_cost_usd`` does not even pay for the first batch."""
    first = islice(chunks, sizes_of(settings, endpoint)[0])
    rows = _forecast(map(question_maker(settings, endpoint), first), settings, endpoint, answered=answered)
    lowest = sum(row.cost_usd_low or 0.0 for row in rows)
    if settings.max_cost_usd and lowest > settings.max_cost_usd:
        raise ParamsError(
            f"max_cost_usd: expected at least {format_usd(lowest)} USD, the lowest estimate for the first "
            f"request, found {settings.max_cost_usd:g}; give a higher limit, or a smaller batch_size"
        )


def check_prices(
    settings: Params,
    *,
    environ: Mapping[str, str],
    open_endpoint: Callable[..., AbstractContextManager[Endpoint]] = open_endpoint,
) -> None:
    """Raise ParamsError if ``max_cost_usd`` cannot hold, for some model has no known price."""
    if not settings.max_cost_usd or address_of(settings.endpoint, environ) == "embedded":
        return
    judges = [replace(settings, model=settings.judge_model)] if settings.judge_model else []
    for variant in [settings, *judges, *variants_of(settings)]:
        with open_endpoint(settings.endpoint, model=variant.model, environ=environ) as endpoint:
            price = price_for(variant, endpoint)
            check_price(price, model=endpoint.model, max_cost_usd=settings.max_cost_usd)


def refined(
    rows: Iterable[Row],
    chunks: Sequence[Chunk],
    asked: Sequence[LedgerRow],
    *,
    settings: Params,
    endpoint: Endpoint,
) -> list[Row]:
    """Narrow the forecast of instructions by what the first chunks took; ``asked`` is their ledger."""
    each = len(asked) // len(chunks)
    answered = [chunk for chunk, row in zip(chunks, asked[::each], strict=True) if row.state != "pending"]
    make = question_maker(settings, endpoint)
    rough = _forecast(map(make, answered), settings, endpoint, answered=lambda keys: frozenset())
    prompt = sum(row.prompt_tokens for row in asked) / (sum(row.prompt_tokens for row in rough) or 1)
    written = sum(row.completion_tokens for row in asked) / (sum(row.completion_tokens for row in rough) or 1)
    price = price_for(settings, endpoint)
    return [
        (what, refine(row, prompt=prompt, completion=written, price=price) if what == "instructions" else row)
        for what, row in rows
    ]


def _forecast(
    questions: Iterable[Question],
    settings: Params,
    endpoint: Endpoint,
    *,
    answered: Callable[[Sequence[str]], AbstractSet[str]],
    seen: set[int] | None = None,
) -> list[Forecast]:
    return forecast(
        questions,
        answered=answered,
        price=price_for(settings, endpoint),
        batch_size=sizes_of(settings, endpoint)[0],
        frame_tokens=_frame_tokens,
        seen=seen,
        one_by_one=endpoint.identity == "embedded",
    )


@cache
def _frame_tokens(recipe: Recipe, count: int) -> int:
    messages = build_messages(recipe, [""] * count, boundary="0" * 6)
    return sum(estimate_tokens(message["content"]) for message in messages)


def _verdict_questions(
    chunks: Sequence[Chunk], question: Callable[[Chunk], Question], answers: AnswerStore, recipe: Recipe
) -> Iterator[Question]:
    """Ask about the pairs that are stored, and about one in place of each that is still to be written."""
    remaining = iter(chunks)
    while window := list(islice(remaining, WINDOW)):
        pairs, rows = collect_pairs(window, question, answers)
        stored, each = iter(pairs), len(rows) // len(window)
        for place, row in enumerate(rows):
            if row.state == "accepted":
                yield verdict_question(next(stored), recipe)
            elif row.state == "pending":
                chunk = window[place // each]
                # As long as an instruction, and another one for each prompt.
                words = question(chunk).key
                yield verdict_question(Pair(chunk, row.k, words, "", "", "", ""), recipe)
