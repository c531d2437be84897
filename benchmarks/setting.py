"""What all benches need: texts, questions, an endpoint of its own process, a store, and a printed table."""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from endpoint import Server, serve  # noqa: E402
from scripted import instruction_for as instruction_for  # noqa: E402

from llmtwin_data.answers import AnswerStore  # noqa: E402
from llmtwin_data.endpoints import Endpoint  # noqa: E402
from llmtwin_data.engine import Asking, GenerationReport, ask  # noqa: E402
from llmtwin_data.folders import PROJECT_ROOT  # noqa: E402
from llmtwin_data.prices import Price  # noqa: E402
from llmtwin_data.prompts import Question, Recipe, load_template  # noqa: E402
from llmtwin_data.transport import Patience  # noqa: E402

PRICE = Price(0.15, 0.6, "bench")
ENGLISH = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "with",
    "as",
    "on",
    "by",
    "it",
    "from",
    "are",
    "this",
    "was",
    "be",
    "at",
    "or",
    "an",
    "have",
    "not",
    "we",
    "they",
]
SYLLABLES = [first + second for first in "bcdfghjklmnprstvw" for second in "aeiou"]


@dataclass(frozen=True)
class Took:
    """Wall and CPU seconds of a piece of work, all threads of this process."""

    wall: float
    cpu: float


class Clock:
    """Measures what happens inside its ``with``."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.took = Took(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def tree_costs(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Look five times a second at a process and all below it; give CPU seconds and the most MiB held.

    What processes share counts for each; the last fifth of a second of each is not seen.
    """
    used, most = dict[int, float](), 0
    while process.poll() is None:
        held = 0
        with suppress(psutil.Error):  # it ends meanwhile
            first = psutil.Process(process.pid)
            for one in [first, *first.children(recursive=True)]:
                with suppress(psutil.Error):
                    used[one.pid] = sum(one.cpu_times()[:2])
                    held += one.memory_info().rss
        most = max(most, held)
        time.sleep(0.2)
    return sum(used.values()), most / 2**20


@lru_cache(maxsize=1)
def vocabulary() -> list[str]:
    """Give 4,000 made-up words; common ones come first, as in a language."""
    dice = random.Random(1)
    return ["".join(dice.choices(SYLLABLES, k=dice.randint(1, 4))) for _ in range(4000)]


def text_of(number: int, *, words: int = 45) -> str:
    """Give a text of about 250 characters that names itself, reads as English and is unlike all others."""
    dice, known = random.Random(number), vocabulary()
    rare = (known[int(len(known) * dice.random() ** 2)] for _ in range(words))
    chosen = [dice.choice(ENGLISH) if place % 2 else word for place, word in enumerate(rare)]
    return f"DOC-{number} {' '.join(chosen)}."


class Questions:
    """So many questions, each made when it is read."""

    def __init__(self, count: int, recipe: Recipe, *, first: int = 0) -> None:
        self.count, self.recipe, self.first = count, recipe, first

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Question]:
        for number in range(self.first, self.first + self.count):
            yield Question(text_of(number), self.recipe, str(number), "cleaned_posts", 0, 300, "ada", "")


def recipe_for(endpoint: Endpoint, *, prompt: str = "grounded") -> Recipe:
    """Give the default recipe at this endpoint."""
    template = load_template(prompt, folder=PROJECT_ROOT / "params" / "prompts")
    return Recipe(endpoint.identity, endpoint.model_identity, template, "posts")


def endpoint_at(server: Server) -> Endpoint:
    """Give the scripted endpoint as the engine sees one."""
    return Endpoint(server.base_url, server.base_url, "scripted-1", "scripted-1")


@contextmanager
def bench(**options: Any) -> Iterator[tuple[Server, Endpoint, AnswerStore]]:
    """Give an endpoint in a process of its own and an empty store."""
    with (
        serve(own_process=True, **options) as server,
        tempfile.TemporaryDirectory() as folder,
        AnswerStore(Path(folder) / "answers.sqlite") as store,
    ):
        yield server, endpoint_at(server), store


def ask_all(
    count: int, endpoint: Endpoint, store: AnswerStore, *, first: int = 0, **settings: Any
) -> tuple[GenerationReport, Took]:
    """Ask so many questions with everything on: build, send, parse, check, store."""
    asking = Asking(**({"price": PRICE, "patience": Patience()} | settings))
    with Clock() as clock:
        report = ask(
            Questions(count, recipe_for(endpoint), first=first),
            endpoint=endpoint,
            answers=store,
            asking=asking,
        )
    return report, clock.took


def wrong_pairs(count: int, endpoint: Endpoint, store: AnswerStore) -> int:
    """Count the stored instructions that name another text than their own."""
    questions = {question.key: question for question in Questions(count, recipe_for(endpoint))}
    stored = store.answers(list(questions))
    return sum(
        f"instruction for DOC-{questions[key].content_id})" not in answer.values[0]
        for key, answer in stored.items()
        if answer.state == "ok"
    )


def peak_mb() -> float:
    """Give the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(script: str, *arguments: object) -> Any:
    """Run a bench's part in a fresh process; it prints one JSON line."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def options(**defaults: Any) -> argparse.Namespace:
    """Read the command line: each default can be given as an option of its own type."""
    parser = argparse.ArgumentParser()
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for people, with the machine under it."""
    cells = [list(map(str, columns)), *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(f"Python {platform.python_version()}, {platform.machine()}, {_cores()} cores")


def _shown(cell: object) -> str:
    return (
        f"{cell:.3g}"
        if isinstance(cell, float) and abs(cell) < 10
        else f"{cell:,.0f}"
        if isinstance(cell, float)
        else str(cell)
    )


def _cores() -> int:
    import os

    return os.cpu_count() or 1
