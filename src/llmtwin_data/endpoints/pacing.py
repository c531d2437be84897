"""How fast an endpoint is asked: slots that adapt, pauses it demands, and when patience ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# More in flight after each success of a slow start, at least: 1, 8, 64 in one round trip each.
SLOW_START_STEP = 7


@dataclass(frozen=True, slots=True)
class Patience:
    """Every wait of the engine, in seconds, and every limit on trying again."""

    attempts: int = 4  # useless answers or own faults of one chunk before it is given up
    backoff: float = 0.5  # first wait after a fault, doubles
    longest_backoff: float = 60.0
    longest_retry_after: float = 120.0  # above: the run ends and says until when
    breaker: int = 5  # faults in a row before only single probes are sent
    first_contact: float = 8.0  # an endpoint that never answered is given up after this
    outage: float = 600.0  # an endpoint that did answer is given up after this
    connect: float = 3.5  # so that two tries fit into first_contact
    drain: float = 20.0  # for calls in flight when the run is told to stop
    poll: float = 5.0  # between looks at a provider's batch, half as long again each time
    longest_poll: float = 60.0

    def backoff_after(self, faults: int) -> float:
        """Give the wait after this many faults in a row, at least one."""
        return min(self.longest_backoff, self.backoff * 2.0 ** min(faults - 1, 30))


def retry_after(headers: Mapping[str, str], *, wall_clock: datetime | None = None) -> float | None:
    """Give the seconds a server asks to wait, 0 or more; None if it does not say or says nonsense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _number(headers.get(name, ""))
        if seconds is not None:
            return seconds * unit
    return _seconds_until(headers.get("retry-after", ""), wall_clock or datetime.now(UTC))


class Pace:
    """Calls in flight, by additive increase and multiplicative decrease, with a breaker.

    One call at a time until the first success, so that a wrong key or model costs one request;
    then slow start; then, after the first cut, one sixteenth of the ceiling more each round trip.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        ceiling: int,
        requests_per_minute: int = 0,
        now: Callable[[], float],
    ) -> None:
        self.patience = patience
        self.ceiling = ceiling
        self.limit = 1.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.successes = 0
        self.strikes = 0  # faults since the last success
        self.rounds = 0  # the same, a burst counted once
        self.cuts = 0
        self.reached = False  # whether anything ever got through to the endpoint
        self._now = now
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._step = max(1.0, ceiling / 16)
        self._slow_start = True
        self._last_cut = self._last_round = -math.inf
        self._first_strike = 0.0
        self._blocked_until = self._next_by_rate = -math.inf

    def wait(self) -> float:
        """Give the seconds until a call may start: 0 now, infinity when one must end first."""
        if self.in_flight >= int(self.limit):
            return math.inf
        return max(0.0, max(self._blocked_until, self._next_by_rate) - self._now())

    def start(self) -> float:
        """Count a call in flight; give its start, to be handed back with what became of it."""
        now = self._now()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self._interval:
            self._next_by_rate = max(now, self._next_by_rate) + self._interval
        return now

    def end(self) -> None:
        """Free the slot of a call."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """Open up: the endpoint answered."""
        if self.strikes >= self.patience.breaker:
            self._slow_start = True  # an outage is over; it says nothing about how much it can take
        self.successes += 1
        self.strikes = self.rounds = 0
        self.reached = True
        # By its root, any ceiling is reached two round trips after the first success.
        opening = max(SLOW_START_STEP, math.sqrt(self.ceiling) - 1)
        gain = opening if self._slow_start else self._step / self.limit
        self.limit = min(float(self.ceiling), self.limit + gain)

    def doubted(self) -> None:
        """Send one call at a time: the endpoint answered, but what it says is of no use."""
        self.strikes = self.rounds = 0
        self.reached = self._slow_start = True
        self.limit = 1.0

    def overloaded(self, started: float, *, wait: float | None) -> None:
        """Cut once for a burst: only for a call that started after the last cut."""
        self._strike(started, reached=True)
        self._block(wait or 0.0)
        if started <= self._last_cut:
            return
        self.cuts += 1
        self.rounds += 1
        self._last_cut = self._now()
        self._slow_start = False
        self.limit = max(1.0, self.limit / 2) if self.rounds == 1 else 1.0
        if self.rounds > 1 and (wait or 0.0) < 1.0:
            self._block(self.patience.backoff_after(self.rounds))

    def faulted(self, started: float, *, reached: bool) -> None:
        """Count a fault of server or network; enough of them in a row leave only single probes."""
        self._strike(started, reached=reached)
        if self.successes and self.strikes < self.patience.breaker:
            return
        self.limit = 1.0
        if started > self._last_round:
            self.rounds += 1
            self._last_round = self._now()
            self._block(self.patience.backoff_after(self.rounds))

    def hopeless(self, call_seconds: float) -> bool:
        """Tell whether patience would be over before one more call, as slow as the last, had ended."""
        ahead = self._now() + max(0.0, self._blocked_until - self._now()) + call_seconds
        limit = self.patience.outage if self.reached else self.patience.first_contact
        return self.strikes > 0 and ahead - self._first_strike > limit

    def seconds_struck(self) -> float:
        """Give how long nothing but faults came back."""
        return self._now() - self._first_strike if self.strikes else 0.0

    def _strike(self, started: float, *, reached: bool) -> None:
        if not self.strikes:
            self._first_strike = started
        self.strikes += 1
        self.reached = self.reached or reached

    def _block(self, seconds: float) -> None:
        self._blocked_until = max(self._blocked_until, self._now() + seconds)


def _number(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
