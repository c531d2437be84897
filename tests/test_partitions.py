"""Questions asked in parts, each by a process with a store of its own, come to what one comes to."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import endpoint
import pytest
from asking import asking, endpoint_at, open_store, question, recipe_for
from running import make_bench
from store_records import Asked, answer, fill, long_text

from llmtwin_data.answers import AnswerStore, Note, Origin, backup_of
from llmtwin_data.cluster import Processes, Workers
from llmtwin_data.contents import rows_of
from llmtwin_data.engine import GenerationReport, LiveSession, ask
from llmtwin_data.errors import BudgetReached, DiskFailed, Interrupted, KeyRejected, LlmTwinError, RunLocked
from llmtwin_data.partitions import PartedSession, add_report
from llmtwin_data.pipeline import instructions_step, open_study, read_chunks


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


def test_what_a_killed_part_may_have_spent_counts_as_paid(path):
    part = left_behind(path, [1])
    Note(part).pledge(0.5)
    with AnswerStore(path) as store:
        assert store.totals()["cost_usd"] == pytest.approx(0.5)
        assert (store.totals()["requests"], store.totals()["outcomes"]["unknown"]) == (2, 1)
        store.forget(Origin(content_id="nobody's"))


def test_what_a_part_holds_is_taken_in_also_where_another_process_has_the_store_open(path):
    with AnswerStore(path) as store:
        left_behind(path, [1])
        with AnswerStore(path):
            assert store.totals()["requests"] == 1
        part = left_behind(path, [1, 2])
        with store.parted(), AnswerStore(path):
            assert store.totals()["requests"] == 2
            assert not [*path.parent.glob("*.part-*")]
            part = left_behind(path, [3])
            with AnswerStore(path):  # they are another's, as the lock says
                assert part.exists()


def test_what_a_part_holds_that_a_process_has_still_open_is_not_asked_again(path, monkeypatch):
    monkeypatch.setattr("llmtwin_data.answers.WAIT_SECONDS", 0.1)
    with AnswerStore(path) as store:
        still_open = AnswerStore(store.new_part(0), alone=True)
    fill(still_open, [1])

    with pytest.raises(RunLocked, match="wait or end it"):
        AnswerStore(path)
    still_open.close()
    with AnswerStore(path) as store:
        assert store.totals()["requests"] == 1


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
    left = sorted(it.name for it in path.parent.glob("*.part-*"))
    assert left == [f"answers.part-0.sqlite.damaged-{number}" for number in (1, 2)]


def test_a_disk_that_is_full_while_a_part_is_taken_in_is_said(path, monkeypatch):
    def full(path):
        raise sqlite3.OperationalError("database or disk is full")

    with AnswerStore(path) as store:
        part = left_behind(path, [1])
        monkeypatch.setattr("llmtwin_data.answers._examine", full)
        with pytest.raises(DiskFailed, match="disk is full"):
            store.take_in()
        monkeypatch.undo()
        assert part.exists()
        store.take_in()
        assert store.totals()["requests"] == 1


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


def started():
    workers, report = Processes(2), GenerationReport()
    assert [*workers.map(add_report, [report, report], given=[report])]  # both ask when one is killed
    return workers


@pytest.fixture(scope="module")
def processes():
    return started()


DOCS = 200


def parted(server, store, workers, *, parts=2, on_tick=None, stop=None, api_key="", **settings):
    """Ask about documents in parts; return the report, and an error of ours."""
    where, reports, error = endpoint_at(server.base_url, api_key=api_key), [], None
    recipe = recipe_for(where)
    try:
        ask(
            [question(doc, recipe) for doc in range(DOCS)],
            session=partial(PartedSession, parts=parts, workers=workers) if parts > 1 else LiveSession,
            endpoint=where,
            answers=store,
            asking=asking(**{"batch_size": 1} | settings),
            progress=on_tick,
            stop=stop,
            on_report=reports.append,
        )
    except LlmTwinError as raised:
        error = raised
    return reports[0], error


def at_request(server, *moments, do):
    """Return what does something, in the caller's thread, each time so many requests have come."""
    left = [*moments]

    def tick(*settled):
        if left and server.stats()["requests"] >= left[0]:
            del left[0]
            do()

    return tick


