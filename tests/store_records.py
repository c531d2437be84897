"""Small questions, answers and requests for the tests of the store."""

import json
from dataclasses import dataclass

from llmtwin_data.answers import Answer, PaidRequest
from llmtwin_data.texts import text_sha256


@dataclass(frozen=True)
class Asked:
    """A question as the store sees it."""

    text: str
    content_id: str = "1"
    collection: str = "cleaned_posts"
    start: int = 0
    end: int = 10
    author: str = "ada"
    link: str = "https://example.org/1"

    @property
    def key(self) -> str:
        return text_sha256("key of " + self.text)


@dataclass(frozen=True)
class Named:
    """A recipe as the store sees it."""

    sha256: str = "recipe-1"

    def as_json(self) -> str:
        return '{"model": "m"}'


def long_text(number: int, *, words: int = 60) -> str:
    """Give a text whose every word is its own."""
    return " ".join(f"word{number}x{place}" for place in range(words))


def paid(number: int, *questions: Asked, raw: str = "", **changes) -> PaidRequest:
    """Give a request that asked these questions together, answered in order."""
    slots = "\n".join(
        f"Content number {n}\n{{{{sha256:{text_sha256(q.text)}}}}}" for n, q in enumerate(questions, 1)
    )
    items = [{"content": n, "instruction": f"Write about {q.text[:9]}"} for n, q in enumerate(questions, 1)]
    content = json.dumps({"instructions": items})
    fields = {
        "id": f"request-{number}",
        "recipe_sha256": "recipe-1",
        "texts": tuple(text_sha256(q.text) for q in questions),
        "skeleton": json.dumps([{"role": "user", "content": f"Write one each.\n{slots}"}]),
        "raw": raw or json.dumps({"choices": [{"message": {"content": content}}]}),
        "status": 200,
        "outcome": "ok",
        "attempt": 1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cost_usd": 0.01,
        "model": "m",
    }
    return PaidRequest(**(fields | changes))


def answer(question: Asked, *values: str, **changes) -> Answer:
    """Give a good answer to a question."""
    fields = {"state": "ok", "values": values or ("Write it",), "model": "m", "request_id": "request-1"}
    return Answer(question.key, **(fields | changes))


def fill(store, numbers, **changes) -> list[str]:
    """Save one question, request and answer for each number, each in its own transaction; give the keys."""
    keys = []
    for number in numbers:
        question = Asked(long_text(number), content_id=str(number), **changes)
        request = paid(number, question)
        store.save(
            requests=[request],
            questions=[question],
            answers=[answer(question, request_id=request.id)],
            recipes=[Named()],
        )
        keys.append(question.key)
    return keys
