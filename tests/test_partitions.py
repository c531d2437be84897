"""Questions asked in parts, each by a process with a store of its own, come to what one comes to."""

from __future__ import annotations

import threading

import pytest
from store_records import Asked, answer, fill, long_text

from llmtwin_data.answers import AnswerStore, Origin, backup_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def left_behind(path, numbers, *, keys=()):
    """Leave a part's store with so many answers beside a store, as a killed process does."""
    with AnswerStore(path) as store:
        part = store.new_part(0, keys)
    with AnswerStore(part, alone=True) as store:
        fill(store, numbers)
    return part


def test_what_a_part_holds_is_taken_in_by_whoever_is_alone_with_the_store(path):
    with AnswerStore(path) as store:
        known = fill(store, [1])
        again, other = Asked(long_text(2)), Asked(long_text(3))
        store.save(answers=[answer(again, state="failed", values=()), answer(other, "Mine")])
    part = left_behind(path, [2, 3], keys=known)

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
        still_open = AnswerStore(store.new_part(1, []), alone=True)
        fill(still_open, [1])
        threading.Timer(0.3, still_open.close).start()
        store.forget(Origin(author="ada"))
    left = [it.name for it in path.parent.iterdir() if text in it.read_bytes() or ".part-" in it.name]
    assert not left