def kill_one():
    """Kill a process that works for this one."""
    mine = ["pgrep", "-P", str(os.getpid()), "-f", "cluster import serve"]
    found = subprocess.run(mine, capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)


# USD that the scripted endpoint's answer to one document costs at most.
COST = 0.0000446


def test_killed_processes_lose_nothing_and_cross_no_limit(processes, tmp_path):
    """Half of the work is paid for in the first run, all of it in the end."""
    limit = DOCS / 2 * COST
    with endpoint.serve(latency_ms=50) as server, open_store(tmp_path) as store:
        kill = at_request(server, 40, do=kill_one)
        report, error = parted(server, store, processes, max_cost_usd=limit, on_tick=kill)
        paid = server.stats()["paid_total"]
        assert isinstance(error, BudgetReached)
        assert report.paid_requests * COST - 1e-4 < report.cost_usd <= report.spent_usd <= limit
        assert 40 < paid <= DOCS / 2
        assert answered_requests(store) == report.paid_requests == report.answered == DOCS - report.pending

        report, error = parted(server, store, processes, on_tick=at_request(server, paid + 30, do=kill_one))
        stats = server.stats()
        assert (error, report.pending, stats["paid_distinct"]) == (None, 0, DOCS)
        assert stats["paid_twice"] <= 2 * 5  # four in flight and one to be stored, each time
        assert store.totals()["answers"] == {"ok": DOCS}
    assert not [*tmp_path.glob("*.part-*")]


def answered_requests(store):
    """Count them without those that stand for what was in flight at a kill."""
    totals = store.totals()
    return totals["requests"] - totals["outcomes"].get("unknown", 0)


class Recorded(Workers):
    """Works here, and keeps what would travel."""

    def map(self, function, parts, *, given=()):
        self.sent = pickle.dumps(parts)
        return super().map(function, parts, given=given)


def test_no_key_travels_since_each_machine_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-machine")
    refuses = [{"when": {"key": ""}, "do": {"status": 401}}]
    with endpoint.serve(script=refuses) as server, open_store(tmp_path) as store:
        report, error = parted(server, store, workers := Recorded(), api_key="sk-of-a-machine")
    assert (error, report.pending) == (None, 0)
    assert b"sk-of" not in workers.sent


def test_a_machine_that_has_no_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    refuses = [{"when": {"key": ""}, "do": {"status": 401}}]
    with endpoint.serve(script=refuses) as server, open_store(tmp_path) as store:
        error = parted(server, store, Recorded(), api_key="sk-of-a-machine")[1]
    assert isinstance(error, KeyRejected)
    assert "none was sent" in str(error)
    assert str(error).endswith(f"this machine only, in the environment or .env of {socket.gethostname()}")


def test_what_parts_were_paid_counts_also_where_a_process_dies_too_often(tmp_path, monkeypatch):
    monkeypatch.setattr("llmtwin_data.cluster.MOST_DEATHS", 1)
    with endpoint.serve(latency_ms=20) as server, open_store(tmp_path) as store:
        kill = at_request(server, 60, do=kill_one)
        report, error = parted(server, store, started(), max_cost_usd=1.0, on_tick=kill)
        assert "a process died 1 times" in str(error)
        assert report.paid_requests == answered_requests(store) >= DOCS / 2
        assert report.cost_usd < report.spent_usd == pytest.approx(store.totals()["cost_usd"])


def test_a_few_texts_that_spoil_answers_end_no_part_of_a_known_endpoint(processes, tmp_path):
    few = {"when": {"doc": [*range(16)]}, "do": {"raw": "no"}}
    with endpoint.serve(script=[few]) as server, open_store(tmp_path) as store:
        where = endpoint_at(server.base_url)
        ask([question(DOCS - 1, recipe_for(where))], endpoint=where, answers=store, asking=asking())
        report, error = parted(server, store, processes)
    assert (error, report.failed, report.answered) == (None, 16, DOCS - 17)


