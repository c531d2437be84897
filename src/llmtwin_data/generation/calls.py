"""One call of ``ask``: how it asks, and what its parts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from llmtwin_data.answers import AnswerStore
from llmtwin_data.endpoints import Endpoint
from llmtwin_data.endpoints.pacing import Patience
from llmtwin_data.generation.backlog import Backlog
from llmtwin_data.generation.tallies import Tally
from llmtwin_data.prices import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to ask: sizes, limits, price and patience."""

    price: Price
    batch_size: int = 8
    concurrency: int = 64
    timeout_seconds: float = 120.0
    requests_per_minute: int = 0
    max_cost_usd: float = 0.0
    spent_usd: float = 0.0  # of that limit, by earlier calls
    patience: Patience = field(default_factory=Patience)
    pilot: Callable[[], None] | None = None  # called once, in the caller's thread; may raise QualityGate
    pilot_size: int = 32  # chunks answered before it is called
    reference: tuple[str, ...] = ()  # a fixed sample of texts that candidates are compared with
    mode: str = "live"  # or "batch"
    retry_failed: bool = False  # ask again what a stored answer says has failed


@dataclass(frozen=True, slots=True)
class Call:
    """What is handed whole to whoever serves a call."""

    backlog: Backlog
    tally: Tally
    endpoint: Endpoint
    answers: AnswerStore
    asking: Asking
    stop: Event = field(default_factory=Event)
    tick: Callable[[], None] = lambda: None  # tells the caller how far it is
