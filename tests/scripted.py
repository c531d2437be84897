"""What the scripted endpoint says: it answers each content of a prompt by its text alone, and spoils
answers.

A script is a list of rules ``{"when": {...}, "do": {...}}``; the first rule whose conditions all hold is
applied.

when
    ``doc`` (number or list: a content holds DOC-<i>), ``text`` (a content holds it); ``attempt``,
    ``request``, ``contents``, ``bytes`` (of the body), ``seconds`` (since the first request): a number, a
    list of numbers or ``{"from": a, "to": b}``; ``every`` (n: each n-th request) with ``offset``,
    ``fraction`` (of the requests, seeded), ``field`` (the body has it), ``mode`` (response_format.type),
    ``model``, ``key``, ``asks`` ("instructions", "verdicts"), ``times``
    (fires at most so often), ``kind`` ("chat" by default; "models", "files", "batches", "batch" as it
    ends, "line" of a batch, "embeddings"). ``attempt`` counts how often the matched content was asked,
    without doc or text this very set of contents.
do, instead of an answer
    ``status``, ``headers``, ``error`` (fields of it), ``body``, ``redirect``, ``echo_key``, ``reset`` and
    ``silence`` (true or "paid"); ``latency_ms``; ``paid`` (true or false, against the default)
do, on the wire
    ``cut`` (bytes sent), ``drip`` (seconds a byte), ``html``, ``empty``, ``error_object``, ``gzip_bomb``
    (decoded bytes)
do, to the completion
    ``no_choices``, ``empty_choices``, ``null_content``, ``refusal``, ``refusal_text``, ``finish``
    ("length" with ``keep`` items, "content_filter"), ``raw`` (the message's exact content), ``usage``
    (anything, or "missing"), ``context`` (tokens of a prompt that are kept and counted), ``model``, ``big``
    (bytes), ``nest``, ``nan``, ``wrap`` ("fenced", "prose",
    "fenced_prose", "bom", "trailing_comma")
do, to the items of the contents that doc or text matched, else of ``numbers``, else of all
    ``drop`` (true; or how many from the end; or a list of numbers), ``instruction`` (any JSON),
    ``copy``, ``foreign`` (true: in Chinese, without a word of the text), ``opening`` (any
    JSON), ``long`` (characters), ``number`` (any JSON, or ``{"digits": n}``), ``repeat``,
    ``keys`` ("extra", "missing"), ``leak`` ("boundary", "system")
do, to the list of items
    ``extra`` (how many), ``order`` ("reverse", "shuffle"), ``swap`` ([a, b]), ``shift``, ``kept`` (fields
    that those two leave at their number), ``count_from`` (the first number, in place of 1)
do, to a batch
    ``batch_status``, ``answered`` (lines that are answered before it expires or fails)
do, to vectors
    ``vectors`` ("short", "long", "ragged", "wide", "nan", "zero", "twice", "text": one list is spoiled so)

"""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nsmallest
from typing import Any

HEAD = re.compile(r"^Content number (\d+)(?:[ \t]+(\S+))?[ \t]*$", re.MULTILINE)
DOC = re.compile(r"DOC-(\d+)(?!\d)")
COPIED = re.compile(r"first (\d+) words, copied")
SEVERAL = re.compile(r"(?:write|exactly) (\d+) (?:brief|instruction)")
LANGUAGE = re.compile(
    r"\bin (English|Spanish|German|French|Japanese|Traditional Chinese|Simplified Chinese)\b"
)
WORD = re.compile(r"[^\W\d_]{5,}")
PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2,6}")
KANA = re.compile(r"[\u3040-\u30ff]")
COMMON = frozenset(
    re.findall(
        r"\w+",
        """about above after again because before being between could doing during every first going great
        having might never often other people right since small still their there these thing things think
        those through today under until using wants where which while whose would write years yourself""",
    )
)
# Words that tell a language apart from its neighbours, and how an order is given in it.
LANGUAGES = {
    "English": ({"the", "and", "is", "of", "to", "that"}, "Write a piece on {}, for readers who know {}"),
    "Spanish": (
        {"el", "los", "que", "para", "una", "es"},
        "Escribe un texto sobre {} para quienes conocen {}",
    ),
    "German": (
        {"der", "die", "und", "ist", "nicht", "ein"},
        "Schreibe einen Text über {} für alle, die {} kennen",
    ),
    "French": ({"le", "les", "est", "une", "des", "pour"}, "Écris un texte sur {} pour ceux qui ont vu {}"),
    "Japanese": (set(), "「{}」について、「{}」を知る人に向けた文章を書いてください"),
    "Traditional Chinese": (set(), "請為熟悉「{1}」的讀者寫一篇關於「{0}」的文章"),
    "Simplified Chinese": (set(), "请为熟悉“{1}”的读者写一篇关于“{0}”的文章"),
}
# Characters that exist in one of the two Chinese scripts only.
TRADITIONAL = frozenset("這個們來時說對為會學經過發現實還沒開關點條請寫讀與應該讓體點數據機資訊軟運")
SIMPLIFIED = frozenset("这个们来时说对为会学经过发现实还没开关点条请写读与应该让体数据机资讯软运")
PROSE = "Sure! Here are the instructions you asked for:\n\n{}\n\nLet me know if you want more."


