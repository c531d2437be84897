"""A completion received: paid, shared out, settled, described for the store; live and from batches."""

from __future__ import annotations

from llmtwin_data.endpoints.completions import Completion
from llmtwin_data.endpoints.connections import Reply
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.generation.recording import Entry, entry_for, request_record
from llmtwin_data.generation.settling import Settlement, failure, settle
from llmtwin_data.generation.slots import Batch, charge
from llmtwin_data.generation.tallies import Tally


def receive(
    batch: Batch,
    completion: Completion,
    *,
    reply: Reply,
    boundary: str,
    tally: Tally,
    worst: float,
    attempts: int,
    request_id: str,
    batch_id: str = "",
) -> tuple[Entry, Settlement]:
    """Give what is to be stored, and what then becomes of each text.

    Parameters
    ----------
    worst
        USD that count as spent where the completion does not say its tokens.
    """
    cost = tally.pay(completion, worst=worst)
    charge(batch, completion.prompt_tokens, completion.completion_tokens, cost)
    settlement = settle(batch, completion, boundary=boundary, attempts=attempts, request_id=request_id)
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
    return entry_for(batch, requests=[record], answers=settlement.answers), settlement


def fail_alone(batch: Batch, problem: Problem) -> Entry:
    """Give what is to be stored of a text that the endpoint refuses for good."""
    slot = batch.slots[0]
    value = str(len(slot.question.text)) if problem.kind == "too_long" else problem.detail[:200]
    return entry_for(batch, answers=[failure(slot, problem.reason, value=value)])
