"""All that the fault tests touch of the package beside the command, HTTP and files: plain data in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import asking
import written_pairs

from llmtwin_data.answers import AnswerStore
from llmtwin_data.curation import Rules, curate
from llmtwin_data.curation.alarms import raise_alarms
from llmtwin_data.datasets.checks import check_run
from llmtwin_data.endpoints import pacing
from llmtwin_data.endpoints.completions import Choice, Completion
from llmtwin_data.errors import QualityGate
from llmtwin_data.generation import GenerationReport
from llmtwin_data.generation.settling import settle
from llmtwin_data.generation.slots import Batch, Slot
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.generator.fetching import fetch_chunks
from llmtwin_data.params import make_params
from llmtwin_data.screening import find_personal_data, find_secrets
from llmtwin_data.sources import open_source
from llmtwin_data.sources.loading import load_jsonl
from llmtwin_data.splits import split_pairs
from llmtwin_data.summaries.run_tables import generation_frame

Row = dict[str, Any]

# asking


@dataclass(frozen=True)
class Outcome:
    """What asking came to; ``answers`` by number of the document, ``requests`` counted by their outcome."""

    report: Row
    answers: dict[int, Row]
    requests: dict[str, int]
    error: str = ""  # the class of an error of ours, and what it said
    said: str = ""
    exit_code: int = 0

    def good(self) -> list[int]:
        return sorted(number for number, answer in self.answers.items() if answer["state"] == "ok")

    def failed(self) -> dict[int, str]:
        states = self.answers.items()
        return {number: answer["reason"] for number, answer in states if answer["state"] == "failed"}

    def wrong(self) -> list[int]:
        """Give the documents whose instruction names another one."""
        return [n for n in self.good() if f"DOC-{n})" not in " ".join(self.answers[n]["values"])]

    def shown(self) -> dict[str, str]:
        """Give what a notebook's table says of the call."""
        return dict(generation_frame(GenerationReport(**self.report)).itertuples(index=False))


def ask_documents(
    numbers: Iterable[int],
    url: str,
    store: Path,
    *,
    model: str = "scripted-1",
    api_key: str = "",
    recipe: Mapping[str, Any] | None = None,
    patience: Mapping[str, float] | None = None,
    gate: str = "",
    **settings: Any,
) -> Outcome:
    """Ask an endpoint about documents, with answers in the file ``store``; errors of ours are in the outcome.

    ``patience`` says which waits differ from quick ones, ``gate`` what the pilot's gate says to stop the run.
    """

    def refuse() -> None:
        raise QualityGate(gate)

    settings["patience"] = replace(asking.QUICK, **(patience or {}))
    if gate:
        settings["pilot"] = refuse
    endpoint = asking.endpoint_at(url, api_key=api_key, model=model)
    with AnswerStore(store) as answers:
        found = asking.ask_about(list(numbers), endpoint, answers, recipe=recipe, **settings)
        requests = answers.totals()["outcomes"]
    told = {number: asdict(answer) for number, answer in found.answers.items()}
    error = found.error
    ended = (type(error).__name__, str(error), error.exit_code) if error else ()
    return Outcome(asdict(found.report), told, requests, *ended)


def answer_key(number: int, url: str, **recipe: Any) -> str:
    """Give the key under which the answer to a document is stored."""
    return asking.question(number, asking.recipe_for(asking.endpoint_at(url), **recipe)).key


def settle_answer(numbers: Sequence[int], text: str, problem: str = "") -> tuple[list, list, list]:
    """Read one answer to a batch of documents.

    Gives (number, instruction) of those answered, the numbers given up and those to be asked again.
    """
    slots = [Slot(*_asked(number)) for number in numbers]
    completion = Completion((Choice(text, problem),), 10, 10, "m", "")
    found = settle(Batch(slots), completion, boundary="f0f0f0", attempts=4, request_id="r")
    number_of = {slot.key: number for slot, number in zip(slots, numbers, strict=True)}
    good = [(number_of[one.key], one.values[0]) for one in found.answers if one.state == "ok"]
    given_up = [number_of[one.key] for one in found.answers if one.state != "ok"]
    return good, given_up, [number_of[slot.key] for batch in found.again for slot in batch.slots]


@lru_cache(maxsize=1000)
def _asked(number: int) -> tuple[Any, str]:
    question = asking.question(number, asking.recipe_for(asking.endpoint_at("http://127.0.0.1:1/v1")))
    return question, question.key


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Give the seconds that an endpoint's headers ask to wait, None where they do not say."""
    return pacing.retry_after(headers, wall_clock=now)


