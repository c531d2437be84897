"""Questions in, stored answers out: one call that loses nothing, pays once, and says what it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field, replace
from threading import Event

from llmtwin_data.answers import AnswerStore
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.errors import Interrupted, QualityGate
from llmtwin_data.generation.backlog import Backlog
from llmtwin_data.generation.batches import BatchRun
from llmtwin_data.generation.calls import Asking as Asking
from llmtwin_data.generation.calls import Call
from llmtwin_data.generation.engine import Engine
from llmtwin_data.generation.pairs import LedgerRow as LedgerRow
from llmtwin_data.generation.pairs import Pair as Pair
from llmtwin_data.generation.pairs import collect_pairs as collect_pairs
from llmtwin_data.generation.receiving import none_of_use
from llmtwin_data.generation.steering import STOPPED, Steering, terminate_sets
from llmtwin_data.generation.tallies import Tally
from llmtwin_data.prices import check_price
from llmtwin_data.prompts import Question


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
    spent_usd: float = 0.0  # the cost, and at its worst what no reply told
    seconds: float = 0.0
    stopped: str = ""
    max_in_flight: int = 0
    mode: str = ""
    models: dict[str, int] = field(default_factory=dict)  # as answers name them, with requests
    maybe_paid: int = 0  # sent, and nothing came back that says what it cost
    too_long: int = 0  # characters of contents that were too many for one request; 0: none were
    ignored: int = 0  # answers without a number, or under one that was never asked
    cannot_copy: bool = False  # the texts' openings, so that each text was asked alone
    reasoning_tokens: int = 0  # hidden ones among the completion's, as far as replies tell


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
    QualityGate
        Answers came, and none could be used; what they were about is pending.
    ParamsError
        The limit cannot hold without a price.
    """
    check_price(asking.price, model=endpoint.model, max_cost_usd=asking.max_cost_usd)
    started = time.monotonic()
    backlog = Backlog(questions, answers, batch_size=asking.batch_size, retry_failed=asking.retry_failed)
    tally = Tally(asking.price, asking.max_cost_usd, spent=asking.spent_usd)
    for hidden, lacking in answers.hidden_tokens(endpoint=endpoint.identity, model=endpoint.model_identity):
        tally.room.grow(hidden, lacking=lacking)

    def tick() -> None:
        if progress:
            progress(*_settled(backlog, tally))

    call = Call(backlog, tally, endpoint, answers, asking, stop or Event(), tick)
    ended = _run_batches(call) if asking.mode == "batch" else _run_live(call)
    ended = ended if ended.error else replace(ended, error=_settle_held(call))
    total = len(questions) if isinstance(questions, Sized) else backlog.seen
    report = _report(call, ended, total=total, seconds=time.monotonic() - started)
    if on_report:
        on_report(report)
    if ended.error:
        raise ended.error
    return report


@dataclass(frozen=True, slots=True)
class _Ended:
    error: BaseException | None
    mode: str
    max_in_flight: int = 0


def _run_live(call: Call) -> _Ended:
    steering = Steering(
        lambda say: Engine(call, say),
        pilot=call.asking.pilot,
        progress=call.tick,
        stop=call.stop,
    )
    steering.run()
    engine = steering.engine
    ending = engine.ending
    if isinstance(ending, Problem):
        ending = fatal_error(ending, call.endpoint)
    return _Ended(steering.error or ending, engine.dialect.mode, engine.most_in_flight)


def _run_batches(call: Call) -> _Ended:
    run = BatchRun(call)
    error: BaseException | None = None
    try:
        with terminate_sets(call.stop):
            run.run()
    except KeyboardInterrupt:
        error = Interrupted(STOPPED)
    except Exception as raised:
        error = raised
    return _Ended(error, run.dialect.mode)


def _settle_held(call: Call) -> QualityGate | None:
    """Store what failed by useless answers at the end, unless no answer was ever of use."""
    trust = call.tally.trust
    if trust.useless and not trust.proven and not call.backlog.answered_before:
        return none_of_use(call.endpoint, trust)
    call.answers.save(answers=trust.held)
    call.tally.settle(trust.held)
    return None


def _settled(backlog: Backlog, tally: Tally) -> tuple[int, int]:
    return backlog.repeated + backlog.answered_before + tally.answered + tally.failed, tally.failed


def _report(call: Call, ended: _Ended, *, total: int, seconds: float) -> GenerationReport:
    backlog, tally = call.backlog, call.tally
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
        cost_usd=tally.cost_usd,
        spent_usd=tally.spent - call.asking.spent_usd,
        seconds=seconds,
        stopped=str(ended.error) if ended.error else left,
        max_in_flight=ended.max_in_flight,
        mode=ended.mode,
        models=dict(tally.models),
        too_long=backlog.longest,
        ignored=tally.ignored,
        cannot_copy=tally.cannot_copy,
        reasoning_tokens=tally.reasoning_tokens,
    )
