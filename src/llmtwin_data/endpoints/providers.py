"""A provider's Batch API, through the openai package: upload, submit, look, read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from llmtwin_data.endpoints import Endpoint, fatal_error, openai_client
from llmtwin_data.endpoints.completions import Completion, read_completion
from llmtwin_data.endpoints.connections import Reply, redact, without_keys
from llmtwin_data.endpoints.problems import Problem, problem_of
from llmtwin_data.errors import EndpointDown

PATH: Final = "/v1/chat/completions"
# Under this name a batch carries what it is, so that one whose id was never stored is found again.
TAG = "llmtwin_data"
ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass(frozen=True, slots=True)
class Look:
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def upload(self, lines: Iterable[bytes]) -> str:
        """Upload the lines of a batch; give the file's id."""
        with self._translated():
            content = b"\n".join(lines) + b"\n"
            return self._client.files.create(file=("requests.jsonl", content), purpose="batch").id

    def submit(self, file_id: str, *, tag: str) -> str:
        """Start a batch over an uploaded file; give its id. After an error `find` tells whether it began."""
        with self._translated():
            # Not repeated in silence: with the reply lost, a second try would be a second batch.
            batch = self._client.with_options(max_retries=0).batches.create(
                input_file_id=file_id, endpoint=PATH, completion_window="24h", metadata={TAG: tag}
            )
            return batch.id

    def find(self, tag: str) -> str:
        """Give the id of the batch submitted under this tag; empty if there is none."""
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
        return Look(batch.status in ENDED, batch.status, files, redact(message, self._endpoint.api_key))

    def results(self, file_id: str) -> Iterator[dict[str, Any]]:
        """Read the lines of a result file; torn ones are left out."""
        with self._translated():
            text = self._client.files.content(file_id).text
        text = without_keys(text, self._endpoint.api_key)
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
        except self._openai.APIStatusError as error:
            problem = problem_of(error.status_code, error.response.headers, error.response.text)
            if problem is None or problem.kind not in ("key", "billing", "redirect"):
                said = redact(str(error), self._endpoint.api_key)[:300]
                raise EndpointDown(
                    f"{self._endpoint.base_url}: the Batch API says {said}. Nothing is lost; "
                    "try again, or use mode: live"
                ) from None
            raise fatal_error(problem, self._endpoint) from None
        except self._openai.APIError as error:
            said = redact(str(error), self._endpoint.api_key)[:300]
            raise EndpointDown(
                f"{self._endpoint.base_url}: no word from the Batch API ({said}). "
                "The batches go on; the same command collects them"
            ) from None


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
