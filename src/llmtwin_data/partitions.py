"""Questions asked in parts at the same time, each by a process with a store of its own."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Event
from typing import Any

from llmtwin_data.answers import AnswerStore, Note
from llmtwin_data.cluster import Workers, blocks
from llmtwin_data.endpoints import Endpoint, endpoint_of
from llmtwin_data.engine import STOPPED, Asking, Backlog, Batch, GenerationReport, LiveSession, Room
from llmtwin_data.errors import BudgetReached, Interrupted, KeyRejected, LlmTwinError, ParamsError
from llmtwin_data.folders import disk_errors
from llmtwin_data.params import read_environ

# Open questions of a part, below which a process of its own is not worth it.
FEWEST_QUESTIONS = 64
# Batches that one part asks before all others, until an answer is of use.
AHEAD = 8
STOP, END = 1, 2  # what a part is told: to drain, or to end at once


@dataclass(frozen=True, slots=True)
class Part:
    """What one process is to ask, and the store that it answers into; no key travels with it."""

    batches: list[Batch]
    store: Path
    endpoint: Endpoint
    asking: Asking
    room: Room
    is_known: bool  # the endpoint, by answers in the main store
    is_proven: bool  # the same by answers of this run, so that its ``learnt`` holds as well

    @property
    def stop_file(self) -> Path:
        """Where it looks for what it is told."""
        return self.store.with_suffix(".stop")


def ask_part(part: Part) -> tuple[GenerationReport, LlmTwinError | None, dict[Any, Any]]:
    """Ask what has no answer in a part's store; return the report, what ended it early, and what it learnt.

    Begun again after a kill it goes on from its store, and counts what was paid, or may have been, before.
    """
    note = Note(part.store)
    error: LlmTwinError | None = None
    report = GenerationReport(spent_usd=note.spent)  # until the store is read
    if not part.store.exists():
        place = f"{part.store} on each machine of the cluster, found none on {socket.gethostname()}"
        hint = "set partitions: 1, or answers in a folder that all share"
        return report, ParamsError(f"answers: expected {place}; {hint}"), {}
    try:
        with AnswerStore(part.store, alone=True) as store, store.claims() as claims:
            report = _of_before(store, note)
            if _word_to(part):
                raise Interrupted(STOPPED)
            backlog = Backlog((), store, claims, batch_size=1)
            backlog.give(part.batches)
            session = _session_of(part, backlog, store, note, spent_usd=report.spent_usd)
            session.run()
            ended = session.conclude()
            add_report(report, session.report)
            if ended:
                raise ended
    except KeyRejected as raised:
        error = KeyRejected(f"{raised}, in the environment or .env of {socket.gethostname()}")
    except LlmTwinError as raised:
        error = raised
    except Exception as raised:  # a foreign one may not be made to travel
        error = LlmTwinError(f"{type(raised).__name__}: {raised}")
    note.write(over=int(bool(error) and not isinstance(error, BudgetReached)), spent=report.spent_usd)
    return report, error, part.endpoint.learnt


def _session_of(
    part: Part, backlog: Backlog, store: AnswerStore, note: Note, *, spent_usd: float
) -> LiveSession:
    """Return what asks, does what the part is told, and notes how far it is."""
    stop = Event()

    def look(settled: int, failed: int) -> None:
        note.write(settled=settled, failed=failed)
        if word := _word_to(part):
            stop.set()
        if word == END:
            raise KeyboardInterrupt

    own = endpoint_of(part.endpoint.base_url, model=part.endpoint.model, environ=read_environ())
    session = LiveSession(
        backlog,
        endpoint=replace(part.endpoint, api_key=own.api_key),
        answers=store,
        asking=replace(part.asking, spent_usd=spent_usd, pledge=note.pledge),
        stop=stop,
        progress=look,
    )
    session.room, session.was_known, session.trust.proven = part.room, part.is_known, part.is_proven
    return session


def _word_to(part: Part) -> int:
    with suppress(OSError, ValueError):
        return int(part.stop_file.read_text(encoding="ascii"))
    return 0


def _of_before(store: AnswerStore, note: Note) -> GenerationReport:
    """Return what a process has done for this part that was killed."""
    paid = store.totals()
    names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd")
    return GenerationReport(
        **{name: paid[name] for name in names},
        paid_requests=paid["requests"],
        spent_usd=max(note.spent, paid["cost_usd"]),
        models={model: its.get("requests", 0) for model, its in paid["models"].items() if model},
        answered=paid["answers"].get("ok", 0),
        failed=paid["answers"].get("failed", 0),
    )


def _paid_for(part: Part) -> GenerationReport:
    with AnswerStore(part.store, alone=True) as store:
        return _of_before(store, Note(part.store))


def add_report(total: GenerationReport, part: GenerationReport) -> None:
    """Count what a part's report says in the report of the whole."""
    for column in fields(part):
        before, more = getattr(total, column.name), getattr(part, column.name)
        if isinstance(more, dict):
            more = dict(Counter(before) + Counter(more))
        elif column.name in ("too_long", "cannot_copy", "max_in_flight"):
            more = max(before, more)
        elif not isinstance(more, str | None):
            more = None if before is None else before + more
        setattr(total, column.name, more)


