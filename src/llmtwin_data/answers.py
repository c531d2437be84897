"""The durable store of answers: what an endpoint wrote, and every request that was paid for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """The final word on one question; ``values`` are the chosen instructions, or score and reason."""

    key: str
    state: Literal["ok", "failed"]
    values: tuple[str, ...]
    reason: str = ""
    value: str = ""
    requests: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    model: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class PaidRequest:
    """One request as it went out and came back; ``skeleton`` names each text by its sha256."""

    id: str
    recipe_sha256: str
    texts: tuple[str, ...]
    skeleton: str
    raw: str
    status: int
    outcome: str
    attempt: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    model: str
    system_fingerprint: str = ""
    seconds: float = 0.0
    at: str = ""
    batch_id: str = ""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch at the provider: ``lines`` is JSON, custom id to whatever finds its questions again."""

    id: str
    endpoint: str
    state: str
    lines: str
    file_id: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """How one answer came to be; a forgotten text is None in ``texts`` and marked in ``messages``."""

    answer: Answer
    request: PaidRequest
    texts: tuple[str | None, ...]
    messages: list[dict[str, str]]
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What `AnswerStore.forget` took out; ``contents`` are (collection, content id)."""

    contents: tuple[tuple[str, str], ...]
    keys: frozenset[str]
    text_sha256: frozenset[str]
    requests: int


class Asked(Protocol):
    """The part of a question that the store keeps."""

    @property
    def key(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def content_id(self) -> str: ...
    @property
    def collection(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def author(self) -> str: ...
    @property
    def link(self) -> str: ...


class Named(Protocol):
    """The part of a recipe that the store keeps."""

    @property
    def sha256(self) -> str: ...
    def as_json(self) -> str: ...


class AnswerStore:
    """All answers in one SQLite file; what `save` returned from survives a power cut."""

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """Give the stored answers to these keys, failed ones too."""
        raise NotImplementedError

    def answered(self, keys: Sequence[str]) -> set[str]:
        """Give those of the keys that have a final answer, ok or failed."""
        raise NotImplementedError

    def save(
        self,
        *,
        requests: Sequence[PaidRequest] = (),
        answers: Sequence[Answer] = (),
        questions: Sequence[Asked] = (),
        recipes: Sequence[Named] = (),
    ) -> None:
        """Store all of it in one transaction, durable on return; any thread may call."""
        raise NotImplementedError

    def retry_failed(self, keys: Sequence[str]) -> int:
        """Drop the failed answers among these keys, so that they are asked again; give their number."""
        raise NotImplementedError

    def save_batch(self, batch: StoredBatch) -> None:
        """Store or replace a provider's batch, durable on return."""
        raise NotImplementedError

    def batches(self, *, endpoint: str = "", state: str = "") -> list[StoredBatch]:
        """Give the stored batches in the order they were first stored."""
        raise NotImplementedError

    def forgotten_hashes(self) -> frozenset[str]:
        """Give the hashes of everything forgotten; compare with `forget_marks` and `text_sha256`."""
        raise NotImplementedError

    def forget(
        self, *, author: str = "", link: str = "", content_id: str = "", texts: Iterable[str] = ()
    ) -> ForgetReport:
        """Take out every text, answer and origin of an author, a link, a content or given texts."""
        raise NotImplementedError

    def trace(self, key: str) -> Trace | None:
        """Give the request behind an answer, its prompt rebuilt from the stored texts."""
        raise NotImplementedError

    def totals(self) -> dict[str, Any]:
        """Count what is stored, by model and outcome, with tokens and cost."""
        raise NotImplementedError


def forget_marks(*, author: str, link: str, collection: str, content_id: str) -> frozenset[str]:
    """Give the hashes under which a content of this origin may have been forgotten."""
    raise NotImplementedError
