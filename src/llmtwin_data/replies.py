"""A completion read: its answers by number and by the opening of the text they are about, cut, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from llmtwin_data import embeddings
from llmtwin_data.prompts import LEAST_WEIGHT, Head, Kind, line_of, weight_of
from llmtwin_data.texts import estimate_tokens, normal_form, words
from llmtwin_data.transport import Problem, problem_of

_I_CANNOT = r"i(?:['’]m| am)? (?:can(?:['’]|no| no)t|unable|not able|won['’]t|will not)\b"
# How an answer begins that is none: a line is one habit of a language. Who "can't wait" is a person.
_REFUSALS = (
    r"(?:(?:i['’]m|i am) (?:\w+ )?sorry|sorry|i apologi[sz]e|unfortunately)\b(?: for[^\n,.]{0,30})?[,.]? "
    rf"(?:but )?{_I_CANNOT}(?! (?:agree|believe|help but|stop|wait))",
    rf"{_I_CANNOT} (?:to )?(?:help (?:you|with)|assist|comply|fulfil|(?:create|process) (?:this|that))",
    r'[^\n"“]{0,40}\bas an? (?:ai(?:,| (?:language )?model\b| assistant\b)|(?:large )?language model\b)',
    r"(?:很|非常|十分|真的)?(?:抱歉|不好意思|對不起|对不起|遺憾|遗憾)[，,。]?\s?(?:但是?)?(?:我|本人)?(?:目前|暫時|暂时)?"
    r"(?:無法|无法|不能|[沒没]有?[辦办]法)(?!同意|相信|再)",
    r"我(?:無法|无法|不能)(?:協助|协助|幫助|帮助|提供|回答|滿足|满足)(?:[您你這这此該该任]|$)",
    r"[^\n「“]{0,20}(?:作為|作为|身為|身为)(?:一[個个名款])?\s?"
    r"(?:(?:AI|人工智[慧能])\s?(?:[語语]言)?(?:模型|助[理手]|[，,])|大?型?[語语]言模型)",
    r"(?:lo siento|lo lamento|lamento|disculpa)\b[,.]? (?:pero )?(?:mucho )?(?:no puedo|no me es posible)\b"
    r"(?! (?:creer|estar de acuerdo|evitar))",
    r"no puedo (?:ayudar(?:te|le)?|asistir(?:te|le)?|cumplir) con",
    r'[^\n"«]{0,40}\bcomo (?:un )?(?:modelo de (?:lenguaje|ia)|asistente de ia|ia,|inteligencia artificial,)',
)
REFUSAL = re.compile(rf"\W*(?:{'|'.join(_REFUSALS)})", re.IGNORECASE)
# What a finish_reason means, in the words of those who do not say it in OpenAI's: Mistral, Anthropic, Gemini,
# Cohere, Zhipu, DeepSeek, SGLang and proxies before them. Every other one is a usual end.
ENDINGS = (
    dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), "cut")
    | dict.fromkeys(("content_filter", "content_filtered", "guardrail_intervened", "error_toxic"), "filtered")
    | dict.fromkeys(("safety", "sensitive", "prohibited_content", "blocklist", "recitation"), "filtered")
    | dict.fromkeys(("error", "failed", "abort", "aborted", "cancelled", "network_error"), "error")
    | {"refusal": "refused", "insufficient_system_resource": "error"}
)
QUOTED_CHARS = 180
# What ends a thought inside the text, where no parser of the server took it out: Qwen, Mistral, Seed, Kimi;
# OpenThinker and Command; Gemma; gpt-oss, also without its marks.
THINK = r"(?i:(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)[>\]▷])"
ENDED_THOUGHT = re.compile(
    rf"\A.*(?:[<\[◁](?:/{THINK}|\|(?i:end_(?:of_)?th(?:ought|inking))\|>|channel\|>)"
    r"|(?:<\|channel\|>|assistant)final\b[^{}\[\]]{0,40}?(?:<\|message\|>|(?=[\[{])))",
    re.DOTALL,
)
# No answer that is JSON from its first sign on has one: looked at first, since this is asked of each reply.
THOUGHT = re.compile(rf"(?!\s*{{){ENDED_THOUGHT.pattern}|\A\s*[<\[◁]{THINK}.*", re.DOTALL)
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
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str = ""
    system_fingerprint: str = ""
    # Hidden ones among the completion's, of all choices together; None where nothing tells of any.
    reasoning_tokens: int | None = None
    cached_tokens: int = 0  # of the prompt, counted among its tokens by most


def read_completion(text: str) -> Completion | Problem:
    """Read a reply's body; an error object, HTML or nothing at all is a problem of the endpoint."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Problem("answer", "not_json", f"not JSON from the endpoint: {' '.join(text[:80].split())!r}")
    if not isinstance(body, dict):
        return Problem("answer", "not_json", f"expected an object, found {type(body).__name__}")
    listed = body["choices"] if isinstance(body.get("choices"), list) else []
    if problem := _error_in(body, _object(listed[0]) if listed else {}):
        return problem
    model, fingerprint = (_text_of(body.get(name))[:200] for name in ("model", "system_fingerprint"))
    messages = [_object(_object(choice).get("message")) for choice in listed]
    usage = _object(body.get("usage"))
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "cache_read_input_tokens")
    counts = [
        *map(usage.get, names),
        _object(usage.get("prompt_tokens_details")).get("cached_tokens"),
        _object(usage.get("completion_tokens_details")).get("reasoning_tokens"),
    ]
    prompt, written, total, read, cached, hidden = (
        count if type(count) is int and 0 <= count < 10**9 else None for count in counts
    )
    prompt = prompt or None  # a prompt has tokens: 0 is what a server says that does not count
    if hidden and prompt is not None and written is not None and total == prompt + written + hidden:
        written += hidden  # some count them beside the completion's, and charge them all the same
    return Completion(
        tuple(map(_choice, listed, messages)) or (Choice("", "empty_answer"),),
        prompt,
        written,
        # llama.cpp names the file it serves; a path of this machine is nobody's business.
        model.rpartition("/")[2] if model.startswith("/") else model,
        fingerprint,
        _hidden_tokens(messages, written) if hidden is None else hidden,
        max(cached or 0, read or 0),
    )


