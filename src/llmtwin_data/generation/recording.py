"""What goes into the store: several replies share one durable commit, and each waits for its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from llmtwin_data.answers import Answer, AnswerStore, PaidRequest
from llmtwin_data.chunks import text_sha256
from llmtwin_data.endpoints.completions import Completion
from llmtwin_data.endpoints.connections import Reply
from llmtwin_data.generation.slots import Batch
from llmtwin_data.prompts import Question, Recipe, build_messages

# Waited for more to share a commit: one costs as much as the rows of several replies.
GATHER_SECONDS = 0.008


@dataclass(slots=True)
class Entry:
    """What is stored together."""

    requests: list[PaidRequest] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)

    def add(self, other: Entry) -> None:
        """Take what the other holds as well."""
        self.requests += other.requests
        self.answers += other.answers
        self.questions += other.questions
        self.recipes += other.recipes

    def save(self, store: AnswerStore) -> None:
        """Store it in one transaction."""
        recipes = list({recipe.sha256: recipe for recipe in self.recipes}.values())
        store.save(requests=self.requests, answers=self.answers, questions=self.questions, recipes=recipes)


class Recorder:
    """Commits one entry after the other; what arrives meanwhile, or within milliseconds, goes into the next.

    Parameters
    ----------
    enough
        Requests that do not wait for more to share their commit.
    """

    def __init__(self, store: AnswerStore, executor: Executor, *, enough: int = 1) -> None:
        self._store = store
        self._executor = executor
        self._enough = enough
        self._next = Entry()
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle
        self._ripe = False  # the time of those who wait is over
        self._busy = False
        # Asking the system for randomness at each request would cost a tenth of the whole engine.
        self._run_id = uuid.uuid4().hex
        self._number = itertools.count(1)

    def new_request_id(self) -> str:
        """Give a name that no other request has, in this run or any other."""
        return f"{self._run_id}-{next(self._number)}"

    async def save(self, entry: Entry) -> None:
        """Return once the entry is durable, also when cancelled: what was received is not given up."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = loop.create_future()
            self._ripe = False
            self._timer = loop.call_later(GATHER_SECONDS, self._ripen, loop)
        self._next.add(entry)
        waiting = self._waiting
        self._commit(loop)
        while not waiting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
        waiting.result()

    def _ripen(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ripe = True
        self._commit(loop)

    def _commit(self, loop: asyncio.AbstractEventLoop) -> None:
        is_due = self._ripe or len(self._next.requests) >= self._enough
        if self._busy or self._waiting is None or not is_due:
            return
        self._timer.cancel()
        self._busy = True
        entry, waiting = self._next, self._waiting
        self._next, self._waiting = Entry(), None
        job = loop.run_in_executor(self._executor, entry.save, self._store)
        job.add_done_callback(lambda done: self._committed(loop, done, waiting))

    def _committed(
        self, loop: asyncio.AbstractEventLoop, job: asyncio.Future[None], waiting: asyncio.Future[None]
    ) -> None:
        error = job.exception()
        waiting.set_exception(error) if error else waiting.set_result(None)
        self._busy = False
        self._commit(loop)


def request_record(
    batch: Batch,
    *,
    request_id: str,
    boundary: str,
    reply: Reply,
    outcome: str,
    completion: Completion | None = None,
    cost_usd: float | None = None,
    batch_id: str = "",
) -> PaidRequest:
    """Describe a request that was, or may have been, paid; its texts stand there by their sha256."""
    hashes = tuple(text_sha256(text) for text in batch.texts())
    recipe = batch.slots[0].question.recipe
    named = [f"{{{{sha256:{digest}}}}}" for digest in hashes]
    messages = build_messages(recipe, named, boundary=boundary)
    return PaidRequest(
        id=request_id,
        recipe_sha256=recipe.sha256,
        texts=hashes,
        skeleton=json.dumps(messages, ensure_ascii=False),
        raw=reply.text,
        status=reply.status,
        outcome=outcome,
        attempt=batch.attempt,
        prompt_tokens=completion.prompt_tokens if completion else None,
        completion_tokens=completion.completion_tokens if completion else None,
        cost_usd=cost_usd,
        model=completion.model if completion else "",
        system_fingerprint=completion.system_fingerprint if completion else "",
        seconds=round(reply.seconds, 3),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        batch_id=batch_id,
        reasoning_tokens=completion.reasoning_tokens if completion else None,
    )


def entry_for(batch: Batch, *, requests: Sequence[PaidRequest] = (), answers: Sequence[Answer] = ()) -> Entry:
    """Put together what is stored of a reply: request and answers, and the questions and recipe they need."""
    questions = [slot.question for slot in batch.slots if slot.key] if requests or answers else []
    return Entry(list(requests), list(answers), questions, [batch.slots[0].question.recipe])
