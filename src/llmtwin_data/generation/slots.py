"""Questions on their way: what each has cost so far, and which share a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtwin_data.answers import Answer
from llmtwin_data.generation.openings import Head, head_of
from llmtwin_data.generation.pairing import Values
from llmtwin_data.prompts import Question, output_tokens

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
