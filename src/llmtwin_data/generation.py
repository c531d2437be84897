"""Questions in, stored answers out; and the pairs and ledger rows that stored answers make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from llmtwin_data.pacing import Patience

if TYPE_CHECKING:
    from llmtwin_data.answers import AnswerStore
    from llmtwin_data.chunks import Chunk
    from llmtwin_data.endpoints import Endpoint
    from llmtwin_data.prices import Price
    from llmtwin_data.prompts import Question


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the chunk it was written for, with its origin."""

    chunk: Chunk
    k: int  # from 1
    instruction: str
    prompt: str
    prompt_sha256: str
    model: str
    answer_key: str

    @property
    def id(self) -> str:
        """Name the place in the contents, not the wording: equal for every model and prompt."""
        chunk = self.chunk
        place = (chunk.collection, chunk.content_id, str(chunk.start), str(chunk.end), str(self.k))
        return hashlib.sha256("\0".join(place).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one chunk and instruction, and what that cost."""

    content_id: str
    start: int
    end: int
    k: int
    state: str
    reason: str = ""
    value: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    collection: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to ask: sizes, limits, price and patience."""

    price: Price
    batch_size: int = 8
    concurrency: int = 64
    timeout_seconds: float = 120.0
    requests_per_minute: int = 0
    max_cost_usd: float = 0.0
    patience: Patience = field(default_factory=Patience)
    pilot: Callable[[], None] | None = None  # called once, in the caller's thread; may raise QualityGate
    pilot_size: int = 32  # chunks answered before it is called
    mode: str = "live"  # or "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """What one call of :func:`ask` did; ``questions`` counts different ones, ``repeated`` the others."""

    questions: int = 0
    repeated: int = 0
    answered_before: int = 0
    answered: int = 0
    failed: int = 0
    pending: int = 0
    requests: int = 0
    paid_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    stopped: str = ""
    max_in_flight: int = 0
    mode: str = ""
    models: dict[str, int] = field(default_factory=dict)


def ask(
    questions: Iterable[Question],
    *,
    endpoint: Endpoint,
    answers: AnswerStore,
    asking: Asking,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> GenerationReport:
    """Ask every question that has no stored answer and store what comes back."""
    raise NotImplementedError


def collect_pairs(
    chunks: Iterable[Chunk], questions_for: Callable[[Chunk], Question], answers: AnswerStore
) -> tuple[list[Pair], list[LedgerRow]]:
    """Make pairs of the stored answers, and a ledger row for every chunk and instruction."""
    raise NotImplementedError
