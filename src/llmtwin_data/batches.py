"""The same questions through a provider's Batch API, resumed from what was submitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from llmtwin_data.answers import AnswerStore, StoredBatch
from llmtwin_data.endpoints import Endpoint, fatal_error
from llmtwin_data.engine import (
    FATAL,
    MAX_REFUSALS,
    MOST_USELESS_AT_FIRST,
    STOPPED,
    Batch,
    Call,
    Entry,
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
from llmtwin_data.replies import Completion, read_completion
from llmtwin_data.transport import Problem, Reply, openai_client, problem_of

PATH: Final = "/v1/chat/completions"
# Under this name a batch carries what it is, so that one whose id was never stored is found again.
TAG = "llmtwin_data"
ENDED = {"completed", "failed", "expired", "cancelled"}


class Look(NamedTuple):
    """How far a batch is; files by id, empty where there is none."""

    ended: bool
    status: str
    files: tuple[str, ...]
    message: str


class Provider:
    """The Files and Batches of one endpoint; open with ``with``."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float) -> None:
        import openai

        self._openai = openai
        self._endpoint = endpoint
        self._client = openai_client(
            endpoint.base_url, endpoint.api_key, timeout=timeout_seconds, max_retries=3
        )

    def __enter__(self) -> Provider:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def upload(self, lines: Iterable[bytes]) -> str:
        """Upload the lines of a batch; return the file's id."""
        with self._translated():
            content = b"\n".join(lines) + b"\n"
            return self._client.files.create(file=("requests.jsonl", content), purpose="batch").id

    def submit(self, file_id: str, *, tag: str) -> str:
        """Start a batch over an uploaded file; return its id. After an error `find` knows if it began."""
        with self._translated():
            # Not repeated in silence: with the reply lost, a second try would be a second batch.
            batch = self._client.with_options(max_retries=0).batches.create(
                input_file_id=file_id, endpoint=PATH, completion_window="24h", metadata={TAG: tag}
            )
            return batch.id

    def find(self, tag: str) -> str:
        """Return the id of the batch submitted under this tag; empty if there is none."""
        with self._translated():
            found = (
                batch.id for batch in self._client.batches.list() if (batch.metadata or {}).get(TAG) == tag
            )
            return next(found, "")

    def look(self, batch_id: str) -> Look:
        """See how far a batch is."""
        with self._translated():
            batch = self._client.batches.retrieve(batch_id)
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        message = "; ".join(f"{error.code}: {error.message}" for error in errors[:3])
        files = tuple(filter(None, (batch.output_file_id, batch.error_file_id)))
        message = redact(message, self._endpoint.api_key, shapes=True)
        return Look(batch.status in ENDED, batch.status, files, message)

    def results(self, file_id: str) -> Iterator[dict[str, Any]]:
        """Read the lines of a result file; torn ones are left out."""
        with self._translated():
            text = self._client.files.content(file_id).text
        text = redact(text, self._endpoint.api_key)
        for line in text.split("\n"):
            try:
                result = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                continue
            if isinstance(result, dict):
                yield result

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._openai.APIError as error:
            said = redact(str(error), self._endpoint.api_key, shapes=True)[:300]
            words = f"no word from the Batch API ({said}). The batches go on; the same command collects them"
            if isinstance(error, self._openai.APIStatusError):
                problem = problem_of(error.status_code, error.response.headers, error.response.text)
                if problem and problem.kind in ("key", "billing", "redirect"):
                    raise fatal_error(problem, self._endpoint) from None
                words = f"the Batch API says {said}. Nothing is lost; try again, or use mode: live"
            raise EndpointDown(f"{self._endpoint.base_url}: {words}") from None


def read_result(result: dict[str, Any]) -> tuple[Reply, Completion | Problem]:
    """Read a line of a result file as if it were a reply; without a response it has expired."""
    response, error = result.get("response"), result.get("error")
    if not isinstance(response, dict):
        code = str(error.get("code") if isinstance(error, dict) else error)
        return Reply(0, {}, "", 0.0), Problem("server", "expired", code[:100])
    status = response.get("status_code")
    text = json.dumps(response.get("body"), ensure_ascii=False)
    reply = Reply(status if isinstance(status, int) else 500, {}, text, 0.0)
    return reply, problem_of(reply.status, {}, text) or read_completion(text)


INTENT = "intent-"


@dataclass(slots=True, eq=False)
class Submitted:
    """A batch at the provider, with those of its lines that this run has questions for."""

    stored: StoredBatch
    lines: dict[str, Batch]  # by custom id
    whole: bool = True  # no line is left for another run


