"""The same questions through a provider's Batch API, resumed from what was submitted."""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final

import openai
from openai.types import Batch as OpenAIBatch

from llmtwin_data.answers import StoredBatch
from llmtwin_data.endpoints import fatal_error
from llmtwin_data.engine import (
    MOST_USELESS_AT_FIRST,
    STOPPED,
    Batch,
    Session,
    Slot,
    save_entries,
    terminate_sets,
    write_request,
)
from llmtwin_data.errors import EndpointDown, Interrupted
from llmtwin_data.folders import now
from llmtwin_data.params import redact
from llmtwin_data.replies import Completion
from llmtwin_data.transport import Reply, openai_client, problem_of

PATH: Final = "/v1/chat/completions"
# Under this name a batch carries what it is, so that one whose id was never stored is found again.
TAG = "llmtwin_data"
ENDED = {"completed", "failed", "expired", "cancelled"}
INTENT = "intent-"
# Providers take 50,000 lines and 200 MB in one batch; this stays below both with long texts, too.
MAX_LINES = 5_000


@dataclass(slots=True, eq=False)
class Submitted:
    """A batch at the provider, with those of its lines that this run has questions for."""

    stored: StoredBatch
    lines: dict[str, Batch]  # by custom id
    whole: bool = True  # no line is left for another run


