"""Questions asked in parts, each by a process with a store of its own, come to what one comes to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from functools import partial

import endpoint
import pytest
from asking import asking, endpoint_at, open_store, question, recipe_for
from store_records import Asked, answer, fill, long_text

from llmtwin_data.answers import AnswerStore, Origin, backup_of
from llmtwin_data.cluster import Processes
from llmtwin_data.engine import ask
from llmtwin_data.errors import BudgetReached, LlmTwinError
from llmtwin_data.partitions import PartedSession


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def left_behind(path, numbers):
    """Leave a part's store with so many answers beside a store, as a killed process does."""
    with AnswerStore(path) as store:
        part = store.new_part(0)
    with AnswerStore(part, alone=True) as store:
        fill(store, numbers)
    return part


def test_what_a_part_holds_is_taken_in_by_whoever_is_alone_with_the_store(path):
    with AnswerStore(path) as store:
        known = fill(store, [1])
        again, other = Asked(long_text(2)), Asked(long_text(3))
        store.save(answers=[answer(again, state="failed", values=()), answer(other, "Mine")])
    part = left_behind(path, [1, 2, 3])

    with AnswerStore(path) as store:
        answers = store.answers([*known, again.key, other.key])
        assert {key: it.values for key, it in answers.items()} == {
            known[0]: ("Write it",), again.key: ("Write it",), other.key: ("Mine",)
        }  # fmt: skip
        assert store.totals()["requests"] == 3
        assert store.trace(again.key).texts == (again.text,)
        assert not [it for it in path.parent.iterdir() if it.name.startswith(part.stem)]
        assert not store.notes


def test_a_part_that_is_damaged_is_mended_or_set_aside(path):
    part = left_behind(path, [1])
    part.write_bytes(b"spoiled" * 1000)
    with AnswerStore(path) as store:
        assert store.totals()["requests"] == 1
        assert "the backup of" in store.notes[0]
    part = left_behind(path, [2])
    backup_of(part).unlink()
    part.write_bytes(b"spoiled" * 1000)
    with AnswerStore(path) as store:
        assert store.totals()["requests"] == 1
        assert "is kept as answers.part-0.sqlite.damaged-2; what it held is asked again" in store.notes[0]


def test_nothing_forgotten_stays_in_a_part_that_a_process_has_still_open(path):
    text = long_text(1).encode()
    left_behind(path, [1]).with_suffix(".sqlite.damaged-1").write_bytes(text)
    with AnswerStore(path) as store:
        still_open = AnswerStore(store.new_part(1), alone=True)
        fill(still_open, [1])
        threading.Timer(0.3, still_open.close).start()
        store.forget(Origin(author="ada"))
    left = [it.name for it in path.parent.iterdir() if text in it.read_bytes() or ".part-" in it.name]
    assert not left


@pytest.fixture(scope="module")
def processes():
    return Processes(2)


@pytest.fixture(scope="module")
def server():
    with endpoint.serve(latency_ms=50) as started:
        yield started


def parted(server, store, processes, docs=range(300), *, parts=2, on_tick=lambda *settled: None, **settings):
    """Ask about documents in parts; return the report, and an error of ours."""
    asked, reports, error = recipe_for(endpoint_at(server.base_url)), [], None
    stop = settings.pop("stop", None)
    try:
        ask(
            [question(doc, asked) for doc in docs],
            session=partial(PartedSession, parts=parts, workers=processes),
            endpoint=endpoint_at(server.base_url, api_key="sk-never-to-travel"),
            answers=store,
            asking=asking(**{"batch_size": 1} | settings),
            progress=on_tick,
            stop=stop,
            on_report=reports.append,
        )
    except LlmTwinError as raised:
        error = raised
    return reports[0] if reports else None, error


def killer(server, *moments):
    """Return what kills a process that works for this one, each time so many requests have come."""
    left = [*moments]

    def tick(*settled):
        if left and server.stats()["requests"] >= left[0]:
            del left[0]
            found = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "cluster import serve"],
                capture_output=True,
                text=True,
            )
            os.kill(int(random.Random(len(left)).choice(found.stdout.split())), signal.SIGKILL)

    return tick


# USD that the scripted endpoint's answer to one document costs at most.
COST = 0.0000446


def test_killed_processes_lose_nothing_and_cross_no_limit(processes, tmp_path):
    """Half of the work is paid for in the first run, all of it in the end."""
    limit = 150 * COST
    with endpoint.serve(latency_ms=50) as server, open_store(tmp_path) as store:
        report, error = parted(server, store, processes, max_cost_usd=limit, on_tick=killer(server, 40, 80))
        paid = server.stats()["paid_total"]
        assert isinstance(error, BudgetReached)
        assert report.paid_requests * COST - 1e-4 < report.cost_usd <= report.spent_usd <= limit
        assert 100 * COST < paid * COST <= limit
        assert store.totals()["requests"] == report.paid_requests == report.answered == 300 - report.pending

        report, error = parted(server, store, processes, on_tick=killer(server, paid + 40))
        stats = server.stats()
        assert (error, report.pending, stats["paid_distinct"]) == (None, 0, 300)
        assert stats["paid_twice"] <= 3 * 5  # four in flight and one to be stored, each time
        assert store.totals()["answers"] == {"ok": 300}
    assert not [*tmp_path.glob("*.part-*")]