def _error_in(body: dict[str, Any], first: dict[str, Any]) -> Problem | None:
    # Some put an error of those behind them into a choice.
    error = first.get("error") or (not first.get("message") and body.get("error"))
    if not error and _ending(first) == "error":
        error = f"finish_reason: {first['finish_reason']}"
    if not error:
        return None
    code = str(error.get("code") if isinstance(error, dict) else "")
    status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 500
    return problem_of(status, {}, json.dumps({"error": error})) or Problem("answer", "error_object", "")


def read_embeddings(text: str, *, count: int, dimensions: int = 0) -> tuple[Completion | Problem, int]:
    """Read the vectors of ``count`` texts, packed and with a blank between, and how many numbers each has.

    A list of another length, a number that is none, or vectors of unequal length, among themselves or to the
    ``dimensions`` of those before: none of its parts is trusted.
    """
    completion = read_completion(text)
    if isinstance(completion, Problem):
        return completion, dimensions
    data = json.loads(text).get("data")
    listed = list(map(_object, data if isinstance(data, list) else []))
    numbers = [one.get("index", place) for place, one in enumerate(listed)]
    packed, problem = "", "numbers"
    if len(listed) == count and sorted(map(str, numbers)) == sorted(map(str, range(count))):
        by_place = dict(zip(map(int, numbers), listed, strict=True))
        vectors: list[Any] = [by_place[place].get("embedding") for place in range(count)]
        problem = "malformed"
        with suppress(ValueError, TypeError, OverflowError):
            packed = embeddings.pack(vectors, dimensions=dimensions)
            problem, dimensions = "", len(vectors[0])
    choices = (Choice(packed, problem),)
    return replace(completion, choices=choices, completion_tokens=0, reasoning_tokens=0), dimensions


def _hidden_tokens(messages: Sequence[dict[str, Any]], written: int | None) -> int | None:
    """Return hidden tokens that no usage names: by thoughts shown, or by far more tokens than text."""
    texts = [_text_of(message.get("content")) for message in messages]
    fields = [message.get(name) for message in messages for name in ("reasoning_content", "reasoning")]
    ends = [match.end() if (match := THOUGHT.match(text)) else 0 for text in texts]
    thoughts = "".join(text[:end] for text, end in zip(texts, ends, strict=True))
    thoughts += "".join(text for text in fields if isinstance(text, str))
    if written is None:
        return estimate_tokens(thoughts) or None
    answer = "".join(text[end:] for text, end in zip(texts, ends, strict=True))
    if not thoughts and written <= len(answer) // 2 + FAR_MORE * FEW_TOKENS:
        return None  # seen without an estimate, which would cost more than the rest of the reading
    tokens = estimate_tokens(answer)
    return max(0, written - tokens) if thoughts or written > FAR_MORE * (tokens + FEW_TOKENS) else None


