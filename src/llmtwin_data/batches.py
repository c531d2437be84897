"""The same questions through a provider's Batch API, resumed from what was submitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import openai
from openai.types import Batch as OpenAIBatch

from llmtwin_data.answers import AnswerStore, StoredBatch
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.engine import (
    MAX_REFUSALS,
    MOST_USELESS_AT_FIRST,
    STOPPED,
    Batch,
    Call,
    Slot,
    all_refused,
    dialect_of,
    fail_alone,
    none_of_use,
    receive,
    save_entries,
    terminate_sets,
    write_request,
)
from llmtwin_data.errors import EndpointDown, Interrupted
from llmtwin_data.params import redact
from llmtwin_data.replies import read_completion
from llmtwin_data.transport import Problem, Reply, openai_client, problem_of

PATH: Final = "/v1/chat/completions"
# Under this name a batch carries what it is, so that one whose id was never stored is found again.
TAG = "llmtwin_data"
ENDED = {"completed", "failed", "expired", "cancelled"}
INTENT = "intent-"


@dataclass(slots=True, eq=False)
class Submitted:
    """A batch at the provider, with those of its lines that this run has questions for."""

    stored: StoredBatch
    lines: dict[str, Batch]  # by custom id
    whole: bool = True  # no line is left for another run


class Submissions:
    """Sends batches and finds them again."""

    def __init__(self, store: AnswerStore, client: openai.OpenAI, *, endpoint: str) -> None:
        self._store, self._client, self._endpoint = store, client, endpoint

    def send(self, lines: Mapping[str, Batch], bodies: Sequence[bytes]) -> Submitted:
        """Submit the lines; whenever this is killed, the next run finds what became of it."""
        content = b"\n".join(
            json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH})[:-1].encode()
            + b', "body": '
            + body
            + b"}"
            for custom_id, body in zip(lines, bodies, strict=True)
        )
        entries = {
            custom_id: {
                "keys": [slot.key for slot in batch.slots],
                "boundary": batch.boundary,
                "openings": batch.openings,
                "attempt": batch.attempt,
                "room": batch.room,
            }
            for custom_id, batch in lines.items()
        }
        tag, at = hashlib.sha256(content).hexdigest(), datetime.now(UTC).isoformat(timespec="seconds")
        intent = StoredBatch(f"{INTENT}{tag}", self._endpoint, "submitting", json.dumps(entries), at=at)
        self._store.save_batch(intent)
        file = self._client.files.create(file=("requests.jsonl", content + b"\n"), purpose="batch")
        # Not repeated in silence: with the reply lost, a second try would be a second batch.
        batch = self._client.with_options(max_retries=0).batches.create(
            input_file_id=file.id, endpoint=PATH, completion_window="24h", metadata={TAG: tag}
        )
        return Submitted(self._adopt(intent, batch.id, file.id), dict(lines))

    def resume(self, slots: Mapping[str, Slot]) -> list[Submitted]:
        """Return the batches of earlier runs that answer any of these questions, by key."""
        for intent in self._store.batches(endpoint=self._endpoint, state="submitting"):
            tag, listed = intent.id.removeprefix(INTENT), self._client.batches.list()
            batch_id = next((batch.id for batch in listed if (batch.metadata or {}).get(TAG) == tag), "")
            if batch_id:
                self._adopt(intent, batch_id)
            else:
                self._store.save_batch(replace(intent, state="lost"))
        taken: set[str] = set()
        matched = [
            self._match(stored, slots, taken)
            for stored in self._store.batches(endpoint=self._endpoint, state="open")
        ]
        for submitted in matched:
            if submitted.whole and not submitted.lines:
                self.close(submitted)
        return [submitted for submitted in matched if submitted.lines]

    def close(self, submitted: Submitted) -> None:
        """Note that a batch is collected, unless other questions than this run's wait for it."""
        state = "collected" if submitted.whole else "open"
        self._store.save_batch(replace(submitted.stored, state=state))

    def _adopt(self, intent: StoredBatch, batch_id: str, file_id: str = "") -> StoredBatch:
        stored = replace(intent, id=batch_id, state="open", file_id=file_id)
        self._store.save_batch(stored)
        self._store.save_batch(replace(intent, state="submitted", lines="{}"))
        return stored

    def _match(self, stored: StoredBatch, slots: Mapping[str, Slot], taken: set[str]) -> Submitted:
        """Find the questions of a stored batch; a line counts if one of its questions still waits."""
        submitted = Submitted(stored, {})
        entries: dict[str, dict[str, Any]] = json.loads(stored.lines)
        for custom_id, entry in entries.items():
            keys = entry["keys"]
            answers = self._store.answers(keys)
            if any(answer.state == "ok" for answer in answers.values()):
                continue  # received before a kill; what of it still waits is asked anew
            waiting = slots.keys() & set(keys) - taken
            if waiting:
                # A text that is gone keeps its number in the request, so that the others keep theirs.
                gone = replace(slots[next(iter(waiting))].question, text="")
                submitted.lines[custom_id] = Batch(
                    [slots[key] if key in waiting else Slot(gone, "") for key in keys],
                    attempt=entry["attempt"],
                    room=entry.get("room", 0),
                    boundary=entry["boundary"],
                    openings=entry.get("openings", False),
                )
                taken |= waiting
            submitted.whole &= bool(waiting or set(keys) <= answers.keys())
        return submitted


