"""Questions in, stored answers out: batches, retries, budget, durable commit; it stops and goes on."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import heapq
import itertools
import json
import math
import re
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any, NamedTuple

import uvloop

from llmtwin_data.answers import Answer, AnswerStore, Claims, PaidRequest
from llmtwin_data.embeddings import Encode
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.errors import BudgetReached, EndpointDown, Interrupted, ParamsError, QualityGate
from llmtwin_data.folders import now
from llmtwin_data.measures import choose_candidate, find_swapped
from llmtwin_data.params import redact
from llmtwin_data.prices import Price, check_price, cost_usd
from llmtwin_data.prompts import (
    FORMED_TOGETHER,
    DataFormatter,
    Head,
    Message,
    Question,
    Recipe,
    answer_schema,
    batch_boundary,
    build_messages,
    form_batches,
    output_tokens,
    words_to_copy,
)
from llmtwin_data.replies import (
    Choice,
    Completion,
    Reading,
    Values,
    quoted,
    read_choice,
    read_completion,
    read_embeddings,
)
from llmtwin_data.texts import counted, estimate_tokens, language_matches, prose_language, text_sha256
from llmtwin_data.transport import (
    UNSURE_STATUS,
    Pace,
    Patience,
    Problem,
    Reply,
    allowed_connections,
    live_client,
    post,
    problem_of,
)

STOPPED = "stopped; everything answered is stored, and the same command goes on"
# Asked alone and with the same words, these would only come again.
FINAL_WHEN_ALONE = {"refused", "filtered"}
# Before any success: refusals of everything, after which something else than a text must be wrong, and errors
# of who serves the model behind an endpoint.
MAX_REFUSALS, MAX_FROM_BEHIND = 5, 8


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
    reference: tuple[str, ...] = ()  # a fixed sample that candidates are compared with, besides batch-mates
    encode: Encode | None = None  # and how, where words do not do
    retry_failed: bool = False  # ask again what a stored answer says has failed
    seed: int = 0  # of what the embedded model says
    pledge: Callable[[float], object] | None = None  # told before a request what is spent by then at most


@dataclass(slots=True, kw_only=True)
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
    cost_usd: float | None = 0.0  # None once a reply did not say its tokens, or the price is unknown
    spent_usd: float = 0.0  # the cost, and at its worst what no reply told
    seconds: float = 0.0
    stopped: str = ""
    max_in_flight: int = 0
    mode: str = ""
    models: dict[str, int] = field(default_factory=dict)  # as answers name them, with requests
    maybe_paid: int = 0  # sent, and nothing came back that says what it cost
    prompts_cut: int = 0  # requests of which the endpoint counted fewer tokens than they hold
    too_long: int = 0  # characters of contents that were too many for one request; 0: none were
    ignored: int = 0  # answers without a number, or under one that was never asked
    cannot_copy: bool = False  # the texts' openings, so that each text was asked alone
    reasoning_tokens: int = 0  # hidden ones among the completion's, as far as replies tell


@dataclass(slots=True, eq=False)
class Slot:
    """One question on its way, with what it has cost so far."""

    question: Question
    key: str  # empty for a text in a request on its way that nobody asks about any more
    candidates: list[Values] = field(default_factory=list)  # in the order they came
    reason: str = ""  # why the last answer was no use
    tries: int = 0  # answers that were no use
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    retried: int = 0  # requests of a failure that is asked about again; part of the idempotency key

    def missing(self) -> int:
        """Return how many candidates are still wanted."""
        return self.question.recipe.candidates - len(self.candidates)

    def answer(self, values: Values = (), **fields: str) -> Answer:
        """Return the final word on this question, with these fields; failed without values."""
        return Answer(
            self.key,
            "ok" if values else "failed",
            values,
            requests=self.requests,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost_usd=None if self.cost_usd is None else round(self.cost_usd, 12),
            **fields,
        )


# Tokens; what a model may think before it answers one request. More is a model that does not stop.
MOST_ROOM = 65_536


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
    worst: float = 0.0  # USD that count as spent where the completion does not say its tokens
    boundary: str = ""  # of the texts, in the request as it was written last
    sent_bytes: int = 0  # of that request
    lessons: int = 0  # that the endpoint had taught when it was written
    openings: bool = True  # asked for; an earlier version, whose batches may still be open, did not

    @property
    def recipe(self) -> Recipe:
        """The recipe that its questions share."""
        return self.slots[0].question.recipe

    def texts(self) -> list[str]:
        """Return the texts in the order of their numbers."""
        return [slot.question.text for slot in self.slots]

    def heads(self) -> list[Head]:
        """Return what an answer's openings must be found in; nothing where none was asked for."""
        asked = self.openings and len(self.slots) > 1 and self.recipe.kind != "embeddings"
        return [slot.question.head for slot in self.slots] if asked else []

    def characters(self) -> int:
        """Return the length of all texts together."""
        return sum(map(len, self.texts()))

    def token_limit(self) -> int:
        """Return the tokens to allow for each choice."""
        copied = words_to_copy(self.heads())
        limit = output_tokens(self.recipe, len(self.slots), stretch=self.stretch, copied_words=copied)
        return limit + (self.room or 0)

    def only(self, slots: list[Slot]) -> Batch:
        """Return a batch of those texts that are still asked about, as if it had been formed of them."""
        return self if len(slots) == len(self.slots) else Batch(slots)

    def part(self, slots: list[Slot]) -> Batch:
        """Return a batch of some of the texts; all of them alone are the next attempt at the same words."""
        attempt = self.attempt + 1 if len(slots) == len(self.slots) else 0
        return Batch(slots, again=self.again + 1, attempt=attempt, stretch=self.stretch)

    def halves(self) -> list[Batch]:
        """Return two halves, or the batch itself if it has one text."""
        middle = (len(self.slots) + 1) // 2
        parts = [self.slots[:middle], self.slots[middle:]]
        return [self.part(slots) for slots in parts] if parts[1] else [self]

    def charge(self, prompt: int | None, completion: int | None, cost: float | None) -> None:
        """Share what a request used among its texts, the prompt by length; the shares add up to it."""
        passed, count, whole = 0, len(self.slots), self.characters() + len(self.slots)
        for place, slot in enumerate(self.slots):
            length = len(slot.question.text) + 1
            slot.requests += 1
            slot.prompt_tokens += (prompt or 0) * (passed + length) // whole - (prompt or 0) * passed // whole
            slot.completion_tokens += (completion or 0) * (place + 1) // count
            slot.completion_tokens -= (completion or 0) * place // count
            known = cost is not None and slot.cost_usd is not None
            slot.cost_usd = slot.cost_usd + cost * length / whole if known else None  # type: ignore[operator]
            passed += length


