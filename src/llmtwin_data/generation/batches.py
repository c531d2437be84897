"""Asking through a provider's Batch API: rounds of batches, collected and settled as live answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmtwin_data.endpoints import fatal_error
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.endpoints.providers import Look, Provider, read_result
from llmtwin_data.errors import BudgetReached, EndpointDown, Interrupted
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
from llmtwin_data.generation.recording import Entry
from llmtwin_data.generation.slots import Batch
from llmtwin_data.generation.submissions import Submissions, Submitted, request_line
from llmtwin_data.generation.tallies import MOST_USELESS_AT_FIRST

# Providers take 50,000 lines and 200 MB in one batch; this stays below both with long texts, too.
MAX_LINES = 5_000
# Questions read at once.
READ = 1_000


class BatchRun:
    """One call of ``ask`` in mode batch; runs in the caller's thread, since it mostly waits."""

    def __init__(self, call: Call) -> None:
        endpoint = call.endpoint
        self.dialect = Dialect(endpoint.model, tokens_field=endpoint.tokens_field, effort=endpoint.effort)
        self._call = call
        self._tally = call.tally
        self._patience = call.asking.patience
        self._provider = Provider(endpoint, timeout_seconds=call.asking.timeout_seconds)
        self._submissions = Submissions(call.answers, self._provider, endpoint=endpoint.identity)
        self._open: list[Submitted] = []
        self._waiting: list[Batch] = []
        self._refusals = 0
        self._learned: set[str] = set()  # what refusals of this round have already taught

    def run(self) -> None:
        """Collect what earlier runs submitted, then submit and collect the rest, the pilot first."""
        pilot, pilot_size = self._call.asking.pilot, self._call.asking.pilot_size
        with self._provider:
            while not self._call.backlog.exhausted:
                self._waiting += self._call.backlog.next_window(READ)
            self._resume()
            if pilot and self._waiting:
                count = -(-pilot_size // self._call.backlog.batch_size)
                rest, self._waiting = self._waiting[count:], self._waiting[:count]
                self._rounds()
                if rest:
                    pilot()
                self._waiting = rest
            self._rounds()

    def _rounds(self) -> None:
        while self._waiting or self._open:
            waiting = self._next_round()
            if self._tally.cannot_copy:
                waiting = [alone for batch in waiting for alone in batch.alone()]
            self._learned.clear()
            for start in range(0, len(waiting), MAX_LINES):
                self._submit(waiting[start : start + MAX_LINES])
            if not self._open:
                spent, limit = self._tally.spent, self._tally.max_cost_usd
                raise BudgetReached(
                    f"max_cost_usd: {spent:.4f} of {limit:g} USD are spent, and the next request may cross "
                    "it. Everything received is stored; raise it and run again: with --out RUN_DIR this run "
                    "goes on, without it a new one counts from 0"
                )
            self._wait()
            if self._tally.trust.lost(known=self._call.backlog.answered_before > 0):
                raise none_of_use(self._call.endpoint, self._tally.trust)

    def _next_round(self) -> list[Batch]:
        """Take what waits; until an answer was of use, no more than shows whether any can be."""
        trust = self._tally.trust
        room = MOST_USELESS_AT_FIRST - trust.useless
        if trust.proven or not trust.useless or not 0 < room < len(self._waiting):
            waiting, self._waiting = self._waiting, []
            return waiting
        chosen, rest = self._waiting[:room], self._waiting[room:]
        self._waiting = [batch.part(batch.slots[1:]) for batch in chosen if len(batch.slots) > 1] + rest
        return [batch.part(batch.slots[:1]) for batch in chosen]

    def _submit(self, batches: Sequence[Batch]) -> None:
        """Submit what the budget allows; what it does not waits for the next round."""
        lines: dict[str, Sent] = {}
        bodies: list[bytes] = []
        for batch in batches:
            self._tally.room.give(batch)
            worst = self._tally.worst_cost(batch)
            if not self._tally.affords(worst):
                batch.room = None
                self._waiting.append(batch)
                continue
            self._tally.reserved += worst
            written = write_request(batch, self.dialect)
            lines[written.key] = Sent(batch, worst, written.boundary)
            bodies.append(request_line(written.key, written.body))
        if lines:
            self._check_stop()
            self._open.append(self._submissions.send(lines, bodies))

    def _resume(self) -> None:
        """Take up the batches of earlier runs; their questions wait for them, and are not sent again."""
        slots = {slot.key: slot for batch in self._waiting for slot in batch.slots}
        self._open = self._submissions.resume(slots)
        lines = [line for submitted in self._open for line in submitted.lines.values()]
        for line in lines:
            line.worst = self._tally.worst_cost(line.batch)
        self._tally.reserved += sum(line.worst for line in lines)
        taken = {slot.key for line in lines for slot in line.batch.slots}
        self._waiting = [
            batch.part(left) if len(left) < len(batch.slots) else batch
            for batch in self._waiting
            if (left := [slot for slot in batch.slots if slot.key not in taken])
        ]

    def _wait(self) -> None:
        """Look at the open batches until all have ended, and collect each as it ends."""
        pause = self._patience.poll
        while self._open:
            for submitted in list(self._open):
                look = self._provider.look(submitted.stored.id)
                if look.ended:
                    self._collect(submitted, look)
                    self._open.remove(submitted)
            self._call.tick()
            if self._open:
                self._call.stop.wait(pause)
                self._check_stop()
                pause = min(self._patience.longest_poll, pause * 1.5)

    def _collect(self, submitted: Submitted, look: Look) -> None:
        lines = dict(submitted.lines)
        for file_id in look.files:
            for result in self._provider.results(file_id):
                line = lines.pop(str(result.get("custom_id")), None)
                if line is not None:
                    self._take(line, result, submitted.stored.id)
        for line in lines.values():
            self._ask_again(line.batch.wanted())
        self._tally.reserved -= sum(line.worst for line in submitted.lines.values())
        self._submissions.close(submitted)
        if look.status == "failed" and not self._tally.paid_requests:
            raise EndpointDown(
                f"{self._call.endpoint.base_url}: the batch {submitted.stored.id} failed, {look.message}"
            )

    def _take(self, line: Sent, result: dict[str, Any], batch_id: str) -> None:
        self._tally.requests += 1
        reply, read = read_result(result)
        if isinstance(read, Problem):
            self._take_problem(line.batch.wanted(), read)
            return
        entry, again = receive(
            line,
            read,
            reply=reply,
            tally=self._tally,
            attempts=self._patience.attempts,
            reference=self._call.asking.reference,
            request_id=f"{batch_id}-{result.get('custom_id')}",
            batch_id=batch_id,
        )
        self._keep(entry)
        self._waiting += again

    def _keep(self, entry: Entry) -> None:
        entry.save(self._call.answers)
        self._tally.settle(entry.answers)

    def _take_problem(self, batch: Batch, problem: Problem) -> None:
        if problem.kind in FATAL:
            raise fatal_error(problem, self._call.endpoint)
        doubtful = not self._tally.paid_requests and problem.kind == "request"
        if problem.kind not in ("request", "too_long", "filtered"):
            self._ask_again(batch)
        elif self._tally.room.lower(batch, problem) or (doubtful and self._learn(batch, problem)):
            self._waiting.append(batch)
        elif doubtful and not batch.retried:
            self._doubt(batch, problem)
        elif len(batch.slots) > 1:
            self._waiting += batch.halves()
        else:
            self._keep(fail_alone(batch, problem))

    def _learn(self, batch: Batch, problem: Problem) -> bool:
        """Adapt to a refusal, once for all lines of a round that were refused alike."""
        recipe = batch.slots[0].question.recipe
        known = problem.detail in self._learned or self.dialect.learn(problem, recipe)
        self._learned |= {problem.detail} if known else set()
        return known

    def _doubt(self, batch: Batch, problem: Problem) -> None:
        """Nothing has succeeded yet: find out who else fails."""
        self._refusals += 1
        self._waiting += batch.halves()
        if self._refusals >= MAX_REFUSALS:
            raise all_refused(self._call.endpoint.base_url, problem)

    def _ask_again(self, batch: Batch) -> None:
        batch.faults += 1
        if batch.faults < self._patience.attempts:
            self._waiting.append(batch)
        else:
            self._tally.left += len(batch.slots)

    def _check_stop(self) -> None:
        if self._call.stop.is_set():
            raise Interrupted(
                "stopped; the batches go on at the provider, and the same command collects them"
            )