class Submissions:
    """Sends batches and finds them again."""

    def __init__(self, store: AnswerStore, provider: Provider, *, endpoint: str) -> None:
        self._store = store
        self._provider = provider
        self._endpoint = endpoint

    def send(self, lines: Mapping[str, Batch], bodies: Sequence[bytes]) -> Submitted:
        """Submit the lines; whenever this is killed, the next run finds what became of it."""
        tag = hashlib.sha256(b"\n".join(bodies)).hexdigest()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        intent = StoredBatch(f"{INTENT}{tag}", self._endpoint, "submitting", _lines_json(lines), at=at)
        self._store.save_batch(intent)
        file_id = self._provider.upload(bodies)
        batch_id = self._provider.submit(file_id, tag=tag)
        return Submitted(self._adopt(intent, batch_id, file_id), dict(lines))

    def resume(self, slots: Mapping[str, Slot]) -> list[Submitted]:
        """Return the batches of earlier runs that answer any of these questions, by key."""
        for intent in self._store.batches(endpoint=self._endpoint, state="submitting"):
            batch_id = self._provider.find(intent.id.removeprefix(INTENT))
            if batch_id:
                self._adopt(intent, batch_id)
            else:
                self._store.save_batch(replace(intent, state="lost"))
        taken: set[str] = set()
        opened = self._store.batches(endpoint=self._endpoint, state="open")
        found = [self._match(stored, slots, taken) for stored in opened]
        for submitted in found:
            if submitted.whole and not submitted.lines:
                self.close(submitted)
        return [submitted for submitted in found if submitted.lines]

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
        lines: dict[str, Batch] = {}
        whole = True
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
                lines[custom_id] = Batch(
                    [slots[key] if key in waiting else Slot(gone, "") for key in keys],
                    attempt=entry["attempt"],
                    room=entry.get("room", 0),
                    boundary=entry["boundary"],
                    openings=entry.get("openings", False),
                )
                taken |= waiting
            whole = whole and bool(waiting or set(keys) <= answers.keys())
        return Submitted(stored, lines, whole=whole)


def request_line(custom_id: str, body: bytes) -> bytes:
    """Write a line of the file that a batch is made of."""
    head = json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH})
    return head[:-1].encode() + b', "body": ' + body + b"}"


def _lines_json(lines: Mapping[str, Batch]) -> str:
    return json.dumps(
        {
            custom_id: {
                "keys": [slot.key for slot in batch.slots],
                "boundary": batch.boundary,
                "openings": batch.openings,
                "attempt": batch.attempt,
                "room": batch.room,
            }
            for custom_id, batch in lines.items()
        }
    )


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
        self._provider = Provider(endpoint, timeout_seconds=call.asking.timeout_seconds)
        self._submissions = Submissions(call.answers, self._provider, endpoint=endpoint.identity)
        self._open: list[Submitted] = []
        self._waiting: list[Batch] = []
        self._refusals = 0
        self._learned: set[str] = set()  # what refusals of this round have already taught

    def run(self) -> None:
        """Collect what earlier runs submitted, then submit and collect the rest."""
        with self._provider:
            while not self._call.backlog.exhausted:
                self._waiting += self._call.backlog.read()
            self._resume()
            while self._waiting or self._open:
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
            bodies.append(request_line(key, body))
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
                look = self._provider.look(submitted.stored.id)
                if look.ended:
                    self._collect(submitted, look)
                    self._open.remove(submitted)
            self._call.tick()
            if self._open:
                self._call.stop.wait(pause)
                self._check_stop()
                pause = min(self._patience.longest_poll, pause * 1.5)

    def _collect(self, submitted: Submitted, look: Look) -> None:
        lines, reserved = dict(submitted.lines), sum(line.worst for line in submitted.lines.values())
        for file_id in look.files:
            for result in self._provider.results(file_id):
                line = lines.pop(str(result.get("custom_id")), None)
                if line is not None:
                    self._take(line, result, submitted.stored.id)
        for line in lines.values():
            self._ask_again(_wanted(line))
        self._tally.reserved -= reserved
        self._submissions.close(submitted)
        if look.status == "failed" and not self._tally.report.paid_requests:
            raise EndpointDown(
                f"{self._call.endpoint.base_url}: the batch {submitted.stored.id} failed, {look.message}"
            )

    def _take(self, line: Batch, result: dict[str, Any], batch_id: str) -> None:
        self._tally.report.requests += 1
        reply, read = read_result(result)
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
        self._keep(entry)
        self._waiting += again

    def _keep(self, entry: Entry) -> None:
        save_entries(self._call.answers, [entry])
        self._tally.settle(entry.answers)

    def _take_problem(self, batch: Batch, problem: Problem) -> None:
        if problem.kind in FATAL:
            raise fatal_error(problem, self._call.endpoint)
        doubtful = not self._tally.report.paid_requests and problem.kind == "request"
        if problem.kind not in ("request", "too_long", "filtered"):
            self._ask_again(batch)
        elif self._tally.room.lower(batch, problem) or (doubtful and self._learn(batch, problem)):
            self._waiting.append(batch)
        elif doubtful and not batch.retried:  # nothing has succeeded yet: find out who else fails
            self._refusals += 1
            self._waiting += batch.halves()
            if self._refusals >= MAX_REFUSALS:
                raise all_refused(self._call.endpoint.base_url, problem)
        elif len(batch.slots) > 1:
            self._waiting += batch.halves()
        else:
            self._keep(fail_alone(batch, problem))

    def _learn(self, batch: Batch, problem: Problem) -> bool:
        """Adapt to a refusal, once for all lines of a round that were refused alike."""
        known = problem.detail in self._learned or self.dialect.learn(problem, batch.recipe)
        self._learned |= {problem.detail} if known else set()
        return known

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


def run_batches(call: Call) -> BaseException | None:
    """Ask through the provider's Batch API, until nothing is left: `engine.ask` with this as ``run``."""
    run = BatchRun(call)
    error: BaseException | None = None
    try:
        with terminate_sets(call.stop):
            run.run()
    except KeyboardInterrupt:
        error = Interrupted(STOPPED)
    except Exception as raised:
        error = raised
    call.tally.report.mode = run.dialect.mode
    return error