# Blocks of batches formed and looked up at once, where all may be answered.
READ_BLOCKS = 32
# Between looks at what another process is asking.
LOOK_SECONDS = 0.25


class Backlog:
    """Batches waiting: those asked again, each for its moment, before fresh ones.

    Batches are formed of all questions by position and only then lose what is answered, so that after
    a kill those in flight recur with the same bytes and the same idempotency key.
    """

    def __init__(
        self,
        questions: Iterable[Question],
        store: AnswerStore,
        claims: Claims,
        *,
        batch_size: int,
        retry_failed: bool = False,
    ) -> None:
        self.seen = self.different = self.repeated = self.answered_before = 0
        self.all_formed = False
        self.longest = 0  # characters that were too many for one request; 0: none were
        self.fresh: deque[Batch] = deque()
        self._again: list[tuple[float, int, Batch]] = []
        self._elsewhere: list[Batch] = []  # what another process is asking
        self._blocks = form_batches(self._counted(questions), batch_size=batch_size)
        self._store, self._claims, self._retry_failed = store, claims, retry_failed
        self._count = itertools.count()

    def _counted(self, questions: Iterable[Question]) -> Iterator[Question]:
        for question in questions:
            self.seen += 1
            yield question

    @property
    def exhausted(self) -> bool:
        """Return whether nothing more can be read."""
        return self.all_formed and not self._elsewhere

    def read(self, blocks: int = READ_BLOCKS, *, idle: bool = False) -> list[Batch]:
        """Form so many more blocks of batches; return what of them has no answer and nobody asks. It blocks.

        Once all are formed, look again at what other processes were asking; ``idle`` where nothing else is
        left, so that no two wait for each other.
        """
        formed = list(itertools.islice(self._blocks, blocks))
        self.all_formed = len(formed) < blocks
        batches = [
            Batch([Slot(question, key) for key, question in batch.items()])
            for batch in itertools.chain.from_iterable(formed)
        ]
        self.different += sum(len(batch.slots) for batch in batches)
        self.repeated = self.seen - self.different
        batches = self.unanswered(batches)
        if not formed and self._elsewhere:
            time.sleep(LOOK_SECONDS)
            if idle:
                self._claims.release()
            self._store.take_in_left()  # of whoever was killed at it
            batches, self._elsewhere = self._elsewhere, []
        if not batches:
            return []
        own = self._claims.take([slot.key for batch in batches for slot in batch.slots])
        ours = []
        for batch in self.unanswered(batches):  # once more: whoever asked has stored before letting go
            mine = [slot for slot in batch.slots if slot.key in own]
            if theirs := [slot for slot in batch.slots if slot.key not in own]:
                self._elsewhere.append(Batch(theirs))
            ours += [batch.only(mine)] if mine else []
        return ours

    def give(self, batches: Sequence[Batch]) -> None:
        """Take batches that are formed already; nothing more is read."""
        self.seen = self.different = sum(len(batch.slots) for batch in batches)
        self.fresh.extend(self.unanswered(batches))
        self.all_formed = True

    def unanswered(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return what of these batches has no answer, and count the rest as answered before."""
        stored = self._store.answers([slot.key for batch in batches for slot in batch.slots])
        remaining = []
        for batch in batches:
            slots = [slot for slot in batch.slots if self._is_open(slot, stored.get(slot.key))]
            self.answered_before += len(batch.slots) - len(slots)
            remaining += [batch.only(slots)] if slots else []
        return remaining

    def _is_open(self, slot: Slot, before: Answer | None) -> bool:
        if before is None:
            return True
        if before.state == "ok" or not self._retry_failed or slot.retried not in (0, before.requests):
            return False
        # On top of what that has cost, under keys that no server has yet seen.
        slot.retried = slot.requests = before.requests
        slot.prompt_tokens, slot.completion_tokens = before.prompt_tokens, before.completion_tokens
        slot.cost_usd = before.cost_usd
        return True

    def give_back(self) -> None:
        """Look anew at all that waits, if another process took this one for dead and asks it now."""
        if self._claims.lost:
            self._elsewhere += [*self.fresh, *(batch for _, _, batch in self._again)]
            self.fresh.clear()
            self._again.clear()
            self._claims.renew()

    def put(self, *batches: Batch, moment: float = 0.0) -> None:
        """Keep batches that are asked again, until the clock shows this moment."""
        for batch in batches:
            heapq.heappush(self._again, (moment, next(self._count), batch))

    def next_moment(self) -> float:
        """Return the moment of the first batch that is asked again."""
        return self._again[0][0] if self._again else math.inf

    def pop(self, now: float, *, trust: Trust | None = None, alone: bool = False) -> Batch | None:
        """Return the next batch, none if all wait for their moment; halved while too long.

        In doubt fresh ones go first, and one text is cut off a batch that is asked again; ``alone`` asks
        about each text alone.
        """
        is_due = bool(self._again) and self._again[0][0] <= now
        if self.fresh and (not is_due or (trust and trust.doubtful)):
            batch = self.fresh.popleft()
        elif is_due:
            batch = heapq.heappop(self._again)[2]
        else:
            return None
        if trust and trust.alone and batch.again and len(batch.slots) > 1:
            self.put(batch.part(batch.slots[1:]))
            return batch.part(batch.slots[:1])
        while len(batch.slots) > 1 and (alone or 0 < self.longest <= batch.characters()):
            batch, rest = batch.halves()
            self.put(rest)
        return batch

    def empty(self) -> bool:
        """Return whether nothing waits; more may still be read."""
        return not (self._again or self.fresh)

    def is_faulty(self) -> bool:
        """Return whether nothing waits but what met a fault of server or network."""
        return not self.fresh and all(batch.faults for _, _, batch in self._again)


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
        """Return whether to ask about other texts first, one request at a time."""
        return self.useless >= (MOST_USELESS_AT_FIRST if self.proven else 1)

    @property
    def alone(self) -> bool:
        """Return whether to ask about one text, for a model may fail on several."""
        return not self.proven and 3 <= self.useless < MOST_USELESS_AT_FIRST

    def lost(self, *, known: bool) -> bool:
        """Return whether to give up; ``known`` with earlier answers, for then a few texts may be at fault."""
        if self.proven:
            return self.useless >= MOST_USELESS < self.texts
        few = known and self.texts <= MOST_USELESS
        return self.foreign >= MOST_FOREIGN or (self.useless >= MOST_USELESS_AT_FIRST and not few)

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


# Room for hidden tokens: of what one reply took, of what was not enough for one, and at least after that.
HEADROOM, HEADROOM_LACKING, FIRST_ROOM, LEAST_ROOM = 3, 6, 8_192, 1_024
ASKS_TO_THINK = re.compile(r'"reasoning_effort": "(?!none)|"enable_thinking": true')
LIMIT_TOO_HIGH = re.compile(
    r"(?=.*(max\w*[ _]?tokens|(completion|output) tokens))(?=.*(too (large|high|big|many)|at most|maximum"
    r"|exceed|less than|greater than|up to|range|<=))",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Room:
    """Tokens that the limit of a request leaves for hidden ones: learnt from each reply, for the whole run.

    It is a limit and no cost, so it is generous: what a model thinks varies by its multiples.
    """

    tokens: int = 0
    ceiling: int = MOST_ROOM

    def for_batch(self, batch: Batch) -> int:
        """Return what a batch may have now; nothing where the params set the limit."""
        least = FIRST_ROOM if ASKS_TO_THINK.search(batch.recipe.request_extra) else 0
        most = 0 if batch.recipe.max_output_tokens else min(self.ceiling, batch.most_room)
        return min(max(self.tokens, least), most)

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
        return lacking and self.for_batch(batch) > room

    def lower(self, batch: Batch, problem: Problem) -> bool:
        """Leave a batch less where the endpoint takes no limit so high; False if there is nothing to take."""
        names_limit = LIMIT_TOO_HIGH.search(f"{problem.param} {problem.detail}")
        if not batch.room or not (problem.kind == "too_long" or names_limit):
            return False
        batch.room = batch.most_room = batch.room // 4 if batch.room > LEAST_ROOM else 0
        return True


MODES = ("json_schema", "json_object", "text")
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
OPTIONAL = ("temperature", "n", "reasoning_effort")


@dataclass(slots=True)
class Dialect:
    """The request fields that the endpoint takes; it learns from refusals until the first success.

    The next call of `ask` in this process begins with it, at as many requests in flight as were ``opened``.
    """

    model: str
    tokens_field: str = "max_tokens"
    effort: str = ""
    formatter: type[DataFormatter] = DataFormatter
    mode: str = "json_schema"
    seed: int = 0  # sent to the embedded model alone
    dropped: set[str] = field(default_factory=set)
    lessons: int = 0
    opened: float = 1.0
    _tails: dict[tuple[str, int, int, int], str] = field(default_factory=dict)

    def body(
        self, recipe: Recipe, messages: Sequence[Message], *, count: int, limit: int, choices: int, seed: str
    ) -> bytes:
        """Write the request for ``count`` texts, with a limit of tokens; ``seed`` may be empty."""
        key = (recipe.sha256, count, choices, limit)
        if key not in self._tails:
            fields: dict[str, Any] = {"model": self.model, "temperature": recipe.temperature}
            fields |= {self.tokens_field: limit}
            fields |= {"reasoning_effort": self.effort} if self.effort else {}
            fields |= {"n": choices} if choices > 1 else {}
            if self.mode != "text":
                fields["response_format"] = {"type": self.mode}
            if self.mode == "json_schema":
                schema = {"name": "answer", "strict": True, "schema": answer_schema(recipe, count)}
                fields["response_format"]["json_schema"] = schema
            kept = {name: value for name, value in fields.items() if name not in self.dropped}
            # Written once, for it is the same for thousands of requests.
            self._tails[key] = _dump(kept | json.loads(recipe.request_extra))[1:]
        return f'{{"messages":{_dump(messages)},{seed}{self._tails[key]}'.encode()

    def learn(self, problem: Problem, recipe: Recipe) -> bool:
        """Adapt to a refusal; True if the request, said differently, may now be taken.

        Raises ParamsError: the field refused is one that ``request_extra`` asked for.
        """
        known = (*TOKEN_FIELDS, *OPTIONAL, "response_format")
        quotes = re.findall(r"[`'\"]([a-z_]+)[`'\"]", problem.detail)
        # Some write a name without quotes; "n" would be found in any text.
        bare = re.findall(r"[a-z_]{2,}", problem.detail)
        named = problem.param.split(".")[0] or next((name for name in quotes + bare if name in known), "")
        named = named or next(iter(quotes), "")
        if named and named in json.loads(recipe.request_extra):
            raise ParamsError(f"request_extra: the endpoint refuses {named!r}: {problem.detail}")
        if named in TOKEN_FIELDS and named not in self.dropped:
            self.dropped.add(named)
            self.tokens_field = next((name for name in TOKEN_FIELDS if name not in self.dropped), named)
        elif self.mode != "text" and problem.kind == "schema":
            self.mode = MODES[MODES.index(self.mode) + 1]
        elif named in OPTIONAL and named not in self.dropped:
            self.dropped.add(named)
        else:
            return False
        self.lessons += 1
        self._tails.clear()
        return True


def write_request(batch: Batch, dialect: Dialect) -> tuple[bytes, str]:
    """Return a request for the candidates still wanted, and the key that makes its repetition free.

    The key is equal for the same body after an unknown outcome, in this run or the next; a new attempt, after
    an answer that was an error or no use, has a new one, and so has what is asked again after it failed.
    """
    texts, recipe, batch.lessons = batch.texts(), batch.recipe, dialect.lessons
    if recipe.kind == "embeddings":
        body = _dump({"model": dialect.model, "input": texts}).encode()
    else:
        batch.boundary = batch_boundary(texts)
        messages = build_messages(recipe, texts, boundary=batch.boundary, formatter=dialect.formatter)
        choices = 1 if "n" in dialect.dropped else max(slot.missing() for slot in batch.slots)
        limit, seed = batch.token_limit(), _seed_of(batch, dialect.seed)
        body = dialect.body(recipe, messages, count=len(texts), limit=limit, choices=choices, seed=seed)
        batch.sent_bytes = len(body)
    retried = max(slot.retried for slot in batch.slots)
    salt = f"{batch.attempt}+{retried}" if retried else str(batch.attempt)
    return body, hashlib.sha256(body + salt.encode()).hexdigest()


def _seed_of(batch: Batch, seed: int) -> str:
    """Return the field by which the embedded model, asked the same anew, says the same; others get none."""
    if batch.recipe.endpoint != "embedded":
        return ""
    salt = [f"{slot.question.key}{slot.requests}" for slot in batch.slots]
    return f'"seed":{int(text_sha256(f"{seed}{salt}")[:8], 16)},'


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Entry(NamedTuple):
    """What is stored together of one batch."""

    batch: Batch
    requests: Sequence[PaidRequest] = ()
    answers: Sequence[Answer] = ()


def save_entries(store: AnswerStore, entries: Sequence[Entry]) -> None:
    """Store entries in one transaction, with the questions and recipes that they need."""
    kept = [entry for entry in entries if entry.requests or entry.answers]
    store.save(
        requests=[request for entry in kept for request in entry.requests],
        answers=[answer for entry in kept for answer in entry.answers],
        questions=[slot.question for entry in kept for slot in entry.batch.slots if slot.key],
        recipes=list({entry.batch.recipe.sha256: entry.batch.recipe for entry in entries}.values()),
    )


# A vector in a reply to be kept; it stands in its answer, and once is enough.
LONG_VECTOR = re.compile(r"\[[-+.\w,\s]{40,}\]")


def request_record(
    batch: Batch,
    reply: Reply,
    outcome: str,
    *,
    request_id: str,
    completion: Completion | None = None,
    cost_usd: float | None = None,
    batch_id: str = "",
) -> PaidRequest:
    """Describe a request that was, or may have been, paid; its texts stand there by their sha256."""
    completion, texts = completion or Completion(()), batch.texts()
    hashes = tuple(map(text_sha256, texts))
    messages = build_messages(batch.recipe, texts, boundary=batch.boundary)
    listed, by_hash = (
        DataFormatter.format_data(each, boundary=batch.boundary)
        for each in (texts, [f"{{{{sha256:{digest}}}}}" for digest in hashes])
    )
    messages[-1]["content"] = messages[-1]["content"].replace(listed, by_hash)
    return PaidRequest(
        id=request_id,
        recipe_sha256=batch.recipe.sha256,
        texts=hashes,
        skeleton=json.dumps(messages, ensure_ascii=False),
        raw=LONG_VECTOR.sub("[]", reply.text) if batch.recipe.kind == "embeddings" else reply.text,
        status=reply.status,
        outcome=outcome,
        attempt=batch.attempt,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        cost_usd=cost_usd,
        model=completion.model,
        system_fingerprint=completion.system_fingerprint,
        seconds=round(reply.seconds, 3),
        at=now(),
        batch_id=batch_id,
        reasoning_tokens=completion.reasoning_tokens,
    )


@dataclass(slots=True)
class Settlement:
    """What a completion comes to: final answers, batches to ask again, and one word for the request."""

    answers: list[Answer]
    again: list[Batch]
    outcome: str
    readings: list[Reading]
    useful: bool  # a word about any of the texts: an instruction, a verdict, or that it is refused


def settle(
    batch: Batch,
    completion: Completion,
    *,
    attempts: int,
    request_id: str,
    roomier: bool = False,
    reference: Sequence[str] = (),
    encode: Encode | None = None,
) -> Settlement:
    """Match a completion with its batch.

    Parameters
    ----------
    attempts
        Useless answers after which a text, asked alone, is failed.
    roomier
        Hidden tokens took the answer's room, and there is more now: ask the rest together, as if for the
        first time.
    reference, encode
        What candidates are compared with besides the batch-mates, of which a batch of one has none, and how.
    """
    readings = [_read(batch, choice) for choice in completion.choices]
    useful = False
    for number, slot in enumerate(batch.slots, start=1):
        gained = [reading.values[number] for reading in readings if number in reading.values]
        problems = [reading.problems[number] for reading in readings if number in reading.problems]
        slot.candidates += gained[: max(0, slot.missing())]
        slot.reason = problems[-1] if problems else slot.reason
        slot.tries += not gained and not roomier
        useful |= any(map(str.isalnum, "".join(gained[-1]))) if gained else slot.reason in FINAL_WHEN_ALONE
    wanted = [slot for slot in batch.slots if slot.key]
    ready = [slot for slot in wanted if slot.missing() <= 0 or (slot.candidates and slot.tries >= attempts)]
    others = [*batch.texts(), *reference]
    chosen = {slot.key: _choose(slot, others, encode) for slot in ready}
    for slot in _swapped(chosen, batch):
        slot.candidates, slot.reason, slot.tries = [], "swapped", slot.tries + 1
    good = [slot for slot in ready if slot.candidates]
    rest = [slot for slot in wanted if slot not in good]
    answers = [slot.answer(chosen[slot.key], model=completion.model, request_id=request_id) for slot in good]
    reasons, again = Counter(slot.reason or "partial" for slot in rest), list[Batch]()
    if roomier and rest:
        again = [replace(batch.part(rest), again=batch.again)]
    elif rest and len(batch.slots) == 1 and (rest[0].reason in FINAL_WHEN_ALONE or rest[0].tries >= attempts):
        answers.append(rest[0].answer(reason=rest[0].reason, request_id=request_id))
    elif rest:
        again = _regroup(batch, rest)
    outcome = "ok" if not rest else "partial" if good else reasons.most_common(1)[0][0]
    return Settlement(answers, again, outcome, readings, useful)


def _read(batch: Batch, choice: Choice) -> Reading:
    count, recipe = len(batch.slots), batch.recipe
    if choice.problem and not choice.text:
        return Reading(problems=dict.fromkeys(range(1, count + 1), choice.problem))
    if recipe.kind == "embeddings":
        return Reading({number: (vector,) for number, vector in enumerate(choice.text.split(), start=1)})
    return read_choice(
        choice.text,
        kind=recipe.kind,
        k=recipe.k,
        count=count,
        boundary=batch.boundary,
        heads=batch.heads(),
        cut=choice.problem == "cut",
    )


def _choose(slot: Slot, others: Sequence[str], encode: Encode | None) -> Values:
    """Return the best candidate, by vectors if it is to be in another language, or a very small model's.

    Such a model repeats words of a text without their sense, and the prompt's examples in other words.
    """
    if len(slot.candidates) == 1:
        return slot.candidates[0]
    text, recipe = slot.question.text, slot.question.recipe
    asked = "" if recipe.language == "same" else recipe.language
    by_words = recipe.endpoint != "embedded" and language_matches(prose_language(text), asked)
    place = choose_candidate(
        ["\n".join(one) for one in slot.candidates],
        text,
        others if by_words else [*others, *itertools.chain(*recipe.template.examples)],
        prompt_words=recipe.template.words,
        encode=None if by_words else encode,
    )
    return slot.candidates[place]


def _swapped(chosen: Mapping[str, Values], batch: Batch) -> list[Slot]:
    """Return the slots whose instructions look as if they belonged to another text of the batch."""
    if len(batch.slots) < 2 or not chosen or batch.recipe.kind != "instructions":
        return []
    # Texts without an answer stand in the comparison too: theirs may be the one given to another.
    asked = [" ".join(chosen.get(slot.key, ())) for slot in batch.slots]
    places = find_swapped(asked, batch.texts(), asked_language=batch.recipe.language)
    return [batch.slots[place] for place in places if batch.slots[place].key in chosen]


def _regroup(batch: Batch, rest: list[Slot]) -> list[Batch]:
    """Return the batches that ask the rest again: once together, then in halves or alone."""
    several = len(batch.slots) > 1
    alone = [slot for slot in rest if several and slot.reason == "swapped"]
    others = [slot for slot in rest if slot not in alone]
    reasons, parts = {slot.reason for slot in others}, list[Batch]()
    # Unproven is what is not known to be about the text that the number names.
    whole, unproven = len(others) == len(batch.slots), reasons <= {"numbers", "opening"}
    once_more = batch.again == 0 and (unproven or not whole)
    once_more |= batch.attempt == 0 and whole and reasons == {"empty_answer"}
    if others and (once_more or all(slot.candidates for slot in others)):
        parts = [batch.part(others)]
    elif whole and not unproven:
        parts = batch.part(others).halves()
    else:
        alone = rest
    parts += [batch.part([slot]) for slot in alone]
    for part in parts:
        part.stretch += any(slot.reason == "cut" for slot in part.slots)
    return parts


# No tokenizer in use makes fewer of ordinary text: characters a token; one of Han or kana counts as three.
MOST_UNITS, HAN_OR_KANA = 6, re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
# The share of what cl100k_base would make of the texts alone: some do not count what they had cached.
LEAST_SHARE = 0.6
# A ceiling: so many requests under the highest count, the largest so much larger than the smallest, in bytes
# a token and times. Counts a little below it are as many only where no ceiling is.
FEWEST_AT_CEILING, CEILING_BYTES, CEILING_SPREAD, BELOW_CEILING = 3, 3, 1.1, 0.95


@dataclass(slots=True)
class PromptCounts:
    """Whether a server cuts prompts without a word, by the tokens that it counted of them."""

    far_fewer: int = 0
    # By the tokens counted: requests, and the bytes of the smallest and the largest of them.
    sizes: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def weigh(self, batch: Batch, completion: Completion) -> None:
        """Take a request's count; it is cut if no tokenizer could make so few of its texts alone."""
        count, size = completion.prompt_tokens, batch.sent_bytes
        if not count or not size:
            return
        count += completion.cached_tokens if completion.cached_tokens > count else 0  # counted apart
        many, least, most = self.sizes.get(count, (0, size, size))
        self.sizes[count] = many + 1, min(least, size), max(most, size)
        if size > MOST_UNITS * count:  # seen without an estimate, which would cost more than the rest
            texts = batch.texts()
            units = sum(len(text) + 2 * len(HAN_OR_KANA.findall(text)) for text in texts)
            fewest = min(units / MOST_UNITS, LEAST_SHARE * sum(map(estimate_tokens, texts)))
            self.far_fewer += count < fewest

    def cut(self) -> int:
        """Return requests that were cut, as counts tell: far fewer, or alike however long the prompt."""
        top = max(self.sizes, default=0)
        many, least, most = self.sizes.get(top, (0, 0, 0))
        below = sum(size[0] for count, size in self.sizes.items() if BELOW_CEILING * top <= count < top)
        spread = most >= CEILING_SPREAD * least and most > CEILING_BYTES * top
        at_ceiling = many if many >= FEWEST_AT_CEILING and many > below and spread else 0
        return max(self.far_fewer, at_ceiling)


# No tokenizer in use makes more of ordinary text: two bytes a token, where English has four.
BYTES_PER_TOKEN_AT_WORST = 2
# Of the frame around the texts, when a request is weighed before it is written.
FRAME_BYTES = 4_000
# So many more openings wrong than right, and the endpoint cannot copy them: two usual batches.
OPENINGS_WRONG = 16


class Session:
    """One call of `ask`, however its questions go out: what it has learnt of the endpoint, and spent."""

    def __init__(
        self,
        backlog: Backlog,
        *,
        endpoint: Endpoint,
        answers: AnswerStore,
        asking: Asking,
        stop: Event,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.backlog, self.endpoint, self.answers, self.asking = backlog, endpoint, answers, asking
        self.stop, self.progress, self.patience = stop, progress, asking.patience
        words = (endpoint.model, endpoint.tokens_field, endpoint.effort, endpoint.formatter)
        self._learnt_as = (*words, asking.seed)
        self.dialect = endpoint.learnt.get(self._learnt_as) or Dialect(*words, seed=asking.seed)
        self.room, self.trust, self.report = Room(), Trust(), GenerationReport()
        self.spent = asking.spent_usd  # as reported, and the worst case where nothing was
        self.reserved = 0.0
        self.left = 0  # given up for now
        self.was_known = False  # the endpoint, by answers that another process has
        self.ending: BaseException | Problem | None = None
        self._prompts = PromptCounts()
        self._refusals = 0  # before any success
        self._openings_wrong = 0  # more than right, since they were last even
        self._dimensions = 0  # of the vectors that came so far

    def run(self) -> None:
        """Ask until nothing is left, or something ends it."""
        raise NotImplementedError

    def halt(self, reason: BaseException | Problem) -> None:
        """Start nothing new; the first reason given is the one that counts."""
        self.ending = self.ending or reason

    def tick(self) -> None:
        """Show the caller how far it is."""
        if self.progress:
            self.progress(self.backlog.repeated + self.settled(), self.report.failed)

    def settled(self) -> int:
        """Return how many different questions have a stored answer."""
        return self.backlog.answered_before + self.report.answered + self.report.failed

    def worst_cost(self, batch: Batch) -> float:
        """Return what a batch can cost at most; 0 without a limit, where it does not matter."""
        if not self.asking.max_cost_usd:
            return 0.0
        size = len(batch.recipe.as_json()) + FRAME_BYTES + sum(len(text.encode()) for text in batch.texts())
        written = batch.token_limit() * max(slot.missing() for slot in batch.slots)
        return cost_usd(self.asking.price, size // BYTES_PER_TOKEN_AT_WORST, written) or 0.0

    def reserve(self, batch: Batch) -> bool:
        """Set aside what a batch costs at worst, its room given; False if that might cross the limit."""
        is_new, limit = batch.room is None, self.asking.max_cost_usd
        if batch.room is None:  # once, so that its repetition is the same request
            batch.room = self.room.for_batch(batch)
        batch.worst = self.worst_cost(batch)
        if limit and self.spent + self.reserved + batch.worst > limit:
            batch.room = None if is_new else batch.room
            return False
        self.reserved += batch.worst
        if limit and self.asking.pledge:
            self.asking.pledge(self.spent + self.reserved)
        return True

    def budget_reached(self, worst: float) -> BudgetReached:
        """Return the error of a run whose next request may cross the limit."""
        return BudgetReached(
            f"max_cost_usd: {self.spent:.4f} USD are spent, the next request may cost {worst:.4f}, "
            f"and the limit is {self.asking.max_cost_usd:g}. Everything received is stored; "
            "raise it and run again: with --out RUN_DIR this run goes on, without it a new one counts from 0"
        )

    def read(self, batch: Batch, reply: Reply) -> Completion | Problem:
        """Read what came back for a batch."""
        problem = problem_of(reply.status, reply.headers, reply.text, fault=reply.problem)
        if problem and problem.reason == "unusable_body":
            return Completion((Choice("", "unusable_body"),))
        knows_schemas = self.trust.proven or self.dialect.mode == "text"
        if problem and problem.kind == "schema" and reply.status >= 500 and knows_schemas:
            return replace(problem, kind="server")
        if problem or batch.recipe.kind != "embeddings":
            return problem or read_completion(reply.text)
        count = len(batch.slots)
        read, self._dimensions = read_embeddings(reply.text, count=count, dimensions=self._dimensions)
        return read

    def receive(
        self, batch: Batch, completion: Completion, reply: Reply, *, request_id: str, batch_id: str = ""
    ) -> Entry:
        """Count a completion, put back what it lacks, and return what is to be stored of it."""
        cost = self._pay(batch, completion)
        settlement = settle(
            batch,
            completion,
            attempts=self.patience.attempts,
            request_id=request_id,
            roomier=self.room.learn(batch, completion),
            reference=self.asking.reference,
            encode=self.asking.encode,
        )
        report, readings = self.report, settlement.readings
        report.ignored += sum(reading.ignored for reading in readings)
        # Most of its openings are wrong, though numbers and answers are whole.
        proven = sum(len(reading.values) for reading in readings) if batch.heads() else 0
        unproven = sum(reading.unproven for reading in readings)
        self._openings_wrong = max(0, self._openings_wrong + unproven - proven)
        report.cannot_copy |= self._openings_wrong >= OPENINGS_WRONG
        self._prompts.weigh(batch, completion)
        record = request_record(
            batch,
            reply,
            settlement.outcome,
            request_id=request_id,
            completion=completion,
            cost_usd=cost,
            batch_id=batch_id,
        )
        answers = self.trust.weigh(settlement.answers, batch, useful=settlement.useful, raw=reply.text)
        self.backlog.put(*settlement.again)
        return Entry(batch, [record], answers)

    def _pay(self, batch: Batch, completion: Completion) -> float | None:
        """Count tokens and cost, of the run and of each text; return the cost, None where it is unknown."""
        prompt, written, report = completion.prompt_tokens, completion.completion_tokens, self.report
        cost = None if prompt is None or written is None else cost_usd(self.asking.price, prompt, written)
        report.paid_requests += 1
        report.prompt_tokens += prompt or 0
        report.completion_tokens += written or 0
        report.reasoning_tokens += completion.reasoning_tokens or 0
        report.cost_usd = None if cost is None or report.cost_usd is None else report.cost_usd + cost
        report.models[completion.model] = report.models.get(completion.model, 0) + 1
        self.spent += batch.worst if cost is None else cost
        batch.charge(prompt, written, cost)
        return cost

    def refuse(self, batch: Batch, problem: Problem) -> Entry:
        """Split until what is refused stands alone, to be stored; before any success, doubt the request."""
        batch.charge(None, None, 0.0)
        several = len(batch.slots) > 1
        doubtful = not self.trust.proven and problem.kind != "filtered"
        if self.room.lower(batch, problem):
            self.backlog.put(batch)
        elif problem.kind == "too_long" and several:
            self.backlog.longest = min(self.backlog.longest or batch.characters(), batch.characters())
            self.backlog.put(*batch.halves())
        elif doubtful and (batch.lessons < self.dialect.lessons or self.dialect.learn(problem, batch.recipe)):
            self.backlog.put(batch)
        elif doubtful and not any(slot.retried for slot in batch.slots):  # see whether others pass
            self.backlog.fresh.extend(batch.halves())
            self._count_refusal(problem, most=MAX_REFUSALS)
        elif several:
            self.backlog.put(*batch.halves())
        else:
            value = str(batch.characters()) if problem.kind == "too_long" else problem.detail[:200]
            return Entry(batch, answers=[batch.slots[0].answer(reason=problem.reason, value=value)])
        return Entry(batch)

    def _count_refusal(self, problem: Problem, *, most: int) -> None:
        """Give up an endpoint that has refused everything so often."""
        self._refusals += 1
        advice = "look at model, prompt and request_extra, then run the same command again"
        if problem.kind in ("server", "overload", "rate"):
            advice = (
                "run the same command again in some minutes, or name another model or endpoint in the params"
            )
        if self._refusals >= most:
            self.halt(
                EndpointDown(
                    f"{self.endpoint.base_url}: refused each of {most} requests, {problem.reason}: "
                    f"{problem.detail.rstrip('.')}. Nothing is lost; {advice}"
                )
            )

    def doubt(self, problem: Problem, raw: str) -> None:
        """Count what came before any success: a body that no endpoint writes, or an error from behind it."""
        if problem.kind == "answer":
            self.trust.foreign, self.trust.first = self.trust.foreign + 1, self.trust.first or raw
        else:
            self._count_refusal(problem, most=MAX_FROM_BEHIND)

    def none_of_use(self) -> QualityGate:
        """Return the error of a run whose answers came, and none could be used."""
        answers = counted(self.trust.useless + self.trust.foreign, "answer")
        first = quoted(redact(self.trust.first, self.endpoint.api_key, shapes=True))
        return QualityGate(
            f"{self.endpoint.base_url}: the last {answers} of {self.endpoint.model} were of no use, the "
            f"first of them {first}. Nothing is published or failed for good. Set endpoint (a base URL, "
            "mostly ending in /v1), model, batch_size: 1, or max_output_tokens and request_extra for a model "
            "that thinks or calls tools, and run the same command again"
        )

    @property
    def is_known(self) -> bool:
        """Return whether earlier answers of the endpoint were of use."""
        return self.was_known or self.backlog.answered_before > 0

    def lose_trust(self) -> None:
        """Give up an endpoint whose answers are of no use."""
        if self.trust.lost(known=self.is_known):
            self.halt(self.none_of_use())

    def settle(self, answers: Iterable[Answer]) -> None:
        """Count what is final and durable."""
        for answer in answers:
            self.report.answered += answer.state == "ok"
            self.report.failed += answer.state == "failed"

    def conclude(self) -> BaseException | None:
        """Return what ended it early, once its report is whole."""
        report, backlog, error = self.report, self.backlog, self.ending
        if isinstance(error, Problem):
            error = fatal_error(error, self.endpoint)
        if not error and self.trust.useless and not self.trust.proven and not self.is_known:
            error = self.none_of_use()
        elif not error:  # what failed by useless answers is stored at the end
            self.answers.save(answers=self.trust.held)
            self.settle(self.trust.held)
        report.mode, report.too_long = self.dialect.mode, backlog.longest
        report.prompts_cut += self._prompts.cut()
        report.repeated, report.answered_before = backlog.repeated, backlog.answered_before
        report.spent_usd = self.spent - self.asking.spent_usd
        report.stopped = str(error or (f"{self.left} left for now: server errors" if self.left else ""))
        return error


# Waited for more to share a commit: one costs as much as the rows of several replies.
GATHER_SECONDS = 0.04
# Replies that share a commit without waiting for more; fewer where fewer are in flight.
ENOUGH = 32
# Replies that wait for their commit while the next calls are made already, at most a quarter of those in
# flight: what a hard kill makes be paid again besides them.
MOST_UNSAVED = 64
# How often progress is shown and the stop event is looked at.
TICK_SECONDS = 0.2
# After a second interrupt: for storing that calls were given up.
LAST_SECONDS = 1.5


class LiveSession(Session):
    """Ask many requests at a time in a thread of its own, and store what each brings before it counts."""

    def __init__(self, backlog: Backlog, **given: Any) -> None:
        super().__init__(backlog, **given)
        self._most = allowed_connections(self.asking.concurrency)
        self._loop = uvloop.new_event_loop()
        self._pace = Pace(
            self.patience,
            ceiling=self._most,
            requests_per_minute=self.asking.requests_per_minute,
            now=self._loop.time,
            limit=min(float(self._most), self.dialect.opened),
        )
        self._over, self._wake = threading.Event(), asyncio.Event()
        self._arrived, self._enough = asyncio.Event(), asyncio.Event()
        self._next: list[Entry] = []  # for the next commit
        self._unsaved = 0  # replies that are not durable yet
        self._calls: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._blocks = 1
        # Asking the system for randomness at each request would cost a tenth of the whole engine.
        self._request_ids = map(f"{uuid.uuid4().hex}-{{}}".format, itertools.count(1))

    def run(self) -> None:
        """Ask in a thread, and show progress in the caller's; two interrupts end it at once."""
        thread = threading.Thread(target=self._run_loop, name="llmtwin-engine", daemon=True)
        interrupts, over = 0, False
        with collected_rarely(), terminate_sets(self.stop):
            thread.start()
            try:
                while not over and interrupts < 2:
                    try:
                        over = self._over.wait(TICK_SECONDS)
                        if self.stop.is_set():
                            self._from_outside(self.halt, Interrupted(STOPPED))
                        self.tick()
                    except KeyboardInterrupt:
                        interrupts += 1
                        self._from_outside(self.halt, Interrupted(STOPPED))
                    except Exception as error:  # a fault of who shows progress
                        self._from_outside(self.halt, error)
            finally:
                if not over:  # never leave an engine behind that goes on sending
                    self._from_outside(self.halt, Interrupted(STOPPED))
                    self._from_outside(lambda: [call.cancel() for call in self._calls])
                    with suppress(KeyboardInterrupt):
                        self._over.wait(LAST_SECONDS)
            thread.join(LAST_SECONDS)
        self.report.max_in_flight = max(self.report.max_in_flight, self._pace.most_in_flight)
        if self._pace.successes:
            self.dialect.opened = self._pace.limit
            self.endpoint.learnt[self._learnt_as] = self.dialect

    def halt(self, reason: BaseException | Problem) -> None:
        """Start no new call; the first reason given is the one that counts."""
        super().halt(reason)
        self._wake.set()

    def _from_outside(self, what: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(what, *arguments)

    def _run_loop(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._ask_all())
        except BaseException as error:
            self.ending = error
        finally:
            self._loop.close()
            self._over.set()

    async def _ask_all(self) -> None:
        """Ask until nothing is left, or until told to stop; then drain what is in flight."""
        self._client = live_client(
            self.endpoint.base_url,
            self.endpoint.api_key,
            concurrency=self._most,
            connect_seconds=self.patience.connect,
        )
        with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(1) as reader:
            async with self._client:
                writing = asyncio.create_task(self._write_on(disk))
                while not self.ending:
                    self._wake.clear()
                    self.backlog.give_back()
                    if not self._reading and not self._all_read and len(self.backlog.fresh) < self._most:
                        self._reading = asyncio.create_task(self._read_on(reader))
                    moment = self._start_calls()
                    if not self._calls and self._all_read and self.backlog.empty():
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(moment):
                            await self._wake.wait()
                if self._calls:
                    _, late = await asyncio.wait(self._calls, timeout=self.patience.drain)
                    for call in late:
                        call.cancel()
                    await asyncio.gather(*late, return_exceptions=True)
                while self._unsaved:
                    self._wake.clear()
                    await self._wake.wait()
                for task in filter(None, (writing, self._reading)):
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    @property
    def _all_read(self) -> bool:
        return not self._reading and self.backlog.exhausted

    async def _read_on(self, reader: Executor) -> None:
        try:
            idle = not self._calls and not self._unsaved and self.backlog.empty()
            read = partial(self.backlog.read, self._blocks, idle=idle)
            batches = await self._loop.run_in_executor(reader, read)
            # As many as may be in flight, so that a burst of replies finds the next waiting; where all are
            # answered, reading on costs less in larger pieces.
            ahead = 1 + self._most * self.asking.batch_size // FORMED_TOGETHER
            self._blocks = ahead if batches else min(2 * self._blocks, READ_BLOCKS)
            self.backlog.fresh.extend(batches)
        except Exception as error:
            self.halt(error)
        finally:
            self._reading = None
            self._wake.set()

    async def _write_on(self, disk: Executor) -> None:
        """Commit one group after the other; what arrives meanwhile, or within a moment, is in the next."""
        while await self._arrived.wait():
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._enough.wait()
            self._arrived.clear()
            self._enough.clear()
            entries, self._next = self._next, []
            try:
                await self._loop.run_in_executor(disk, save_entries, self.answers, entries)
                self.settle(answer for entry in entries for answer in entry.answers)
            except Exception as error:
                self.halt(error)
            self._unsaved -= len(entries)
            self._wake.set()

    def _keep(self, entry: Entry) -> None:
        """Store an entry with the next commit, and count it then."""
        if entry.requests or entry.answers:
            self._next.append(entry)
            self._unsaved += 1
            self._arrived.set()
            if len(self._next) >= min(self._most // 4, ENOUGH):
                self._enough.set()

    def _start_calls(self) -> float | None:
        """Start as many calls as pace and budget allow; return the moment when only time has changed that."""
        while not self.ending:
            wait, batch, now = self._pace.wait(), None, self._loop.time()
            if self._pace.in_flight + self._unsaved >= self._pace.limit + min(self._most // 4, MOST_UNSAVED):
                return None
            if wait == 0:
                batch = self.backlog.pop(now, trust=self.trust, alone=self.report.cannot_copy)
            if batch is None:
                moment = now + wait if wait else self.backlog.next_moment()
                return moment if moment < math.inf else None
            if not self.reserve(batch):
                self.backlog.put(batch)
                if not self._calls:  # what is in flight may turn out cheaper than its worst case
                    self.halt(self.budget_reached(batch.worst))
                return None
            call = self._loop.create_task(self._call(batch, self._pace.start()))
            self._calls.add(call)
            call.add_done_callback(self._called)
        return None

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._wake.set()

    async def _call(self, batch: Batch, started: float) -> None:
        try:
            body, key = write_request(batch, self.dialect)
            reply = await post(
                self._client,
                body,
                path=self.endpoint.path,
                idempotency_key=key,
                timeout_seconds=self.asking.timeout_seconds,
            )
            self._take(batch, reply, started)
        except asyncio.CancelledError:
            self._keep_unknown(batch, Reply(0, {}, "", self._loop.time() - started), "abandoned")
        except Exception as error:  # whatever it is, the run ends by it, after what is in flight is stored
            self.halt(error)
        finally:
            self.report.requests += 1
            self._pace.end()
            self.reserved -= batch.worst

    def _take(self, batch: Batch, reply: Reply, started: float) -> None:
        read, longest = self.read(batch, reply), self.patience.longest_retry_after
        if isinstance(read, Completion):
            self._keep(self.receive(batch, read, reply, request_id=next(self._request_ids)))
            self._pace.doubted() if self.trust.doubtful else self._pace.succeeded()
        elif read.step == "stop" or (read.step == "slow" and (read.wait or 0.0) > longest):
            self.halt(read)
        elif read.step in ("lower", "split"):
            self._keep(self.refuse(batch, read))
        else:
            self._take_fault(batch, reply, read, started)
        if self._pace.in_flight <= 1:  # none that could be of use is on its way
            self.lose_trust()

    def _keep_unknown(self, batch: Batch, reply: Reply, outcome: str) -> None:
        """Store that a request may have been paid for."""
        self.report.maybe_paid += 1
        self.spent += batch.worst
        self._keep(Entry(batch, [request_record(batch, reply, outcome, request_id=next(self._request_ids))]))

    def _take_fault(self, batch: Batch, reply: Reply, problem: Problem, started: float) -> None:
        """Ask again later; give up an endpoint from which nothing but faults came for too long."""
        if (reply.status == 200 or problem.kind == "answer") and not self.trust.proven:
            self.doubt(problem, reply.text)
        # A new key for what was answered with an error, for an endpoint may replay it for ever. What got no
        # answer keeps its key, and so does, once, what may yet be charged: its repetition is free.
        if reply.status:
            batch.unsure = not batch.unsure and reply.status in UNSURE_STATUS
            batch.attempt += not batch.unsure
        if problem.step == "slow":
            self._pace.overloaded(started, wait=problem.wait)
            self._put_later(batch, self.patience.backoff if problem.wait is None else problem.wait)
        else:
            if reply.sent and problem.kind in ("network", "answer"):
                self._keep_unknown(batch, reply, problem.reason if reply.status else "unknown")
            self._pace.faulted(started, reached=reply.sent)
            self._try_again(batch, problem)
        if self._pace.hopeless(reply.seconds):
            self.halt(
                EndpointDown(
                    f"{self.endpoint.base_url}: nothing but {problem.reason} for "
                    f"{self._pace.now() - self._pace.first_strike:.0f} s, "
                    f"{problem.detail or 'without a word'}. Everything received is stored; "
                    "the same command goes on"
                )
            )

    def _try_again(self, batch: Batch, problem: Problem) -> None:
        """Retry; a fault counts against a batch only if the endpoint served others meanwhile."""
        successes = self._pace.successes
        if not successes and problem.kind == "server":  # see whether others pass, as with what is refused
            self.backlog.fresh.append(batch)
            return
        is_last = self._all_read and self.backlog.is_faulty() and self._pace.in_flight == 1
        stuck = successes and problem.kind != "network" and is_last
        batch.faults += bool(successes > batch.seen_successes or stuck)
        batch.seen_successes = successes
        if batch.faults >= self.patience.attempts and len(batch.slots) == 1:
            self.left += 1
            return
        for part in batch.halves() if batch.faults > 1 else [batch]:
            part.faults, part.seen_successes = batch.faults if part is batch else 1, successes
            self._put_later(part, self.patience.backoff_after(max(1, batch.faults)))

    def _put_later(self, batch: Batch, seconds: float) -> None:
        self.backlog.put(batch, moment=self._loop.time() + seconds)


@contextmanager
def terminate_sets(stop: Event) -> Iterator[None]:
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


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Let the garbage collector pass over what is there already, and look at the rest a thirtieth as often.

    A look at all objects of a kernel stops every call; at 256 in flight these were a quarter of the
    time. What a call leaves behind in cycles is some kB, until the next look.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def ask(
    questions: Iterable[Question],
    *,
    endpoint: Endpoint,
    answers: AnswerStore,
    asking: Asking,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    on_report: Callable[[GenerationReport], None] | None = None,
    session: Callable[..., Session] = LiveSession,
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
    session
        How the questions go out: live, in parts, or as a `batches.BatchSession`.

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
    started, stop = time.monotonic(), stop or Event()
    with answers.claims() as claims:
        backlog = Backlog(
            questions, answers, claims, batch_size=asking.batch_size, retry_failed=asking.retry_failed
        )
        asked = session(
            backlog, endpoint=endpoint, answers=answers, asking=asking, stop=stop, progress=progress
        )
        for hidden, lacking in answers.hidden_tokens(
            endpoint=endpoint.identity, model=endpoint.model_identity
        ):
            asked.room.grow(hidden, lacking=lacking)
        asked.run()
        error, report = asked.conclude(), asked.report
    report.questions = backlog.different
    if isinstance(questions, Sized):  # also those that were not read any more
        report.questions = len(questions) - report.repeated
    report.pending = report.questions - asked.settled()
    report.seconds = time.monotonic() - started
    if on_report:
        on_report(report)
    if error:
        raise error
    return report
