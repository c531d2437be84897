import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_records import Asked, Named, answer, fill, long_text, paid

from llmtwin_data.answers import SCHEMA_VERSION, AnswerStore, Origin, StoredBatch, backup_of
from llmtwin_data.errors import DiskFailed, ParamsError, RunLocked
from llmtwin_data.texts import forget_marks, text_sha256

TESTS = Path(__file__).parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def store(path):
    with AnswerStore(path) as opened:
        yield opened


def test_ten_thousand_keys_are_found(store):
    questions = [Asked(f"text {number}") for number in range(10_000)]
    store.save(answers=[answer(question) for question in questions])

    assert len(store.answers([question.key for question in questions])) == 10_000


def test_a_failed_answer_gives_way_and_a_good_one_stays_whoever_answers_again(store):
    question = Asked("a text")
    store.save(answers=[answer(question, state="failed", reason="refused")])
    store.save(answers=[answer(question, "first")])

    store.save(answers=[answer(question, "second"), answer(question, state="failed", reason="refused")])

    assert store.answers([question.key])[question.key].values == ("first",)


def test_a_save_is_all_or_nothing(store):
    question = Asked("a text")
    unstorable = answer(question, model=b"no text")

    with pytest.raises(TypeError):
        store.save(requests=[paid(1, question)], answers=[unstorable])

    assert store.totals()["requests"] == 0
    store.save(answers=[answer(question)])


def test_lone_surrogates_and_nul_do_not_stop_a_save(store):
    question = Asked("a text")
    store.save(requests=[paid(1, question, raw="\ud800 raw")], answers=[answer(question, "a\ud800b\0c")])

    assert store.answers([question.key])[question.key].values == ("a?b\0c",)


def test_odd_numbers_do_not_stop_a_save(store):
    store.save(requests=[paid(1, Asked("x"), prompt_tokens=10**30, cost_usd=float("nan"))])

    assert (store.totals()["prompt_tokens"], store.totals()["cost_unknown"]) == (0, 1)


def test_threads_share_a_store(store):
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda n: fill(store, range(n * 20, n * 20 + 20)), range(5)))

    assert store.totals()["answers"] == {"ok": 100}


def test_batches_are_found_by_state(store):
    store.save_batch(StoredBatch("batch_1", "https://e/v1", "waiting", "{}", at="2026-01-01"))
    store.save_batch(StoredBatch("batch_2", "https://e/v1", "waiting", "{}", at="2026-01-02"))
    store.save_batch(StoredBatch("batch_1", "https://e/v1", "collected", "{}", at="2026-01-01"))

    assert [batch.id for batch in store.batches()] == ["batch_1", "batch_2"]
    assert [batch.id for batch in store.batches(state="waiting")] == ["batch_2"]
    assert store.batches(endpoint="https://other/v1") == []


def test_a_trace_rebuilds_the_prompt(store):
    questions = [Asked("first text"), Asked("second text", content_id="2")]
    store.save(
        requests=[paid(1, *questions)],
        questions=questions,
        answers=[answer(question) for question in questions],
        recipes=[Named()],
    )

    trace = store.trace(questions[1].key)

    prompt = "Write one each.\nContent number 1\nfirst text\nContent number 2\nsecond text"
    assert trace.messages == [{"role": "user", "content": prompt}]
    assert trace.texts == ("first text", "second text")
    assert store.trace("unknown") is None


def test_totals_tell_tokens_and_cost(store):
    fill(store, range(3))
    store.save(requests=[paid(9, Asked("x"), outcome="malformed", cost_usd=None)])

    totals = store.totals()

    assert totals["outcomes"] == {"malformed": 1, "ok": 3}
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (400, 80)
    assert (round(totals["cost_usd"], 6), totals["cost_unknown"]) == (0.03, 1)
    assert totals["models"]["m"]["ok"] == 3


def test_forgetting_leaves_no_run_of_twenty_words(tmp_path):
    path = tmp_path / "answers[1].sqlite"  # as a pattern it is another name
    with AnswerStore(path) as store:
        Path(f"{path}.damaged-1").write_text(long_text(1), encoding="utf-8")
        fill(store, range(20), author="ada")
        kept = fill(store, range(20, 40), author="bob")
        quoting = Asked("Bob quotes: " + long_text(3), content_id="77", author="bob")
        store.save(questions=[quoting], answers=[answer(quoting, long_text(4))])

        report = store.forget(Origin(author="ada"))

        files = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert store.answers(kept).keys() == set(kept)
    assert len(report.places) == 20
    assert windows_in(files, range(20)) == 0
    assert windows_in(files, range(20, 40)) == 20 * 41


def windows_in(data, numbers):
    words = [long_text(number).split() for number in numbers]
    runs = (" ".join(text[n : n + 20]).encode() for text in words for n in range(41))
    return sum(run in data for run in runs)


def test_forgetting_one_of_a_batch_takes_the_whole_reply_and_keeps_the_mates_answer(store):
    gone, kept = Asked(long_text(1), author="ada"), Asked(long_text(2), content_id="2", author="bob")
    store.save(requests=[paid(1, gone, kept)], questions=[gone, kept], answers=[answer(gone), answer(kept)])

    store.forget(Origin(author="ada"))

    trace = store.trace(kept.key)
    assert store.answers([kept.key]) == {kept.key: answer(kept)}
    assert trace.texts == (None, kept.text)
    assert f"[forgotten] {text_sha256(gone.text)}" in trace.messages[0]["content"]
    assert trace.request.raw == "[forgotten]"
    assert store.totals()["cost_usd"] == 0.01


