"""Questions in, stored answers out: batches, retries, budget, durable commit; it stops and goes on."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import json
import math
import queue
import re
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from threading import Event
from typing import Any

from llmtwin_data.answers import Answer, AnswerStore, PaidRequest
from llmtwin_data.contents import LedgerRow as LedgerRow
from llmtwin_data.contents import Pair as Pair
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.errors import BudgetReached, EndpointDown, Interrupted, ParamsError, QualityGate
from llmtwin_data.measures import choose_candidate, find_swapped
from llmtwin_data.prices import Price, check_price, cost_usd
from llmtwin_data.prompts import (
    DataFormatter,
    Message,
    Question,
    Recipe,
    answer_schema,
    batch_boundary,
    build_messages,
    output_tokens,
)
from llmtwin_data.replies import (
    Completion,
    Head,
    Reading,
    Values,
    begin_alike,
    head_of,
    is_refusal,
    quoted,
    read_choice,
    read_completion,
    useless,
)
from llmtwin_data.texts import counted, text_sha256
from llmtwin_data.transport import (
    UNSURE_STATUS,
    Connection,
    Pace,
    Patience,
    Problem,
    Reply,
    allowed_connections,
    problem_of,
    redact,
)

# Tokens; what a model may think before it answers one request. More is a model that does not stop.
MOST_ROOM = 65_536


@dataclass(slots=True, eq=False)
class Slot:
    """One question on its way, with what it has cost so far."""

    question: Question
    key: str  # empty for a text in a request on its way that nobody asks about any more
    found: list[Values] = field(default_factory=list)  # candidates, in the order they came
    reason: str = ""  # why the last answer was no use
    tries: int = 0  # answers that were no use
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    retried: int = 0  # requests of a failure that is asked about again; part of the idempotency key

    def missing(self) -> int:
        """Give how many candidates are still wanted."""
        return self.question.recipe.candidates - len(self.found)


@dataclass(slots=True, eq=False)
class Batch:
    """Questions of one recipe that share a request."""

    slots: list[Slot]
    again: int = 0  # how often a larger or equal batch with these texts was of no use
    attempt: int = 0  # useless answers and errors to exactly these texts; part of the idempotency key
    unsure: bool = False  # an error under this key may have come from in between
    stretch: int = 0  # how often the room for the answer was doubled
    room: int | None = None  # tokens besides, for hidden ones; given with its turn, and kept
    most_room: int = MOST_ROOM  # less once the endpoint refused so high a limit
    faults: int = 0  # of server or network, while others had success
    seen_successes: int = -1  # of the run, at the last fault

    @property
    def retried(self) -> int:
        """How much was sent before, where this asks again about what had failed for good."""
        return max(slot.retried for slot in self.slots)

    def texts(self) -> list[str]:
        """Give the texts in the order of their numbers."""
        return [slot.question.text for slot in self.slots]

    def heads(self) -> list[Head]:
        """Return what an answer's openings must be found in; nothing where a text is asked alone."""
        return [head_of(slot.question.material) for slot in self.slots] if len(self.slots) > 1 else []

    def characters(self) -> int:
        """Give the length of all texts together."""
        return sum(len(slot.question.text) for slot in self.slots)

    def token_limit(self) -> int:
        """Give the tokens to allow for each choice."""
        recipe = self.slots[0].question.recipe
        return output_tokens(recipe, len(self.slots), stretch=self.stretch) + (self.room or 0)

    def halves(self) -> list[Batch]:
        """Split in two, or give the batch itself if it has one text."""
        if len(self.slots) == 1:
            return [self]
        middle = (len(self.slots) + 1) // 2
        return [self.part(self.slots[:middle]), self.part(self.slots[middle:])]

    def alone(self) -> list[Batch]:
        """Return a batch of its own for each text."""
        return [self] if len(self.slots) == 1 else [self.part([slot]) for slot in self.slots]

    def wanted(self) -> Batch:
        """Give the batch without the texts that nobody asks about any more."""
        slots = [slot for slot in self.slots if slot.key]
        return self if len(slots) == len(self.slots) else self.part(slots)

    def part(self, slots: list[Slot]) -> Batch:
        """Give a batch of some of the texts; all of them alone are the next attempt at the same words."""
        attempt = self.attempt + 1 if len(slots) == len(self.slots) else 0
        return Batch(slots, again=self.again + 1, attempt=attempt, stretch=self.stretch)


def slot_after(question: Question, failure: Answer) -> Slot:
    """Ask again about what failed, on top of what that has cost, under keys that no server has yet seen."""
    return Slot(
        question,
        failure.key,
        requests=failure.requests,
        prompt_tokens=failure.prompt_tokens,
        completion_tokens=failure.completion_tokens,
        cost_usd=failure.cost_usd,
        retried=failure.requests,
    )