def probes(fault: str) -> Row:
    """Give what the usual patience sends after one success to an endpoint that only says ``fault`` from then.

    ``fault`` is "limited" or "down". On a clock of its own, a call takes 0.1 s: ``sent`` holds the moments of
    all calls, ``ended`` that of giving up, ``in_flight`` how many may be in flight at last.
    """
    clock, sent = [0.0], []
    pace = pacing.Pace(pacing.Patience(), ceiling=64, now=lambda: clock[0])
    pace.succeeded()
    while not pace.hopeless(0.1):
        clock[0] += pace.wait()
        sent.append(pace.start())
        clock[0] += 0.1
        if fault == "limited":
            pace.overloaded(sent[-1], wait=None)
        else:
            pace.faulted(sent[-1], reached=True)
        pace.end()
    return {"sent": sent, "ended": clock[0], "in_flight": pace.limit}


def burst(calls: int, *, wait: float) -> Row:
    """Give the calls allowed ``before`` and ``after`` so many at once are told to wait, and the ``cuts``."""
    pace = pacing.Pace(pacing.Patience(), ceiling=64, now=lambda: 0.0)
    for _ in range(10):
        pace.succeeded()
    started, before = [pace.start() for _ in range(calls)], pace.limit
    for moment in started:
        pace.overloaded(moment, wait=wait)
    return {"before": before, "after": pace.limit, "cuts": pace.cuts}


def load_rows(qdrant: Path, rows: Iterable[Row], *, collection: str = "cleaned_posts") -> None:
    """Load payloads with their ids into a collection of the folder ``qdrant``."""
    file = qdrant.with_name("posts.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_source(str(qdrant)) as source:
        load_jsonl(source, file, collection=collection)


def read_chunks(qdrant: Path, **settings: Any) -> list[Row]:
    """Give the chunks of ``cleaned_posts``, then what is skipped, with its ``reason``."""
    params = make_params({"collections": ["cleaned_posts"]} | settings, place="test")
    with open_source(str(qdrant)) as source:
        path = qdrant.with_name("chunks.jsonl")
        found = fetch_chunks(source, params, path=path, forgotten=frozenset())
    return [asdict(chunk) | {"reason": ""} for chunk in found.chunks] + [asdict(one) for one in found.skipped]


def findings(text: str) -> dict[str, list[Row]]:
    """Give what is found in a text: ``kind``, ``start`` and ``end`` of "secrets" and of "personal_data"."""
    found = {"secrets": find_secrets(text), "personal_data": find_personal_data(text)}
    return {group: [asdict(one) for one in each] for group, each in found.items()}


def make_dataset(run: Path, **params: Any) -> None:
    """Make the dataset of these params in a run folder, in this process and without notebooks."""
    settings = make_params(params | {"run_dir": str(run)}, place="test")
    with DatasetGenerator(settings, environ={}) as generator:
        generator.publish()


def broken_promises(run: Path) -> list[str]:
    """Give what `llmtwin-data check` finds in a run folder."""
    return check_run(run)


def decide(
    pairs: Sequence[Row], *, language: str = "same", prompt_words: str = "", **rules: Any
) -> list[Row]:
    """Give curation's decision on each pair: its ``id``, the ``reason`` to reject it, and the ``value``.

    A pair is ``instruction``, ``text``, ``number`` of its content and what else is told of it; ``rules`` are
    named as in the params.
    """
    made = _pairs(pairs)
    measured = written_pairs.measured(made, language=language)
    decisions = curate(made, measured, rules=Rules(**rules), prompt_words=prompt_words)
    return [{"id": pair.id} | asdict(decision) for pair, decision in zip(made, decisions, strict=True)]


def alarms_of(pairs: Sequence[Row]) -> list[Row]:
    """Give the alarms and warnings over pairs as in `decide`: ``name``, ``level``, what was ``seen``."""
    made = _pairs(pairs)
    return [asdict(alarm) for alarm in raise_alarms(made, written_pairs.measured(made))]


def split_sides(pairs: Sequence[Row], *, test_fraction: float, seed: int) -> list[str]:
    """Give the side of each of the pairs: train, test, or nothing."""
    return split_pairs(_pairs(pairs), test_fraction=test_fraction, seed=seed).sides


def _pairs(pairs: Sequence[Row]) -> list[Any]:
    return [written_pairs.pair(**pair) for pair in pairs]
