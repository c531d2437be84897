"""The caller's side of a running engine: a loop in a thread of its own, and all that may interrupt it."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from llmtwin_data.errors import Interrupted
from llmtwin_data.generation.engine import Engine

# How often progress is shown and the stop event is looked at.
TICK_SECONDS = 0.2
# After a second interrupt: for storing that calls were given up.
LAST_SECONDS = 1.5
STOPPED = "stopped; everything answered is stored, and the same command goes on"


class Steering:
    """Runs an engine, and calls pilot and progress in the caller's thread, where notebooks draw."""

    def __init__(
        self,
        make_engine: Callable[[Callable[[str], None]], Engine],
        *,
        pilot: Callable[[], None] | None,
        progress: Callable[[], None] | None,
        stop: threading.Event,
    ) -> None:
        self.signals: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.engine = make_engine(self.signals.put)
        self.error: BaseException | None = None
        self._pilot = pilot
        self._progress = progress
        self._stop = stop
        self._interrupts = 0
        self._over = False
        self._loop = new_loop()

    def run(self) -> None:
        """Return when the engine has ended, whatever happened; two interrupts end it at once."""
        thread = threading.Thread(target=self._run_loop, name="llmtwin-engine", daemon=True)
        thread.start()
        try:
            with terminate_sets(self._stop):
                while not self._over:
                    self._listen_safely()
        finally:
            if not self._over:  # never leave an engine behind that goes on sending
                self._tell(self.engine.halt, Interrupted(STOPPED))
                self._tell(self.engine.abort)
        thread.join(LAST_SECONDS)

    def _listen_safely(self) -> None:
        try:
            self._listen()
        except KeyboardInterrupt:
            self._interrupted()
        except Exception as error:  # the pilot's verdict, or a fault of who shows progress
            self._tell(self.engine.halt, error)

    def _listen(self) -> None:
        with suppress(queue.Empty):
            word = self.signals.get(timeout=TICK_SECONDS)
            self._over = word == "done"
            if word == "pilot" and self._pilot:
                self._pilot()
                self._tell(self.engine.go_on)
        if self._stop.is_set():
            self._tell(self.engine.halt, Interrupted(STOPPED))
        if self._progress:
            self._progress()

    def _interrupted(self) -> None:
        self._interrupts += 1
        self._tell(self.engine.halt, Interrupted(STOPPED))
        if self._interrupts > 1:
            self._tell(self.engine.abort)
            with suppress(queue.Empty, KeyboardInterrupt):
                while self.signals.get(timeout=LAST_SECONDS) != "done":
                    pass
            self._over = True

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(what, *arguments)

    def _run_loop(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self.engine.run())
        except BaseException as error:
            self.error = error
        finally:
            self._loop.close()
            self.signals.put("done")


def new_loop() -> asyncio.AbstractEventLoop:
    """Give the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextmanager
def terminate_sets(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM stop the run in good order where nobody else has claimed it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
