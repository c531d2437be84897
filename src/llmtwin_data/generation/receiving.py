"""A completion received: paid, shared out, settled, described for the store; live and from batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmtwin_data.endpoints import Endpoint
from llmtwin_data.endpoints.completions import Completion, quoted
from llmtwin_data.endpoints.connections import Reply, redact
from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.errors import EndpointDown, QualityGate
from llmtwin_data.generation.recording import Entry, entry_for, request_record
from llmtwin_data.generation.settling import failure, settle
from llmtwin_data.generation.slots import Batch, charge
from llmtwin_data.generation.tallies import Tally, Trust

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
    answers = trust.useless + trust.foreign
    return QualityGate(
        f"{endpoint.base_url}: the last {answers} answers of {endpoint.model} were of no use, the first "
        f"of them {quoted(redact(trust.first, endpoint.api_key))}. Nothing is published or failed for good. "
        "Set endpoint (a base URL, mostly ending in /v1), model, batch_size: 1, or max_output_tokens and "
        "request_extra for a model that thinks or calls tools, and run the same command again"
    )
