"""Documents, questions and short patience for the tests that ask the scripted endpoint."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from documents import busy as busy
from documents import document

from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.batches import BatchSession
from llmtwin_data.endpoints import Endpoint, endpoint_of
from llmtwin_data.engine import Asking, GenerationReport, LiveSession, ask
from llmtwin_data.errors import LlmTwinError
from llmtwin_data.prices import Price
from llmtwin_data.prompts import Question, Recipe, load_template
from llmtwin_data.transport import Patience

PROMPTS = Path(__file__).parents[1] / "params" / "prompts"
PRICE = Price(0.15, 0.6, "test")
# Tries again at once, and gives up so late that no busy machine makes it; IMPATIENT is for who must give up.
QUICK = Patience(
    backoff=0.01, longest_backoff=0.05, first_contact=60.0, outage=60.0, connect=30.0, drain=30.0, breaker=5
)
IMPATIENT = replace(QUICK, first_contact=1.0, outage=1.0)


@dataclass
class Outcome:
    """What one call of ``ask`` came to; ``answers`` by number of the document."""

    report: GenerationReport
    error: LlmTwinError | None
    answers: dict[int, Answer]

    def good(self):
        return sorted(doc for doc, answer in self.answers.items() if answer.state == "ok")

    def failed(self):
        return {doc: answer.reason for doc, answer in self.answers.items() if answer.state == "failed"}

    def wrong(self):
        """Documents whose instruction names another one."""
        return [
            doc
            for doc, answer in self.answers.items()
            if answer.state == "ok" and f"DOC-{doc})" not in " ".join(answer.values)
        ]


def question(number, recipe, *, text=""):
    return Question(
        text=text or document(number),
        recipe=recipe,
        content_id=str(number),
        collection="cleaned_posts",
        start=0,
        end=100,
        author="ada",
        link="",
    )


def recipe_for(endpoint, **fields):
    template = load_template(fields.pop("prompt", "grounded"), folder=PROMPTS)
    return Recipe(endpoint.identity, endpoint.model_identity, template, "posts", **fields)


def endpoint_at(url, *, api_key="", model="scripted-1"):
    return Endpoint(url, url, model, model, api_key)


def asking(**settings):
    usual = {"price": PRICE, "batch_size": 8, "concurrency": 8, "timeout_seconds": 60.0, "patience": QUICK}
    return Asking(**usual | settings)


def ask_about(
    docs,
    where,
    store,
    *,
    recipe=None,
    text=document,
    api_key="",
    on_tick=None,
    stop=None,
    mode="live",
    **settings,
):
    """Ask about documents by number; errors of ours are part of the outcome."""
    endpoint = where if isinstance(where, Endpoint) else endpoint_at(where, api_key=api_key)
    asked = recipe_for(endpoint, **(recipe or {}))
    questions = [question(doc, asked, text=text(doc)) for doc in docs]
    reports, error = [], None
    try:
        ask(
            questions,
            endpoint=endpoint,
            answers=store,
            asking=asking(**settings),
            progress=on_tick,
            stop=stop,
            on_report=reports.append,
            session=BatchSession if mode == "batch" else LiveSession,
        )
    except LlmTwinError as raised:
        error = raised
    stored = store.answers([one.key for one in questions])
    answers = {doc: stored[one.key] for doc, one in zip(docs, questions, strict=True) if one.key in stored}
    return Outcome(reports[0], error, answers)


@contextmanager
def opened(server, **environ):
    yield endpoint_of(server.base_url, model="scripted-1", environ=environ)


def stop_at(server, requests):
    """Give the settings that stop a run once the endpoint has received so many requests."""
    stop = threading.Event()

    def look(*settled):
        if server.stats()["requests"] >= requests:
            stop.set()

    return {"stop": stop, "on_tick": look}


def open_store(folder):
    return AnswerStore(folder / "answers.sqlite")
