"""The store's own faults: full disk, torn file, flipped bits, power cut, another version."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from store_records import Asked, answer, fill, long_text, paid  # noqa: E402

from llmtwin_data import __version__  # noqa: E402
from llmtwin_data.answers import AnswerStore  # noqa: E402
from llmtwin_data.answers.storage import open_file  # noqa: E402
from llmtwin_data.answers.tables import SCHEMA  # noqa: E402
from llmtwin_data.errors import DiskFailed, ParamsError  # noqa: E402

ROWS = 40


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def filled(path):
    """A closed store of forty answers, each with a text and a request."""
    with AnswerStore(path) as store:
        keys = fill(store, range(ROWS))
    return path, keys


@pytest.fixture
def killed(path):
    """A store whose process was killed: its last answers stand in the WAL alone."""
    with AnswerStore(path) as store:
        keys = fill(store, range(ROWS))
        for ending in ("", "-wal"):
            shutil.copyfile(f"{path}{ending}", f"{path}{ending}.copy")
    for ending in ("", "-wal"):
        Path(f"{path}{ending}.copy").rename(f"{path}{ending}")
    return path, keys


def answered(path, keys):
    with AnswerStore(path) as store:
        return store.answered(keys), store.notes


def test_p05_a_full_disk_stops_the_saves_and_keeps_what_was_saved(path):
    process = subprocess.run(
        [sys.executable, str(TESTS / "store_records.py"), str(path), "0", "2000"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
        capture_output=True,
        text=True,
        timeout=60,
    )

    saved = [int(line) for line in process.stdout.split()]
    with AnswerStore(path) as store:
        found = store.answered([Asked(long_text(number)).key for number in range(2000)])
        fill(store, [5000])
    assert "DiskFailed" in process.stderr
    assert "free space" in process.stderr
    assert 0 < len(saved) < 2000
    assert {Asked(long_text(number)).key for number in saved} <= found


def test_p05_a_disk_that_is_full_from_the_start_shows_at_once(path):
    process = subprocess.run(
        [sys.executable, str(TESTS / "store_records.py"), str(path), "0", "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "DiskFailed" in process.stderr
    assert process.stdout == ""


def test_p09_a_file_as_parent_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DiskFailed):
        AnswerStore(tmp_path / "file" / "answers.sqlite")


@pytest.mark.parametrize("cut", [1, 23, 24, 100, 4096, 4119, 4120, 4121, 9000])
def test_p07_a_torn_end_of_the_wal_costs_the_last_commits_only(killed, cut):
    path, keys = killed
    wal = Path(f"{path}-wal")
    os.truncate(wal, wal.stat().st_size - cut)

    found, _ = answered(path, keys)

    assert len(found) >= ROWS - 2
    with AnswerStore(path) as store:
        fill(store, range(ROWS))
        assert store.answered(keys) == set(keys)


@pytest.mark.parametrize("cut", [1, 100, 4096, 10_000])
def test_p07_a_torn_end_of_the_file_is_salvaged(filled, cut):
    path, keys = filled
    os.truncate(path, path.stat().st_size - cut)

    found, notes = answered(path, keys)

    assert len(found) >= ROWS - 12
    assert "rows were salvaged" in notes[0]
    assert Path(f"{path}.damaged-1").exists()
    assert answered(path, keys) == (found, [])


@pytest.mark.parametrize("part", range(40))
def test_p08_flipped_bytes_cost_what_they_hit_and_nothing_else(filled, part):
    path, keys = filled
    flip(path, at=path.stat().st_size * part // 40 + 7)

    found, _ = answered(path, keys)

    assert len(found) >= ROWS - 8
    with AnswerStore(path) as store:
        fill(store, range(ROWS))
        assert all(found.values == ("Write it",) for found in store.answers(keys).values())
        assert store.answered(keys) == set(keys)


@pytest.mark.parametrize("page", range(6))
def test_p08_a_flipped_page_is_salvaged(filled, page):
    path, keys = filled
    data = bytearray(path.read_bytes())
    data[page * 4096 : page * 4096 + 4096] = os.urandom(4096)
    path.write_bytes(data)

    found, notes = answered(path, keys)

    assert len(found) >= ROWS - 20
    assert len(found) == ROWS or notes


def test_p08_a_destroyed_header_costs_nothing(filled):
    path, keys = filled
    path.write_bytes(b"\0" * 90 + path.read_bytes()[90:])

    found, notes = answered(path, keys)

    assert found == set(keys)
    assert "salvaged" in notes[0]


def test_p08_a_lost_file_beside_its_wal_is_salvaged(killed):
    path, keys = killed
    path.write_bytes(b"")

    found, notes = answered(path, keys)

    assert found == set(keys)
    assert "salvaged" in notes[0]


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.2, 0.5, 0.8])
def test_p08_a_flipped_byte_in_the_wal_hides_no_commit(killed, share):
    path, keys = killed
    wal = Path(f"{path}-wal")
    flip(wal, at=max(20, int(wal.stat().st_size * share) + 40))

    found, notes = answered(path, keys)

    assert len(found) >= ROWS - 3
    assert "torn frame" in notes[0]


def test_p08_a_wal_that_had_just_begun_anew_is_no_damage(path, tmp_path):
    with AnswerStore(path) as store:
        keys = fill(store, range(ROWS))
        store._file.connection.execute("PRAGMA wal_checkpoint(RESTART)")
        copies = [shutil.copy(f"{path}{ending}", f"{tmp_path}/copy{ending}") for ending in ("", "-wal")]
        fill(store, [ROWS])
        begun = Path(f"{path}-wal").read_bytes()[:32]
    frames = Path(copies[1]).read_bytes()[32:]
    Path(copies[1]).write_bytes(begun + frames)

    assert answered(Path(copies[0]), keys) == (set(keys), [])


def test_p08_a_spoiled_answer_is_asked_again_and_the_others_kept(filled):
    path, keys = filled
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Write it", b"Write iT", 1))

    found, notes = answered(path, keys)

    assert len(found) == ROWS - 1
    assert "1 spoiled answers" in notes[0]


def test_p08_a_crash_in_the_middle_of_a_salvage_is_made_good(filled):
    path, keys = filled
    with AnswerStore(path.with_name("new")) as store:
        fill(store, range(ROWS))
    path.with_name("new").rename(f"{path}.salvaged")
    path.rename(f"{path}.damaged-1")

    assert answered(path, keys) == (set(keys), [])


def flip(path, *, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_p16_what_was_saved_is_on_disk_before_save_returns(path, tmp_path):
    copy = tmp_path / "copy" / "answers.sqlite"
    copy.parent.mkdir()
    keys = []

    with AnswerStore(path) as store:
        synchronous = store._file.connection.execute("PRAGMA synchronous").fetchone()
        journal = store._file.connection.execute("PRAGMA journal_mode").fetchone()
        for number in range(5):
            keys += fill(store, [number])
            for ending in ("", "-wal"):
                shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
            assert answered(copy, keys)[0] == set(keys)

    assert (synchronous, journal) == ((2,), ("wal",))


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_p16_every_save_is_synced(path, tmp_path):
    log = tmp_path / "calls"
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(log), sys.executable]

    subprocess.run([*command, str(TESTS / "store_records.py"), str(path), "0", "10"], check=True, timeout=60)

    assert log.read_text().count("sync(") >= 10


def test_p16_a_kill_loses_nothing_that_was_told(path):
    for first in range(0, 500, 100):
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "store_records.py"), str(path), str(first), "100000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        told = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.communicate()[0].split()]

        found, notes = answered(path, [Asked(long_text(number)).key for number in told])

        assert len(found) == len(told)
        assert notes == []


def test_p18_a_newer_store_is_refused_in_one_line(filled):
    path, _ = filled
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA.version + 1}")
    connection.close()

    with pytest.raises(ParamsError, match=r"newer version .*; upgrade") as caught:
        AnswerStore(path)

    assert "\n" not in str(caught.value)


def test_p18_an_older_store_is_brought_up(filled):
    path, _ = filled
    newer = replace(
        SCHEMA,
        version=SCHEMA.version + 1,
        steps={SCHEMA.version: "CREATE TABLE labels (key TEXT, label TEXT)"},
    )

    file = open_file(path, newer)

    assert file.connection.execute("SELECT count(*) FROM answers").fetchone() == (ROWS,)
    assert file.connection.execute("SELECT count(*) FROM labels").fetchone() == (0,)
    file.close()
    with pytest.raises(ParamsError):
        AnswerStore(path)


def test_p18_a_store_of_each_released_version_is_read():
    stores = sorted((TESTS / "data").glob("answers-v*.sqlite"))

    assert [store.stem for store in stores] == [f"answers-v{n}" for n in range(1, SCHEMA.version + 1)]


@pytest.mark.parametrize("version", range(1, SCHEMA.version + 1))
def test_p18_answers_of_a_released_version_are_not_asked_again(tmp_path, version):
    path = tmp_path / "answers.sqlite"
    shutil.copyfile(TESTS / "data" / f"answers-v{version}.sqlite", path)
    question = Asked(long_text(1), content_id="1")

    with AnswerStore(path) as store:
        assert store.answers([question.key]) == {question.key: answer(question)}
        assert store.trace(question.key).request == paid(1, question)


def test_p19_the_packages_version_stands_nowhere_in_the_store(filled):
    path, _ = filled

    assert __version__.encode() not in path.read_bytes()


def test_l50_a_store_of_before_keeps_its_answers_and_takes_hidden_tokens(tmp_path):
    path = tmp_path / "answers.sqlite"
    shutil.copyfile(TESTS / "data" / "answers-v1.sqlite", path)
    old, new = Asked(long_text(1), content_id="1"), Asked(long_text(2), content_id="2")

    with AnswerStore(path) as store:
        request = paid(2, new, reasoning_tokens=700)
        store.save(requests=[request], answers=[answer(new, request_id=request.id)], questions=[new])
    with AnswerStore(path) as store:
        assert store.answers([old.key, new.key]).keys() == {old.key, new.key}
        assert store.trace(new.key).request == request
        assert store.trace(old.key).request.reasoning_tokens is None


def test_l50_a_damaged_store_of_two_ages_gives_back_the_requests_of_both(tmp_path):
    path = tmp_path / "answers.sqlite"
    shutil.copyfile(TESTS / "data" / "answers-v1.sqlite", path)
    old, new = Asked(long_text(1), content_id="1"), Asked(long_text(2), content_id="2")
    with AnswerStore(path) as store:
        request = paid(2, new, reasoning_tokens=700)
        store.save(requests=[request], answers=[answer(new, request_id=request.id)], questions=[new])
    raw = path.read_bytes()
    path.write_bytes(bytes(100) + raw[100:])

    with AnswerStore(path) as store:
        assert store.notes
        assert store.trace(new.key).request == request
        assert store.trace(old.key).request == paid(1, old)