# Providers take 50,000 lines and 200 MB in one batch; this stays below both with long texts, too.
MAX_LINES = 5_000


class BatchRun:
    """One call of ``ask`` in mode batch; runs in the caller's thread, since it mostly waits."""

    def __init__(self, call: Call) -> None:
        endpoint = call.endpoint
        self.dialect = dialect_of(endpoint)
        self._call = call
        self._tally = call.tally
        self._patience = call.asking.patience
        self._client = openai_client(
            endpoint.base_url, endpoint.api_key, timeout=call.asking.timeout_seconds, max_retries=3
        )
        self._submissions = Submissions(call.answers, self._client, endpoint=endpoint.identity)
        self._open: list[Submitted] = []
        self._waiting: list[Batch] = []
        self._refusals = 0
        self._learned: set[str] = set()  # what refusals of this round have already taught

    def run(self) -> None:
        """Collect what earlier runs submitted, then submit and collect the rest."""
        with self._client:
            backlog = self._call.backlog
            while not backlog.all_formed:
                self._waiting += backlog.read()
            self._resume()
            while self._waiting or self._open or not backlog.exhausted:
                if not self._waiting and not self._open:
                    self._check_stop()
                    self._waiting += backlog.read(idle=True)
                    backlog.give_back()
                    continue
                waiting = self._next_round()
                if self._tally.report.cannot_copy:
                    waiting = [
                        batch.part([slot]) if len(batch.slots) > 1 else batch
                        for batch in waiting
                        for slot in batch.slots
                    ]
                self._learned.clear()
                for start in range(0, len(waiting), MAX_LINES):
                    self._submit(waiting[start : start + MAX_LINES])
                if not self._open:
                    raise self._tally.budget_reached(min(map(self._tally.worst_cost, self._waiting)))
                self._wait()
                if self._tally.trust.lost(known=self._call.backlog.answered_before > 0):
                    raise none_of_use(self._call.endpoint, self._tally.trust)

    def _next_round(self) -> list[Batch]:
        """Take what waits; until an answer was of use, no more than shows whether any can be."""
        trust = self._tally.trust
        room = MOST_USELESS_AT_FIRST - trust.useless
        if trust.proven or not trust.useless or not 0 < room < len(self._waiting):
            waiting, self._waiting = self._waiting, []
            return waiting
        chosen, rest = self._waiting[:room], self._waiting[room:]
        self._waiting = [batch.part(batch.slots[1:]) for batch in chosen if len(batch.slots) > 1] + rest
        return [batch.part(batch.slots[:1]) for batch in chosen]

    def _submit(self, batches: Sequence[Batch]) -> None:
        """Submit what the budget allows; what it does not waits for the next round."""
        lines: dict[str, Batch] = {}
        bodies: list[bytes] = []
        for batch in batches:
            self._tally.room.give(batch)
            batch.worst = self._tally.worst_cost(batch)
            if not self._tally.affords(batch.worst):
                batch.room = None
                self._waiting.append(batch)
                continue
            self._tally.reserved += batch.worst
            body, key = write_request(batch, self.dialect)
            lines[key], batch.openings = batch, True
            bodies.append(body)
        if lines:
            self._check_stop()
            self._open.append(self._submissions.send(lines, bodies))

    def _resume(self) -> None:
        """Take up the batches of earlier runs; their questions wait for them, and are not sent again."""
        slots = {slot.key: slot for batch in self._waiting for slot in batch.slots}
        self._open = self._submissions.resume(slots)
        lines = [line for submitted in self._open for line in submitted.lines.values()]
        for line in lines:
            line.worst = self._tally.worst_cost(line)
        self._tally.reserved += sum(line.worst for line in lines)
        taken = {slot.key for line in lines for slot in line.slots}
        self._waiting = [
            batch.part(left) if len(left) < len(batch.slots) else batch
            for batch in self._waiting
            if (left := [slot for slot in batch.slots if slot.key not in taken])
        ]

    def _wait(self) -> None:
        """Look at the open batches until all have ended, and collect each as it ends."""
        pause = self._patience.poll
        while self._open:
            for submitted in list(self._open):
                batch = self._client.batches.retrieve(submitted.stored.id)
                if batch.status in ENDED:
                    self._collect(submitted, batch)
                    self._open.remove(submitted)
            self._call.tick()
            if self._open:
                self._call.stop.wait(pause)
                self._check_stop()
                pause = min(self._patience.longest_poll, pause * 1.5)

    def _collect(self, submitted: Submitted, batch: OpenAIBatch) -> None:
        key, lines = self._call.endpoint.api_key, dict(submitted.lines)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for text in redact(self._client.files.content(file_id).text, key).split("\n"):
                try:
                    result = json.loads(text or "null")
                except (ValueError, RecursionError):
                    continue  # torn
                line = lines.pop(str(result.get("custom_id")), None) if isinstance(result, dict) else None
                if line is not None:
                    self._take(line, result, submitted.stored.id)
        for line in lines.values():
            self._ask_again(_wanted(line))
        self._tally.reserved -= sum(line.worst for line in submitted.lines.values())
        self._submissions.close(submitted)
        if batch.status == "failed" and not self._tally.report.paid_requests:
            errors = (batch.errors.data if batch.errors else None) or []
            words = redact("; ".join(f"{one.code}: {one.message}" for one in errors[:3]), key, shapes=True)
            advice = "wait for your other batches to end" if "limit" in words else "correct what it names"
            raise EndpointDown(
                f"{self._call.endpoint.base_url}: the batch {batch.id} failed, {words.rstrip('.')}. "
                f"Nothing is lost or paid; {advice}, or set mode: live, and run the same command again"
            )

    def _take(self, line: Batch, result: dict[str, Any], batch_id: str) -> None:
        """Read a line of a result file as if it were a reply; without a response it has expired."""
        self._tally.report.requests += 1
        response = result.get("response")
        if not isinstance(response, dict):
            self._ask_again(_wanted(line))
            return
        status, text = response.get("status_code"), json.dumps(response.get("body"), ensure_ascii=False)
        reply = Reply(status if isinstance(status, int) else 500, {}, text, 0.0)
        read = problem_of(reply.status, {}, text) or read_completion(text)
        if isinstance(read, Problem):
            self._take_problem(_wanted(line), read)
            return
        entry, again = receive(
            line,
            read,
            reply=reply,
            tally=self._tally,
            attempts=self._patience.attempts,
            reference=self._call.asking.reference,
            request_id=f"{batch_id}-{result.get('custom_id')}",
            batch_id=batch_id,
        )
        save_entries(self._call.answers, [entry])
        self._tally.settle(entry.answers)
        self._waiting += again

    def _take_problem(self, batch: Batch, problem: Problem) -> None:
        if problem.step == "stop":
            raise fatal_error(problem, self._call.endpoint)
        if problem.step not in ("lower", "split"):
            self._ask_again(batch)
            return
        doubtful = not self._tally.report.paid_requests and problem.step == "lower"
        if self._tally.room.lower(batch, problem):
            self._waiting.append(batch)
        elif doubtful and (
            problem.detail in self._learned or self.dialect.learn(problem, batch.recipe)
        ):  # once for all lines of a round that were refused alike
            self._learned.add(problem.detail)
            self._waiting.append(batch)
        elif doubtful and not batch.retried:  # nothing has succeeded yet: find out who else fails
            self._refusals += 1
            self._waiting += batch.halves()
            if self._refusals >= MAX_REFUSALS:
                raise all_refused(self._call.endpoint.base_url, problem)
        elif len(batch.slots) > 1:
            self._waiting += batch.halves()
        else:
            entry = fail_alone(batch, problem)
            save_entries(self._call.answers, [entry])
            self._tally.settle(entry.answers)

    def _ask_again(self, batch: Batch) -> None:
        batch.faults += 1
        if batch.faults < self._patience.attempts:
            self._waiting.append(batch)
        else:
            self._tally.left += len(batch.slots)

    def _check_stop(self) -> None:
        if self._call.stop.is_set():
            raise Interrupted(
                "stopped; the batches go on at the provider, and the same command collects them"
            )


