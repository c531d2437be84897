"""A scripted OpenAI-compatible endpoint: chat completions, models, files and batches, with faults on demand.

As a process, its base URL is the first line it prints::

    python tests/endpoint.py 0 '{"latency_ms": 200, "script": []}'

In a test::

    with endpoint.serve(script=[{"when": {"request": 1}, "do": {"status": 500}}]) as server:
        ... server.base_url ...
        assert server.stats()["requests"] == 2

What a script can say stands in `scripted`. It is a plain protocol on uvloop instead of a web framework,
because a fault is a matter of which bytes go out when, and because it must not be what a benchmark measures.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.request import Request, urlopen

from scripted import Prompt, by_chance, compose, embed, read_prompt, think

REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
CREATED = 1_700_000_000
EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the window expired.",
}
Rule = dict[str, Any]


@dataclass
class Options:
    """How the endpoint behaves besides its script."""

    script: list[Rule] = field(default_factory=list)
    latency_ms: float = 0.0
    sigma: float = 0.0  # of a lognormal latency whose median is latency_ms; 0 is fixed
    seed: int = 7
    honour_idempotency: bool = False
    replay: bool = False  # what a key was answered first is answered again to its repetition, errors too
    models: tuple[str, ...] = ()  # empty: any model is known
    refuse_fields: tuple[str, ...] = ()
    refuse_modes: tuple[str, ...] = ()
    batch_polls: int = 2  # looks at a batch until it is done
    keep_bodies: bool = False
    thinks: float = 0.0  # median of hidden tokens a request, lognormal, unless the effort is none
    thinks_sigma: float = 0.6
    tells: tuple[str, ...] = ("usage",)  # where hidden tokens show: in "usage", as a "message"
    refuse_warmth: bool = False  # a temperature, unless the effort is none
    most_tokens: int = 0  # a higher limit is refused; 0: none is
    shutdown_dates: dict[str, Any] = field(default_factory=dict)  # by model


@dataclass
class Reply:
    """What goes out: status, headers, body, and how the wire behaves."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1
    drip: float = 0.0
    abort: bool = False
    silent: bool = False


class Ledger:
    """Counts of everything that happened, for ``GET /stats``."""

    def __init__(self) -> None:
        self.requests = self.batch_lines = self.in_flight = self.max_in_flight = 0
        self.by_status: Counter[str] = Counter()
        self.by_path: Counter[str] = Counter()
        self.paid: Counter[int] = Counter()
        self.texts_paid: Counter[int] = Counter()
        self.idempotency_seen = self.idempotency_repeated = self.prompt_tokens = self.completion_tokens = 0
        self.idempotency_keys: Counter[str] = Counter()
        self.embedded: Counter[str] = Counter()
        self.arrivals: list[float] = []
        self.bodies: deque[Any] = deque(maxlen=2_000)

    def as_dict(self) -> dict[str, Any]:
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        for name in ("paid", "texts_paid", "embedded"):
            each = getattr(self, name)
            counts |= {f"{name}_total": each.total(), f"{name}_distinct": len(each)}
        counts["paid_twice"] = counts["paid_total"] - counts["paid_distinct"]
        return counts | {"by_status": self.by_status, "by_path": self.by_path}


