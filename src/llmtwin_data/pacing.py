"""How fast an endpoint is asked: slots that adapt, pauses it demands, and when patience ends."""

from __future__ import annotations

from dataclasses import dataclass


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
    connect: float = 5.0
    drain: float = 20.0  # for calls in flight when the run is told to stop
