"""All that tests under faults/ know of the package beside command, HTTP and files: plain data in and out.

Names, modules and records of the package stand here alone, so that a move of theirs changes no fault's test.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

from llmtwin_data.errors import LlmTwinError

# What every function raises on purpose; it has the exit code that a command ends with.
Failed = LlmTwinError

# runs


def command(*arguments: object, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Do one command in this process; return exit code, output and errors."""
    from llmtwin_data.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environ or {}), redirect_stdout(output), redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    return code, output.getvalue(), errors.getvalue()


def read_contents(
    address: str | Path, *, page_size: int = 256, api_key: str = "", seconds: float = 0.0
) -> Iterator[dict[str, str]]:
    """Check the address at once, then read ``cleaned_posts`` as it is asked for; a content a dict.

    ``seconds``: what a try of a server may take; 0 is our usual patience.
    """
    from llmtwin_data.contents import read_contents as read
    from llmtwin_data.sources import ServerSource, open_source

    opened: Callable[..., Any] = partial(ServerSource, seconds=seconds) if seconds else open_source
    source = opened(str(address), api_key=api_key)

    def rows() -> Iterator[dict[str, str]]:
        with source:
            for content in read(source, "cleaned_posts", page_size=page_size):
                yield {"id": content.content_id, "text": content.text, "reason": content.reason}

    return rows()


