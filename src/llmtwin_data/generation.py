"""Questions in, stored answers out; and the pairs and ledger rows that stored answers make."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from threading import Event

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.backlog import Backlog
from llmtwin_data.chunks import Chunk
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.engine import Engine, Limits
from llmtwin_data.errors import ParamsError
from llmtwin_data.pacing import Patience
from llmtwin_data.prices import Price, cost_usd
from llmtwin_data.problems import Problem
from llmtwin_data.prompts import Question, Recipe
from llmtwin_data.steering import Steering
from llmtwin_data.tallies import Tally

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
    def id(self) -> str:
        """Name the place in the contents, not the wording: equal for every model and prompt."""
        chunk = self.chunk
        place = (chunk.collection, chunk.content_id, str(chunk.start), str(chunk.end), str(self.k))
        return hashlib.sha256("\0".join(place).encode()).hexdigest()[:20]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to ask: sizes, limits, price and patience."""

    price: Price
    batch_size: int = 8
    concurrency: int = 64
    timeout_seconds: float = 120.0
    requests_per_minute: int = 0
    max_cost_usd: float = 0.0
    patience: Patience = field(default_factory=Patience)
    pilot: Callable[[], None] | None = None  # called once, in the caller's thread; may raise QualityGate
    pilot_size: int = 32  # chunks answered before it is called
    mode: str = "live"  # or "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """What one call of :func:`ask` did; ``questions`` counts different ones, ``repeated`` the others."""

    questions: int = 0
    repeated: int = 0
    answered_before: int = 0
    answered: int = 0
    failed: int = 0
    pending: int = 0
    requests: int = 0
    paid_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    stopped: str = ""
    max_in_flight: int = 0
    mode: str = ""
    models: dict[str, int] = field(default_factory=dict)  # as answers name them, with requests
    maybe_paid: int = 0  # sent, and nothing came back that says what it cost


def ask(
    questions: Iterable[Question],
    *,
    endpoint: Endpoint,
    answers: AnswerStore,
    asking: Asking,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    on_report: Callable[[GenerationReport], None] | None = None,
) -> GenerationReport:
    """Ask every question that has no stored answer and store what comes back.

    Parameters
    ----------
    questions
        Read once and lazily; equal ones are asked once.
    progress
        Called now and then in the caller's thread with how many are settled, and how many of these failed.
    stop
        Set from anywhere: no new call, what is in flight is drained and stored, Interrupted.
    on_report
        Called with the report also when an error is raised.

    Raises
    ------
    KeyRejected, BillingRefused, ModelUnknown, EndpointDown, BudgetReached, Interrupted
        After everything that was received is stored; the same call goes on from there.
    """
    if asking.max_cost_usd and None in (cost_usd(asking.price, 1, 0), cost_usd(asking.price, 0, 1)):
        raise ParamsError(
            f"max_cost_usd: the price of {endpoint.model} is unknown, so no limit can hold; "
            "give usd_per_million_input and usd_per_million_output"
        )
    started = time.monotonic()
    backlog = Backlog(questions, answers, batch_size=asking.batch_size)
    tally = Tally(asking.price, asking.max_cost_usd)
    limits = Limits(
        concurrency=asking.concurrency,
        timeout_seconds=asking.timeout_seconds,
        requests_per_minute=asking.requests_per_minute,
        patience=asking.patience,
        pilot_size=asking.pilot_size if asking.pilot else 0,
    )
    steering = Steering(
        lambda say: Engine(backlog, endpoint=endpoint, store=answers, tally=tally, limits=limits, say=say),
        pilot=asking.pilot,
        progress=progress and (lambda: progress(*_settled(backlog, tally))),
        stop=stop,
    )
    steering.run()
    error = _error_of(steering, endpoint)
    report = _report(questions, steering.engine, seconds=time.monotonic() - started, error=error)
    if on_report:
        on_report(report)
    if error:
        raise error
    return report


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


def _settled(backlog: Backlog, tally: Tally) -> tuple[int, int]:
    done = backlog.repeated + backlog.answered_before + tally.answered + tally.failed
    return done, tally.failed


def _error_of(steering: Steering, endpoint: Endpoint) -> BaseException | None:
    if steering.error is not None:
        return steering.error
    ending = steering.engine.ending
    return fatal_error(ending, endpoint) if isinstance(ending, Problem) else ending


def _report(
    questions: Iterable[Question], engine: Engine, *, seconds: float, error: BaseException | None
) -> GenerationReport:
    backlog, tally = engine.backlog, engine.tally
    total = len(questions) if isinstance(questions, Sized) else backlog.seen
    different = total - backlog.repeated
    settled = backlog.answered_before + tally.answered + tally.failed
    left = f"{tally.left} left for now: server errors" if tally.left else ""
    return GenerationReport(
        questions=different,
        repeated=backlog.repeated,
        answered_before=backlog.answered_before,
        answered=tally.answered,
        failed=tally.failed,
        pending=different - settled,
        requests=tally.requests,
        paid_requests=tally.paid_requests,
        maybe_paid=tally.maybe_paid,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        cost_usd=_money(tally),
        seconds=seconds,
        stopped=str(error) if error else left,
        max_in_flight=engine.most_in_flight,
        mode=engine.dialect.mode,
        models=dict(tally.models),
    )


def _money(tally: Tally) -> float | None:
    known = cost_usd(tally.price, tally.prompt_tokens, tally.completion_tokens)
    return known if tally.all_costs_known or known is None else None
