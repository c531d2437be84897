"""All that tests under faults/ know of the package beside command, HTTP and files: plain data in and out.

Names, modules and records of the package stand here alone, so that a move of theirs changes no fault's test.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from llmtwin_data.errors import LlmTwinError

# What every function raises on purpose; it has the exit code that a command ends with.
Failed = LlmTwinError

# the rest


def command(*arguments: object, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Do one command in this process; return exit code, output and errors."""
    from llmtwin_data.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environ or {}),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        code = main([str(argument) for argument in arguments])
    return code, output.getvalue(), errors.getvalue()


def read_contents(
    address: str | Path, *, page_size: int = 256, api_key: str = "", seconds: float = 0.0
) -> Iterator[dict[str, str]]:
    """Check the address at once, then read ``cleaned_posts`` as it is asked for; a content a dict.

    Parameters
    ----------
    seconds
        What a server may take; 0 is our usual patience.
    """
    from llmtwin_data.contents import Skipped
    from llmtwin_data.contents import read_contents as read
    from llmtwin_data.sources import open_source
    from llmtwin_data.sources.servers import ServerPatience, ServerSource

    if seconds:
        patience = ServerPatience(first_seconds=seconds, later_seconds=seconds, pause_seconds=0.01)
        opened: Any = ServerSource(str(address), api_key=api_key, patience=patience)
    else:
        opened = open_source(str(address), api_key=api_key)

    def rows() -> Iterator[dict[str, str]]:
        with opened as source:
            for found in read(source, "cleaned_posts", page_size=page_size):
                if isinstance(found, Skipped):
                    yield {"id": found.content_id, "text": "", "reason": found.reason}
                else:
                    yield {"id": found.id, "text": found.text, "reason": ""}

    return rows()


def check_parameters(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that a notebook with these global names works with."""
    from llmtwin_data.params import check_parameters as check

    return asdict(check(dict(names)))


@contextmanager
def hold_lock(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder while the block runs."""
    from llmtwin_data.folders import RunFolder, RunLock

    with RunLock(RunFolder(Path(run))):
        yield


class Study:
    """The steps of one study in this process, for a ``with`` block; each does the earlier ones if needed.

    ``version`` is what the package takes for its own.
    """

    def __init__(self, values: Mapping[str, Any], *, version: str = "") -> None:
        self._values = dict(values)
        self._version = version
        self._open = ExitStack()

    def __enter__(self) -> Study:
        from llmtwin_data.generator import DatasetGenerator
        from llmtwin_data.params import make_params

        if self._version:
            self._open.enter_context(mock.patch("llmtwin_data.__version__", self._version))
        settings = make_params(self._values, place="test")
        self._generator = self._open.enter_context(DatasetGenerator(settings, environ={}))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def read(self) -> list[dict[str, Any]]:
        """Read the collections; return place and text of each chunk."""
        return [
            {"content_id": one.content_id, "start": one.start, "end": one.end, "text": one.text}
            for one in self._generator.fetch().chunks
        ]

    def ask(self) -> dict[str, Any]:
        """Ask for what is not stored; return the counts, and as ``shown`` what a cell shows of them."""
        from llmtwin_data.summaries.run_tables import generation_frame

        report = self._generator.generate()
        return asdict(report) | {"shown": dict(generation_frame(report).values)}

    def decide(self) -> list[dict[str, Any]]:
        """Return the last word on each pair."""
        return [{"accepted": one.accepted, "reason": one.reason} for one in self._generator.decisions()]

    def publish(self) -> dict[str, Any]:
        """Write the dataset into ``run_dir``; return the totals."""
        self._generator.publish()
        return self._generator.totals()


def execute_cells(
    folder: Path, *cells: str, environ: Mapping[str, str] | None = None, hints: bool = False
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Execute a notebook of these cells as a run does, into ``folder/run``; a signal stops it.

    Parameters
    ----------
    hints
        Load what tells a person which cells to run first.

    Returns
    -------
    tuple[dict[str, str], dict[str, Any] | None]
        ``error`` (class name, empty: none), ``message``, ``traceback``; and the notebook as it was kept.
    """
    import nbformat

    from llmtwin_data.folders import RunFolder
    from llmtwin_data.processes.kernels import Stop, execute_notebook

    first = nbformat.v4.new_code_cell("run_dir: str = ''", metadata={"tags": ["parameters"]})
    sources = [*(["%load_ext llmtwin_data"] if hints else []), *cells]
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, sources)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "study.ipynb")
    run = RunFolder(folder / "run")
    run.work.mkdir(parents=True, exist_ok=True)
    with Stop() as stop:
        ended = execute_notebook(
            folder / "study.ipynb",
            run=run,
            parameters={"run_dir": "x"},
            environ=dict(os.environ) | dict(environ or {}),
            stop=stop,
        )
    kept = run.notebooks / "study.ipynb"
    return asdict(ended), json.loads(kept.read_text()) if kept.exists() else None


def show_progress(run: Path, steps: Iterable[tuple[int, int]], *, total: int) -> None:
    """Show these steps of a run, answered and failed, as generation does."""
    from llmtwin_data.folders import RunFolder
    from llmtwin_data.generator.progress import shown_progress

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


def answer_batch(texts: Sequence[str], *, url: str, folder: Path) -> list[str]:
    """Ask about texts in one batch, storing in ``folder``; return the instruction for each, or nothing."""
    from asking import asking, endpoint_at, open_store, question, recipe_for

    from llmtwin_data.generation import ask

    where = endpoint_at(url)
    questions = [question(at, recipe_for(where), text=text) for at, text in enumerate(texts)]
    with open_store(folder) as store:
        ask(questions, endpoint=where, answers=store, asking=asking())
        stored = store.answers([one.key for one in questions])
    return [" ".join(stored[one.key].values) for one in questions]


def write_run(
    run: Path,
    pairs: Sequence[Mapping[str, Any]],
    *,
    test: int = 2,
    others: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a finished run of given pairs, the last ``test`` of them as its test set.

    Parameters
    ----------
    pairs
        Each has a ``number``, and perhaps ``text`` and ``instruction``.
    others
        Chunks that are no pair of the dataset: ``number``, ``state`` and ``reason``.
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

    Parameters
    ----------
    patience_seconds
        0 is our usual patience.
    """
    from llmtwin_data.tracking import PATIENCE_SECONDS, publish_run

    patience = {"patience_seconds": patience_seconds or PATIENCE_SECONDS}
    return asdict(publish_run(run, environ=environ, mode=mode, **patience)) | patience


def displays_of(text: str) -> list[str]:
    """Return the HTML of every kind of display that cells end in, each with this text in all its places."""
    import pandas

    from llmtwin_data.chunks import Chunk
    from llmtwin_data.generation import Pair
    from llmtwin_data.summaries.displays import show_note, show_table
    from llmtwin_data.summaries.sidebyside import show_alike, show_instructions, show_pairs, show_texts

    chunk = Chunk("c" + text, "cleaned", 0, len(text), text, text, text, text, text)
    pair = Pair(chunk, 1, text, text, "0", text, "key")
    shown = [
        show_pairs([pair], notes=[{text: text}]),
        show_texts([chunk]),
        show_alike([(chunk, chunk)]),
        show_instructions(chunk, {text: text, "other": text}),
        show_table(pandas.DataFrame({text: [text], "n": [1]}), text),
        show_note(text),
    ]
    return [one._repr_html_() for one in shown]
