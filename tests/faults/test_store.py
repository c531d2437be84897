"""The store's own faults: full disk, torn file, flipped bits, power cut, another version."""

import importlib.metadata
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from product import Failed, Study, fill_store, read_answers, read_totals  # noqa: E402
from running import start_python  # noqa: E402

ROWS = 40
ALL = dict.fromkeys(range(ROWS), ("Write it",))
RELEASED = sorted((TESTS / "data").glob("answers-v*.sqlite"))
# Stores answers one by one, says which are stored, and how a command that cannot go on would end.
FILLING = """
import sys
from product import Failed, fill_store
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    fill_store(path, range(first, first + count), saved=lambda number: print(number, flush=True))
except Failed as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def filled(path):
    """A closed store of forty answers, each with a text and a request."""
    fill_store(path, range(ROWS))
    return path


@pytest.fixture
def killed(path):
    """A store whose process was killed: its last answers stand in the WAL alone."""

    def copy(number):
        for ending in ("", "-wal") if number == ROWS - 1 else ():
            shutil.copyfile(f"{path}{ending}", f"{path}{ending}.copy")

    fill_store(path, range(ROWS), saved=copy)
    for ending in ("", "-wal"):
        Path(f"{path}{ending}.copy").rename(f"{path}{ending}")
    return path


def read_and_fill_again(path):
    """Give what a damaged store still has and says; none of it is wrong, and the next run completes it."""
    found, notes = read_answers(path, range(ROWS))
    assert found.items() <= ALL.items()
    fill_store(path, range(ROWS))
    assert read_answers(path, range(ROWS)) == (ALL, [])
    return found, notes


def flip(path, *, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_p05_a_full_disk_stops_the_saves_and_keeps_what_was_saved(path):
    process = start_python(
        FILLING, path, 0, 2000,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    output, errors = process.communicate(timeout=60)

    saved = [int(line) for line in output.split()]
    found, _ = read_answers(path, range(2000))
    fill_store(path, [5000])
    assert process.returncode == 8
    assert "free space" in errors
    assert "Traceback" not in errors
    assert 0 < len(saved) < 2000
    assert set(saved) <= set(found)


def test_p05_a_disk_that_is_full_from_the_start_shows_at_once(path):
    process = start_python(
        FILLING, path, 0, 1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, output) == (8, "")
    assert "free space" in errors


def test_p09_a_file_as_parent_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(Failed) as failed:
        read_answers(tmp_path / "file" / "answers.sqlite", [0])

    assert failed.value.exit_code == 8


@pytest.mark.parametrize("cut", [1, 23, 24, 100, 4096, 4119, 4120, 4121, 9000])
def test_p07_a_torn_end_of_the_wal_costs_the_last_commits_only(killed, cut):
    wal = Path(f"{killed}-wal")
    os.truncate(wal, wal.stat().st_size - cut)

    found, _ = read_and_fill_again(killed)

    assert len(found) >= ROWS - 2


@pytest.mark.parametrize("cut", [1, 100, 4096, 10_000])
def test_p07_a_torn_file_is_set_aside_and_its_backup_restored(filled, cut):
    os.truncate(filled, filled.stat().st_size - cut)
    torn = filled.read_bytes()

    found, (note,) = read_and_fill_again(filled)

    assert found == ALL
    assert "damaged" in note
    assert "may be asked again" in note
    assert [file.read_bytes() for file in filled.parent.glob(f"{filled.name}*damaged*")] == [torn]


@pytest.mark.parametrize("part", range(40))
def test_p08_flipped_bytes_cost_what_they_hit_and_nothing_else(filled, part):
    """Nothing wrong is read; the file is set aside for its backup, or one answer is spoiled; it is said."""
    flip(filled, at=filled.stat().st_size * part // 40 + 7)

    found, notes = read_and_fill_again(filled)

    assert len(found) == ROWS or (len(found) == ROWS - 1 and "1 spoiled answer" in notes[0])


@pytest.mark.parametrize("page", range(6))
def test_p08_a_flipped_page_costs_nothing_that_was_backed_up(filled, page):
    data = bytearray(filled.read_bytes())
    data[page * 4096 : page * 4096 + 4096] = os.urandom(4096)
    filled.write_bytes(data)

    found, (note,) = read_and_fill_again(filled)

    assert found == ALL
    assert "damaged" in note


def test_p08_a_destroyed_header_costs_nothing(filled):
    damaged = b"\0" * 90 + filled.read_bytes()[90:]
    filled.write_bytes(damaged)

    found, notes = read_and_fill_again(filled)

    assert found == ALL
    assert "damaged" in notes[0]
    assert damaged in [other.read_bytes() for other in filled.parent.glob(f"{filled.name}*damaged*")]


def test_p08_a_lost_file_beside_its_wal_is_no_new_store(killed):
    killed.write_bytes(b"")

    found, notes = read_and_fill_again(killed)

    assert found == ALL
    assert "damaged" in notes[0]


def test_p08_what_was_answered_since_the_backup_is_all_that_is_asked_again(filled):
    process = start_python(FILLING, filled, ROWS, 100_000, stdout=subprocess.PIPE, text=True)
    told = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.communicate()[0].split()]
    os.truncate(filled, 10_000)
    Path(f"{filled}-wal").unlink()

    found, (note,) = read_answers(filled, [*range(ROWS), *told])

    assert found == ALL
    assert "may be asked again" in note


@pytest.mark.parametrize("wal", [None, b"\1" * 40_000], ids=["gone", "garbage"])
def test_p08_a_lost_wal_costs_nothing_that_was_backed_up(killed, wal):
    """All may stand in the WAL alone: the file without it is whole, and empty."""
    Path(f"{killed}-wal").unlink() if wal is None else Path(f"{killed}-wal").write_bytes(wal)

    found, (note,) = read_and_fill_again(killed)

    assert found == ALL
    assert "holds less than its backup" in note


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.2, 0.5, 0.8])
def test_p08_a_flipped_byte_in_the_wal_hides_no_commit(killed, share):
    """SQLite itself reads a WAL up to the first torn frame and says nothing."""
    wal = Path(f"{killed}-wal")
    flip(wal, at=max(20, int(wal.stat().st_size * share) + 40))

    found, notes = read_and_fill_again(killed)

    assert len(found) == ROWS or notes


def test_p08_a_wal_that_had_just_begun_anew_is_no_damage(path, tmp_path):
    copied = tmp_path / "copy"

    def copy(number):
        if number == ROWS - 1:
            with sqlite3.connect(path) as other:
                other.execute("PRAGMA wal_checkpoint(RESTART)")
            other.close()
            for ending in ("", "-wal"):
                shutil.copy(f"{path}{ending}", f"{copied}{ending}")
        if number == ROWS:
            begun = Path(f"{path}-wal").read_bytes()[:32]
            frames = Path(f"{copied}-wal").read_bytes()[32:]
            Path(f"{copied}-wal").write_bytes(begun + frames)

    fill_store(path, range(ROWS + 1), saved=copy)

    assert read_answers(copied, range(ROWS)) == (ALL, [])


def test_p08_a_spoiled_answer_is_asked_again_and_the_others_kept(filled):
    filled.write_bytes(filled.read_bytes().replace(b"Write it", b"Write iT", 1))

    found, notes = read_and_fill_again(filled)

    assert len(found) == ROWS - 1
    assert "1 spoiled answer" in notes[0]


def test_p08_a_crash_in_the_middle_of_restoring_is_made_good(filled):
    """The damaged file is set aside, and nothing stands in its place yet."""
    filled.rename(f"{filled}.damaged-1")

    found, notes = read_and_fill_again(filled)

    assert found == ALL
    assert "missing" in notes[0]


@pytest.mark.parametrize("damage", ["flipped", "torn", "zeroed"])
def test_p22_a_run_after_damage_says_so_and_gives_the_same_bytes(bench, damage, capfd):
    with Study(bench.study()) as study:
        study.publish()
    expected, store = bench.manifest(), Path(bench.values()["answers"])
    paid = read_totals(store)["requests"]
    data = store.read_bytes()
    third = len(data) // 3
    spoiled = {
        "flipped": data[:third]
        + bytes(byte ^ 0xFF for byte in data[third : third + 4096])
        + data[third + 4096 :],
        "torn": data[:-10_000],
        "zeroed": bytes(8192) + data[8192:],
    }
    store.write_bytes(spoiled[damage])
    shutil.rmtree(bench.out.path)
    capfd.readouterr()

    with Study(bench.study()) as study:
        study.publish()

    assert bench.manifest() == expected
    assert "answers.sqlite was damaged" in capfd.readouterr().out
    assert read_totals(store)["requests"] == paid


def test_p16_what_was_saved_is_on_disk_before_save_returns(path, tmp_path):
    copy = tmp_path / "copy" / "answers.sqlite"
    copy.parent.mkdir()
    copied = []

    def copy_and_read(number):
        for ending in ("", "-wal"):
            shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
        copied.append(set(read_answers(copy, range(5))[0]))

    fill_store(path, range(5), saved=copy_and_read)

    assert copied == [set(range(number + 1)) for number in range(5)]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_p16_every_save_is_synced(path, tmp_path):
    log = tmp_path / "calls"
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(log), sys.executable, "-c", FILLING]

    environ = os.environ | {"PYTHONPATH": str(TESTS)}
    subprocess.run([*command, str(path), "0", "10"], check=True, timeout=60, env=environ)

    assert log.read_text().count("sync(") >= 10


def test_p16_a_kill_loses_nothing_that_was_told(path):
    for first in range(0, 500, 100):
        process = start_python(FILLING, path, first, 100_000, stdout=subprocess.PIPE, text=True)
        told = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.communicate()[0].split()]

        found, notes = read_answers(path, told)

        assert len(found) == len(told)
        assert notes == []


def version_of(store):
    connection = sqlite3.connect(store)
    ((version,),) = connection.execute("PRAGMA user_version")
    connection.close()
    return version


def test_p18_a_newer_store_is_refused_in_one_line(filled):
    connection = sqlite3.connect(filled)
    connection.execute(f"PRAGMA user_version={version_of(filled) + 1}")
    connection.close()

    with pytest.raises(Failed, match=r"newer version .*; upgrade") as caught:
        read_answers(filled, [0])

    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_p18_a_store_of_each_released_version_is_read(filled):
    assert [store.stem for store in RELEASED] == [f"answers-v{n}" for n in range(1, version_of(filled) + 1)]


@pytest.mark.parametrize("store", RELEASED, ids=lambda store: store.stem)
def test_p18_answers_of_a_released_version_are_not_asked_again(path, store):
    shutil.copyfile(store, path)

    assert read_answers(path, [1]) == ({1: ("Write it",)}, [])


def test_p19_the_packages_version_stands_nowhere_in_the_store(filled):
    assert importlib.metadata.version("llmtwin-data").encode() not in filled.read_bytes()
