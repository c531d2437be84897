"""One call, from the body written to the answer made durable, and what each kind of fault leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtwin_data.endpoints.completions import Completion, read_completion, useless
from llmtwin_data.endpoints.connections import Connection, Reply
from llmtwin_data.endpoints.pacing import Pace
from llmtwin_data.endpoints.problems import UNSURE_STATUS, Problem, problem_of
from llmtwin_data.errors import EndpointDown
from llmtwin_data.generation.calls import Call
from llmtwin_data.generation.dialects import Dialect, write_request
from llmtwin_data.generation.receiving import (
    FATAL,
    MAX_REFUSALS,
    Sent,
    all_refused,
    fail_alone,
    none_of_use,
    receive,
)
from llmtwin_data.generation.recording import Entry, Recorder, entry_for, request_record
from llmtwin_data.generation.slots import Batch, charge


@dataclass(slots=True, eq=False)
class Job(Sent):
    """A batch in flight."""

    started: float = 0.0


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Serves one job at a time to many callers; everything it needs is handed in."""

    call: Call
    pace: Pace
    dialect: Dialect
    connection: Connection
    recorder: Recorder
    now: Callable[[], float]
    halt: Callable[[Exception | Problem], None]
    is_last: Callable[[], bool]  # whether nothing but the caller's job is left
    refusals: int = 0  # before any success

    async def serve(self, job: Job) -> None:
        """Send a batch, store what comes back, and put what has to be asked again into the backlog."""
        written = write_request(job.batch, self.dialect)
        job.boundary = written.boundary
        reply = await self.connection.post(
            written.body, idempotency_key=written.key, timeout_seconds=self.call.asking.timeout_seconds
        )
        self.call.tally.requests += 1
        problem = problem_of(reply.status, reply.headers, reply.text, fault=reply.problem)
        read = problem or read_completion(reply.text)
        if problem and problem.reason == "unusable_body":
            read = useless("unusable_body")
        if isinstance(read, Problem):
            await self._take_problem(job, reply, read)
        else:
            await self._take_completion(job, reply, read)

    async def keep_unknown(self, job: Job, reply: Reply, *, outcome: str = "unknown") -> None:
        """Store that a request may have been paid for."""
        self.call.tally.pay_perhaps(worst=job.worst)
        record = request_record(
            job.batch,
            request_id=self.recorder.new_request_id(),
            boundary=job.boundary,
            reply=reply,
            outcome=outcome,
        )
        await self.recorder.save(entry_for(job.batch, requests=[record]))

    async def _take_completion(self, job: Job, reply: Reply, completion: Completion) -> None:
        entry, again = receive(
            job,
            completion,
            reply=reply,
            tally=self.call.tally,
            attempts=self.call.asking.patience.attempts,
            reference=self.call.asking.reference,
            request_id=self.recorder.new_request_id(),
        )
        trust = self.call.tally.trust
        self.pace.doubted() if trust.doubtful else self.pace.succeeded()
        await self._keep(entry)
        self.call.backlog.again.extend(again)
        self._lose_trust()

    def _lose_trust(self) -> None:
        """Give up an endpoint whose answers are of no use, once none that could be is on its way."""
        trust, known = self.call.tally.trust, self.call.backlog.answered_before > 0
        if trust.lost(known=known) and self.pace.in_flight <= 1:
            self.halt(none_of_use(self.call.endpoint, trust))

    async def _keep(self, entry: Entry) -> None:
        await self.recorder.save(entry)
        self.call.tally.settle(entry.answers)

    async def _take_problem(self, job: Job, reply: Reply, problem: Problem) -> None:
        if problem.kind in FATAL:
            self.halt(problem)
            return
        if problem.kind in ("request", "too_long", "filtered"):
            await self._take_refusal(job.batch, problem)
            return
        _renew_key(job.batch, reply.status)
        if problem.kind in ("rate", "overload"):
            self._slow_down(job, reply, problem)
        else:
            if reply.sent and problem.kind in ("network", "answer"):
                await self.keep_unknown(job, reply, outcome=problem.reason if reply.status else "unknown")
            self.pace.faulted(job.started, reached=reply.sent)
            self._try_again(job.batch, problem)
            if problem.kind == "answer" and not self.call.tally.trust.proven:
                self.call.tally.trust.take_foreign(reply.text)
                self._lose_trust()
            self._lose_patience(reply, problem)

    async def _take_refusal(self, batch: Batch, problem: Problem) -> None:
        """Split until the text that is refused stands alone; with no success so far, doubt the request."""
        charge(batch, None, None, 0.0)
        several = len(batch.slots) > 1
        doubtful = not self.pace.successes and problem.kind != "filtered"
        backlog = self.call.backlog
        if self.call.tally.room.lower(batch, problem):
            backlog.push_back(batch)
        elif problem.kind == "too_long" and several:
            backlog.longest = min(backlog.longest or batch.characters(), batch.characters())
            backlog.again.extend(batch.halves())
        elif doubtful and self.dialect.learn(problem, batch.slots[0].question.recipe):
            backlog.push_back(batch)
        elif doubtful and not batch.retried:
            self._doubt(batch, problem)
        elif several:
            backlog.again.extend(batch.halves())
        else:
            await self._keep(fail_alone(batch, problem))

    def _doubt(self, batch: Batch, problem: Problem) -> None:
        """See whether others pass, since the endpoint names nothing that it does not take."""
        self.refusals += 1
        self.call.backlog.fresh.extend(batch.halves())
        if self.refusals >= MAX_REFUSALS:
            self.halt(all_refused(self.connection.base_url, problem))

    def _slow_down(self, job: Job, reply: Reply, problem: Problem) -> None:
        patience = self.call.asking.patience
        if problem.wait is not None and problem.wait > patience.longest_retry_after:
            self.halt(problem)
            return
        self.pace.overloaded(job.started, wait=problem.wait)
        wait = patience.backoff if problem.wait is None else problem.wait
        self.call.backlog.put_later(job.batch, self.now() + wait)
        self._lose_patience(reply, problem)

    def _try_again(self, batch: Batch, problem: Problem) -> None:
        """Retry; a fault counts against a batch only if the endpoint served others meanwhile."""
        successes, patience = self.pace.successes, self.call.asking.patience
        stuck = successes and problem.kind != "network" and self.is_last()
        if successes > batch.seen_successes or stuck:
            batch.faults += 1
        batch.seen_successes = successes
        if batch.faults >= patience.attempts and len(batch.slots) == 1:
            self.call.tally.left += 1
            return
        parts = batch.halves() if batch.faults > 1 else [batch]
        for part in parts:
            part.faults, part.seen_successes = batch.faults if part is batch else 1, successes
            self.call.backlog.put_later(part, self.now() + patience.backoff_after(max(1, batch.faults)))

    def _lose_patience(self, reply: Reply, problem: Problem) -> None:
        if self.pace.hopeless(reply.seconds):
            self.halt(EndpointDown(self._down_text(problem)))

    def _down_text(self, problem: Problem) -> str:
        seconds = self.pace.seconds_struck()
        return (
            f"{self.connection.base_url}: nothing but {problem.reason} for {seconds:.0f} s, "
            f"{problem.detail or 'without a word'}. Everything received is stored; the same command goes on"
        )


def _renew_key(batch: Batch, status: int) -> None:
    """Repeat under a new key what was answered with an error, for an endpoint may replay it for ever.

    What got no answer keeps its key, and so does, once, what may yet be charged: its repetition is free.
    """
    if status and (batch.unsure or status not in UNSURE_STATUS):
        batch.attempt += 1
        batch.unsure = False
    elif status:
        batch.unsure = True
