"""The engine: fixed slots that take the next batch as soon as they are free, and the drain at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from llmtwin_data.endpoints.connections import Connection, Reply, allowed_connections
from llmtwin_data.endpoints.pacing import Pace
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.generation.calls import Call
from llmtwin_data.generation.dialects import Dialect
from llmtwin_data.generation.dispatching import Dispatch
from llmtwin_data.generation.exchanges import Exchange, Job
from llmtwin_data.generation.recording import Recorder

# Questions looked up at once while all of them have answers.
READ_ON = 1_000
# Batches formed at once, so that texts that begin alike find room in different ones.
FEWEST_BATCHES = 8
# Replies that share a commit without waiting for more; fewer where fewer are in flight.
ENOUGH = 8


class Engine:
    """One run over a backlog; made in any thread, run in the thread of its own loop."""

    def __init__(self, call: Call, say: Callable[[str], None]) -> None:
        endpoint = call.endpoint
        self.dialect = Dialect(endpoint.model, tokens_field=endpoint.tokens_field, effort=endpoint.effort)
        self.ending: Exception | Problem | None = None
        self.most_in_flight = 0
        self.call = call
        self._asking = call.asking
        self._slots = allowed_connections(call.asking.concurrency)
        self._say = say
        self._stopped = False
        self._abandoned: list[Job] = []
        self._pilot: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Ask until nothing is left, or until told or forced to stop; then drain what is in flight."""
        patience, clock = self._asking.patience, asyncio.get_running_loop().time
        per_minute = self._asking.requests_per_minute
        self._pace = Pace(patience, ceiling=self._slots, requests_per_minute=per_minute, now=clock)
        self._dispatch = Dispatch(self.call.backlog, self._pace, self.call.tally, low_water=self._slots)
        connection = Connection(
            self.call.endpoint.base_url,
            api_key=self.call.endpoint.api_key,
            concurrency=self._slots,
            connect_seconds=patience.connect,
        )
        with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as reader:
            async with connection:
                recorder = Recorder(self.call.answers, writer, enough=min(self._slots // 8, ENOUGH))
                self._exchange = self._make_exchange(connection, recorder)
                await self._live(reader)
        self.most_in_flight = self._pace.most_in_flight
        self.ending = self.ending or self._dispatch.ending

    def halt(self, reason: Exception | Problem) -> None:
        """Start no new call; the first reason given is the one that counts."""
        self.ending = self.ending or reason
        self._stopped = True
        if self._tasks:
            self._dispatch.end()

    def abort(self) -> None:
        """Give up what is in flight, too."""
        for task in self._tasks:
            task.cancel()

    def go_on(self) -> None:
        """Send more: the caller has looked at the pilot."""
        if self._pilot and not self._pilot.done():
            self._pilot.set_result(None)

    def _make_exchange(self, connection: Connection, recorder: Recorder) -> Exchange:
        return Exchange(
            call=self.call,
            pace=self._pace,
            dialect=self.dialect,
            connection=connection,
            recorder=recorder,
            now=asyncio.get_running_loop().time,
            halt=self.halt,
            is_last=self._dispatch.is_last,
        )

    async def _live(self, reader: ThreadPoolExecutor) -> None:
        feeder = self._spawn(self._feed(reader))
        workers = [self._spawn(self._work()) for _ in range(self._slots)]
        if self._stopped:
            self._dispatch.end()
        await self._dispatch.over.wait()
        feeder.cancel()
        _, late = await asyncio.wait(workers, timeout=self._asking.patience.drain)
        for task in late:
            task.cancel()
        await asyncio.gather(feeder, *workers, return_exceptions=True)
        await self._guard(self._keep_abandoned())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(self._guard(work)))
        return self._tasks[-1]

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # whatever it is, the run ends by it, after what is in flight is stored
            self.halt(error)

    async def _keep_abandoned(self) -> None:
        """Store that calls which were given up may have been paid for."""
        for job in self._abandoned:
            self.call.tally.requests += 1
            seconds = asyncio.get_running_loop().time() - job.started
            await self._exchange.keep_unknown(job, Reply(0, {}, "", seconds, "abandoned"))

    async def _feed(self, reader: ThreadPoolExecutor) -> None:
        loop, backlog, dispatch = asyncio.get_running_loop(), self.call.backlog, self._dispatch
        pilot_size = self._asking.pilot_size if self._asking.pilot else 0
        window, blocks = pilot_size or self._slots, 1
        while not dispatch.fed:
            await dispatch.hungry.wait()
            batches = await loop.run_in_executor(reader, partial(backlog.next_window, window, blocks=blocks))
            if batches and pilot_size and backlog.seen > pilot_size and self._pilot is None:
                await self._hold_pilot()
            window = max(self._slots, FEWEST_BATCHES) * backlog.batch_size
            # Where nothing is left to ask, reading on costs less in larger pieces.
            blocks = 1 if batches else -(-READ_ON // window)
            backlog.fresh.extend(batches)
            dispatch.fed = backlog.exhausted
            if len(backlog.fresh) >= self._slots:
                dispatch.hungry.clear()
            dispatch.match()

    async def _hold_pilot(self) -> None:
        self._dispatch.quiet.clear()
        self._dispatch.match()
        await self._dispatch.quiet.wait()
        self._pilot = asyncio.get_running_loop().create_future()
        self._say("pilot")
        await self._pilot

    async def _work(self) -> None:
        while (job := await self._dispatch.turn()) is not None:
            try:
                if not self._dispatch.over.is_set():
                    await self._exchange.serve(job)
            except asyncio.CancelledError:
                self._abandoned.append(job)
                raise
            finally:
                self._dispatch.release(job)
