"""The envelope of a completion: its choices, its usage, and the model that says it wrote them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from llmtwin_data.endpoints.problems import Problem, problem_of, read_error
from llmtwin_data.languages.tokens import estimate_tokens

REFUSAL = re.compile(
    r"\W*(i[’']?m|i am|sorry|i apologi[sz]e|unfortunately|i can(?:no|[’'])?t|as an ai)\b"
    r".{0,120}\b(can(?:no|[’'])?t|unable|not able|won[’']t)\b",
    re.IGNORECASE | re.DOTALL,
)
QUOTED_CHARS = 180
# A thought inside the text, where no parser of the server took it out.
THOUGHT = re.compile(r"\A(?:.*</think>|\s*<think>.*)", re.DOTALL)
# Tokens that a text explains, however it is cut into tokens: so many times its estimate and these.
FAR_MORE, FEW_TOKENS = 3, 100


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
    # Hidden ones among the completion's, of all choices together; None where nothing tells of any.
    reasoning_tokens: int | None = None


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
    prompt_tokens, written, told = _usage(body.get("usage"))
    return Completion(
        choices,
        prompt_tokens,
        written,
        _model_name(body.get("model")),
        _word(body.get("system_fingerprint")),
        _hidden(listed, written) if told is None else told,
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


def _usage(usage: Any) -> tuple[int | None, int | None, int | None]:
    """Give the tokens of the prompt, those of the completion, and the hidden ones among these."""
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("completion_tokens_details")
    prompt, written, total = (
        _count(counts.get(f"{name}_tokens")) for name in ("prompt", "completion", "total")
    )
    hidden = _count(details.get("reasoning_tokens") if isinstance(details, dict) else None)
    if hidden and prompt is not None and written is not None and total == prompt + written + hidden:
        written += hidden  # some count them beside the completion's, and charge them all the same
    return prompt, written, hidden


def _hidden(listed: Any, written: int | None) -> int | None:
    """Tell hidden tokens that no usage names: by thoughts that are shown, or by far more tokens than text."""
    messages = [_message(choice) for choice in listed] if isinstance(listed, list) else []
    texts = [_text_of(message.get("content")) for message in messages]
    told = [message.get(name) for message in messages for name in ("reasoning_content", "reasoning")]
    thoughts = [found.group() for text in texts if (found := THOUGHT.match(text))]
    thoughts += [text for text in told if isinstance(text, str)]
    if written is None:
        return estimate_tokens("".join(thoughts)) or None
    shown = "".join(THOUGHT.sub("", text) for text in texts)
    if not any(thoughts) and written <= len(shown) // 2 + FAR_MORE * FEW_TOKENS:
        return None  # seen without an estimate, which would cost more than the rest of the reading
    tokens = estimate_tokens(shown)
    return max(0, written - tokens) if any(thoughts) or written > FAR_MORE * (tokens + FEW_TOKENS) else None


def _message(choice: Any) -> dict[str, Any]:
    message = choice.get("message") if isinstance(choice, dict) else None
    return message if isinstance(message, dict) else {}


def _choice(listed: Any) -> Choice:
    choice = listed if isinstance(listed, dict) else {}
    message = _message(listed)
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
