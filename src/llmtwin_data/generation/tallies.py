"""What a run counts while it asks: requests, tokens and money, the money also before it is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmtwin_data.answers import Answer
from llmtwin_data.endpoints.completions import Completion
from llmtwin_data.generation.slots import Batch
from llmtwin_data.prices import Price, cost_usd
from llmtwin_data.prompts import output_tokens

# No tokenizer in use makes more of ordinary text: two bytes a token, where English has four.
BYTES_PER_TOKEN_AT_WORST = 2
# So many more openings wrong than right, and the endpoint cannot copy them: two usual batches.
OPENINGS_WRONG = 16
# Of the frame around the texts, when a request is weighed before it is written.
FRAME_BYTES = 4_000


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

    def worst_cost(self, batch: Batch) -> float:
        """Give what a batch can cost at most; 0 without a limit, where it does not matter."""
        if not self.max_cost_usd:
            return 0.0
        recipe = batch.slots[0].question.recipe
        size = len(recipe.as_json()) + FRAME_BYTES + sum(len(text.encode()) for text in batch.texts())
        choices = max(slot.missing() for slot in batch.slots)
        written = output_tokens(recipe, len(batch.slots)) * choices << batch.stretch
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
