"""The envelope of a completion: its choices, its usage, and the model that says it wrote them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from llmtwin_data.endpoints.problems import Problem, problem_of, read_error

REFUSAL = re.compile(
    r"\W*(i[’']?m|i am|sorry|i apologi[sz]e|unfortunately|i can(?:no|[’'])?t|as an ai)\b"
    r".{0,120}\b(can(?:no|[’'])?t|unable|not able|won[’']t)\b",
    re.IGNORECASE | re.DOTALL,
)
QUOTED_CHARS = 180


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; ``problem`` says in one word why its text is no use or not whole."""

    text: str
    problem: str = ""  # "", cut, refused, filtered, empty_answer


@dataclass(frozen=True, slots=True)
class Completion:
    """What a 200 reply holds; tokens are None where the server does not count them believably."""

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    system_fingerprint: str


def read_completion(text: str) -> Completion | Problem:
    """Read a reply's body; an error object, HTML or nothing at all is a problem of the endpoint."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Problem("answer", "not_json", f"not JSON from the endpoint: {' '.join(text[:80].split())!r}")
    if not isinstance(body, dict):
        return Problem("answer", "not_json", f"expected an object, found {type(body).__name__}")
    if body.get("error") and not body.get("choices"):
        return _error_inside(body, text)
    listed = body.get("choices")
    choices = (
        tuple(map(_choice, listed)) if isinstance(listed, list) and listed else (Choice("", "empty_answer"),)
    )
    usage = body.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        choices,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
        _model_name(body.get("model")),
        _word(body.get("system_fingerprint")),
    )


def useless(problem: str) -> Completion:
    """Give a completion without a text, for a reply that was too much to read."""
    return Completion((Choice("", problem),), None, None, "", "")


def is_refusal(text: str) -> bool:
    """Tell whether a text without an answer in it declines to give one."""
    return REFUSAL.match(text) is not None


def quoted(raw: str) -> str:
    """Return how a reply begins, in one escaped line: its text if it has one, else its choice."""
    try:
        choice = json.loads(raw)["choices"][0]
        said = _text_of(choice["message"].get("content")).strip() or json.dumps(choice, ensure_ascii=False)
    except (LookupError, TypeError, AttributeError):
        said = raw
    except (ValueError, RecursionError):
        return f"not JSON from the endpoint, {raw[:QUOTED_CHARS]!r}"
    return repr(said[:QUOTED_CHARS])


def _error_inside(body: dict[str, Any], text: str) -> Problem:
    error = body["error"]
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    problem = problem_of(status, {}, text)
    return problem or Problem("answer", "error_object", read_error(text).message)


def _choice(listed: Any) -> Choice:
    choice = listed if isinstance(listed, dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _text_of(message.get("content"))
    finish = choice.get("finish_reason")
    if message.get("refusal"):
        return Choice("", "refused")
    if finish == "content_filter":
        return Choice("", "filtered")
    if not text.strip():
        return Choice("", "cut" if finish == "length" else "empty_answer")
    return Choice(text, "cut" if finish == "length" else "")


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text_of(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 10**9 else None


def _model_name(value: Any) -> str:
    # llama.cpp names the file it serves; a path of this machine is nobody's business.
    name = _word(value)
    return name.rpartition("/")[2] if name.startswith("/") else name


def _word(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""