class Endpoint:
    """The state behind all connections: script, ledger, files and batches."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ledger = Ledger()
        self.seen: Counter[int] = Counter()
        self.fired: Counter[int] = Counter()
        self.charged: set[str] = set()
        self.told: dict[str, tuple[Reply, dict[str, Any]]] = {}  # by key, to be replayed
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.dice = random.Random(options.seed)

    def receive(self, call: Call, respond: Callable[[Reply], None]) -> None:
        """Answer one HTTP request, now or after its latency."""
        path = call.path.split("?")[0]
        self.ledger.by_path[f"{call.method} {path}"] += 1
        if path == "/v1/embeddings":
            self._embed(call, respond)
        elif path == "/v1/chat/completions":
            self._chat(call, respond)
        elif path in ("/stats", "/arrivals", "/bodies", "/script", "/reset"):
            respond(self._inspect(path, call))
        else:
            respond(self._counted(self._other(call, path)))

    def _inspect(self, path: str, call: Call) -> Reply:
        if path == "/script":
            self.options.script, self.fired = json.loads(call.body), Counter()
        if path == "/reset":
            self.ledger = Ledger()
        shown: Any = {"/arrivals": self.ledger.arrivals, "/bodies": list(self.ledger.bodies)}.get(path)
        return _json(self.ledger.as_dict() if shown is None else shown)

    def _counted(self, reply: Reply) -> Reply:
        self.ledger.by_status[str(reply.status)] += 1
        return reply

    def _chat(self, call: Call, respond: Callable[[Reply], None]) -> None:
        ledger = self.ledger
        ledger.requests += 1
        ledger.in_flight += 1
        ledger.max_in_flight = max(ledger.max_in_flight, ledger.in_flight)
        ledger.arrivals.append(time.monotonic())
        number = ledger.requests
        self._note_key(call)
        body, prompt = _read(call)
        if self.options.keep_bodies:
            ledger.bodies.append({"headers": call.headers, "body": body})
        reply, do = self._reply(call, body, prompt, number)
        if self.options.replay and not (reply.abort or reply.silent or reply.cut >= 0):
            reply, do = self.told.setdefault(call.headers.get("idempotency-key", ""), (reply, do))
        delay = self._latency(do) if reply.status == 200 or "latency_ms" in do else 0.0

        def finish() -> None:
            ledger.in_flight -= 1
            self._settle(call, prompt, reply, do)
            respond(reply)

        if delay > 0:
            asyncio.get_running_loop().call_later(delay, finish)
        else:
            finish()

    def _embed(self, call: Call, respond: Callable[[Reply], None]) -> None:
        """Answer with a vector a text, by a rule of kind ``embeddings``; a paid text counts by itself."""
        ledger, body = self.ledger, json.loads(call.body)
        ledger.requests += 1
        ledger.arrivals.append(time.monotonic())
        self._note_key(call)
        rule = self._rule_for("embeddings", call)
        do = rule["do"] if rule else {}
        reply = self._refuse(body) or _before_answer(do, call)
        if reply is None:
            reply = _on_the_wire(_json(embed(body, do)), do)
            ledger.prompt_tokens += sum(len(text) // 4 + 1 for text in body["input"])
            for text in body["input"]:
                ledger.embedded[text] += 1
        delay = self._latency(do)
        self._counted(reply)
        asyncio.get_running_loop().call_later(delay, respond, reply) if delay else respond(reply)

    def _note_key(self, call: Call) -> None:
        key = call.headers.get("idempotency-key", "")
        if key:
            self.ledger.idempotency_seen += 1
            self.ledger.idempotency_repeated += key in self.ledger.idempotency_keys
            self.ledger.idempotency_keys[key] += 1

    def _latency(self, do: dict[str, Any]) -> float:
        median = float(do.get("latency_ms", self.options.latency_ms)) / 1000
        return median * self.dice.lognormvariate(0, self.options.sigma) if self.options.sigma else median

    def _settle(self, call: Call, prompt: Prompt | None, reply: Reply, do: dict[str, Any]) -> None:
        """Count the status and charge what a provider would charge, also when the caller is gone."""
        outcome = "aborted" if reply.abort else "silent" if reply.silent else str(reply.status)
        self.ledger.by_status[outcome] += 1
        if prompt is not None and _is_paid(reply, do):
            self._charge(call.headers.get("idempotency-key", ""), prompt, reply)

    def _charge(self, key: str, prompt: Prompt, reply: Reply) -> None:
        if self.options.honour_idempotency and key and key in self.charged:
            return
        self.charged.add(key)
        self.ledger.paid[prompt.identity] += 1
        for text in prompt.texts:
            self.ledger.texts_paid[hash((text, prompt.asks, prompt.body.get("model")))] += 1
        self.ledger.prompt_tokens += (
            sum(len(m.get("content") or "") for m in prompt.body.get("messages", ())) // 4 + 1
        )
        self.ledger.completion_tokens += len(reply.body) // 4

    def _reply(
        self, call: Call, body: Any, prompt: Prompt | None, number: int
    ) -> tuple[Reply, dict[str, Any]]:
        if prompt is None:
            return _error(400, "the body is not a chat request"), {}
        rule = self._rule_for("chat", call, prompt, number, self._attempts(prompt))
        do = rule.get("do", {}) if rule else {}
        refusal = self._refuse(body)
        if refusal is not None and not do:
            return refusal, do
        early = _before_answer(do, call)
        if early is not None:
            return early, do
        targets = _targets(rule, prompt) if rule else []
        completion = self._think(compose(prompt, do, targets=targets, number=number), body, number)
        return _on_the_wire(Reply(body=completion), do), do

    def _think(self, completion: bytes, body: dict[str, Any], number: int) -> bytes:
        options, effort = self.options, body.get("reasoning_effort", "medium")
        if not options.thinks:
            return completion
        dice = random.Random(f"{options.seed}:{number}")
        hidden = dice.lognormvariate(math.log(options.thinks), options.thinks_sigma)
        return think(
            completion,
            body,
            hidden=0 if effort == "none" else round(hidden),
            details="usage" in options.tells,
            shown="message" in options.tells,
        )

    def _attempts(self, prompt: Prompt) -> dict[int, int]:
        """Count how often each text, and (under -1) this set of texts, was asked."""
        attempts = {}
        alone = [hash((text, prompt.asks)) for text in prompt.texts]
        for position, identity in enumerate([prompt.identity, *alone], -1):
            self.seen[identity] += 1
            attempts[position] = self.seen[identity]
        return attempts

    def _refuse(self, body: dict[str, Any]) -> Reply | None:
        options, model = self.options, body.get("model")
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        mode = (body.get("response_format") or {}).get("type", "")
        if options.models and model not in options.models:
            return _error(404, f"The model `{model}` does not exist", code="model_not_found")
        for name in options.refuse_fields:
            if name in body:
                told = f"Unrecognized request argument supplied: {name}"
                return _error(400, told, param=name, code="unknown_parameter")
        if options.most_tokens and limit > options.most_tokens:
            told = f"max_tokens is too large: {limit}. This model supports at most {options.most_tokens}."
            return _error(400, told, param="max_tokens", code="invalid_value")
        if options.refuse_warmth and "temperature" in body and body.get("reasoning_effort") != "none":
            told = "Unsupported value: 'temperature' is only supported with reasoning_effort 'none'."
            return _error(400, told, param="temperature", code="unsupported_value")
        if mode in options.refuse_modes:
            told = f"Invalid parameter: 'response_format' of type '{mode}' is not supported with this model."
            return _error(400, told, param="response_format")
        return None

    def _rule_for(self, kind: str, call: Call, *of_chat: Any) -> Rule | None:
        """Return the first rule that holds; of a chat also its prompt, number and attempts are given."""
        for index, rule in enumerate(self.options.script):
            when = rule.get("when", {})
            if self.fired[index] >= when.get("times", 1 << 60) or when.get("kind", "chat") != kind:
                continue
            key = call.headers.get("authorization", "").removeprefix("Bearer ")
            if key != when.get("key", key):
                continue
            if self._holds(when, call, *of_chat) if of_chat else when.get("text", "") in call.body.decode():
                self.fired[index] += 1
                return rule
        return None

    def _holds(
        self, when: dict[str, Any], call: Call, prompt: Prompt, number: int, attempts: dict[int, int]
    ) -> bool:
        targets = _matching(when, prompt)
        at_target = "doc" in when or "text" in when
        if at_target and not targets:
            return False
        body = prompt.body
        checks: dict[str, Callable[[Any], bool]] = {
            "attempt": lambda w: _within(w, attempts[targets[0] if at_target else -1]),
            "request": lambda w: _within(w, number),
            "every": lambda w: (number - when.get("offset", 0)) % w == 0,
            "seconds": lambda w: _within(w, time.monotonic() - self.ledger.arrivals[0]),
            "fraction": lambda w: by_chance(self.options.seed, number) < w,
            "contents": lambda w: _within(w, len(prompt.texts)),
            "bytes": lambda w: _within(w, len(call.body)),
            "field": lambda w: w in body,
            "mode": lambda w: (body.get("response_format") or {}).get("type", "") == w,
            "model": lambda w: body.get("model") == w,
            "asks": lambda w: prompt.asks == w,
        }
        return all(check(when[name]) for name, check in checks.items() if name in when)

    def _other(self, call: Call, path: str) -> Reply:
        parts = path.strip("/").split("/")
        kind = parts[1] if len(parts) > 1 and parts[0] == "v1" else ""
        if kind not in ("models", "files", "batches"):
            return _error(404, f"no such path: {path}")
        rule = self._rule_for(kind, call)
        early = _before_answer(rule["do"], call) if rule else None
        if early is not None:
            return early
        answer = {"models": self._models, "files": self._files, "batches": self._batches}[kind]
        reply = answer(call, parts[2:])
        return _on_the_wire(reply, rule["do"]) if rule else reply

    def _models(self, call: Call, parts: list[str]) -> Reply:
        names = self.options.models or ("scripted-1",)
        if parts and self.options.models and parts[0] not in names:
            return _error(404, f"The model `{parts[0]}` does not exist", code="model_not_found")
        dates = self.options.shutdown_dates
        listed = [
            {"id": name, "object": "model"} | ({"shutdown_date": dates[name]} if name in dates else {})
            for name in names
        ]
        return _json(listed[0] | {"id": parts[0]} if parts else {"object": "list", "data": listed})

    def _files(self, call: Call, parts: list[str]) -> Reply:
        if call.method == "POST":
            return _json(self._keep_file(_uploaded(call), purpose="batch"))
        if not parts:
            return _json({"object": "list", "data": list(self.files.values()), "has_more": False})
        if parts[0] not in self.files:
            return _error(404, f"No such File object: {parts[0]}")
        if call.method == "DELETE":
            del self.files[parts[0]], self.contents[parts[0]]
            return _json({"id": parts[0], "object": "file", "deleted": True})
        if parts[1:] == ["content"]:
            return Reply(body=self.contents[parts[0]], headers={"content-type": "application/octet-stream"})
        return _json(self.files[parts[0]])

    def _keep_file(self, content: bytes, *, purpose: str) -> dict[str, Any]:
        name = f"file-{len(self.contents) + 1}"
        self.contents[name] = content
        about = {"object": "file", "bytes": len(content), "purpose": purpose, "status": "processed"}
        self.files[name] = {"id": name, "filename": f"{name}.jsonl", "created_at": CREATED} | about
        return self.files[name]

    def _batches(self, call: Call, parts: list[str]) -> Reply:
        if call.method == "POST" and not parts:
            return self._submit(call)
        if not parts:
            listed = list(reversed(self.batches.values()))
            return _json({"object": "list", "data": listed, "has_more": False})
        if parts[0] not in self.batches:
            return _error(404, f"No batch found with id '{parts[0]}'.")
        batch = self.batches[parts[0]]
        if parts[1:] == ["cancel"]:
            batch["status"] = "cancelled"
        else:
            self._advance(batch, call)
        return _json({key: value for key, value in batch.items() if not key.startswith("_")})

    def _submit(self, call: Call) -> Reply:
        asked = json.loads(call.body)
        if asked.get("input_file_id") not in self.contents:
            return _error(400, f"No such File object: {asked.get('input_file_id')}")
        name = f"batch_{len(self.batches) + 1}"
        empty = dict.fromkeys(("errors", "output_file_id", "error_file_id", "metadata"))
        counts = {"total": 0, "completed": 0, "failed": 0}
        self.batches[name] = empty | asked | {"id": name, "object": "batch", "created_at": CREATED}
        self.batches[name] |= {"status": "validating", "request_counts": counts}
        return _json(self.batches[name])

    def _advance(self, batch: dict[str, Any], call: Call) -> None:
        """Bring a batch one look nearer to its end; at the end all lines are answered at once."""
        if batch["status"] not in ("validating", "in_progress"):
            return
        batch["_looks"] = batch.get("_looks", 0) + 1
        batch["status"] = "in_progress"
        if batch["_looks"] >= self.options.batch_polls:
            self._finish(batch, call)

    def _finish(self, batch: dict[str, Any], call: Call) -> None:
        rule = self._rule_for("batch", call)
        do = rule["do"] if rule else {}
        lines = [json.loads(line) for line in self.contents[batch["input_file_id"]].splitlines()]
        batch["status"] = do.get("batch_status", "completed")
        answered = do.get("answered", len(lines) if batch["status"] == "completed" else 0)
        results = [self._line(line, call) for line in lines[:answered]]
        if batch["status"] == "expired":
            results += [_line_result(line, error=EXPIRED) for line in lines[answered:]]
        good = [one for one in results if one["response"] and one["response"]["status_code"] == 200]
        bad = [result for result in results if result not in good]
        for name, part in (("output_file_id", good), ("error_file_id", bad)):
            if part or name == do.get("empty_file"):
                content = "".join(json.dumps(result) + "\n" for result in part).encode()
                batch[name] = self._keep_file(content, purpose="batch_output")["id"]
        failed = len(lines) - len(good)
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": failed}
        if batch["status"] == "failed":
            error = {"code": "invalid_file", "message": "scripted failure"}
            batch["errors"] = {"object": "list", "data": [error]}

    def _line(self, line: dict[str, Any], call: Call) -> dict[str, Any]:
        self.ledger.batch_lines += 1
        prompt = read_prompt(line["body"])
        number = self.ledger.batch_lines
        rule = self._rule_for("line", call, prompt, number, self._attempts(prompt))
        do = rule["do"] if rule else {}
        completion = compose(prompt, do, targets=_targets(rule, prompt) if rule else [], number=number)
        reply = _before_answer(do, call) or Reply(body=self._think(completion, line["body"], number))
        if _is_paid(reply, do):
            self._charge(f"{call.path}/{line['custom_id']}", prompt, reply)
        return _line_result(line, reply=reply)


def _line_result(line: dict[str, Any], *, reply: Reply | None = None, error: Any = None) -> dict[str, Any]:
    response = None
    if reply is not None:
        response = {"status_code": reply.status, "request_id": "req_scripted", "body": json.loads(reply.body)}
    return {"id": "batch_req", "custom_id": line["custom_id"], "response": response, "error": error}


def _read(call: Call) -> tuple[Any, Prompt | None]:
    try:
        body = json.loads(call.body)
        return body, read_prompt(body)
    except (ValueError, AttributeError, KeyError, TypeError):
        return None, None


def _matching(when: dict[str, Any], prompt: Prompt) -> list[int]:
    docs = when.get("doc", [])
    docs = set(docs) if isinstance(docs, list) else {docs}
    text = when.get("text")
    return [
        position
        for position, content in enumerate(prompt.texts)
        if docs & prompt.docs[position] or (text is not None and text in content)
    ]


def _targets(rule: Rule, prompt: Prompt) -> list[int]:
    when, do = rule.get("when", {}), rule["do"]
    if "numbers" in do:
        return [number - 1 for number in do["numbers"] if number <= len(prompt.texts)]
    if "doc" in when or "text" in when:
        return _matching(when, prompt)
    return list(range(len(prompt.texts)))


def _within(wanted: Any, value: float) -> bool:
    if isinstance(wanted, dict):
        return bool(wanted.get("from", value) <= value <= wanted.get("to", value))
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)


def _is_paid(reply: Reply, do: dict[str, Any]) -> bool:
    if "paid" in do:
        return bool(do["paid"])
    if reply.abort or reply.silent:
        return "paid" in (do.get("reset"), do.get("silence"))
    return reply.status == 200 and not any(
        do.get(name) for name in ("html", "empty", "error_object", "gzip_bomb")
    )


def _before_answer(do: dict[str, Any], call: Call) -> Reply | None:
    """Give the reply of a rule that keeps the request from being answered, None where it is answered."""
    headers = {name.lower(): str(value) for name, value in do.get("headers", {}).items()}
    if do.get("reset"):
        return Reply(abort=True)
    if do.get("silence"):
        return Reply(silent=True)
    if "redirect" in do:
        return Reply(status=do.get("status", 307), headers=headers | {"location": do["redirect"]})
    if do.get("echo_key"):
        return _error(
            401, f"Incorrect API key provided: {call.headers.get('authorization', '')}", headers=headers
        )
    if do.get("status", 200) == 200:
        return None
    if "body" in do:
        raw = do["body"].encode() if isinstance(do["body"], str) else json.dumps(do["body"]).encode()
        return Reply(status=do["status"], body=raw, headers=headers)
    error = {"message": f"scripted status {do['status']}"} | do.get("error", {})
    return _error(do["status"], headers=headers, **error)


def _on_the_wire(reply: Reply, do: dict[str, Any]) -> Reply:
    """Spoil a good reply on its way out."""
    reply.headers = {name.lower(): str(value) for name, value in do.get("headers", {}).items()}
    if do.get("html"):
        reply.body, reply.headers["content-type"] = b"<html><body>502 from a proxy</body></html>", "text/html"
    if do.get("empty"):
        reply.body = b""
    if do.get("error_object"):
        reply.body = _error(200, "the model is overloaded").body
    if do.get("gzip_bomb"):
        reply.body, reply.headers["content-encoding"] = _bomb(int(do["gzip_bomb"])), "gzip"
    reply.cut, reply.drip = int(do.get("cut", -1)), float(do.get("drip", 0))
    return reply


def _bomb(decoded_bytes: int) -> bytes:
    # Gzip members may follow each other: one compressed megabyte, repeated, is a bomb that is cheap to make.
    return gzip.compress(b"x" * 2**20) * max(1, decoded_bytes // 2**20)


def _json(value: Any) -> Reply:
    return Reply(body=json.dumps(value).encode())


def _error(
    status: int,
    message: str = "",
    *,
    headers: dict[str, str] | None = None,
    param: str | None = None,
    code: str | None = None,
    type: str = "invalid_request_error",  # noqa: A002 the name that OpenAI gives it
) -> Reply:
    error = {"message": message, "type": type, "param": param, "code": code}
    return Reply(status=status, body=json.dumps({"error": error}).encode(), headers=headers or {})


def _uploaded(call: Call) -> bytes:
    boundary = call.headers["content-type"].split("boundary=")[1].strip('"').encode()
    for part in call.body.split(b"--" + boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.removesuffix(b"\r\n")
    return b""


@dataclass
class Call:
    """One HTTP request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Wire(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one request after the other."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.buffer = bytearray()
        self.busy = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._next()

    def _next(self) -> None:
        call = None if self.busy else _take_call(self.buffer)
        if call is not None:
            self.busy = True
            self.endpoint.receive(call, self.respond)

    def respond(self, reply: Reply) -> None:
        """Send the reply, unless the caller is gone."""
        if self.transport is None or reply.silent:
            return
        if reply.abort:
            self.transport.abort()
            return
        head = _head(reply)
        if reply.drip:
            self.transport.write(head)
            self._drip(reply.body, reply.drip)
        elif reply.cut >= 0:
            self.transport.write(head + reply.body[: reply.cut])
            self.transport.close()
        else:
            self.transport.write(head + reply.body)
            self.busy = False
            if self.buffer:
                self._next()

    def _drip(self, rest: bytes, seconds: float) -> None:
        if self.transport is not None and rest:
            self.transport.write(rest[:1])
            asyncio.get_running_loop().call_later(seconds, partial(self._drip, rest[1:], seconds))
        else:
            self.busy = False


def _take_call(buffer: bytearray) -> Call | None:
    """Take one whole request off the front of the buffer, None where it is not all there yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = buffer[:end].decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = int(headers.get("content-length", 0))
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return Call(method, path, headers, body)


def _head(reply: Reply) -> bytes:
    headers = {"content-type": "application/json", "content-length": str(len(reply.body))} | reply.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Status')}\r\n{lines}\r\n".encode(
        "utf-8", "replace"
    )


def new_loop() -> asyncio.AbstractEventLoop:
    """Give a uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@dataclass
class Server:
    """A running endpoint as its callers see it, in this process or another: all questions go over HTTP."""

    base_url: str

    @property
    def root(self) -> str:
        return self.base_url.removesuffix("/v1")

    def stats(self) -> dict[str, Any]:
        """What happened so far."""
        return self._get("/stats")

    def arrivals(self) -> list[float]:
        """When each chat request came, in seconds of a monotonic clock."""
        return self._get("/arrivals")

    def bodies(self) -> list[dict[str, Any]]:
        """The chat requests as they came (with ``keep_bodies``)."""
        return self._get("/bodies")

    def change(self, script: list[Rule]) -> None:
        """Replace the script from here on."""
        self._get("/script", json.dumps(script).encode())

    def reset(self) -> None:
        """Begin a new ledger."""
        self._get("/reset", b"{}")

    def _get(self, path: str, data: bytes | None = None) -> Any:
        with urlopen(Request(self.root + path, data=data), timeout=30) as answer:
            return json.loads(answer.read())


@contextmanager
def serve(
    *, script: list[Rule] | None = None, own_process: bool = False, port: int = 0, **options: Any
) -> Iterator[Server]:
    """Run an endpoint in a thread, or in a process of its own; other keywords are `Options`."""
    if own_process:
        with _serve_in_process(script or [], port, options) as server:
            yield server
        return
    loop = new_loop()
    listening = _listen(loop, Endpoint(Options(script=script or [], **options)), port)
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="scripted-endpoint")
    thread.start()
    try:
        yield Server(_address(listening))
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _listen(loop: asyncio.AbstractEventLoop, endpoint: Endpoint, port: int) -> asyncio.Server:
    server = loop.create_server(lambda: Wire(endpoint), "127.0.0.1", port, backlog=2048)
    return loop.run_until_complete(server)


def _address(listening: asyncio.Server) -> str:
    return f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"


@contextmanager
def _serve_in_process(script: list[Rule], port: int, options: dict[str, Any]) -> Iterator[Server]:
    settings = json.dumps(options | {"script": script})
    command = [sys.executable, str(Path(__file__).resolve()), str(port), settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process.stdout.readline().strip())
        finally:
            process.terminate()


def main(port: str, options: str) -> None:
    """Serve until killed, with `Options` as JSON; the first line printed is the base URL."""
    loop = new_loop()
    print(_address(_listen(loop, Endpoint(Options(**json.loads(options))), int(port))), flush=True)
    loop.run_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
