"""Batches at a provider: intent stored before sending, id before waiting, found again after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from llmtwin_data.answers import AnswerStore, StoredBatch
from llmtwin_data.endpoints.providers import PATH, Provider
from llmtwin_data.generation.receiving import Sent
from llmtwin_data.generation.slots import Batch, Slot

INTENT = "intent-"


@dataclass(slots=True, eq=False)
class Submitted:
    """A batch at the provider, with those of its lines that this run has questions for."""

    stored: StoredBatch
    lines: dict[str, Sent]  # by custom id
    whole: bool = True  # no line is left for another run


class Submissions:
    """Sends batches and finds them again."""

    def __init__(self, store: AnswerStore, provider: Provider, *, endpoint: str) -> None:
        self._store = store
        self._provider = provider
        self._endpoint = endpoint

    def send(self, lines: Mapping[str, Sent], bodies: Sequence[bytes]) -> Submitted:
        """Submit the lines; whenever this is killed, the next run finds what became of it."""
        tag = hashlib.sha256(b"\n".join(bodies)).hexdigest()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        intent = StoredBatch(f"{INTENT}{tag}", self._endpoint, "submitting", _lines_json(lines), at=at)
        self._store.save_batch(intent)
        file_id = self._provider.upload(bodies)
        batch_id = self._provider.submit(file_id, tag=tag)
        return Submitted(self._adopt(intent, batch_id, file_id=file_id), dict(lines))

    def resume(self, slots: Mapping[str, Slot]) -> list[Submitted]:
        """Give the batches of earlier runs that answer any of these questions, by key."""
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

    def _adopt(self, intent: StoredBatch, batch_id: str, *, file_id: str = "") -> StoredBatch:
        stored = replace(intent, id=batch_id, state="open", file_id=file_id)
        self._store.save_batch(stored)
        self._store.save_batch(replace(intent, state="submitted", lines="{}"))
        return stored

    def _match(self, stored: StoredBatch, slots: Mapping[str, Slot], taken: set[str]) -> Submitted:
        """Find the questions of a stored batch; a line counts if one of its questions still waits."""
        lines: dict[str, Sent] = {}
        whole = True
        entries: dict[str, dict[str, Any]] = json.loads(stored.lines)
        for custom_id, entry in entries.items():
            keys = entry["keys"]
            answers = self._store.answers(keys)
            if any(answer.state == "ok" for answer in answers.values()):
                continue  # received before a kill; what of it still waits is asked anew
            waiting = slots.keys() & set(keys) - taken
            if waiting:
                room = entry.get("room", 0)
                batch = Batch(_numbered(keys, slots, waiting), attempt=entry["attempt"], room=room)
                lines[custom_id] = Sent(batch, 0.0, entry["boundary"], entry.get("openings", False))
                taken |= waiting
            whole = whole and bool(waiting or set(keys) <= answers.keys())
        return Submitted(stored, lines, whole=whole)


def _numbered(keys: Sequence[str], slots: Mapping[str, Slot], waiting: AbstractSet[str]) -> list[Slot]:
    """Give the slots by their numbers in the request; a gone text keeps its own, so that others do."""
    known = slots[next(iter(waiting))].question
    return [slots[key] if key in waiting else Slot(replace(known, text=""), "") for key in keys]


def request_line(custom_id: str, body: bytes) -> bytes:
    """Write a line of the file that a batch is made of."""
    head = json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH})
    return head[:-1].encode() + b', "body": ' + body + b"}"


def _lines_json(lines: Mapping[str, Sent]) -> str:
    return json.dumps(
        {
            custom_id: {
                "keys": [slot.key for slot in line.batch.slots],
                "boundary": line.boundary,
                "openings": line.openings,
                "attempt": line.batch.attempt,
                "room": line.batch.room,
            }
            for custom_id, line in lines.items()
        }
    )