def refused(docs, status):
    return {"script": [{"when": {"doc": docs}, "do": {"status": status}}]}


FAULTS = {
    "a field, and a limit": ({"refuse_fields": ("temperature",)}, {"max_cost_usd": DOCS / 2 * COST}),
    "the first texts of a part": (refused([*range(0, 18, 2)], 400), {}),
    "texts that break the server": (refused([0, 1, 8, 50], 500), {}),
    "a key": ({"script": [{"do": {"status": 401}}]}, {}),
    "each answer is of no use": ({"script": [{"do": {"raw": "no"}}]}, {}),
}


@pytest.mark.parametrize(("options", "settings"), FAULTS.values(), ids=FAULTS)
def test_what_is_refused_comes_to_the_same_in_parts(processes, tmp_path, options, settings):
    came = []
    for parts in (1, 2):
        with endpoint.serve(**options) as server, open_store(tmp_path / str(parts)) as store:
            report, error = parted(server, store, processes, parts=parts, **settings)
            came.append((type(error), report.failed, store.totals()["answers"].get("failed", 0)))
            counts = report.answered, report.pending, server.stats()["requests"]
            came[-1] += (pytest.approx(counts, abs=4),) if parts == 1 else (counts,)
    assert came[0] == came[1]


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_an_interrupt_drains_all_parts_and_a_second_ends_them(processes, tmp_path, times):
    with endpoint.serve(latency_ms=200) as server, open_store(tmp_path) as store:
        started = at_request(server, *range(16, 16 + times), do=interrupt)
        report, error = parted(server, store, processes, on_tick=started, concurrency=16)
        assert isinstance(error, Interrupted)
        stats = server.stats()
        assert stats["requests"] < 100
        if times == 1:
            assert report.answered == store.totals()["answers"]["ok"] == stats["paid_total"]
        while [*tmp_path.glob("*.part-*")]:  # ended, but still to be taken in
            time.sleep(0.05)

        report, error = parted(server, store, processes, parts=1, concurrency=64)
        assert (error, report.pending) == (None, 0)
        assert server.stats()["paid_twice"] <= 16 * (times - 1)
        report, error = parted(server, store, processes, parts=4)
        assert (error, report.answered_before, report.requests) == (None, DOCS, 0)


def test_two_processes_ask_no_question_twice(processes, tmp_path):
    others = []

    def begin():
        others.append(parted(server, beside, processes)[1])
        threading.Thread(target=lambda: others.append(parted(server, beside, processes, parts=1))).start()

    with (
        endpoint.serve(latency_ms=50) as server,
        open_store(tmp_path) as store,
        open_store(tmp_path) as beside,
    ):
        report, error = parted(server, store, processes, on_tick=at_request(server, 20, do=begin))
        while len(others) < 2:
            time.sleep(0.05)
        assert server.stats()["paid_twice"] == 0
    assert isinstance(others[0], RunLocked)
    assert (error, report.pending, others[1][1], others[1][0].pending) == (None, 0, None, 0)


def test_the_dataset_is_the_same_however_it_was_asked(processes, tmp_path):
    written = []
    with endpoint.serve() as server:
        bench = make_bench(tmp_path, server, documents=260)
        for parts in (1, 4):
            values = {"answers": str(tmp_path / f"{parts}.sqlite"), "run_dir": str(tmp_path / f"out{parts}")}
            settings, source, where, store = open_study(bench.settings(**values), environ={})
            with store:
                step = instructions_step(read_chunks(source, settings, store), settings, where)
                report = ask(
                    map(step.make, rows_of(step.rows)),
                    session=partial(PartedSession, parts=parts, workers=processes),
                    endpoint=where,
                    answers=store,
                    asking=asking(),
                )
            asked = server.stats()["requests"]
            bench.publish(**values)
            assert (report.answered, server.stats()["requests"]) == (260, asked)
            out = tmp_path / f"out{parts}"
            files = [out / "ledger.jsonl", *filter(Path.is_file, (out / "dataset").rglob("*"))]
            written.append({file.name: file.read_bytes() for file in files})
    assert written[0] == written[1]
