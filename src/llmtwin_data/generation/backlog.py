"""What is to be sent next: batches read lazily from the questions, and those to be asked again."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.generation.slots import Batch, Slot, slot_after
from llmtwin_data.prompts import Question


class Backlog:
    """Batches waiting: those asked again before fresh ones, and those that wait for their moment.

    Batches are cut from all questions by position and only then lose what is answered, so that after
    a kill those in flight recur with the same bytes and the same idempotency key.
    """

    def __init__(
        self,
        questions: Iterable[Question],
        store: AnswerStore,
        *,
        batch_size: int,
        retry_failed: bool = False,
    ) -> None:
        self.seen = 0
        self.repeated = 0
        self.answered_before = 0
        self.exhausted = False
        self.longest: int = 0  # characters that were too many for one request; 0: none were
        self.again: deque[Batch] = deque()
        self.fresh: deque[Batch] = deque()
        self._later: list[tuple[float, int, Batch]] = []
        self._questions = iter(questions)
        self._store = store
        self._retry_failed = retry_failed
        self.batch_size = batch_size
        self._claimed: set[bytes] = set()
        self._count = 0

    def next_window(self, size: int) -> list[Batch]:
        """Read about ``size`` more questions; give batches of those without an answer. Blocks."""
        size = -(-size // self.batch_size) * self.batch_size
        window = list(islice(self._questions, size))
        self.exhausted = len(window) < size
        keys = [question.key for question in window]
        stored = self._store.answers(keys)
        waiting = [self._claim(*pair, stored) for pair in zip(window, keys, strict=True)]
        self.seen += len(window)
        return list(self._cut(waiting))

    def put_later(self, batch: Batch, moment: float) -> None:
        """Keep a batch until the clock shows this moment."""
        self._count += 1
        heapq.heappush(self._later, (moment, self._count, batch))

    def pop(self, now: float, *, fresh_first: bool = False, alone: bool = False) -> Batch | None:
        """Give the next batch, none if all are waiting for their moment; cut in half while too long.

        Parameters
        ----------
        fresh_first
            Prefer what was not asked before.
        alone
            Cut one text off a batch that is asked again.
        """
        while self._later and self._later[0][0] <= now:
            self.again.append(heapq.heappop(self._later)[2])
        queue = (self.fresh or self.again) if fresh_first else (self.again or self.fresh)
        if not queue:
            return None
        batch = queue.popleft()
        if alone and batch.again and len(batch.slots) > 1:
            self.again.appendleft(batch.part(batch.slots[1:]))
            return batch.part(batch.slots[:1])
        while self.longest and len(batch.slots) > 1 and batch.characters() >= self.longest:
            batch, rest = batch.halves()
            self.again.appendleft(rest)
        return batch

    def push_back(self, batch: Batch) -> None:
        """Put a batch where the next pop finds it."""
        self.again.appendleft(batch)

    def next_moment(self) -> float | None:
        """Give the moment of the first batch that waits for one."""
        return self._later[0][0] if self._later else None

    def empty(self) -> bool:
        """Tell whether nothing waits; more may still be read."""
        return not (self.again or self.fresh or self._later)

    def _claim(self, question: Question, key: str, stored: Mapping[str, Answer]) -> Slot | None:
        claim = bytes.fromhex(key)
        if claim in self._claimed:
            self.repeated += 1
            return None
        self._claimed.add(claim)
        before = stored.get(key)
        if before is None:
            return Slot(question, key)
        if self._retry_failed and before.state == "failed":
            return slot_after(question, before)
        self.answered_before += 1
        return None

    def _cut(self, waiting: list[Slot | None]) -> Iterator[Batch]:
        for start in range(0, len(waiting), self.batch_size):
            by_recipe: dict[str, list[Slot]] = {}
            for slot in filter(None, waiting[start : start + self.batch_size]):
                by_recipe.setdefault(slot.question.recipe.sha256, []).append(slot)
            yield from map(Batch, by_recipe.values())