def charge(
    batch: Batch, prompt_tokens: int | None, completion_tokens: int | None, cost: float | None
) -> None:
    """Share what a request used among its texts, by length; the shares add up to it."""
    lengths = [len(slot.question.text) + 1 for slot in batch.slots]
    prompts = shares(prompt_tokens or 0, lengths)
    completions = shares(completion_tokens or 0, [1] * len(lengths))
    whole = sum(lengths)
    for slot, prompt, completion, length in zip(batch.slots, prompts, completions, lengths, strict=True):
        slot.requests += 1
        slot.prompt_tokens += prompt
        slot.completion_tokens += completion
        known = cost is not None and slot.cost_usd is not None
        slot.cost_usd = slot.cost_usd + cost * length / whole if known else None  # type: ignore[operator]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number by weights so that the parts add up to it."""
    whole, given, parts = sum(weights), 0, []
    passed = 0
    for weight in weights:
        passed += weight
        parts.append(total * passed // whole - given)
        given += parts[-1]
    return parts


# No tokenizer in use makes more of ordinary text: two bytes a token, where English has four.
BYTES_PER_TOKEN_AT_WORST = 2
# So many more openings wrong than right, and the endpoint cannot copy them: two usual batches.
OPENINGS_WRONG = 16
# Room for hidden tokens: of what one reply took, of what was not enough for one, and at least after that.
HEADROOM, HEADROOM_LACKING, FIRST_ROOM, LEAST_ROOM = 3, 6, 8_192, 1_024
ASKS_TO_THINK = re.compile(r'"reasoning_effort": "(?!none)|"enable_thinking": true')
LIMIT_TOO_HIGH = re.compile(
    r"(?=.*(max\w*_tokens|(completion|output) tokens))(?=.*(too (large|high|big|many)|at most|maximum|exceed"
    r"|less than|greater than|up to|range|<=))",
    re.IGNORECASE,
)
# Of the frame around the texts, when a request is weighed before it is written.
FRAME_BYTES = 4_000
# Answers in a row that say nothing about any of their texts: before the first that does, and after it. Bad
# texts do not come to the second: one in twenty spoils a third of batches of eight, 16 in a row 1 in 10^8.
MOST_USELESS_AT_FIRST = 8
MOST_USELESS = 16
# Bodies that no such endpoint writes, before any answer of use; by then the waits between them add up to 8 s.
MOST_FOREIGN = 5


@dataclass(slots=True)
class Trust:
    """Whether what comes back is of use; what failed by useless answers waits until one after them is."""

    proven: bool = False  # an answer was of use
    useless: int = 0  # answers in a row that were not
    texts: int = 0  # how many they were the first answers to
    foreign: int = 0  # bodies that were none of an endpoint's, before any answer of use
    first: str = ""  # the first of them, as it came
    held: list[Answer] = field(default_factory=list)

    @property
    def doubtful(self) -> bool:
        """Whether to ask about other texts first, one request at a time."""
        return self.useless >= (MOST_USELESS_AT_FIRST if self.proven else 1)

    @property
    def alone(self) -> bool:
        """Whether to ask about one text, for a model may fail on several."""
        return not self.proven and 3 <= self.useless < MOST_USELESS_AT_FIRST

    def lost(self, *, known: bool) -> bool:
        """Return whether to give up; ``known`` with earlier answers, for then a few texts may be at fault."""
        if self.proven:
            return self.useless >= MOST_USELESS < self.texts
        few = known and self.texts <= MOST_USELESS
        return self.foreign >= MOST_FOREIGN or (self.useless >= MOST_USELESS_AT_FIRST and not few)

    def take_foreign(self, raw: str) -> None:
        """Count a body that no endpoint writes."""
        self.foreign += 1
        self.first = self.first or raw

    def weigh(self, answers: list[Answer], batch: Batch, *, useful: bool, raw: str) -> list[Answer]:
        """Return what may be stored of what a completion settles, and of what was held back before it."""
        if useful:
            answers, self.held = self.held + answers, []
            self.proven, self.useless, self.texts, self.first = True, 0, 0, ""
            return answers
        self.useless += 1
        self.texts += 0 if batch.again or batch.attempt else len(batch.slots)
        self.first = self.first or raw
        self.held += answers
        return []


@dataclass(slots=True)
class Room:
    """Tokens that the limit of a request leaves for hidden ones: learnt from each reply, for the whole run.

    It is a limit and no cost, so it is generous: what a model thinks varies by its multiples.
    """

    tokens: int = 0
    ceiling: int = MOST_ROOM

    def give(self, batch: Batch) -> None:
        """Give a batch its room, once, so that its repetition is the same request."""
        if batch.room is None:
            batch.room = self._for(batch)

    def grow(self, hidden: int, *, lacking: bool) -> None:
        """Leave room for several times what was needed, or for more where it did not suffice."""
        wanted = max(FIRST_ROOM, hidden * HEADROOM_LACKING) if lacking else hidden * HEADROOM
        # By powers of two, so that it settles, and equal requests stay equal bytes.
        self.tokens = max(self.tokens, min(MOST_ROOM, 1 << (wanted - 1).bit_length() if wanted else 0))

    def learn(self, batch: Batch, completion: Completion) -> bool:
        """Learn from a reply; True if hidden tokens took what the answer needed, and may have more now."""
        if batch.most_room < MOST_ROOM:
            self.ceiling = min(self.ceiling, batch.most_room)  # more was refused, and this was taken
        limit, room = batch.token_limit(), batch.room or 0
        cut = [choice for choice in completion.choices if choice.problem in ("cut", "empty_answer")]
        hidden = -(-(completion.reasoning_tokens or 0) // len(completion.choices))
        if completion.reasoning_tokens is None and any(c.problem == "cut" and not c.text for c in cut):
            hidden = limit
        lacking = bool(cut) and hidden > room
        self.grow(min(hidden, limit), lacking=lacking)
        return lacking and self._for(batch) > room

    def lower(self, batch: Batch, problem: Problem) -> bool:
        """Leave a batch less where the endpoint takes no limit so high; False if there is nothing to take."""
        names_limit = LIMIT_TOO_HIGH.search(f"{problem.param} {problem.detail}")
        if not batch.room or not (problem.kind == "too_long" or names_limit):
            return False
        batch.room = batch.most_room = batch.room // 4 if batch.room > LEAST_ROOM else 0
        return True

    def _for(self, batch: Batch) -> int:
        """Say what a batch may have now; nothing where the params set the limit."""
        recipe = batch.slots[0].question.recipe
        least = FIRST_ROOM if ASKS_TO_THINK.search(recipe.request_extra) else 0
        most = 0 if recipe.max_output_tokens else min(self.ceiling, batch.most_room)
        return min(max(self.tokens, least), most)


@dataclass(slots=True)
class Tally:
    """Counts of one call of ``ask``."""

    price: Price
    max_cost_usd: float = 0.0
    requests: int = 0
    paid_requests: int = 0
    maybe_paid: int = 0  # sent, and nothing usable came back to say what it cost
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spent: float = 0.0  # as told, and the worst case where nothing was told
    reserved: float = 0.0
    cost_usd: float | None = 0.0  # None once a reply did not say its tokens, or the price is unknown
    answered: int = 0
    failed: int = 0
    left: int = 0  # given up for now
    ignored: int = 0  # answers without a number, or under one that was never asked
    cannot_copy: bool = False  # openings, so that each text is asked alone
    _openings_wrong: int = 0  # more than right, since they were last even
    models: Counter[str] = field(default_factory=Counter)
    trust: Trust = field(default_factory=Trust)
    reasoning_tokens: int = 0  # of the completion's, as far as replies tell
    room: Room = field(default_factory=Room)

    def worst_cost(self, batch: Batch) -> float:
        """Give what a batch can cost at most; 0 without a limit, where it does not matter."""
        if not self.max_cost_usd:
            return 0.0
        recipe = batch.slots[0].question.recipe
        size = len(recipe.as_json()) + FRAME_BYTES + sum(len(text.encode()) for text in batch.texts())
        choices = max(slot.missing() for slot in batch.slots)
        written = batch.token_limit() * choices
        return cost_usd(self.price, size // BYTES_PER_TOKEN_AT_WORST, written) or 0.0

    def affords(self, cost: float) -> bool:
        """Tell whether this much more stays within the limit, with all that is in flight at its worst."""
        return not self.max_cost_usd or self.spent + self.reserved + cost <= self.max_cost_usd

    def pay(self, completion: Completion, *, worst: float) -> float | None:
        """Count a paid request; give its cost, None if unknown."""
        prompt, written = completion.prompt_tokens, completion.completion_tokens
        known = prompt is not None and written is not None
        cost = cost_usd(self.price, prompt or 0, written or 0) if known else None
        self.paid_requests += 1
        self.prompt_tokens += prompt or 0
        self.completion_tokens += written or 0
        self.reasoning_tokens += completion.reasoning_tokens or 0
        self.spent += worst if cost is None else cost
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        self.models[completion.model] += 1
        return cost

    def pay_perhaps(self, *, worst: float) -> None:
        """Count a request that may have been charged."""
        self.maybe_paid += 1
        self.spent += worst

    def weigh_openings(self, *, held: int, failed: int) -> None:
        """Find out an endpoint most of whose openings are wrong, though numbers and answers are whole."""
        self._openings_wrong = max(0, self._openings_wrong + failed - held)
        self.cannot_copy |= self._openings_wrong >= OPENINGS_WRONG

    def settle(self, answers: Sequence[Answer]) -> None:
        """Count what is final and durable."""
        good = sum(answer.state == "ok" for answer in answers)
        self.answered += good
        self.failed += len(answers) - good


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


MODES = ("json_schema", "json_object", "text")
# What servers say when they do not know structured output, or not this kind of it.
NO_SCHEMA = re.compile(r"response[_ ]format|json[_ ]?schema|json[_ ]object|grammar|guided|structured", re.I)
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
OPTIONAL = ("temperature", "n", "reasoning_effort")


class Dialect:
    """The request fields that the endpoint takes; it learns from refusals until the first success."""

    def __init__(
        self,
        model: str,
        *,
        tokens_field: str = "max_tokens",
        effort: str = "",
        formatter: type[DataFormatter] = DataFormatter,
    ) -> None:
        self.model = model
        self.formatter = formatter
        self.effort = effort
        self.mode = "json_schema"
        self.tokens_field = tokens_field
        self.dropped: set[str] = set()
        self._tails: dict[tuple[str, int, int, int], str] = {}

    def body(
        self,
        recipe: Recipe,
        messages: Sequence[Message],
        *,
        count: int,
        choices: int = 1,
        limit: int = 0,
    ) -> bytes:
        """Write the request for ``count`` texts, with a limit of tokens, else the one for their answers."""
        key = (recipe.sha256, count, choices, limit or output_tokens(recipe, count))
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = _dump(self._fields(recipe, *key[1:]))[1:]
        return f'{{"messages":{_dump(messages)},{tail}'.encode()

    def learn(self, problem: Problem, recipe: Recipe) -> bool:
        """Adapt to a refusal; True if the request, said differently, may now be taken.

        Raises
        ------
        ParamsError
            The field refused is one that ``request_extra`` asked for.
        """
        named = self._named_field(problem)
        if named and named in json.loads(recipe.request_extra):
            raise ParamsError(f"request_extra: the endpoint refuses {named!r}: {problem.detail}")
        adapted = self._swap_tokens(named) or self._lower_mode(problem) or self._drop(named)
        if adapted:
            self._tails.clear()
        return adapted

    @property
    def takes_choices(self) -> bool:
        """Whether several answers can be had with one request."""
        return "n" not in self.dropped

    def _fields(self, recipe: Recipe, count: int, choices: int, limit: int) -> dict[str, Any]:
        fields = {"model": self.model, "temperature": recipe.temperature, self.tokens_field: limit}
        if self.effort:
            fields["reasoning_effort"] = self.effort
        if choices > 1:
            fields["n"] = choices
        if self.mode != "text":
            fields["response_format"] = _response_format(self.mode, recipe, count)
        kept = {name: value for name, value in fields.items() if name not in self.dropped}
        extra: dict[str, Any] = json.loads(recipe.request_extra)
        return kept | extra

    def _named_field(self, problem: Problem) -> str:
        known = (*TOKEN_FIELDS, *OPTIONAL, "response_format")
        if problem.param:
            return problem.param.split(".")[0]
        quoted = re.findall(r"[`'\"]([a-z_]+)[`'\"]", problem.detail)
        # Some write a name without quotes; "n" would be found in any text.
        bare = [name for name in re.findall(r"[a-z_]{2,}", problem.detail) if name in known]
        return next((name for name in (*quoted, *bare) if name in known), quoted[0] if quoted else "")

    def _swap_tokens(self, named: str) -> bool:
        if named not in TOKEN_FIELDS or named in self.dropped:
            return False
        self.dropped.add(named)
        self.tokens_field = next((name for name in TOKEN_FIELDS if name not in self.dropped), named)
        return True

    def _lower_mode(self, problem: Problem) -> bool:
        if self.mode == "text" or not NO_SCHEMA.search(f"{problem.param} {problem.detail}"):
            return False
        self.mode = MODES[MODES.index(self.mode) + 1]
        return True

    def _drop(self, named: str) -> bool:
        if named not in OPTIONAL or named in self.dropped:
            return False
        self.dropped.add(named)
        return True


def dialect_of(endpoint: Endpoint) -> Dialect:
    """Return how an endpoint is asked before it has refused anything."""
    return Dialect(
        endpoint.model,
        tokens_field=endpoint.tokens_field,
        effort=endpoint.effort,
        formatter=endpoint.formatter,
    )


@dataclass(frozen=True, slots=True)
class Written:
    """A request ready to go, the key that makes its repetition free, and the boundary of its texts."""

    body: bytes
    key: str
    boundary: str


def write_request(batch: Batch, dialect: Dialect) -> Written:
    """Write the request of a batch, for as many candidates as its texts still want."""
    texts, recipe = batch.texts(), batch.slots[0].question.recipe
    boundary = batch_boundary(texts)
    messages = build_messages(recipe, texts, boundary=boundary, formatter=dialect.formatter)
    choices = max(slot.missing() for slot in batch.slots) if dialect.takes_choices else 1
    body = dialect.body(recipe, messages, count=len(texts), choices=choices, limit=batch.token_limit())
    key = idempotency_key(body, batch.attempt, retried=batch.retried)
    return Written(body, key, boundary)


def idempotency_key(body: bytes, attempt: int, *, retried: int = 0) -> str:
    """Give the key that makes a repeated request free where the endpoint honours it.

    Equal for the same body after an unknown outcome, in this run or the next; a new attempt, after an
    answer that was an error or no use, has a new one, and so has what is asked again after it failed.
    """
    salt = f"{attempt}+{retried}" if retried else str(attempt)
    return hashlib.sha256(body + salt.encode()).hexdigest()


def _response_format(mode: str, recipe: Recipe, count: int) -> dict[str, Any]:
    if mode == "json_object":
        return {"type": "json_object"}
    schema = answer_schema(recipe, count)
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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


# Asked alone and with the same words, these would only come again.
FINAL_WHEN_ALONE = {"refused", "filtered"}
# Not known to be about the text that the number names.
UNPROVEN = {"numbers", "opening"}


@dataclass(slots=True)
class Settlement:
    """Final answers with their slots, batches to ask again, and one word for the request."""

    answers: list[Answer]
    settled: list[Slot]
    again: list[Batch]
    outcome: str
    ignored: int  # answers without a number, or under one that was never asked
    unproven: int  # whole answers whose openings were not those of their texts
    proven: int  # answers whose openings were
    useful: bool  # a word about any of the texts: an instruction, a verdict, or that it is refused


def settle(
    batch: Batch,
    completion: Completion,
    *,
    boundary: str,
    attempts: int,
    request_id: str,
    openings: bool = True,
    roomier: bool = False,
    reference: Sequence[str] = (),
) -> Settlement:
    """Match a completion with its batch.

    Parameters
    ----------
    attempts
        Useless answers after which a text, asked alone, is failed.
    openings
        Whether the request asked for openings where it held several texts.
    roomier
        Hidden tokens took the answer's room, and there is more now: ask the rest together, as if for the
        first time.
    reference
        Other chunks, which candidates are compared with besides the batch-mates; a batch of one has none.
    """
    heads = batch.heads() if openings else []
    readings = [_read(batch, choice.text, choice.problem, boundary, heads) for choice in completion.choices]
    gained = _collect(batch, readings)
    for index, slot in enumerate(batch.slots):
        slot.tries += index not in gained and not roomier
    useful = any(_says_something(slot, index in gained) for index, slot in enumerate(batch.slots))
    wanted = [slot for slot in batch.slots if slot.key]
    ready = [slot for slot in wanted if slot.missing() <= 0 or (slot.found and slot.tries >= attempts)]
    chosen = _chosen(ready, batch, reference)
    for slot in _swapped(ready, chosen, batch):
        slot.found, slot.reason = [], "swapped"
        slot.tries += 1
    good = [slot for slot in ready if slot.found]
    answers = [_answer(slot, chosen[slot.key], completion.model, request_id) for slot in good]
    rest = [slot for slot in wanted if slot not in good]
    failed, again = ([], _roomier(batch, rest)) if roomier else _regroup(batch, rest, attempts)
    answers += [failure(slot, slot.reason, request_id=request_id) for slot in failed]
    return Settlement(
        answers,
        good + failed,
        again,
        _outcome(good, rest),
        ignored=sum(reading.ignored for reading in readings),
        unproven=sum(reading.unproven for reading in readings),
        useful=useful,
        proven=sum(len(reading.values) for reading in readings) if heads else 0,
    )


def failure(slot: Slot, reason: str, *, value: str = "", request_id: str = "") -> Answer:
    """Give the final word on a text that gets no answer."""
    return _answer(slot, (), "", request_id, state="failed", reason=reason, value=value)


def _collect(batch: Batch, readings: Iterable[Reading]) -> set[int]:
    """Add every exact answer to its slot; give the indexes of those that gained one."""
    gained: set[int] = set()
    for reading in readings:
        for number, values in reading.values.items():
            batch.slots[number - 1].found.append(values)
            gained.add(number - 1)
        for number, reason in reading.problems.items():
            batch.slots[number - 1].reason = reason
    return gained


def _says_something(slot: Slot, gained: bool) -> bool:
    if not gained:
        return slot.reason in FINAL_WHEN_ALONE
    return any(map(str.isalnum, "".join(slot.found[-1])))


def _read(batch: Batch, text: str, problem: str, boundary: str, heads: Sequence[Head]) -> Reading:
    count = len(batch.slots)
    if problem and not text:
        return Reading(problems=dict.fromkeys(range(1, count + 1), problem))
    recipe = batch.slots[0].question.recipe
    cut = problem == "cut"
    reading = read_choice(
        text, kind=recipe.kind, k=recipe.k, count=count, boundary=boundary, heads=heads, cut=cut
    )
    if not reading.values and not cut and "malformed" in reading.problems.values() and is_refusal(text):
        reading.problems = dict.fromkeys(reading.problems, "refused")
    return reading


def _chosen(ready: Iterable[Slot], batch: Batch, reference: Sequence[str]) -> dict[str, Values]:
    others = [*batch.texts(), *reference]
    return {slot.key: _choose(slot, others) for slot in ready}


def _choose(slot: Slot, others: Sequence[str]) -> Values:
    if len(slot.found) == 1:
        return slot.found[0]
    told, prompt_words = ["\n".join(values) for values in slot.found], slot.question.recipe.template.words
    return slot.found[choose_candidate(told, slot.question.text, others, prompt_words=prompt_words)]


def _swapped(ready: Sequence[Slot], chosen: dict[str, Values], batch: Batch) -> list[Slot]:
    """Give the slots whose instructions look as if they belonged to another text of the batch."""
    if len(batch.slots) < 2 or not ready or ready[0].question.recipe.kind == "verdicts":
        return []
    # Texts without an answer stand in the comparison too: theirs may be the one given to another.
    told = [" ".join(chosen.get(slot.key, ())) for slot in batch.slots]
    places = find_swapped(told, batch.texts())
    return [batch.slots[place] for place in places if batch.slots[place].key in chosen]


def _regroup(batch: Batch, rest: list[Slot], attempts: int) -> tuple[list[Slot], list[Batch]]:
    """Ask the rest again: once together, then in halves or alone, until it is final."""
    if not rest:
        return [], []
    if len(batch.slots) == 1:
        slot = batch.slots[0]
        final = slot.reason in FINAL_WHEN_ALONE or slot.tries >= attempts
        return ([slot], []) if final else ([], [_stretched(batch.part([slot]))])
    exchanged = [slot for slot in rest if slot.reason == "swapped"]
    others = [slot for slot in rest if slot.reason != "swapped"]
    return [], [*map(_stretched, _smaller(batch, others)), *(batch.part([slot]) for slot in exchanged)]


def _roomier(batch: Batch, rest: list[Slot]) -> list[Batch]:
    again = batch.part(rest)
    again.again = batch.again
    return [again] if rest else []


def _smaller(batch: Batch, slots: list[Slot]) -> list[Batch]:
    if not slots:
        return []
    whole = len(slots) == len(batch.slots)
    only_more_wanted = all(slot.found for slot in slots)
    empty_once = whole and batch.attempt == 0 and all(slot.reason == "empty_answer" for slot in slots)
    unproven = all(slot.reason in UNPROVEN for slot in slots)
    if only_more_wanted or empty_once or ((unproven or not whole) and batch.again == 0):
        return [batch.part(slots)]
    return batch.part(slots).halves() if whole and not unproven else [batch.part([slot]) for slot in slots]


def _stretched(batch: Batch) -> Batch:
    batch.stretch += any(slot.reason == "cut" for slot in batch.slots)
    return batch


def _answer(
    slot: Slot,
    values: Values,
    model: str,
    request_id: str,
    *,
    state: str = "ok",
    reason: str = "",
    value: str = "",
) -> Answer:
    return Answer(
        key=slot.key,
        state="ok" if state == "ok" else "failed",
        values=values,
        reason=reason,
        value=value,
        requests=slot.requests,
        prompt_tokens=slot.prompt_tokens,
        completion_tokens=slot.completion_tokens,
        cost_usd=None if slot.cost_usd is None else round(slot.cost_usd, 12),
        model=model,
        request_id=request_id,
    )


def _outcome(good: Sequence[Slot], rest: Sequence[Slot]) -> str:
    if not rest:
        return "ok"
    return "partial" if good else Counter(slot.reason or "partial" for slot in rest).most_common(1)[0][0]


# What no second try and no other batch can change.
FATAL = {"key", "billing", "model", "address", "redirect", "tls"}
# Refusals of everything, before any success, after which something else than a text must be wrong.
MAX_REFUSALS = 5


@dataclass(slots=True, eq=False)
class Sent:
    """A batch on its way, live or as a line of a provider's batch."""

    batch: Batch
    worst: float  # USD that count as spent where the completion does not say its tokens
    boundary: str = ""
    openings: bool = True  # asked for; an earlier version, whose batches may still be open, did not


def receive(
    sent: Sent,
    completion: Completion,
    *,
    reply: Reply,
    tally: Tally,
    attempts: int,
    request_id: str,
    reference: Sequence[str] = (),
    batch_id: str = "",
) -> tuple[Entry, list[Batch]]:
    """Give what is to be stored, and what is to be asked again."""
    batch, boundary, openings = sent.batch, sent.boundary, sent.openings
    cost = tally.pay(completion, worst=sent.worst)
    charge(batch, completion.prompt_tokens, completion.completion_tokens, cost)
    roomier = tally.room.learn(batch, completion)
    settlement = settle(
        batch,
        completion,
        boundary=boundary,
        attempts=attempts,
        request_id=request_id,
        openings=openings,
        roomier=roomier,
        reference=reference,
    )
    tally.ignored += settlement.ignored
    tally.weigh_openings(held=settlement.proven, failed=settlement.unproven)
    record = request_record(
        batch,
        request_id=request_id,
        boundary=boundary,
        reply=reply,
        outcome=settlement.outcome,
        completion=completion,
        cost_usd=cost,
        batch_id=batch_id,
    )
    answers = tally.trust.weigh(settlement.answers, batch, useful=settlement.useful, raw=reply.text)
    return entry_for(batch, requests=[record], answers=answers), settlement.again


def fail_alone(batch: Batch, problem: Problem) -> Entry:
    """Give what is to be stored of a text that the endpoint refuses for good."""
    slot = batch.slots[0]
    value = str(len(slot.question.text)) if problem.kind == "too_long" else problem.detail[:200]
    return entry_for(batch, answers=[failure(slot, problem.reason, value=value)])


def all_refused(base_url: str, problem: Problem) -> EndpointDown:
    """Give the error of a run whose every request was refused."""
    return EndpointDown(
        f"{base_url}: refused each of {MAX_REFUSALS} requests, {problem.reason}: {problem.detail}. "
        "Nothing is lost; look at model, prompt and request_extra, then run the same command again"
    )


def none_of_use(endpoint: Endpoint, trust: Trust) -> QualityGate:
    """Return the error of a run whose answers came, and none could be used."""
    answers = counted(trust.useless + trust.foreign, "answer")
    return QualityGate(
        f"{endpoint.base_url}: the last {answers} of {endpoint.model} were of no use, the first "
        f"of them {quoted(redact(trust.first, endpoint.api_key))}. Nothing is published or failed for good. "
        "Set endpoint (a base URL, mostly ending in /v1), model, batch_size: 1, or max_output_tokens and "
        "request_extra for a model that thinks or calls tools, and run the same command again"
    )


@dataclass(slots=True, eq=False)
class Job(Sent):
    """A batch in flight."""

    started: float = 0.0


@dataclass(slots=True, kw_only=True)
class Exchange:
    """Serves one job at a time to many callers; everything it needs is handed in."""

    call: Call
    pace: Pace
    dialect: Dialect
    connection: Connection
    recorder: Recorder
    now: Callable[[], float]
    halt: Callable[[Exception | Problem], None]
    is_last: Callable[[], bool]  # whether nothing but the caller's job is left
    refusals: int = 0  # before any success

    async def serve(self, job: Job) -> None:
        """Send a batch, store what comes back, and put what has to be asked again into the backlog."""
        written = write_request(job.batch, self.dialect)
        job.boundary = written.boundary
        reply = await self.connection.post(
            written.body, idempotency_key=written.key, timeout_seconds=self.call.asking.timeout_seconds
        )
        self.call.tally.requests += 1
        problem = problem_of(reply.status, reply.headers, reply.text, fault=reply.problem)
        read = problem or read_completion(reply.text)
        if problem and problem.reason == "unusable_body":
            read = useless("unusable_body")
        if isinstance(read, Problem):
            await self._take_problem(job, reply, read)
        else:
            await self._take_completion(job, reply, read)

    async def keep_unknown(self, job: Job, reply: Reply, *, outcome: str = "unknown") -> None:
        """Store that a request may have been paid for."""
        self.call.tally.pay_perhaps(worst=job.worst)
        record = request_record(
            job.batch,
            request_id=self.recorder.new_request_id(),
            boundary=job.boundary,
            reply=reply,
            outcome=outcome,
        )
        await self.recorder.save(entry_for(job.batch, requests=[record]))

    async def _take_completion(self, job: Job, reply: Reply, completion: Completion) -> None:
        entry, again = receive(
            job,
            completion,
            reply=reply,
            tally=self.call.tally,
            attempts=self.call.asking.patience.attempts,
            reference=self.call.asking.reference,
            request_id=self.recorder.new_request_id(),
        )
        trust = self.call.tally.trust
        self.pace.doubted() if trust.doubtful else self.pace.succeeded()
        await self._keep(entry)
        self.call.backlog.again.extend(again)
        self._lose_trust()

    def _lose_trust(self) -> None:
        """Give up an endpoint whose answers are of no use, once none that could be is on its way."""
        trust, known = self.call.tally.trust, self.call.backlog.answered_before > 0
        if trust.lost(known=known) and self.pace.in_flight <= 1:
            self.halt(none_of_use(self.call.endpoint, trust))

    async def _keep(self, entry: Entry) -> None:
        await self.recorder.save(entry)
        self.call.tally.settle(entry.answers)

    async def _take_problem(self, job: Job, reply: Reply, problem: Problem) -> None:
        if problem.kind in FATAL:
            self.halt(problem)
            return
        if problem.kind in ("request", "too_long", "filtered"):
            await self._take_refusal(job.batch, problem)
            return
        _renew_key(job.batch, reply.status)
        if problem.kind in ("rate", "overload"):
            self._slow_down(job, reply, problem)
        else:
            if reply.sent and problem.kind in ("network", "answer"):
                await self.keep_unknown(job, reply, outcome=problem.reason if reply.status else "unknown")
            self.pace.faulted(job.started, reached=reply.sent)
            self._try_again(job.batch, problem)
            if problem.kind == "answer" and not self.call.tally.trust.proven:
                self.call.tally.trust.take_foreign(reply.text)
                self._lose_trust()
            self._lose_patience(reply, problem)

    async def _take_refusal(self, batch: Batch, problem: Problem) -> None:
        """Split until the text that is refused stands alone; with no success so far, doubt the request."""
        charge(batch, None, None, 0.0)
        several = len(batch.slots) > 1
        doubtful = not self.pace.successes and problem.kind != "filtered"
        backlog = self.call.backlog
        if self.call.tally.room.lower(batch, problem):
            backlog.push_back(batch)
        elif problem.kind == "too_long" and several:
            backlog.longest = min(backlog.longest or batch.characters(), batch.characters())
            backlog.again.extend(batch.halves())
        elif doubtful and self.dialect.learn(problem, batch.slots[0].question.recipe):
            backlog.push_back(batch)
        elif doubtful and not batch.retried:
            self._doubt(batch, problem)
        elif several:
            backlog.again.extend(batch.halves())
        else:
            await self._keep(fail_alone(batch, problem))

    def _doubt(self, batch: Batch, problem: Problem) -> None:
        """See whether others pass, since the endpoint names nothing that it does not take."""
        self.refusals += 1
        self.call.backlog.fresh.extend(batch.halves())
        if self.refusals >= MAX_REFUSALS:
            self.halt(all_refused(self.connection.base_url, problem))

    def _slow_down(self, job: Job, reply: Reply, problem: Problem) -> None:
        patience = self.call.asking.patience
        if problem.wait is not None and problem.wait > patience.longest_retry_after:
            self.halt(problem)
            return
        self.pace.overloaded(job.started, wait=problem.wait)
        wait = patience.backoff if problem.wait is None else problem.wait
        self.call.backlog.put_later(job.batch, self.now() + wait)
        self._lose_patience(reply, problem)

    def _try_again(self, batch: Batch, problem: Problem) -> None:
        """Retry; a fault counts against a batch only if the endpoint served others meanwhile."""
        successes, patience = self.pace.successes, self.call.asking.patience
        stuck = successes and problem.kind != "network" and self.is_last()
        if successes > batch.seen_successes or stuck:
            batch.faults += 1
        batch.seen_successes = successes
        if batch.faults >= patience.attempts and len(batch.slots) == 1:
            self.call.tally.left += 1
            return
        parts = batch.halves() if batch.faults > 1 else [batch]
        for part in parts:
            part.faults, part.seen_successes = batch.faults if part is batch else 1, successes
            self.call.backlog.put_later(part, self.now() + patience.backoff_after(max(1, batch.faults)))

    def _lose_patience(self, reply: Reply, problem: Problem) -> None:
        if self.pace.hopeless(reply.seconds):
            self.halt(EndpointDown(self._down_text(problem)))

    def _down_text(self, problem: Problem) -> str:
        seconds = self.pace.seconds_struck()
        return (
            f"{self.connection.base_url}: nothing but {problem.reason} for {seconds:.0f} s, "
            f"{problem.detail or 'without a word'}. Everything received is stored; the same command goes on"
        )


def _renew_key(batch: Batch, status: int) -> None:
    """Repeat under a new key what was answered with an error, for an endpoint may replay it for ever.

    What got no answer keeps its key, and so does, once, what may yet be charged: its repetition is free.
    """
    if status and (batch.unsure or status not in UNSURE_STATUS):
        batch.attempt += 1
        batch.unsure = False
    elif status:
        batch.unsure = True


class Dispatch:
    """Hands out jobs to whoever waits in :meth:`turn`, until it is over."""

    def __init__(self, backlog: Backlog, pace: Pace, tally: Tally, *, low_water: int) -> None:
        self.over = asyncio.Event()
        self.hungry = asyncio.Event()  # few fresh batches are left
        self.quiet = asyncio.Event()  # nothing waits and nothing is in flight
        self.fed = False  # no more will come
        self.ending: Exception | None = None
        self._backlog = backlog
        self._pace = pace
        self._tally = tally
        self._low_water = low_water
        self._loop = asyncio.get_running_loop()
        self._idle: deque[asyncio.Future[Job | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._wake_moment = -math.inf
        self.hungry.set()

    async def turn(self) -> Job | None:
        """Wait for a job; None when it is over. Hand it back to :meth:`release`."""
        turn: asyncio.Future[Job | None] = self._loop.create_future()
        self._idle.append(turn)
        self.match()
        return await turn

    def release(self, job: Job) -> None:
        """Free the slot and the money that a job held."""
        self._pace.end()
        self._tally.reserved -= job.worst

    def match(self) -> None:
        """Give jobs to idle slots, as many as may start now; notice when nothing is left."""
        while self._idle and not self.over.is_set() and (job := self._next_job()) is not None:
            self._idle.popleft().set_result(job)
        if self._pace.in_flight == 0 and self._backlog.empty():
            self.quiet.set()
            if self.fed:
                self.over.set()
        if self.over.is_set():
            self._dismiss()

    def end(self) -> None:
        """Hand out nothing more."""
        self.over.set()
        self._dismiss()

    def is_last(self) -> bool:
        """Tell whether nothing is left but one job in flight."""
        return self.fed and self._backlog.empty() and self._pace.in_flight == 1

    def _next_job(self) -> Job | None:
        now = self._loop.time()
        wait = self._pace.wait()
        trust, alone = self._tally.trust, self._tally.cannot_copy
        chosen = {"fresh_first": trust.doubtful, "alone": alone, "doubted_alone": trust.alone}
        batch = self._backlog.pop(now, **chosen) if wait == 0 else None
        if len(self._backlog.fresh) < self._low_water:
            self.hungry.set()
        if batch is None:
            self._wake_at(now + wait if wait else self._backlog.next_moment())
            return None
        self._tally.room.give(batch)
        worst = self._tally.worst_cost(batch)
        if not self._tally.affords(worst):
            self._backlog.push_back(batch)
            self._stop_paying(worst)
            return None
        self._tally.reserved += worst
        return Job(batch, worst, started=self._pace.start())

    def _stop_paying(self, worst: float) -> None:
        if self._pace.in_flight:
            return  # what is in flight may turn out cheaper than its worst case
        tally = self._tally
        self.ending = BudgetReached(
            f"max_cost_usd: {tally.spent:.4f} USD are spent, the next request may cost {worst:.4f}, "
            f"and the limit is {tally.max_cost_usd:g}. Everything received is stored; "
            "raise it and run again: with --out RUN_DIR this run goes on, without it a new one counts from 0"
        )
        self.over.set()

    def _wake_at(self, moment: float | None) -> None:
        if moment is None or moment == math.inf:
            return
        if self._loop.time() < self._wake_moment <= moment:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_moment = moment
        self._timer = self._loop.call_at(moment, self._on_time)

    def _on_time(self) -> None:
        self._wake_moment = -math.inf  # a timer may come a little early, and is then set again
        try:
            self.match()
        except Exception as error:  # nobody waits for a timer, so it has to end the run itself
            self.ending = error
            self.end()

    def _dismiss(self) -> None:
        while self._idle:
            turn = self._idle.popleft()
            if not turn.done():
                turn.set_result(None)


# Questions looked up at once while all of them have answers.
READ_ON = 1_000
# Batches formed at once, so that texts that begin alike find room in different ones.
FEWEST_BATCHES = 8
# Replies that share a commit without waiting for more; fewer where fewer are in flight.
ENOUGH = 8


class Engine:
    """One run over a backlog; made in any thread, run in the thread of its own loop."""

    def __init__(self, call: Call, say: Callable[[str], None]) -> None:
        endpoint = call.endpoint
        self.dialect = dialect_of(endpoint)
        self.ending: Exception | Problem | None = None
        self.most_in_flight = 0
        self.call = call
        self._asking = call.asking
        self._slots = allowed_connections(call.asking.concurrency)
        self._say = say
        self._stopped = False
        self._abandoned: list[Job] = []
        self._pilot: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Ask until nothing is left, or until told or forced to stop; then drain what is in flight."""
        patience, clock = self._asking.patience, asyncio.get_running_loop().time
        per_minute = self._asking.requests_per_minute
        self._pace = Pace(patience, ceiling=self._slots, requests_per_minute=per_minute, now=clock)
        self._dispatch = Dispatch(self.call.backlog, self._pace, self.call.tally, low_water=self._slots)
        connection = Connection(
            self.call.endpoint.base_url,
            api_key=self.call.endpoint.api_key,
            concurrency=self._slots,
            connect_seconds=patience.connect,
        )
        with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(1) as reader:
            async with connection:
                recorder = Recorder(self.call.answers, writer, enough=min(self._slots // 8, ENOUGH))
                self._exchange = self._make_exchange(connection, recorder)
                await self._live(reader)
        self.most_in_flight = self._pace.most_in_flight
        self.ending = self.ending or self._dispatch.ending

    def halt(self, reason: Exception | Problem) -> None:
        """Start no new call; the first reason given is the one that counts."""
        self.ending = self.ending or reason
        self._stopped = True
        if self._tasks:
            self._dispatch.end()

    def abort(self) -> None:
        """Give up what is in flight, too."""
        for task in self._tasks:
            task.cancel()

    def go_on(self) -> None:
        """Send more: the caller has looked at the pilot."""
        if self._pilot and not self._pilot.done():
            self._pilot.set_result(None)

    def _make_exchange(self, connection: Connection, recorder: Recorder) -> Exchange:
        return Exchange(
            call=self.call,
            pace=self._pace,
            dialect=self.dialect,
            connection=connection,
            recorder=recorder,
            now=asyncio.get_running_loop().time,
            halt=self.halt,
            is_last=self._dispatch.is_last,
        )

    async def _live(self, reader: ThreadPoolExecutor) -> None:
        feeder = self._spawn(self._feed(reader))
        workers = [self._spawn(self._work()) for _ in range(self._slots)]
        if self._stopped:
            self._dispatch.end()
        await self._dispatch.over.wait()
        feeder.cancel()
        _, late = await asyncio.wait(workers, timeout=self._asking.patience.drain)
        for task in late:
            task.cancel()
        await asyncio.gather(feeder, *workers, return_exceptions=True)
        await self._guard(self._keep_abandoned())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(self._guard(work)))
        return self._tasks[-1]

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # whatever it is, the run ends by it, after what is in flight is stored
            self.halt(error)

    async def _keep_abandoned(self) -> None:
        """Store that calls which were given up may have been paid for."""
        for job in self._abandoned:
            self.call.tally.requests += 1
            seconds = asyncio.get_running_loop().time() - job.started
            await self._exchange.keep_unknown(job, Reply(0, {}, "", seconds, "abandoned"))

    async def _feed(self, reader: ThreadPoolExecutor) -> None:
        loop, backlog, dispatch = asyncio.get_running_loop(), self.call.backlog, self._dispatch
        pilot_size = self._asking.pilot_size if self._asking.pilot else 0
        window, blocks = pilot_size or self._slots, 1
        while not dispatch.fed:
            await dispatch.hungry.wait()
            batches = await loop.run_in_executor(reader, partial(backlog.next_window, window, blocks=blocks))
            if batches and pilot_size and backlog.seen > pilot_size and self._pilot is None:
                await self._hold_pilot()
            window = max(self._slots, FEWEST_BATCHES) * backlog.batch_size
            # Where nothing is left to ask, reading on costs less in larger pieces.
            blocks = 1 if batches else -(-READ_ON // window)
            backlog.fresh.extend(batches)
            dispatch.fed = backlog.exhausted
            if len(backlog.fresh) >= self._slots:
                dispatch.hungry.clear()
            dispatch.match()

    async def _hold_pilot(self) -> None:
        self._dispatch.quiet.clear()
        self._dispatch.match()
        await self._dispatch.quiet.wait()
        self._pilot = asyncio.get_running_loop().create_future()
        self._say("pilot")
        await self._pilot

    async def _work(self) -> None:
        while (job := await self._dispatch.turn()) is not None:
            try:
                if not self._dispatch.over.is_set():
                    await self._exchange.serve(job)
            except asyncio.CancelledError:
                self._abandoned.append(job)
                raise
            finally:
                self._dispatch.release(job)


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
    spent_usd: float = 0.0  # the cost, and at its worst what no reply told
    seconds: float = 0.0
    stopped: str = ""
    max_in_flight: int = 0
    mode: str = ""
    models: dict[str, int] = field(default_factory=dict)  # as answers name them, with requests
    maybe_paid: int = 0  # sent, and nothing came back that says what it cost
    too_long: int = 0  # characters of contents that were too many for one request; 0: none were
    ignored: int = 0  # answers without a number, or under one that was never asked
    cannot_copy: bool = False  # the texts' openings, so that each text was asked alone
    reasoning_tokens: int = 0  # hidden ones among the completion's, as far as replies tell


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: by an error, and in which mode its answers came."""

    error: BaseException | None
    mode: str
    max_in_flight: int = 0


def run_live(call: Call) -> Ended:
    """Ask one request after another, many at a time, until nothing is left."""
    steering = Steering(
        lambda say: Engine(call, say),
        pilot=call.asking.pilot,
        progress=call.tick,
        stop=call.stop,
    )
    steering.run()
    engine = steering.engine
    ending = engine.ending
    if isinstance(ending, Problem):
        ending = fatal_error(ending, call.endpoint)
    return Ended(steering.error or ending, engine.dialect.mode, engine.most_in_flight)


def ask(
    questions: Iterable[Question],
    *,
    endpoint: Endpoint,
    answers: AnswerStore,
    asking: Asking,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    on_report: Callable[[GenerationReport], None] | None = None,
    run: Callable[[Call], Ended] = run_live,
) -> GenerationReport:
    """Ask every question that has no stored answer and store what comes back.

    Parameters
    ----------
    questions
        Read once and lazily; equal ones are asked once.
    progress
        Called now and then in the caller's thread with how many are settled, and how many of these failed.
    stop
        Set from anywhere: no new call, what is in flight is drained and stored, Interrupted.
    on_report
        Called with the report also when an error is raised.
    run
        How the questions go out: live, or as `batches.run_batches` does.

    Raises
    ------
    KeyRejected, BillingRefused, ModelUnknown, EndpointDown, BudgetReached, Interrupted
        After everything that was received is stored; the same call goes on from there.
    QualityGate
        Answers came, and none could be used; what they were about is pending.
    ParamsError
        The limit cannot hold without a price.
    """
    check_price(asking.price, model=endpoint.model, max_cost_usd=asking.max_cost_usd)
    started = time.monotonic()
    backlog = Backlog(questions, answers, batch_size=asking.batch_size, retry_failed=asking.retry_failed)
    tally = Tally(asking.price, asking.max_cost_usd, spent=asking.spent_usd)
    for hidden, lacking in answers.hidden_tokens(endpoint=endpoint.identity, model=endpoint.model_identity):
        tally.room.grow(hidden, lacking=lacking)

    def tick() -> None:
        if progress:
            progress(*_settled(backlog, tally))

    call = Call(backlog, tally, endpoint, answers, asking, stop or Event(), tick)
    ended = run(call)
    ended = ended if ended.error else replace(ended, error=_settle_held(call))
    total = len(questions) if isinstance(questions, Sized) else backlog.seen
    report = _report(call, ended, total=total, seconds=time.monotonic() - started)
    if on_report:
        on_report(report)
    if ended.error:
        raise ended.error
    return report


def _settle_held(call: Call) -> QualityGate | None:
    """Store what failed by useless answers at the end, unless no answer was ever of use."""
    trust = call.tally.trust
    if trust.useless and not trust.proven and not call.backlog.answered_before:
        return none_of_use(call.endpoint, trust)
    call.answers.save(answers=trust.held)
    call.tally.settle(trust.held)
    return None


def _settled(backlog: Backlog, tally: Tally) -> tuple[int, int]:
    return backlog.repeated + backlog.answered_before + tally.answered + tally.failed, tally.failed


def _report(call: Call, ended: Ended, *, total: int, seconds: float) -> GenerationReport:
    backlog, tally = call.backlog, call.tally
    different = total - backlog.repeated
    settled = backlog.answered_before + tally.answered + tally.failed
    left = f"{tally.left} left for now: server errors" if tally.left else ""
    return GenerationReport(
        questions=different,
        repeated=backlog.repeated,
        answered_before=backlog.answered_before,
        answered=tally.answered,
        failed=tally.failed,
        pending=different - settled,
        requests=tally.requests,
        paid_requests=tally.paid_requests,
        maybe_paid=tally.maybe_paid,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        cost_usd=tally.cost_usd,
        spent_usd=tally.spent - call.asking.spent_usd,
        seconds=seconds,
        stopped=str(ended.error) if ended.error else left,
        max_in_flight=ended.max_in_flight,
        mode=ended.mode,
        models=dict(tally.models),
        too_long=backlog.longest,
        ignored=tally.ignored,
        cannot_copy=tally.cannot_copy,
        reasoning_tokens=tally.reasoning_tokens,
    )
