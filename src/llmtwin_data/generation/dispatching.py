"""Who may send next: idle slots and waiting batches brought together as pace, budget and clock allow."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from llmtwin_data.endpoints.pacing import Pace
from llmtwin_data.errors import BudgetReached
from llmtwin_data.generation.backlog import Backlog
from llmtwin_data.generation.exchanges import Job
from llmtwin_data.generation.tallies import Tally


class Dispatch:
    """Hands out jobs to whoever waits in :meth:`turn`, until it is over."""

    def __init__(self, backlog: Backlog, pace: Pace, tally: Tally, *, low_water: int) -> None:
        self.over = asyncio.Event()
        self.hungry = asyncio.Event()  # few fresh batches are left
        self.quiet = asyncio.Event()  # nothing waits and nothing is in flight
        self.fed = False  # no more will come
        self.ending: Exception | None = None
        self._backlog = backlog
        self._pace = pace
        self._tally = tally
        self._low_water = low_water
        self._loop = asyncio.get_running_loop()
        self._idle: deque[asyncio.Future[Job | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_moment = -math.inf
        self.hungry.set()

    async def turn(self) -> Job | None:
        """Wait for a job; None when it is over. Hand it back to :meth:`release`."""
        turn: asyncio.Future[Job | None] = self._loop.create_future()
        self._idle.append(turn)
        self.match()
        return await turn

    def release(self, job: Job) -> None:
        """Free the slot and the money that a job held."""
        self._pace.end()
        self._tally.reserved -= job.worst

    def match(self) -> None:
        """Give jobs to idle slots, as many as may start now; notice when nothing is left."""
        while self._idle and not self.over.is_set() and (job := self._next_job()) is not None:
            self._idle.popleft().set_result(job)
        if self._pace.in_flight == 0 and self._backlog.empty():
            self.quiet.set()
            if self.fed:
                self.over.set()
        if self.over.is_set():
            self._dismiss()

    def end(self) -> None:
        """Hand out nothing more."""
        self.over.set()
        self._dismiss()

    def is_last(self) -> bool:
        """Tell whether nothing is left but one job in flight."""
        return self.fed and self._backlog.empty() and self._pace.in_flight == 1

    def _next_job(self) -> Job | None:
        now = self._loop.time()
        wait = self._pace.wait()
        trust, alone = self._tally.trust, self._tally.cannot_copy
        chosen = {"fresh_first": trust.doubtful, "alone": alone, "doubted_alone": trust.alone}
        batch = self._backlog.pop(now, **chosen) if wait == 0 else None
        if len(self._backlog.fresh) < self._low_water:
            self.hungry.set()
        if batch is None:
            self._wake_at(now + wait if wait else self._backlog.next_moment())
            return None
        self._tally.room.give(batch)
        worst = self._tally.worst_cost(batch)
        if not self._tally.affords(worst):
            self._backlog.push_back(batch)
            self._stop_paying(worst)
            return None
        self._tally.reserved += worst
        return Job(batch, worst, started=self._pace.start())

    def _stop_paying(self, worst: float) -> None:
        if self._pace.in_flight:
            return  # what is in flight may turn out cheaper than its worst case
        tally = self._tally
        self.ending = BudgetReached(
            f"max_cost_usd: {tally.spent:.4f} USD are spent, the next request may cost {worst:.4f}, "
            f"and the limit is {tally.max_cost_usd:g}. Everything received is stored; "
            "raise it and run again: with --out RUN_DIR this run goes on, without it a new one counts from 0"
        )
        self.over.set()

    def _wake_at(self, moment: float | None) -> None:
        if moment is None or moment == math.inf:
            return
        if self._loop.time() < self._wake_moment <= moment:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_moment = moment
        self._timer = self._loop.call_at(moment, self._on_time)

    def _on_time(self) -> None:
        self._wake_moment = -math.inf  # a timer may come a little early, and is then set again
        try:
            self.match()
        except Exception as error:  # nobody waits for a timer, so it has to end the run itself
            self.ending = error
            self.end()

    def _dismiss(self) -> None:
        while self._idle:
            turn = self._idle.popleft()
            if not turn.done():
                turn.set_result(None)