def test_an_answer_that_quotes_a_forgotten_text_goes_with_its_reply(store):
    gone, mate = Asked(long_text(1), author="ada"), Asked(long_text(2), content_id="2", author="bob")
    quoting = answer(mate, f"Say: {gone.text}", request_id="request-2")
    requests = [paid(1, gone), paid(2, mate, raw=f"1. Say: {gone.text}")]
    store.save(requests=requests, questions=[gone, mate], answers=[answer(gone), quoting])

    store.forget(Origin(author="ada"))

    assert store.answers([gone.key, mate.key]) == {}
    assert store.totals()["requests"] == 2
    assert windows_in(b"".join(file.read_bytes() for file in store.path.parent.iterdir()), [1]) == 0


def test_what_is_forgotten_is_known_by_its_hashes(store):
    fill(store, [1], author="ada")

    store.forget(Origin(content_id="1"), texts=["never stored"])

    forgotten = store.forgotten_hashes()
    assert forget_marks(author="bob", link="", collection="cleaned_posts", content_id="1") & forgotten
    assert not forget_marks(author="ada", link="", collection="cleaned_posts", content_id="2") & forgotten
    assert {text_sha256(long_text(1)), text_sha256("never stored")} <= forgotten


def test_a_forgotten_text_is_not_stored_again(path):
    with AnswerStore(path) as store:
        fill(store, [1])
        store.forget(Origin(content_id="1"))
        fill(store, [1])

    assert windows_in(path.read_bytes(), [1]) == 0


def test_forgetting_waits_for_no_run(path, store):
    with AnswerStore(path) as other, pytest.raises(RunLocked):
        other.forget(Origin(author="ada"))

    assert store.forget(Origin(author="ada")).places == frozenset()


def test_claims_are_another_processs_once_they_are_let_go(store):
    with store.claims() as mine, store.claims() as theirs:
        assert (mine.take(["a", "b"]), theirs.take(["b", "c"])) == ({"a", "b"}, {"c"})
        mine.release()
        assert (theirs.take(["a"]), mine.take(["a", "b"]), theirs.take(["b"])) == ({"a"}, {"b"}, set())


def test_another_programs_database_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()

    with pytest.raises(ParamsError, match="another database"):
        AnswerStore(path)

    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(path):
    path.touch()

    with AnswerStore(path) as store:
        assert len(fill(store, [1])) == 1
        store.close()  # closing twice does no harm


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_p18_a_released_version_still_knows_the_requests_behind_its_answers(path, version):
    shutil.copyfile(TESTS / "data" / f"answers-v{version}.sqlite", path)
    question = Asked(long_text(1), content_id="1")

    with AnswerStore(path) as store:
        assert store.answers([question.key]) == {question.key: answer(question)}
        assert store.trace(question.key).request == paid(1, question)


def test_l50_a_store_of_before_keeps_its_answers_and_takes_hidden_tokens(path):
    shutil.copyfile(TESTS / "data" / "answers-v1.sqlite", path)
    old, new = Asked(long_text(1), content_id="1"), Asked(long_text(2), content_id="2")

    with AnswerStore(path) as store:
        request = paid(2, new, reasoning_tokens=700)
        store.save(requests=[request], answers=[answer(new, request_id=request.id)], questions=[new])
    with AnswerStore(path) as store:
        assert store.answers([old.key, new.key]).keys() == {old.key, new.key}
        assert store.trace(new.key).request == request
        assert store.trace(old.key).request.reasoning_tokens is None


DAMAGED = {
    "text": b"my notes\n" * 1000,
    "store": (TESTS / "data" / "answers-v2.sqlite").read_bytes()[:10_000],
}


@pytest.mark.parametrize("before", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_store_or_damaged_and_has_no_backup_is_refused_and_kept(path, before):
    path.write_bytes(before)

    with pytest.raises(DiskFailed, match="no good backup; move it away"):
        AnswerStore(path)

    assert path.read_bytes() == before


def test_closing_backs_up_what_was_saved(path):
    with AnswerStore(path) as store:
        first = fill(store, [1])
        fill(store, range(2, 20))
    before = backup_of(path).read_bytes()
    with AnswerStore(path) as store:
        store.answers(first)
    path.write_bytes(b"")

    with AnswerStore(path) as store:
        assert "the backup of" in store.notes[0]
        assert store.totals()["answers"] == {"ok": 19}
    assert backup_of(path).read_bytes() == before


def test_a_backup_is_made_while_asking_and_again_after_ten_minutes(path, store):
    fill(store, [1])
    assert answers_in(backup_of(path)) == 1
    fill(store, [2])
    assert answers_in(backup_of(path)) == 1
    long_ago = path.stat().st_mtime - 601
    os.utime(backup_of(path), (long_ago, long_ago))

    fill(store, [3])

    assert answers_in(backup_of(path)) == 3


def answers_in(file):
    with sqlite3.connect(f"file:{file}?immutable=1", uri=True) as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_a_process_that_ends_without_closing_backs_up(path):
    script = f"""
from pathlib import Path
from store_records import fill
from llmtwin_data.answers import AnswerStore
store = AnswerStore(Path({str(path)!r}))
fill(store, range(5))
"""

    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=TESTS)

    assert answers_in(backup_of(path)) == 5


def test_a_damaged_backup_takes_nobody_s_place(path):
    with AnswerStore(path) as store:
        fill(store, range(20))
    for file in (path, backup_of(path)):
        os.truncate(file, 10_000)

    with pytest.raises(DiskFailed, match="no good backup"):
        AnswerStore(path)