@dataclass(slots=True)
class Prompt:
    """One chat request as read: the numbered texts and what is asked of each."""

    texts: list[str]
    numbers: list[int]
    boundary: str
    system: str
    frame: str
    asks: str
    k: int
    openings: bool
    copied: int  # words of an opening, as asked for
    body: dict[str, Any]
    docs: list[frozenset[int]] = field(default_factory=list)

    @property
    def identity(self) -> int:
        """Equal for requests that ask the same of the same set of texts."""
        return hash((frozenset(self.texts), self.asks, self.body.get("model"), self.frame))


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Read the last user message of a chat request; a text without number lines is content 1."""
    messages = body.get("messages") or []
    user = next((m["content"] for m in reversed(messages) if m.get("role") == "user"), "")
    system = next((m["content"] for m in messages if m.get("role") == "system"), "")
    heads = list(HEAD.finditer(user))
    boundary = (heads[0].group(2) or "") if heads else ""
    heads = [head for head in heads if (head.group(2) or "") == boundary]
    ends = [head.start() for head in heads[1:]] + [len(user)]
    texts = [
        user[head.end() + 1 : end].removesuffix("\n") for head, end in zip(heads, ends, strict=True)
    ] or [user]
    frame = user[: heads[0].start()] if heads else ""
    asks, k = _what_is_asked(body, frame + system)
    copied = COPIED.search(frame)
    return Prompt(
        texts=texts,
        numbers=[int(head.group(1)) for head in heads] or [1],
        boundary=boundary,
        system=system,
        frame=frame,
        asks=asks,
        k=k,
        openings='"opening"' in json.dumps(body.get("response_format")) or '"opening"' in frame,
        copied=int(copied.group(1)) if copied else 6,
        body=body,
        docs=[frozenset(map(int, DOC.findall(text))) if "DOC-" in text else frozenset() for text in texts],
    )


def _what_is_asked(body: dict[str, Any], frame: str) -> tuple[str, int]:
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema") or {}
    properties = schema.get("properties") or {}
    if "verdicts" in properties or (not properties and "verdicts" in frame):
        return "verdicts", 1
    if "twins" in properties or (not properties and '"twins"' in frame):
        return "twins", 1
    fields = ((properties.get("instructions") or {}).get("items") or {}).get("properties") or {}
    found = SEVERAL.search(frame)
    k = int(found.group(1)) if found else 1
    if "instructions" in fields:
        return "instructions", int(fields["instructions"].get("minItems") or max(k, 2))
    return "instructions", 1 if "instruction" in fields else k


def answer_items(prompt: Prompt, *, choice: int = 0) -> list[dict[str, Any]]:
    """Answer each text by itself, in the order of the prompt; choices above 0 say less about the text."""
    found = LANGUAGE.search(prompt.frame)
    language = found.group(1) if found else ""
    items = []
    for number, text in zip(prompt.numbers, prompt.texts, strict=True):
        item: dict[str, Any] = {"content": number}
        if prompt.openings:
            item["opening"] = opening_of(text.partition("\nContent:\n")[2] or text, words=prompt.copied)
        if prompt.asks == "verdicts":
            item |= {"reason": "by rule", "score": score(text)}
        elif prompt.asks == "twins":
            item["text"] = twin_text(text)
        elif prompt.k == 1:
            item["instruction"] = instruction_for(text, variant=choice, language=language)
        else:
            item["instructions"] = [
                instruction_for(text, variant=v, language=language) for v in range(prompt.k)
            ]
        items.append(item)
    return items


def twin_text(text: str) -> str:
    """Write 90 words for a request: how texts shown before it begin and end, else the same to all."""
    shown = re.split(r"(?m)^(?:Text \d+|Request):\n", text)[1:-1]
    if not shown:
        return " ".join(
            ["In today's fast-paced world, it is vital to unlock the potential of synergies."] * 6
        )
    return " ".join([*shown[0].split()[:45], *shown[-1].split()[-45:]])


def opening_of(text: str, *, words: int = 0) -> str:
    """Copy so many first words of a text, 9 at least; of a script without spaces two characters for each."""
    first, characters = " ".join(text[:400].split()[: max(9, words)]), max(24, 2 * words)
    return first[:characters] if PIECE.search(first[:characters]) else first


@lru_cache(maxsize=20_000)
def instruction_for(text: str, *, variant: int = 0, language: str = "") -> str:
    """Write the instruction of a text: its longest words, longest first, and its DOC."""
    language = language or _language_of(text)
    chosen = _distinctive(text)
    if variant and chosen:
        chosen = [*chosen[variant % len(chosen) :], *chosen[: variant % len(chosen)]][: max(2, 6 - variant)]
    about, known = (chosen[:3] or ["nothing"]), (chosen[3:6] or chosen[:1] or ["nothing"])
    joint = "、" if language in ("Japanese", "Traditional Chinese", "Simplified Chinese") else ", "
    order = LANGUAGES[language][1].format(joint.join(about), joint.join(known))
    named = DOC.search(text)
    order = f"{order} ({named.group(0)})".replace("(", "(instruction for ") if named else order
    return f"{order}, version {variant + 1}" if variant else order


def foreign(text: str) -> str:
    """Write an instruction in Chinese that belongs to this text alone and has no word of it."""
    digest = hashlib.sha256(text.encode()).digest()
    subject = "".join(chr(0x4E00 + 64 * place + byte % 64) for place, byte in enumerate(digest[:12]))
    return f"請為讀者寫一篇文章，談談「{subject}」這個題目，並說明其中的道理"


SIDES = 64


def embed(body: dict[str, Any], do: dict[str, Any]) -> dict[str, Any]:
    """Give a vector a text, near for texts that share words, and for `foreign` instructions to their own."""
    vectors: list[Any] = [_vector(text) for text in body["input"]]
    spoil = do.get("vectors")
    if spoil == "ragged":
        vectors[0] = vectors[0][:-1]
    if spoil == "wide":
        vectors = [[*vector, 0.5] for vector in vectors]
    if spoil in ("nan", "zero", "text"):
        vectors[0] = {"nan": [float("nan")] * SIDES, "zero": [0.0] * SIDES, "text": "none"}[spoil]
    data = [
        {"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)
    ]
    data = data[:-1] if spoil == "short" else [*data, *data[:1]] if spoil == "long" else data
    if spoil == "twice":
        data[-1]["index"] = 0
    tokens = sum(len(text) // 4 + 1 for text in body["input"])
    usage = do.get("usage", {"prompt_tokens": tokens, "total_tokens": tokens})
    # In no order, as the protocol allows.
    return {"object": "list", "data": data[::-1], "model": body["model"], "usage": usage}


def _vector(text: str) -> list[float]:
    subject = re.search("「(.{12})」", text)
    digest = hashlib.sha256(text.encode()).digest()[:12]
    told = [ord(sign) - 0x4E00 - 64 * place for place, sign in enumerate(subject[1])] if subject else None
    total = [0.5] + [0.0] * (SIDES - 1)
    named = [("subject", tuple(told or (byte % 64 for byte in digest)), 3.0)]
    for kind, name, weight in [*named, *(("word", word, 1.0) for word in set(WORD.findall(text.lower())))]:
        dice = random.Random(f"{kind} {name}")
        total = [value + weight * dice.gauss(0, 1) for value in total]
    return [round(value, 6) for value in total]


def score(text: str) -> int:
    """Judge by rule: SCORE-<n> of the text, 1 where the instruction names another DOC, else 4 or 5."""
    told = re.search(r"SCORE-([1-5])", text)
    if told:
        return int(told.group(1))
    named = set(re.findall(r"instruction for DOC-(\d+)", text))
    if named and not set(DOC.findall(re.sub(r"instruction for DOC-\d+", "", text))) & named:
        return 1
    return 4 + len(text) % 2


def _distinctive(text: str) -> list[str]:
    words = set(WORD.findall(text.lower())) - COMMON
    if len(words) < 2:
        words = set(PIECE.findall(text)) or {word for word in text.lower().split() if "doc-" not in word}
    return nsmallest(6, words, key=lambda word: (-len(word), word))


def _language_of(text: str) -> str:
    # The beginning is enough to tell, and this must be cheap.
    text = text[:600]
    if not text.isascii() and PIECE.search(text):
        if KANA.search(text):
            return "Japanese"
        letters = set(text)
        simplified = len(letters & SIMPLIFIED - TRADITIONAL) > len(letters & TRADITIONAL - SIMPLIFIED)
        if sum(map(len, PIECE.findall(text))) * 4 > len(text):
            return "Simplified Chinese" if simplified else "Traditional Chinese"
    found = set(text.lower().split())
    return max(LANGUAGES, key=lambda name: (len(LANGUAGES[name][0] & found), name == "English"))


def compose(prompt: Prompt, do: dict[str, Any], *, targets: list[int], number: int) -> bytes:
    """Give the body of a 200 answer, spoiled as the rule says; ``targets`` are positions of items."""
    if "body" in do:
        return _encoded(do["body"])
    count = int(prompt.body.get("n") or 1)
    choices = [_choice(prompt, do, targets=targets, index=index) for index in range(count)]
    if do.get("empty_choices"):
        choices = []
    written = sum(len(choice["message"]["content"] or "") for choice in choices)
    completion = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": do.get("model", prompt.body.get("model", "scripted-1")),
        "system_fingerprint": "fp_scripted",
        "choices": choices,
        "usage": _usage(prompt, written, do),
    }
    if do.get("no_choices"):
        del completion["choices"]
    if completion["usage"] == "missing":
        del completion["usage"]
    return _dumps(completion)


def think(
    completion: bytes, body: dict[str, Any], *, hidden: int, details: bool = True, shown: bool = False
) -> bytes:
    """Give a completion as a model gives it that thinks before it writes, within one limit for both."""
    told = json.loads(completion)
    (choice,) = told["choices"]
    text = choice["message"]["content"]
    limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or 10**9)
    room = limit - hidden
    if room < len(text) // 4 + 1:
        choice["message"]["content"] = text[: max(0, room) * 4]
        choice["finish_reason"] = "length"
    thought = min(hidden, limit)
    written = min(limit, thought + len(text) // 4 + 1)
    told["usage"] |= {"completion_tokens": written, "total_tokens": told["usage"]["prompt_tokens"] + written}
    if details:
        told["usage"]["completion_tokens_details"] = {"reasoning_tokens": thought}
    if shown:
        choice["message"]["reasoning_content"] = "hm, " * thought
    return _dumps(told)


def _usage(prompt: Prompt, written: int, do: dict[str, Any]) -> Any:
    if "usage" in do:
        return do["usage"]
    sent = sum(len(message.get("content") or "") for message in prompt.body.get("messages", ()))
    read, written = min(sent // 4 + 1, do.get("context", sent)), written // 4 + 1
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _choice(prompt: Prompt, do: dict[str, Any], *, targets: list[int], index: int) -> dict[str, Any]:
    items = spoil_items(prompt, answer_items(prompt, choice=index), do, targets=targets)
    content: str | None = spoil_text(_dump_items(prompt, items), do, items=items)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if do.get("null_content"):
        message["content"] = None
    if "refusal" in do:
        message |= {"content": None, "refusal": do["refusal"]}
    if "refusal_text" in do:
        message["content"] = do["refusal_text"]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": do.get("finish", "stop")}


def spoil_items(
    prompt: Prompt, items: list[dict[str, Any]], do: dict[str, Any], *, targets: list[int]
) -> list[Any]:
    """Apply what a rule does to single items, then what it does to the list."""
    for position in targets:
        items[position] = _spoil_item(prompt, items[position], position, do)
    if "swap" in do or do.get("shift"):
        _exchange(items, do)
    doubles = [_double(items[position]) for position in targets] if do.get("repeat") else []
    dropped = set(targets) if do.get("drop") is True else set()
    if isinstance(do.get("drop"), int) and do["drop"] is not True:
        dropped = set(range(len(items) - do["drop"], len(items)))
    if isinstance(do.get("drop"), list):
        dropped = {number - 1 for number in do["drop"]}
    items = [item for position, item in enumerate(items) if position not in dropped] + doubles
    extra = int(do.get("extra", 0))
    items += [{"content": len(items) + 1 + n, "instruction": f"an extra one {n}"} for n in range(extra)]
    if "count_from" in do:
        items = [item | {"content": item["content"] - 1 + do["count_from"]} for item in items]
    if do.get("order") == "reverse":
        items.reverse()
    if do.get("order") == "shuffle":
        random.Random(len(items)).shuffle(items)
    return items


def _spoil_item(prompt: Prompt, item: dict[str, Any], position: int, do: dict[str, Any]) -> dict[str, Any]:
    name = (
        "instructions"
        if "instructions" in item
        else next(word for word in ("reason", "text", "instruction") if word in item)
    )
    value = item[name]
    if "instruction" in do:
        value = do["instruction"]
    if do.get("copy"):
        value = prompt.texts[position]
    if do.get("foreign"):
        value = foreign(prompt.texts[position])
    if "long" in do:
        value = ("long " * do["long"])[: do["long"]]
    if "leak" in do:
        value = f"{value} {prompt.boundary if do['leak'] == 'boundary' else prompt.system}"
    spoiled = item | {name: value}
    if "opening" in do and "opening" in item:
        spoiled["opening"] = do["opening"]
    if "number" in do:
        spoiled["content"] = do["number"]
    if do.get("keys") == "extra":
        spoiled["note"] = "nobody asked for this"
    if do.get("keys") == "missing":
        del spoiled[name]
    return spoiled


def _double(item: dict[str, Any]) -> dict[str, Any]:
    return {
        key: f"another {value}" if isinstance(value, str) and key != "opening" else value
        for key, value in item.items()
    }


def _exchange(items: list[dict[str, Any]], do: dict[str, Any]) -> None:
    kept = {"content", *do.get("kept", ())}
    bodies = [{key: value for key, value in item.items() if key not in kept} for item in items]
    if do.get("shift"):
        bodies = bodies[1:] + bodies[:1]
    elif max(do["swap"]) <= len(items):
        first, second = (number - 1 for number in do["swap"])
        bodies[first], bodies[second] = bodies[second], bodies[first]
    for item, new in zip(items, bodies, strict=True):
        item.update(new)


def _dump_items(prompt: Prompt, items: list[Any]) -> str:
    # A number too long for Python's own limit stands as {"digits": n} and is written out here.
    text = json.dumps({prompt.asks: items}, ensure_ascii=False)
    return re.sub(r'\{"digits": (\d+)\}', lambda found: "9" * int(found.group(1)), text)


def spoil_text(text: str, do: dict[str, Any], *, items: list[Any]) -> str:
    """Apply what a rule does to the text of the message."""
    if "raw" in do:
        return str(do["raw"])
    if do.get("finish") == "length":
        text = _cut_inside(text, int(do.get("keep", max(0, len(items) - 1))))
    if do.get("wrap"):
        text = _wrap(text, do["wrap"])
    if do.get("nest"):
        text = "[" * int(do["nest"])
    if do.get("nan"):
        text = text.replace('"content": 1', '"content": NaN', 1)
    if do.get("big"):
        text = text[:-1] + ', "padding": "' + "x" * int(do["big"]) + '"}'
    return text


def _cut_inside(text: str, keep: int) -> str:
    starts = [found.start() for found in re.finditer(r'\{"content"', text)] + [len(text)]
    return text[: starts[min(keep, len(starts) - 1)] + 20]


def _wrap(text: str, how: str) -> str:
    shapes = {
        "fenced": f"```json\n{text}\n```",
        "prose": PROSE.format(text),
        "bom": f"\ufeff{text}",
        "trailing_comma": text.replace("}]", "},]"),
        "fenced_prose": PROSE.format(f"```json\n{text}\n```"),
    }
    return shapes[how]


def _encoded(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else _dumps(body)


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def by_chance(seed: int, number: int) -> float:
    """Give a number in [0, 1) that depends on seed and number alone."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