class PartedSession(LiveSession):
    """Ask in parts at the same time; the store takes in what they were answered, and the rest is asked here.

    Batches are those of one process. Budget, concurrency and requests a minute are shared out; what shares of
    the budget were too small for, what other processes are asking, and few questions are the rest.
    """

    def __init__(self, backlog: Backlog, *, parts: int, workers: Workers, **given: Any) -> None:
        super().__init__(backlog, **given)
        self._most_parts, self._workers, self._word = parts, workers, 0
        self._parts: list[Part] = []  # that are asked now

    def tick(self) -> None:
        """Show how far the parts are; an error that ended one ends the others."""
        notes = [Note(part.store) for part in self._parts]
        if any(note.over for note in notes) and not self._word:
            self._tell(STOP)
        if self.progress:
            done = self.backlog.repeated + self.settled()
            failed = self.report.failed + sum(note.failed for note in notes)
            self.progress(done + sum(note.settled for note in notes), failed)

    def _from_outside(self, what: Callable[..., object], *arguments: object) -> None:
        self._tell(STOP if what == self.halt else END)
        super()._from_outside(what, *arguments)

    def _tell(self, word: int) -> None:
        """Tell each part to drain, or to end at once."""
        before, self._word = self._word, max(self._word, word)  # first, for parts that are not there yet
        for part in self._parts if word > before else ():
            with disk_errors(part.stop_file):
                part.stop_file.write_text(str(word), encoding="ascii")

    def _run_loop(self) -> None:
        try:
            with self.answers.parted():
                self._ask_parts()
        except BaseException as error:
            self.ending = error
        super()._run_loop()

    def _ask_parts(self) -> None:
        """Go round as long as shares of the budget bring answers; leave the rest to be asked here.

        One part goes ahead: a wrong key costs one request, and a few bad texts are no part's first ones.
        """
        batches, was, error = list[Batch](), 0, None
        while not (self.backlog.all_formed or self._word):
            batches += self.backlog.read()
        waiting = _questions(batches)
        while waiting != was and (error is None or isinstance(error, BudgetReached)):
            counts = self._most_parts, self.asking.concurrency, self.asking.requests_per_minute, len(batches)
            count = min(waiting // FEWEST_QUESTIONS, *filter(None, counts))
            if count < 2 or self._word:
                break
            parts, left = [batches[number::count] for number in range(count)], list[Batch]()
            if not self._is_proven:
                parts, left = [batches[:AHEAD]], batches[AHEAD:]
            errors = self._go_round(parts)
            for part, ended in zip(parts, errors, strict=True):
                unanswered = self._unanswered(part)
                left += unanswered if ended else []
                self.left += 0 if ended else _questions(unanswered)
            # What ended others, and what a share of the budget was too small for, come last.
            error = min(filter(None, errors), key=_rank, default=None)
            batches, was, waiting = left, waiting, _questions(left)
        self.ending = None if isinstance(error, BudgetReached) else error
        self.backlog.fresh.extend(batches)

    @property
    def _is_proven(self) -> bool:
        """Return whether answers were of use, and this process knows what requests they came by."""
        return self.trust.proven or (self.is_known and self._learnt_as in self.endpoint.learnt)

    def _unanswered(self, batches: list[Batch]) -> list[Batch]:
        before, left = self.backlog.answered_before, list[Batch]()
        for some in blocks(batches, 1_000):
            left += self.backlog.unanswered(some)
        self.backlog.answered_before = before
        return left

    def _go_round(self, parts: list[list[Batch]]) -> Sequence[Exception | None]:
        """Ask each part by a process of its own, take in what comes, and return what ended each early."""
        # As good as nothing, for 0 is no limit.
        budget = max(1e-12, self.asking.max_cost_usd - self.spent) if self.asking.max_cost_usd else 0.0
        a_question = budget / sum(map(_questions, parts))
        self._parts = [
            Part(
                batches,
                self.answers.new_part(number),
                replace(self.endpoint, api_key=""),
                replace(
                    self.asking,
                    concurrency=_share(self.asking.concurrency, number, len(parts)),
                    requests_per_minute=_share(self.asking.requests_per_minute, number, len(parts)),
                    pledge=None,
                    max_cost_usd=a_question * _questions(batches),
                ),
                self.room,
                self.is_known or self.trust.proven,
                self._is_proven,
            )
            for number, batches in enumerate(parts)
        ]
        try:
            # Unless told before they were there.
            return [None] * len(parts) if self._word else self._ask_each()
        finally:
            self._parts = []
            self.answers.take_in()

    def _ask_each(self) -> Sequence[Exception | None]:
        results: Sequence[tuple[GenerationReport, Exception | None, dict[Any, Any]]]
        try:
            results = [*self._workers.map(ask_part, self._parts)]
        except Exception as error:  # such as that a process died too often; what was paid counts
            results = [(_paid_for(part), error, {}) for part in self._parts]
        for report, _, learnt in results:
            add_report(self.report, report)
            self.spent += report.spent_usd
            self.trust.proven |= report.answered > 0 and self._learnt_as in learnt
            self.endpoint.learnt.update(learnt)
        self.dialect = self.endpoint.learnt.get(self._learnt_as, self.dialect)
        self.backlog.longest = self.report.too_long
        in_flight = sum(report.max_in_flight for report, *_ in results)
        self.report.max_in_flight = max(self.report.max_in_flight, in_flight)
        return [error for _, error, _ in results]


def _questions(batches: list[Batch]) -> int:
    return sum(len(batch.slots) for batch in batches)


def _rank(error: BaseException) -> int:
    return isinstance(error, Interrupted) + 2 * isinstance(error, BudgetReached)


def _share(whole: int, number: int, count: int) -> int:
    return whole * (number + 1) // count - whole * number // count