class BatchSession(Session):
    """Ask in rounds of batches at the provider; in the caller's thread, since it mostly waits."""

    def run(self) -> None:
        """Collect what earlier runs submitted, then submit and collect the rest."""
        base_url, key = self.endpoint.base_url, self.endpoint.api_key
        self._client = openai_client(base_url, key, timeout=self.asking.timeout_seconds, max_retries=3)
        try:
            with terminate_sets(self.stop), self._client:
                while not self.backlog.all_formed:
                    self.backlog.fresh.extend(self.backlog.read())
                self._collect(self._resume())
                while not self.ending and not (self.backlog.empty() and self.backlog.exhausted):
                    self._go_round()
        except KeyboardInterrupt:
            self.halt(Interrupted(STOPPED))
        except openai.APIError as error:
            self.halt(self._translated(error))
        except Exception as error:
            self.halt(error)

    def _go_round(self) -> None:
        """Submit what waits, and collect it; where nothing does, look at what another process was asking."""
        if self.backlog.empty():
            self._check_stop()
            self.backlog.fresh.extend(self.backlog.read(idle=True))
            self.backlog.give_back()
            return
        trust, lines, too_dear = self.trust, list[tuple[Batch, bytes, str]](), list[Batch]()
        # In doubt no more, and each about one text, than shows whether any answer can be of use.
        most = max(0, MOST_USELESS_AT_FIRST - trust.useless) if trust.useless and not trust.proven else 0
        alone = self.report.cannot_copy or most > 0
        waiting = list(islice(iter(lambda: self.backlog.pop(math.inf, alone=alone), None), most or None))
        for batch in waiting:
            batch.openings = True
            if self.reserve(batch):
                lines.append((batch, *write_request(batch, self.dialect)))
            else:
                too_dear.append(batch)
        self.backlog.put(*too_dear)
        if not lines:
            self.halt(self.budget_reached(min(batch.worst for batch in too_dear)))
            return
        pieces = [lines[start : start + MAX_LINES] for start in range(0, len(lines), MAX_LINES)]
        self._collect([self._submit(piece) for piece in pieces])
        self.lose_trust()

    def _submit(self, lines: list[tuple[Batch, bytes, str]]) -> Submitted:
        """Submit lines; whenever this is killed, the next run finds what became of it."""
        self._check_stop()
        content = b"".join(
            b'{"custom_id": "%s", "method": "POST", "url": "%s", "body": %s}\n'
            % (custom_id.encode(), PATH.encode(), body)
            for _, body, custom_id in lines
        )
        entries = {
            custom_id: {
                "keys": [slot.key for slot in line.slots],
                "boundary": line.boundary,
                "openings": line.openings,
                "attempt": line.attempt,
                "room": line.room,
            }
            for line, _, custom_id in lines
        }
        tag = hashlib.sha256(content).hexdigest()
        intent = StoredBatch(
            f"{INTENT}{tag}", self.endpoint.identity, "submitting", json.dumps(entries), at=now()
        )
        self.answers.save_batch(intent)
        file = self._answer(self._client.files.create, file=("requests.jsonl", content), purpose="batch")
        # Not repeated in silence: with the reply lost, a second try would be a second batch.
        create = partial(self._client.with_options(max_retries=0).batches.create, completion_window="24h")
        batch = self._answer(create, input_file_id=file.id, endpoint=PATH, metadata={TAG: tag})
        stored = self._adopt(intent, batch.id, file.id)
        return Submitted(stored, {custom_id: line for line, _, custom_id in lines})

    def _adopt(self, intent: StoredBatch, batch_id: str, file_id: str = "") -> StoredBatch:
        stored = replace(intent, id=batch_id, state="open", file_id=file_id)
        self.answers.save_batch(stored)
        self.answers.save_batch(replace(intent, state="submitted", lines="{}"))
        return stored

    def _resume(self) -> list[Submitted]:
        """Take up the batches of earlier runs; their questions wait for them, and are not sent again."""
        for intent in self.answers.batches(endpoint=self.endpoint.identity, state="submitting"):
            tag, listed = intent.id.removeprefix(INTENT), self._answer(self._client.batches.list)
            batch_id = next((batch.id for batch in listed if (batch.metadata or {}).get(TAG) == tag), "")
            if batch_id:
                self._adopt(intent, batch_id)
            else:
                self.answers.save_batch(replace(intent, state="lost"))
        fresh = self.backlog.fresh
        slots, resumed = {slot.key: slot for batch in fresh for slot in batch.slots}, list[Submitted]()
        for stored in self.answers.batches(endpoint=self.endpoint.identity, state="open"):
            submitted = self._match(stored, slots)
            if submitted.lines:
                resumed.append(submitted)
            else:
                self._close(submitted)
        remaining = [(batch, [slot for slot in batch.slots if slot.key in slots]) for batch in fresh]
        self.backlog.fresh = deque(batch.only(left) for batch, left in remaining if left)
        return resumed

    def _match(self, stored: StoredBatch, slots: dict[str, Slot]) -> Submitted:
        """Take what a stored batch answers out of the slots; a line counts if one of its questions waits."""
        submitted = Submitted(stored, {})
        entries: dict[str, dict[str, Any]] = json.loads(stored.lines)
        for custom_id, entry in entries.items():
            keys = entry["keys"]
            answers = self.answers.answers(keys)
            if any(answer.state == "ok" for answer in answers.values()):
                continue  # received before a kill; what of it still waits is asked anew
            waiting = {key: slots.pop(key) for key in keys if key in slots}
            submitted.whole &= bool(waiting or set(keys) <= answers.keys())
            if waiting:
                # A text that is gone keeps its number in the request, so that the others keep theirs.
                gone = replace(next(iter(waiting.values())).question, text="")
                line = submitted.lines[custom_id] = Batch(
                    [waiting.get(key) or Slot(gone, "") for key in keys],
                    attempt=entry["attempt"],
                    room=entry.get("room", 0),
                    boundary=entry["boundary"],
                    openings=entry.get("openings", False),
                )
                line.worst = self.worst_cost(line)
                self.reserved += line.worst
        return submitted

    def _close(self, submitted: Submitted) -> None:
        """Note that a batch is collected, unless other questions than this run's wait for it."""
        state = "collected" if submitted.whole else "open"
        self.answers.save_batch(replace(submitted.stored, state=state))

    def _collect(self, submitted: list[Submitted]) -> None:
        """Look at batches until all have ended, and take the lines of each as it ends."""
        pause = self.patience.poll
        while submitted:
            for one in list(submitted):
                batch = self._answer(self._client.batches.retrieve, one.stored.id)
                if batch.status in ENDED:
                    self._take(one, batch)
                    submitted.remove(one)
            self.tick()
            if submitted:
                self.stop.wait(pause)
                self._check_stop()
                pause = min(self.patience.longest_poll, pause * 1.5)

    def _take(self, submitted: Submitted, batch: OpenAIBatch) -> None:
        key, lines = self.endpoint.api_key, dict(submitted.lines)
        total, completed = (getattr(batch.request_counts, name, None) for name in ("total", "completed"))
        holds_none = total and completed == 0  # all are 0 where nobody counts
        files = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
        for file_id in files:
            text = redact(self._client.files.content(file_id).text, key)
            results = list(_results(text))
            # What has no result is asked, and paid, again: not for a page, or nothing, in a file's place.
            if not results and (text.strip() or (len(files) == 1 and not holds_none)):
                raise self._unreadable(text)
            for result in results:
                if line := lines.pop(str(result["custom_id"]), None):
                    self._take_line(line, result, submitted.stored.id)
        for line in lines.values():
            self._ask_again(_wanted(line))
        self.reserved -= sum(line.worst for line in submitted.lines.values())
        self._close(submitted)
        if batch.status == "failed" and not self.report.paid_requests:
            errors = (batch.errors.data if batch.errors else None) or []
            words = redact("; ".join(f"{one.code}: {one.message}" for one in errors[:3]), key, shapes=True)
            advice = "wait for your other batches to end" if "limit" in words else "correct what it names"
            self.halt(
                EndpointDown(
                    f"{self.endpoint.base_url}: the batch {batch.id} failed, {words.rstrip('.')}. Nothing is "
                    f"lost or paid; {advice}, or set mode: live, and run the same command again"
                )
            )

    def _take_line(self, line: Batch, result: Mapping[str, Any], batch_id: str) -> None:
        """Read a line of a result file as if it were a reply; without a response it has expired."""
        self.report.requests += 1
        response = result.get("response")
        response = response if isinstance(response, dict) else {"status_code": 500}
        status, text = response.get("status_code"), json.dumps(response.get("body"), ensure_ascii=False)
        reply = Reply(status if isinstance(status, int) else 500, {}, text, 0.0)
        read = self.read(line, reply)
        if isinstance(read, Completion):
            request_id = f"{batch_id}-{result.get('custom_id')}"
            entry = self.receive(line, read, reply, request_id=request_id, batch_id=batch_id)
        elif read.step in ("lower", "split"):
            entry = self.refuse(_wanted(line), read)
        else:
            self.halt(read) if read.step == "stop" else self._ask_again(_wanted(line))
            return
        save_entries(self.answers, [entry])
        self.settle(entry.answers)

    def _ask_again(self, batch: Batch) -> None:
        batch.faults += 1
        if batch.faults < self.patience.attempts:
            self.backlog.put(batch)
        else:
            self.left += len(batch.slots)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted(
                "stopped; the batches go on at the provider, and the same command collects them"
            )

    def _answer(self, call: Callable[..., Any], *arguments: str, **fields: Any) -> Any:
        """Return a file, a batch or their list; EndpointDown if what came with status 200 is none."""
        try:
            answer = call(*arguments, **fields)
        except ValueError as error:
            raise self._unreadable(str(error)) from error
        if not getattr(answer, "id", "") and getattr(answer, "data", None) is None:
            raise self._unreadable(answer if isinstance(answer, str) else repr(answer))
        return answer

    def _unreadable(self, text: str) -> EndpointDown:
        words = redact(text, self.endpoint.api_key, shapes=True)[:80]
        return EndpointDown(
            f"{self.endpoint.base_url}: expected a word of the Batch API, found {words!r}. Nothing is lost; "
            "try again, or use mode: live"
        )

    def _translated(self, error: openai.APIError) -> Exception:
        words = redact(str(error), self.endpoint.api_key, shapes=True)[:300]
        text = f"no word from the Batch API ({words}). The batches go on; the same command collects them"
        if isinstance(error, openai.APIStatusError):
            problem = problem_of(error.status_code, error.response.headers, error.response.text)
            if problem and problem.step == "stop" and problem.kind not in ("model", "address"):
                return fatal_error(problem, self.endpoint)
            advice = "Nothing is lost; try again, or use mode: live"
            if error.status_code == 404:
                advice = (
                    "Try again; if it stays so, no such API, batch or file is there any more: run once with "
                    "-p mode live, in another --out, which asks, and pays, what waits for it"
                )
            text = f"the Batch API says {words.rstrip('.')}. {advice}"
        return EndpointDown(f"{self.endpoint.base_url}: {text}")


def _results(text: str) -> Iterator[dict[str, Any]]:
    for row in text.split("\n"):
        with suppress(ValueError, RecursionError):  # torn
            result = json.loads(row)
            if isinstance(result, dict) and "custom_id" in result:
                yield result


def _wanted(batch: Batch) -> Batch:
    """Return the batch without the texts that nobody asks about any more."""
    return batch.only([slot for slot in batch.slots if slot.key])