def _choice(choice: Any, message: dict[str, Any]) -> Choice:
    text, ending = _text_of(message.get("content")), _ending(_object(choice))
    if message.get("refusal") or ending == "refused":
        return Choice("", "refused")
    if ending == "filtered":
        return Choice("", "filtered")
    if not text.strip() and ending != "cut":
        hidden = ENDED_THOUGHT.sub("", _text_of(message.get("reasoning_content") or message.get("reasoning")))
        if hidden.lstrip().startswith(("{", "[", "```")):
            text = hidden  # the parser of the server took the answer for a thought, or for a part of it
    if ending == "cut":
        return Choice(text if text.strip() else "", "cut")
    return Choice(text) if text.strip() else Choice("", "empty_answer")


def _ending(choice: dict[str, Any]) -> str:
    finish = choice.get("finish_reason")
    return ENDINGS.get(finish.lower(), "") if isinstance(finish, str) else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(_text_of(_object(part).get("text")) for part in content)
    return content if isinstance(content, str) else ""


def quoted(raw: str) -> str:
    """Return how a reply begins, in one escaped line: its text if it has one, else its choice."""
    try:
        choice = json.loads(raw)["choices"][0]
        text = _text_of(choice["message"].get("content")).strip() or json.dumps(choice, ensure_ascii=False)
    except (LookupError, TypeError, AttributeError):
        text = raw
    except (ValueError, RecursionError):
        return f"not JSON from the endpoint, {raw[:QUOTED_CHARS]!r}"
    return repr(text[:QUOTED_CHARS])


# Words of a copied opening that are compared, if no more are needed; a model may copy a whole paragraph.
COMPARED_WORDS = 16


def is_opening(copied_text: Any, own: Head, mates: Sequence[Head]) -> bool:
    """Return whether words as copied are an opening of this text, and of none of its batch-mates."""
    if not isinstance(copied_text, str) or not own.line:
        return False
    copied = words(normal_form(copied_text))[: max(COMPARED_WORDS, own.opening_words(mates))]
    long_enough = weight_of(copied) >= min(LEAST_WEIGHT, weight_of(own.words))
    line = line_of(copied)
    return long_enough and line in own.line and not any(line in mate.line for mate in mates)


Values = tuple[str, ...]

# A string is stepped over whole, so that a comma inside it is never taken for a trailing one.
TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
# What may be meant as a number, to see whether texts are counted in another way than ours.
NUMERAL = re.compile(r"[-+]?\d{1,9}(?!\d)")
CANONICAL_NUMBER = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")
OPENING = re.compile(r"[{\[]")
AFTER_ITEM = re.compile(r"\s*,?\s*")
# Places where an answer may begin inside prose; more are not tried.
MAX_STARTS = 16


@dataclass(slots=True)
class Reading:
    """Exact answers by number, and one word for each number that has none."""

    values: dict[int, Values] = field(default_factory=dict)  # the k instructions; or score and reason
    problems: dict[int, str] = field(default_factory=dict)  # missing, repeated, malformed, boundary, ...
    ignored: int = 0  # items without a number, or under one that was never asked
    unproven: int = 0  # of whole items, those whose opening is not the one of their text


def read_choice(
    text: str,
    *,
    kind: Kind,
    k: int,
    count: int,
    boundary: str = "",
    heads: Sequence[Head] = (),
    cut: bool = False,
) -> Reading:
    """Read the answers to texts 1 to ``count``.

    Parameters
    ----------
    boundary
        Letters that stand only in the prompt's frame; an answer that holds them quotes the frame.
    heads
        Of the texts, where each answer must show by its opening which one it read; none: it need not.
    cut
        The text stops where the token limit struck: whole items before that place count.
    """
    items = find_items(text, kind=kind)
    if items is None and cut:
        items = list(_whole_items(text, kind))
    if items is None:
        refused = not cut and REFUSAL.match(text)
        return Reading(problems=dict.fromkeys(range(1, count + 1), "refused" if refused else "malformed"))
    if _counts_otherwise(items, count):
        return Reading(problems=dict.fromkeys(range(1, count + 1), "numbers"), ignored=len(items))
    reading = Reading()
    for item in items:
        number = exact_number(item.get("content")) if isinstance(item, dict) else None
        if number is None:
            reading.ignored += 1
            continue
        name = "text" if kind == "twins" else "instruction"
        values = _verdict(item) if kind == "verdicts" else _texts(item, name, k)
        mates = [*heads[: number - 1], *heads[number:]]
        before = reading.values.pop(number, None)
        if number in reading.problems or (before is not None and before != values):
            reading.problems[number] = "repeated"
        elif values is None:
            reading.problems[number] = "malformed"
        elif boundary and any(boundary in value for value in values):
            reading.problems[number] = "boundary"
        elif heads and not is_opening(item.get("opening"), heads[number - 1], mates):
            reading.problems[number] = "opening"
            reading.unproven += 1
        else:
            reading.values[number] = values
    for number in range(1, count + 1):
        if number not in reading.values:
            reading.problems.setdefault(number, "cut" if cut else "missing")
    return reading


