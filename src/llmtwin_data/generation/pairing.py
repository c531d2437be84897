"""What a completion says about each numbered text, matched by number and by nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from llmtwin_data.generation.openings import Head, holds

Kind = Literal["instructions", "verdicts"]
Values = tuple[str, ...]

# A string is stepped over whole, so that a comma inside it is never taken for a trailing one.
TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
# What may be meant as a number, to see whether texts are counted in another way than ours.
NUMERAL = re.compile(r"[-+]?\d{1,9}(?!\d)")
CANONICAL_NUMBER = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")
OPENING = re.compile(r"[{\[]")
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
        items = list(whole_items(text, kind=kind))
    if items is None:
        return Reading(problems=dict.fromkeys(range(1, count + 1), "malformed"))
    if counts_otherwise(items, count):
        return Reading(problems=dict.fromkeys(range(1, count + 1), "numbers"), ignored=len(items))
    reading = Reading()
    for item in items:
        _take(reading, item, kind=kind, k=k, count=count, boundary=boundary, heads=heads)
    for number in range(1, count + 1):
        if number not in reading.values and number not in reading.problems:
            reading.problems[number] = "cut" if cut else "missing"
    return reading


def find_items(text: str, *, kind: Kind) -> list[Any] | None:
    """Find the list of answers: as strict JSON, else without trailing commas, in prose or fences, or torn."""
    strict = _items_of(_loads(text), kind)
    if strict is not None:
        return strict
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    text = TRAILING_COMMA.sub(r"\1", text)
    values = list(_values_in(text))
    named = (
        value[kind]
        for value in values
        if isinstance(value, dict) and "content" not in value and kind in value
    )
    lists = [items for items in named if isinstance(items, list)]
    # One of several may be quoted from a content: together, what they say differently of a text is no answer.
    whole: list[Any] | None = list(chain.from_iterable(lists)) if lists else None
    torn = whole if whole is not None else list(whole_items(text, kind=kind))
    found = (items for value in values if (items := _items_of(value, kind)) is not None)
    bare = next(found, None)
    return torn or (whole if bare is None else bare)


def whole_items(text: str, *, kind: Kind) -> Iterator[Any]:
    """Give the items that are complete in a text that stops in the middle."""
    start = re.search(rf'"{kind}"\s*:\s*\[', text)
    position = start.end() if start else len(text)
    while (found := _decode(text, position)) is not None:
        item, position = found
        yield item
        position = _after_comma(text, position)


def counts_otherwise(items: Sequence[Any], count: int) -> bool:
    """Tell whether the items may be numbered in another way than from 1 to ``count``.

    They are if any number lies outside. An item without one may stand for the 0, or for the number that is
    too many, of texts counted from elsewhere, unless both 1 and ``count`` are there.
    """
    named = [item.get("content") if isinstance(item, dict) else None for item in items]
    meant = {number for value in named for number in _meant_numbers(value)}
    exact = list(map(exact_number, named))
    unnumbered = None in exact and not {1, count} <= set(exact)
    return unnumbered or any(not 1 <= number <= count for number in meant)


def exact_number(value: Any) -> int | None:
    """Give the number meant by an integer or a canonical digit string; None for everything else."""
    if type(value) is int:
        return value
    if isinstance(value, str) and CANONICAL_NUMBER.fullmatch(value):
        return int(value)
    return None


def clean(text: str) -> str:
    """Give the text as it can be stored: no NUL, no lone surrogate, no blanks around."""
    if not text.isascii():
        text = SURROGATE.sub("\ufffd", text)
    return text.replace("\0", "").strip()


def _take(
    reading: Reading, item: Any, *, kind: Kind, k: int, count: int, boundary: str, heads: Sequence[Head]
) -> None:
    number = exact_number(item.get("content")) if isinstance(item, dict) else None
    if number is None or not 1 <= number <= count:
        reading.ignored += 1
        return
    values = _verdict(item) if kind == "verdicts" else _instructions(item, k)
    before = reading.values.pop(number, None)
    if number in reading.problems or (before is not None and before != values):
        reading.problems[number] = "repeated"
    elif values is None:
        reading.problems[number] = "malformed"
    elif boundary and any(boundary in value for value in values):
        reading.problems[number] = "boundary"
    elif heads and not holds(item.get("opening"), heads[number - 1], _others(heads, number)):
        reading.problems[number] = "opening"
        reading.unproven += 1
    else:
        reading.values[number] = values


def _others(heads: Sequence[Head], number: int) -> Iterator[Head]:
    return (head for place, head in enumerate(heads, start=1) if place != number)


def _meant_numbers(value: Any) -> list[int]:
    if isinstance(value, float):
        return [int(value)] if value.is_integer() else []
    if type(value) is int:
        return [value]
    return [int(found) for found in NUMERAL.findall(value)[:1]] if isinstance(value, str) else []


def _instructions(item: dict[str, Any], k: int) -> Values | None:
    listed = [item.get("instruction")] if k == 1 else item.get("instructions")
    if not isinstance(listed, list) or len(listed) != k or not all(isinstance(text, str) for text in listed):
        return None
    return tuple(map(clean, listed))


def _verdict(item: dict[str, Any]) -> Values | None:
    score, reason = exact_number(item.get("score")), item.get("reason", "")
    if score is None or not 1 <= score <= 5 or not isinstance(reason, str):
        return None
    # A small model copies the dots of the form; a score that gives no reason is not one to trust.
    return (str(score), clean(reason)) if any(map(str.isalnum, reason)) else None


def _values_in(text: str) -> Iterator[Any]:
    """Give what starts at the first braces and brackets of the text."""
    position = 0
    for _ in range(MAX_STARTS):
        start = OPENING.search(text, position)
        if start is None:
            return
        position = start.start() + 1
        if (found := _decode(text, start.start())) is not None:
            value, position = found
            yield value


def _items_of(value: Any, kind: Kind) -> list[Any] | None:
    """Give the answers that a value holds: under their name, as a bare list, or alone."""
    if isinstance(value, dict):
        value = [value] if "content" in value else value.get(kind)
        return value if isinstance(value, list) else None
    bare = isinstance(value, list) and any(isinstance(item, dict) and "content" in item for item in value)
    return value if bare else None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _loads(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _decode(text: str, position: int) -> tuple[Any, int] | None:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None


def _after_comma(text: str, position: int) -> int:
    found = re.compile(r"\s*,?\s*").match(text, position)
    return found.end() if found else position
