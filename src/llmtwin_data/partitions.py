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
from llmtwin_data.errors import BudgetReached, Interrupted, LlmTwinError, ParamsError
from llmtwin_data.folders import disk_errors
from llmtwin_data.params import read_environ

# Open questions of a part, below which a process of its own is not worth it.
FEWEST_QUESTIONS = 64
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

    @property
    def stop_file(self) -> Path:
        """Where it looks for what it is told."""
        return self.store.with_suffix(".stop")


def ask_part(part: Part) -> tuple[GenerationReport, LlmTwinError | None]:
    """Ask what has no answer in a part's store; return the report, and what ended it early.

    Begun again after a kill it goes on from its store, and counts what was paid, or may have been, before.
    """
    note, error = Note(part.store), None
    report = GenerationReport(spent_usd=note.spent)  # until the store is read
    if not part.store.exists():
        place = f"{part.store} on each machine of the cluster, found none on {socket.gethostname()}"
        hint = "set partitions: 1, or answers in a folder that all share"
        return report, ParamsError(f"answers: expected {place}; {hint}")
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
    except LlmTwinError as raised:
        error = raised
    except Exception as raised:  # a foreign one may not be made to travel
        error = LlmTwinError(f"{type(raised).__name__}: {raised}")
    note.write(over=int(bool(error) and not isinstance(error, BudgetReached)), spent=report.spent_usd)
    return report, error


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
    session.room, session.was_known = part.room, part.is_known
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
        for part in self._parts if word > self._word else ():
            with disk_errors(part.stop_file):
                part.stop_file.write_text(str(word), encoding="ascii")
        self._word = max(self._word, word)

    def _run_loop(self) -> None:
        try:
            with self.answers.parted():
                self._ask_parts()
        except BaseException as error:
            self.ending = error
        super()._run_loop()

    def _ask_parts(self) -> None:
        """Go round as long as shares of the budget bring answers; leave the rest to be asked here."""
        batches, was, error = list[Batch](), 0, None
        while not (self.backlog.all_formed or self._word):
            batches += self.backlog.read()
        waiting = sum(len(batch.slots) for batch in batches)
        while waiting != was and (error is None or isinstance(error, BudgetReached)):
            counts = self._most_parts, self.asking.concurrency, self.asking.requests_per_minute, len(batches)
            count = min(waiting // FEWEST_QUESTIONS, *filter(None, counts))
            if count < 2 or self._word:
                break
            error = self._go_round([batches[number::count] for number in range(count)], waiting)
            before, left = self.backlog.answered_before, list[Batch]()
            for some in blocks(batches, 1_000):
                left += self.backlog.unanswered(some)
            self.backlog.answered_before = before
            batches, was, waiting = left, waiting, sum(len(batch.slots) for batch in left)
        self.ending = None if isinstance(error, BudgetReached) else error
        self.backlog.fresh.extend(batches)

    def _go_round(self, parts: list[list[Batch]], waiting: int) -> BaseException | None:
        """Ask each part by a process of its own, take in what comes back, and return what ended it early."""
        # As good as nothing, for 0 is no limit.
        budget = max(1e-12, self.asking.max_cost_usd - self.spent) if self.asking.max_cost_usd else 0.0
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
                    max_cost_usd=budget * sum(len(batch.slots) for batch in batches) / waiting,
                ),
                self.room,
                self.is_known or self.trust.proven,
            )
            for number, batches in enumerate(parts)
        ]
        try:
            if self._word:  # told before they were there
                return None
            results: Sequence[tuple[GenerationReport, Exception | None]]
            try:
                results = [*self._workers.map(ask_part, self._parts)]
            except Exception as error:  # such as that a process died too often; what was paid counts
                results = [(_paid_for(part), error) for part in self._parts]
            reports, errors = zip(*results, strict=True)
            in_flight = sum(report.max_in_flight for report in reports)
            for report in reports:
                add_report(self.report, report)
                self.spent += report.spent_usd
                self.trust.proven |= report.answered > 0
                self.dialect.mode = report.mode or self.dialect.mode
            self.report.max_in_flight = max(self.report.max_in_flight, in_flight)
        finally:
            self._parts = []
            self.answers.take_in()
        self.backlog.longest = self.report.too_long
        # What ended others, and what a share of the budget was too small for, come last.
        return min(filter(None, errors), key=_rank, default=None)


def _rank(error: BaseException) -> int:
    return isinstance(error, Interrupted) + 2 * isinstance(error, BudgetReached)


def _share(whole: int, number: int, count: int) -> int:
    return whole * (number + 1) // count - whole * number // count
