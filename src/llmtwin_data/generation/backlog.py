"""What is to be sent next: batches read lazily from the questions, and those to be asked again."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.generation.openings import Head, begin_alike, head_of
from llmtwin_data.generation.slots import Batch, Slot, slot_after
from llmtwin_data.prompts import Question


@dataclass(slots=True, eq=False)
class _Forming:
    """A batch in the making: the heads of all its texts, and slots for those without an answer."""

    recipe: str
    heads: list[Head] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)

    def takes(self, question: Question, head: Head) -> bool:
        return self.recipe == question.recipe.sha256 and not any(begin_alike(head, one) for one in self.heads)


class Backlog:
    """Batches waiting: those asked again before fresh ones, and those that wait for their moment.

    Batches are formed of all questions by position and only then lose what is answered, so that after
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

    def next_window(self, size: int, *, blocks: int = 1) -> list[Batch]:
        """Read ``blocks`` times about ``size`` more questions; return batches of those without an answer.

        Blocks. A batch holds questions of one block, so that it does not depend on how many are read at once.
        """
        size = -(-size // self.batch_size) * self.batch_size
        window = list(islice(self._questions, size * blocks))
        self.exhausted = len(window) < size * blocks
        keyed = [(question, question.key) for question in window]
        stored = self._store.answers([key for _, key in keyed])
        self.seen += len(window)
        starts = range(0, len(keyed), size)
        return [batch for start in starts for batch in self._form(keyed[start : start + size], stored)]

    def put_later(self, batch: Batch, moment: float) -> None:
        """Keep a batch until the clock shows this moment."""
        self._count += 1
        heapq.heappush(self._later, (moment, self._count, batch))

    def pop(
        self, now: float, *, fresh_first: bool = False, alone: bool = False, doubted_alone: bool = False
    ) -> Batch | None:
        """Give the next batch, none if all are waiting for their moment; cut in half while too long.

        Parameters
        ----------
        alone
            Whether each text is asked alone.
        fresh_first
            Prefer what was not asked before.
        doubted_alone
            Cut one text off a batch that is asked again.
        """
        while self._later and self._later[0][0] <= now:
            self.again.append(heapq.heappop(self._later)[2])
        queue = (self.fresh or self.again) if fresh_first else (self.again or self.fresh)
        if not queue:
            return None
        batch = queue.popleft()
        if doubted_alone and batch.again and len(batch.slots) > 1:
            self.again.appendleft(batch.part(batch.slots[1:]))
            return batch.part(batch.slots[:1])
        while len(batch.slots) > 1 and (alone or 0 < self.longest <= batch.characters()):
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

    def _form(self, keyed: Iterable[tuple[Question, str]], stored: Mapping[str, Answer]) -> Iterator[Batch]:
        """Put each question into the first batch of its recipe with room and no text that begins alike."""
        formed: list[_Forming] = []
        with_room: list[_Forming] = []
        for question, key in keyed:
            if not self._claim(key):
                continue
            head = head_of(question.material)
            batch = next((one for one in with_room if one.takes(question, head)), None)
            if batch is None:
                batch = _Forming(question.recipe.sha256)
                formed.append(batch)
                with_room.append(batch)
            batch.heads.append(head)
            if len(batch.heads) == self.batch_size:
                with_room.remove(batch)
            if (slot := self._slot(question, key, stored)) is not None:
                batch.slots.append(slot)
        return (Batch(batch.slots) for batch in formed if batch.slots)

    def _claim(self, key: str) -> bool:
        claim = bytes.fromhex(key)
        new = claim not in self._claimed
        self._claimed.add(claim)
        self.repeated += not new
        return new

    def _slot(self, question: Question, key: str, stored: Mapping[str, Answer]) -> Slot | None:
        before = stored.get(key)
        if before is None:
            return Slot(question, key)
        if self._retry_failed and before.state == "failed":
            return slot_after(question, before)
        self.answered_before += 1
        return None
