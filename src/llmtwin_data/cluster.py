"""Where work over rows is done: in this process, or on all cores of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

import pandas as pd

from llmtwin_data.errors import LlmTwinError

T = TypeVar("T")
Part = TypeVar("Part")
Result = TypeVar("Result")

# Rows of one piece of work: some tenths of a second, and a few MB on the way. No result depends on it.
BLOCK_ROWS = 2_000
# Rows from which on it is worth a second to start processes.
FEWEST_ROWS = 5_000
# Into so many buckets, by the leading bits of a hash, work by key is parted. No result depends on it.
BUCKETS = 16
# Copies arrays and Arrow's columns once less than Python 3.11's own choice.
PROTOCOL = 5
# How often a piece of work is done again whose process has died.
MOST_DEATHS = 16
# Between looks of a process whether the one that started it is there.
LOOK_SECONDS = 0.3


class Workers:
    """Where the pieces of a step are worked on: here, one after the other.

    What is given to them is a function of a module, and a part: a block of rows, or all that has one key.
    """

    count = 1  # of parts that are worked on at once

    def map(
        self, function: Callable[..., Result], parts: Iterable[Any], *, given: Sequence[Any] = ()
    ) -> Iterator[Result]:
        """Return ``function(part, *given)`` of each part, in the order of the parts."""
        return (function(part, *given) for part in parts)

    def shuffle(
        self,
        sketch: Callable[..., Sequence[T]],
        parts: Iterable[Any],
        verify: Callable[[list[T]], Result],
        *,
        given: Sequence[Any] = (),
    ) -> list[Result]:
        """Return what ``verify`` makes of each bucket: what each part's sketch holds for it, in their order.

        ``sketch(part, *given)`` returns one item for each of the `BUCKETS`, which goes as it is verified.
        """
        sketches = [deque(each) for each in self.map(sketch, parts, given=given)]
        buckets = ([each.popleft() for each in sketches] for _ in range(BUCKETS))
        return [*self.map(verify, buckets)]


HERE = Workers()


class Processes(Workers):
    """The same in processes of this machine, which end with the one that started them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(count):
            self._idle.put(_Process())

    def map(
        self, function: Callable[..., Result], parts: Iterable[Any], *, given: Sequence[Any] = ()
    ) -> Iterator[Result]:
        """Return ``function(part, *given)`` of each part, in the order of the parts."""
        task, waiting = pickle.dumps((function, tuple(given)), PROTOCOL), deque[Future[Result]]()
        with ThreadPoolExecutor(self.count) as threads:
            try:
                for part in parts:
                    waiting.append(threads.submit(self._work, task, part))
                    if len(waiting) > 2 * self.count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _work(self, task: bytes, part: Any) -> Any:
        process = self._idle.get()
        try:
            return process.work(task, pickle.dumps(part, PROTOCOL))
        finally:
            self._idle.put(process)


class _Process:
    """A Python that is given functions and parts by its stdin, until that is closed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._task = b""

    def work(self, task: bytes, part: bytes) -> Any:
        """Return the function's result, or raise its error; a process that dies is replaced."""
        for _ in range(MOST_DEATHS):
            with suppress(EOFError, OSError, pickle.UnpicklingError):
                done, result = self._ask(task, part)
                break
            self._process = None
        else:
            raise LlmTwinError(
                f"a process died {MOST_DEATHS} times at the same piece of work, mostly for want of memory; "
                "free some, or set limit"
            )
        if done:
            return result
        raise result

    def _ask(self, task: bytes, part: bytes) -> tuple[bool, Any]:
        if not self._process:
            command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
            environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ)
            self._task = b""
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        pickle.dump((None if task is self._task else task, part), asked, PROTOCOL)
        asked.flush()
        self._task = task
        answer: tuple[bool, Any] = pickle.load(told)
        return answer


def serve() -> None:
    """Work for the process that started this one, until it ends, also in the middle of a piece of work."""
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the starter's to end in good order
    asked, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not come between
    function, given = None, ()
    with suppress(EOFError):
        while True:
            task, part = pickle.load(asked)
            try:
                function, given = pickle.loads(task) if task else (function, given)
                assert function is not None
                answer = True, function(pickle.loads(part), *given)
            except BaseException as error:
                answer = False, error
            pickle.dump(answer, told, PROTOCOL)
            told.flush()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def workers_of(rows: int, cluster: str = "") -> Workers:
    """Return where so many rows are best worked on: few are here, also if there is a cluster."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _processes(count) if rows >= FEWEST_ROWS and count > 1 else HERE


@cache
def _processes(count: int) -> Processes:
    return Processes(count)


def blocks(rows: Sequence[Any] | pd.DataFrame, size: int = BLOCK_ROWS) -> Iterator[Any]:
    """Return the rows in pieces, of a table or a list; an empty one for none."""
    pick = rows.iloc if isinstance(rows, pd.DataFrame) else rows
    return (pick[at : at + size] for at in range(0, len(rows) or 1, size))


def by_row(
    table: pd.DataFrame, function: Callable[..., pd.DataFrame], *given: Any, workers: Workers = HERE
) -> pd.DataFrame:
    """Return what ``function(block, *given)`` returns of each block of rows, one below the other."""
    return pd.concat([*workers.map(function, blocks(table), given=given)])