def find_items(text: str, *, kind: Kind) -> list[Any] | None:
    """Find the list of answers: as strict JSON, else without trailing commas, in prose or fences, or torn."""
    with suppress(ValueError, RecursionError):
        if (strict := _items_of(DECODER.decode(text), kind)) is not None:
            return strict
    text = TRAILING_COMMA.sub(r"\1", ENDED_THOUGHT.sub("", text))
    values, position = [], 0
    for _ in range(MAX_STARTS):
        if (start := OPENING.search(text, position)) is None:
            break
        value, position = _decode(text, start.start())
        values.append(value)
    # One of several may be quoted from a content: together, what they say differently of a text is no answer.
    named = [
        value[kind]
        for value in values
        if isinstance(value, dict) and "content" not in value and isinstance(value.get(kind), list)
    ]
    whole: list[Any] | None = list(chain.from_iterable(named)) if named else None
    bare = next((items for value in values if (items := _items_of(value, kind)) is not None), None)
    return (whole if named else list(_whole_items(text, kind))) or (whole if bare is None else bare)


def exact_number(value: Any) -> int | None:
    """Return the number meant by an integer or a canonical digit string; None for everything else."""
    if isinstance(value, str) and CANONICAL_NUMBER.fullmatch(value):
        return int(value)
    return value if type(value) is int else None


def clean(text: str) -> str:
    """Return the text as it can be stored: no NUL, no lone surrogate, no blanks around."""
    return SURROGATE.sub("\ufffd", text).replace("\0", "").strip()


def _whole_items(text: str, kind: Kind) -> Iterator[Any]:
    """Return the items that are complete in a text that stops in the middle."""
    start = re.search(rf'"{kind}"\s*:\s*\[', text)
    position = start.end() if start else len(text)
    while True:
        item, end = _decode(text, position)
        if item is NOTHING:
            return
        yield item
        position = AFTER_ITEM.match(text, end).end()  # type: ignore[union-attr]


def _counts_otherwise(items: Sequence[Any], count: int) -> bool:
    """Return whether the items may be numbered in another way than from 1 to ``count``.

    They are if any number lies outside. An item without one may stand for the 0, or for the number that is
    too many, of texts counted from elsewhere, unless both 1 and ``count`` are there.
    """
    named = [item.get("content") if isinstance(item, dict) else None for item in items]
    exact = list(map(exact_number, named))
    unnumbered = None in exact and not {1, count} <= set(exact)
    return unnumbered or any(not 1 <= number <= count for value in named for number in _meant_numbers(value))


def _meant_numbers(value: Any) -> list[int]:
    if isinstance(value, str):
        return [int(numeral) for numeral in NUMERAL.findall(value)[:1]]
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    return [int(value)] if whole else []


def _texts(item: dict[str, Any], name: str, k: int) -> Values | None:
    listed = [item.get(name)] if k == 1 else item.get(f"{name}s")
    if not isinstance(listed, list) or len(listed) != k or not all(isinstance(text, str) for text in listed):
        return None
    return tuple(map(clean, listed))


def _verdict(item: dict[str, Any]) -> Values | None:
    score, reason = exact_number(item.get("score")), item.get("reason", "")
    if score is None or not 1 <= score <= 5 or not isinstance(reason, str):
        return None
    # A small model copies the dots of the form; a score that gives no reason is not one to trust.
    return (str(score), clean(reason)) if any(map(str.isalnum, reason)) else None


def _items_of(value: Any, kind: Kind) -> list[Any] | None:
    """Return the answers that a value holds: under their name, as a bare list, or alone."""
    if isinstance(value, dict):
        value = [value] if "content" in value else value.get(kind)
        return value if isinstance(value, list) else None
    bare = isinstance(value, list) and any(isinstance(item, dict) and "content" in item for item in value)
    return value if bare else None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)
NOTHING = object()


def _decode(text: str, position: int) -> tuple[Any, int]:
    """Return the value that starts here and its end; else `NOTHING`, and the next place."""
    try:
        return DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return NOTHING, position + 1