def check_parameters(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that a notebook with these global names works with."""
    from llmtwin_data.params import settings_of

    return asdict(settings_of(dict(names), environ={}))


@contextmanager
def hold_lock(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder while the block runs."""
    from llmtwin_data.folders import RunFolder, run_lock

    with run_lock(RunFolder(Path(run))):
        yield


class Study:
    """The steps of one study in this process, for a ``with`` block; each does the earlier ones if needed.

    ``environ`` is all of the environment that it sees, ``version`` what the package takes for its own.
    """

    def __init__(
        self, values: Mapping[str, Any], *, environ: Mapping[str, str] | None = None, version: str = ""
    ) -> None:
        self._values = dict(values)
        self._environ = dict(environ or {})
        self._version = version
        self._open = ExitStack()

    def __enter__(self) -> Study:
        from llmtwin_data.params import make_params

        if self._version:
            self._open.enter_context(mock.patch("llmtwin_data.__version__", self._version))
        self._settings = make_params(self._values, place="test")
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def read(self) -> list[dict[str, Any]]:
        """Read the collections; return each chunk, then what is skipped, which has a ``reason``."""
        from llmtwin_data.contents import records_of

        with self._chunks() as (chunks, *_):
            rows = records_of(chunks)
            return [row | {"text": row["content"], "length": row["end"] - row["start"]} for row in rows]

    def ask(self) -> dict[str, Any]:
        """Ask for what is not stored; return the counts, and as ``shown`` what a cell shows of them."""
        from llmtwin_data import pipeline

        with self._chunks() as asked:
            report = asdict(pipeline.ask_instructions(*asked))
        return report | {"shown": _shown(report)}

    def decide(self) -> list[dict[str, Any]]:
        """Return the last word on each pair, and its instruction."""
        from llmtwin_data import pipeline
        from llmtwin_data.contents import rows_of

        self.ask()
        with self._chunks() as (chunks, settings, _, store):
            ledger = pipeline.with_measures(pipeline.with_answers(chunks, settings, store), settings, store)
            ledger = pipeline.with_decisions(pipeline.with_verdicts(ledger, settings, store), settings)
        return [
            {"accepted": row.state == "accepted", "reason": row.reason, "instruction": row.instruction}
            for row in rows_of(ledger[ledger.instruction.notna()])
        ]

    def publish(self) -> dict[str, Any]:
        """Write the dataset into ``run_dir``; return the totals."""
        from llmtwin_data import pipeline

        ledger = pipeline.make_dataset(self._settings, environ=self._environ)
        return pipeline.totals_of(ledger, pipeline.run_of(self._settings))

    @contextmanager
    def _chunks(self) -> Iterator[tuple[Any, ...]]:
        from llmtwin_data import pipeline

        settings, source, endpoint, store = pipeline.open_study(self._settings, environ=self._environ)
        with store:
            chunks = pipeline.read_chunks(source, settings, store)
            yield chunks, settings, endpoint, store


def execute_cells(
    folder: Path, *cells: str, environ: Mapping[str, str] | None = None, hints: bool = False
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Execute a notebook of these cells as a run does, into ``folder/run``; a signal stops it.

    ``hints``: load what tells a person which cells to run first.

    ``error`` (class name, empty: none), ``message``, ``traceback``; and the notebook as it was kept.
    """
    import nbformat

    from llmtwin_data.folders import RunFolder
    from llmtwin_data.runs import counted_signals, execute_notebook

    first = nbformat.v4.new_code_cell("run_dir: str = ''", metadata={"tags": ["parameters"]})
    sources = [*(["%load_ext llmtwin_data"] if hints else []), *cells]
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, sources)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "study.ipynb")
    run = RunFolder(folder / "run")
    run.work.mkdir(parents=True, exist_ok=True)
    with counted_signals() as signals:
        ended = execute_notebook(
            folder / "study.ipynb",
            run=run,
            parameters={"run_dir": "x"},
            environ=dict(os.environ) | dict(environ or {}),
            signals=signals,
        )
    kept = run.notebooks / "study.ipynb"
    return asdict(ended), json.loads(kept.read_text()) if kept.exists() else None


def show_progress(run: Path, steps: Iterable[tuple[int, int]], *, total: int) -> None:
    """Show these steps of a run, answered and failed, as generation does."""
    from llmtwin_data.folders import RunFolder
    from llmtwin_data.pipeline import shown_progress

    with shown_progress(total, run=RunFolder(run), what="instructions") as step:
        for answered, failed in steps:
            step(answered, failed)


def fill_store(path: Path | str, numbers: Iterable[int], *, saved: Callable[[int], Any] = id) -> None:
    """Store one answered question a number, each durable before ``saved`` is called with its number."""
    from store_records import fill

    from llmtwin_data.answers import AnswerStore

    with AnswerStore(Path(path)) as store:
        for number in numbers:
            fill(store, [number])
            saved(number)


def read_answers(path: Path, numbers: Iterable[int]) -> tuple[dict[int, tuple[str, ...]], list[str]]:
    """Return the stored answers to the questions of these numbers, and what the store says of itself."""
    from store_records import Asked, long_text

    from llmtwin_data.answers import AnswerStore

    keys = {Asked(long_text(number)).key: number for number in numbers}
    with AnswerStore(path) as store:
        found = store.answers([*keys])
        return {keys[key]: answer.values for key, answer in found.items()}, list(store.notes)


def read_totals(path: Path) -> dict[str, Any]:
    """Count what is stored: ``answers`` by their state, requests as ``outcomes`` by theirs."""
    from llmtwin_data.answers import AnswerStore

    with AnswerStore(path) as store:
        return store.totals()


def write_run(
    run: Path, pairs: Sequence[Mapping[str, Any]], *, test: int = 2, others: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write a finished run of given pairs, the last ``test`` of them as its test set.

    ``pairs``: each has a ``number``, and perhaps ``text`` and ``instruction``. ``others``: chunks that are no
    pair of the dataset: ``number``, ``state`` and ``reason``.
    """
    from published_pairs import ledger_of, make_pair, publish

    rest = [
        row for one in others for row in ledger_of([make_pair(one["number"])], one["state"], one["reason"])
    ]
    publish(run, [make_pair(**pair) for pair in pairs], test=test, others=rest)


def publish_to_comet(
    run: Path, *, environ: Mapping[str, str], mode: str = "auto", patience_seconds: float = 0.0
) -> dict[str, Any]:
    """Publish a finished run; return ``state``, ``reason``, ``line``, ``url`` and the ``patience_seconds``.

    ``patience_seconds``: 0 is our usual patience.
    """
    from llmtwin_data.tracking import PATIENCE_SECONDS, publish_run

    patience = {"patience_seconds": patience_seconds or PATIENCE_SECONDS}
    return asdict(publish_run(run, environ=environ, mode=mode, **patience)) | patience


def displays_of(text: str) -> list[str]:
    """Return the HTML of every kind of display that cells end in, each with this text in all its places."""
    import pandas

    from llmtwin_data import tables

    names = ["content_id", "collection", "content", "data_type", "author", "platform", "link", "masked"]
    names += ["id", "instruction", "model", "prompt", "trial", "reason", "value", "language", "judge_reason"]
    numbers = {"start": 0, "end": len(text), "k": 1, "grounding": 0.5, "grounding_margin": 0.1}
    numbers |= {"copied_instruction": 0.0, "copied_content": 0.0, "judge_score": 3, "state": "rejected"}
    row = pandas.DataFrame([dict.fromkeys(names, text) | numbers])
    shown = [
        tables.show_pairs(row),
        tables.show_texts(row),
        tables.show_alike(row, pandas.DataFrame({"copy_of": [0]})),
        tables.show_instructions(row),
        tables.show(pandas.DataFrame({text: [text], "n": [1]}), text),
        tables.show_note(text),
    ]
    with tempfile.TemporaryDirectory() as folder:
        tables.write_pairs(page := Path(folder) / "pairs.html", row.assign(side=""))
        return [*(one._repr_html_() for one in shown), page.read_text(encoding="utf-8")]


# asking


@dataclass(frozen=True)
class Outcome:
    """What asking came to; ``answers`` by number of the document, ``requests`` counted by their outcome."""

    report: dict[str, Any]
    answers: dict[int, dict[str, Any]]
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
        """Return the documents whose instruction names another one."""
        return [n for n in self.good() if f"DOC-{n})" not in " ".join(self.answers[n]["values"])]

    def shown(self) -> dict[str, str]:
        """Return what a notebook's table says of the call."""
        return _shown(self.report)


def ask_documents(
    numbers: Iterable[int],
    url: str,
    store: Path,
    *,
    model: str = "scripted-1",
    api_key: str = "",
    recipe: Mapping[str, Any] | None = None,
    price: tuple[float, float] | None = None,
    patience: Mapping[str, float] | None = None,
    **settings: Any,
) -> Outcome:
    """Ask an endpoint about documents, with answers in the file ``store``; errors of ours are in the outcome.

    ``price``: USD for a million tokens, of the prompt and of the completion. ``patience``: which waits differ
    from quick ones. ``settings``: how to ask; ``text`` gives a document's text by its number.
    """
    import asking

    from llmtwin_data.answers import AnswerStore
    from llmtwin_data.prices import Price

    settings["patience"] = replace(asking.QUICK, **(patience or {}))
    if price:
        settings["price"] = Price(*price, "test")
    endpoint = asking.endpoint_at(url, api_key=api_key, model=model)
    with AnswerStore(store) as answers:
        found = asking.ask_about(list(numbers), endpoint, answers, recipe=recipe, **settings)
        requests = answers.totals()["outcomes"]
    by_number = {number: asdict(answer) for number, answer in found.answers.items()}
    error = found.error
    ended = (type(error).__name__, str(error), error.exit_code) if error else ()
    return Outcome(asdict(found.report), by_number, requests, *ended)


def answer_key(number: int, url: str, **recipe: Any) -> str:
    """Return the key under which the answer to a document is stored."""
    import asking

    return asking.question(number, asking.recipe_for(asking.endpoint_at(url), **recipe)).key


def settle_answer(
    texts: Mapping[int, str], answer: str, problem: str = "", *, prompt: str = "grounded"
) -> tuple[list[tuple[int, tuple[str, ...]]], list[int], list[int]]:
    """Read one answer to a batch of texts by number.

    Number and values of those answered, the numbers given up, and those to be asked again.
    """
    from llmtwin_data.engine import Batch, Slot, settle
    from llmtwin_data.replies import Choice, Completion

    slots = [Slot(*_asked(number, text, prompt)) for number, text in texts.items()]
    completion = Completion((Choice(answer, problem),), 10, 10, "m", "")
    found = settle(Batch(slots, boundary="f0f0f0"), completion, attempts=4, request_id="r")
    number_of = {slot.key: number for slot, number in zip(slots, texts, strict=True)}
    good = [(number_of[one.key], one.values) for one in found.answers if one.state == "ok"]
    given_up = [number_of[one.key] for one in found.answers if one.state != "ok"]
    return good, given_up, [number_of[slot.key] for batch in found.again for slot in batch.slots]


@lru_cache(maxsize=2000)
def _asked(number: int, text: str, prompt: str) -> tuple[Any, str]:
    import asking

    recipe = asking.recipe_for(asking.endpoint_at("http://127.0.0.1:1/v1"), prompt=prompt)
    question = asking.question(number, recipe, text=text)
    return question, question.key


def _shown(report: Mapping[str, Any]) -> dict[str, str]:
    from llmtwin_data.engine import GenerationReport
    from llmtwin_data.tables import asked

    return dict(asked(GenerationReport(**report)).itertuples(index=False))


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that an endpoint's headers ask to wait, None where they do not say."""
    from llmtwin_data import transport

    return transport.retry_after(headers, wall_clock=now)


def probes(fault: str) -> dict[str, Any]:
    """Return what the usual patience sends to an endpoint that only says ``fault`` after one success.

    ``fault`` is "limited" or "down". On a clock of its own, a call takes 0.1 s: ``sent`` holds the moments of
    all calls, ``ended`` that of giving up, ``in_flight`` how many may be in flight at last.
    """
    from llmtwin_data import transport

    clock, sent = [0.0], []
    pace = transport.Pace(transport.Patience(), ceiling=64, now=lambda: clock[0])
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


def burst(calls: int, *, wait: float) -> dict[str, Any]:
    """Return the calls allowed ``before`` and ``after`` so many are told to wait, and the ``cuts``."""
    from llmtwin_data import transport

    pace = transport.Pace(transport.Patience(), ceiling=64, now=lambda: 0.0)
    for _ in range(10):
        pace.succeeded()
    started, before = [pace.start() for _ in range(calls)], pace.limit
    for moment in started:
        pace.overloaded(moment, wait=wait)
    return {"before": before, "after": pace.limit, "cuts": pace.cuts}


# pairs


def screen_text(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return what is found in a text: ``kind``, ``start`` and ``end`` of "secrets" and of "personal_data"."""
    from llmtwin_data.screening import find_personal_data, find_secrets

    found = {"secrets": find_secrets(text), "personal_data": find_personal_data(text)}
    return {group: [asdict(one) for one in each] for group, each in found.items()}


def decide(
    pairs: Sequence[Mapping[str, Any]], *, language: str = "same", prompt_words: str = "", **rules: Any
) -> list[dict[str, Any]]:
    """Return curation's decision on each pair: its ``id``, the ``reason`` to reject it, and the ``value``.

    A pair is ``instruction``, ``text``, ``number`` of its content and what else is told of it; ``rules`` are
    named as in the params.
    """
    import written_pairs

    from llmtwin_data.curation import with_decisions
    from llmtwin_data.params import Params

    table = written_pairs.measured(_pairs(pairs), language=language)
    decided = with_decisions(table, replace(Params(), **rules), prompt_words=prompt_words)
    decided = decided.assign(accepted=decided.state == "accepted")
    return decided[["id", "accepted", "reason", "value"]].to_dict("records")


def alarms_of(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the alarms and warnings over pairs as in `decide`: ``name``, ``level``, what was ``seen``."""
    import written_pairs

    from llmtwin_data import curation

    return [asdict(alarm) for alarm in curation.alarms_of(written_pairs.measured(_pairs(pairs)))]


def split_sides(pairs: Sequence[Mapping[str, Any]], *, test_fraction: float, seed: int) -> list[str]:
    """Return the side of each of the pairs: train, test, or nothing."""
    import written_pairs

    from llmtwin_data.params import Params
    from llmtwin_data.splits import with_sides

    settings = replace(Params(), test_fraction=test_fraction, seed=seed)
    return with_sides(written_pairs.table_of(_pairs(pairs)), settings, {}).side.tolist()


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> list[Any]:
    import written_pairs

    return [written_pairs.pair(**pair) for pair in pairs]
