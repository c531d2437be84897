"""What a run counts while it asks: requests, tokens and money, the money also before it is spent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtwin_data.answers import Answer
from llmtwin_data.endpoints.completions import Completion
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.generation.slots import MOST_ROOM, Batch
from llmtwin_data.prices import Price, cost_usd

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