def _wanted(batch: Batch) -> Batch:
    """Return the batch without the texts that nobody asks about any more."""
    slots = [slot for slot in batch.slots if slot.key]
    return batch if len(slots) == len(batch.slots) else batch.part(slots)


def _translated(error: openai.APIError, endpoint: Endpoint) -> Exception:
    words = redact(str(error), endpoint.api_key, shapes=True)[:300]
    text = f"no word from the Batch API ({words}). The batches go on; the same command collects them"
    if isinstance(error, openai.APIStatusError):
        problem = problem_of(error.status_code, error.response.headers, error.response.text)
        if problem and problem.step == "stop" and problem.kind not in ("model", "address"):
            return fatal_error(problem, endpoint)
        text = f"the Batch API says {words}. Nothing is lost; try again, or use mode: live"
    return EndpointDown(f"{endpoint.base_url}: {text}")


def run_batches(call: Call) -> BaseException | None:
    """Ask through the provider's Batch API, until nothing is left: `engine.ask` with this as ``run``."""
    run = BatchRun(call)
    error: BaseException | None = None
    try:
        with terminate_sets(call.stop):
            run.run()
    except KeyboardInterrupt:
        error = Interrupted(STOPPED)
    except openai.APIError as raised:
        error = _translated(raised, call.endpoint)
    except Exception as raised:
        error = raised
    call.tally.report.mode = run.dialect.mode
    return error
