"""Forgetting: what goes, what is listed, what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_pairs import SUBJECTS, ledger_of, make_pair, publish
from store_records import Asked, answer, paid

from llmtwin_data.answers import AnswerStore
from llmtwin_data.checks import check_run
from llmtwin_data.datasets import read_ledger
from llmtwin_data.errors import ParamsError, RunLocked
from llmtwin_data.folders import RunFolder, RunLock
from llmtwin_data.lineage import Wanted, forget, newest_of_each
from llmtwin_data.reviews import Review, read_reviews, save_review
from llmtwin_data.texts import forget_marks, text_sha256

LONG = (
    "The night train crossed the border at four, and nobody on board was awake to see the river freeze, "
    "except the cook, who had promised his daughter a letter about ice."
)


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


def distinct(count: int) -> list:
    """Make posts that share no 20 words."""
    return [make_pair(n, " ".join(f"{SUBJECTS[n % 10]}{n}word{i}" for i in range(40))) for n in range(count)]


def text_of(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.json*"))


def test_an_author_goes_out_of_the_newest_dataset(tmp_path, store):
    publish(tmp_path / "run", distinct(9))

    done = forget(store, [tmp_path / "run"], Wanted(author="author-1"))

    left = text_of(tmp_path / "run/dataset")
    assert (done.rows, done.quoting_rows, done.rewritten) == (3, 0, (tmp_path / "run",))
    gone = [pair.chunk.text.split() for pair in distinct(9) if pair.chunk.author == "author-1"]
    assert not any(word in left for words in gone for word in words)
    assert json.loads((tmp_path / "run/run.json").read_text())["totals"]["accepted"] == 6
    assert check_run(tmp_path / "run") == []


@pytest.mark.parametrize(
    "named", [{"link": "https://example.org/4"}, {"content": "id-4"}], ids=["link", "content"]
)
def test_a_link_or_a_content_goes_alone(tmp_path, store, named):
    publish(tmp_path / "run", distinct(9))

    assert forget(store, [tmp_path / "run"], Wanted(**named)).rows == 1
    assert "id-4" not in text_of(tmp_path / "run/dataset")
    assert check_run(tmp_path / "run") == []


def test_rows_that_quote_twenty_words_go_too(tmp_path, store):
    quoting = make_pair(8, f"As a friend wrote: {LONG} I agree.")
    in_instruction = make_pair(7, instruction=f"Answer this: {LONG}")
    publish(tmp_path / "run", [make_pair(1, LONG), make_pair(3), quoting, in_instruction], test=1)

    done = forget(store, [tmp_path / "run"], Wanted(author="author-1"))

    assert done.quoting_rows == 1
    assert "promised his daughter" not in text_of(tmp_path / "run/dataset")
    assert check_run(tmp_path / "run") == []


def test_ledger_rows_become_skipped_as_forgotten(tmp_path, store):
    second = make_pair(4, "More.", start=0)
    rejected = ledger_of([second], "rejected", "copied")
    publish(
        tmp_path / "run", [pair for pair in distinct(9) if pair.chunk.content_id != "id-4"], others=rejected
    )

    forget(store, [tmp_path / "run"], Wanted(content="id-2"))

    fates = {row.content_id: (row.state, row.reason) for row in read_ledger(tmp_path / "run/ledger.jsonl")}
    assert fates["id-2"] == ("skipped", "forgotten")
    assert fates["id-4"] == ("rejected", "copied")


def test_older_datasets_stay_and_are_listed_with_what_is_left(tmp_path, store):
    older, newer = tmp_path / "posts/20260101T000000Z", tmp_path / "posts/20260201T000000Z"
    for run in (older, newer):
        publish(run, distinct(9))
        (run / "report.html").write_text("shows texts")

    done = forget(store, [older, newer], Wanted(author="author-1"))

    assert done.rewritten == (newer,)
    assert done.contained == {older: 3, newer: 3}
    assert f"{older / 'dataset'}: an older dataset, 3 rows of it" in done.elsewhere
    assert f"{newer}: report.html may show or hold the texts" in done.elsewhere
    assert any("posts-instruct-dataset-files" in line for line in done.elsewhere)
    assert str(done).startswith("6 rows in 2 datasets; 0 more rows quoted them\n")


def test_a_folder_that_does_not_say_what_it_read_is_listed(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    spool = tmp_path / "looked" / ".work" / "chunks.jsonl"
    spool.parent.mkdir(parents=True)
    spool.write_text(f'{{"author": "author-1", "text": "{LONG}"}}\n')

    done = forget(store, [tmp_path / "run", tmp_path / "looked"], Wanted(author="author-1"))

    assert f"{tmp_path / 'looked'}: .work/chunks.jsonl may show or hold the texts" in done.elsewhere


def test_a_run_that_held_nothing_of_it_is_left_alone(tmp_path, store):
    publish(tmp_path / "run", distinct(3))
    before = (tmp_path / "run/dataset/manifest.json").read_bytes()
    store.save(questions=[Asked(LONG, author="somebody")])

    assert forget(store, [tmp_path / "run"], Wanted(author="somebody")).rewritten == ()
    assert (tmp_path / "run/dataset/manifest.json").read_bytes() == before


def test_forgetting_twice_changes_nothing_more(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    forget(store, [tmp_path / "run"], Wanted(author="author-1"))

    again = forget(store, [tmp_path / "run"], Wanted(author="author-1"))

    assert (again.rows, again.rewritten) == (0, ())


def test_the_store_is_told_the_texts(tmp_path, store):
    publish(tmp_path / "run", distinct(9))

    done = forget(store, [tmp_path / "run"], Wanted(content="id-4"))

    assert len(done.store.text_sha256) == 1
    assert done.store.text_sha256 <= store.forgotten_hashes()


def asked(pair) -> Asked:
    chunk = pair.chunk
    place = {"content_id": chunk.content_id, "collection": chunk.collection, "author": chunk.author}
    return Asked(chunk.text, start=chunk.start, end=chunk.end, **place)


def test_trials_and_reviews_beside_the_store_forget_too(tmp_path, store):
    pairs = distinct(9)
    with AnswerStore(tmp_path / "answers.batch1.sqlite") as trial:
        for each in (store, trial):
            questions = [asked(pair) for pair in pairs]
            each.save(
                requests=[paid(1, *questions)], questions=questions, answers=[answer(q) for q in questions]
            )
    reviews = tmp_path / "answers.reviews.jsonl"
    for pair in pairs:
        save_review(reviews, Review(pair.id, "accept", pair.instruction))
    quoting = Review(pairs[2].id, "edit", "Write.", " ".join(["Say:", *pairs[1].chunk.text.split()[5:30]]))
    save_review(reviews, quoting)

    done = forget(store, [], Wanted(author="author-1"), reviews=reviews)

    gone = [pair.chunk.text.split() for pair in pairs if pair.chunk.author == "author-1"]
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    runs = [" ".join(words[n : n + 20]).encode() for words in gone for n in range(21)]
    assert (len(gone), done.reviews, any(run in held for run in runs)) == (3, 4, False)
    assert " ".join(pairs[0].chunk.text.split()[:20]).encode() in held
    assert [review.pair_id for review in read_reviews(reviews)] == [
        p.id for p in pairs if p.chunk.author != "author-1"
    ]


def test_a_run_that_published_nothing_of_it_is_listed_as_well(tmp_path, store):
    pairs = distinct(9)
    store.save(questions=[asked(pairs[1])])
    run = tmp_path / "gated"
    publish(run, pairs[3:], others=ledger_of(pairs[1:2], "rejected", "copied"), test=1)
    (run / "labels.jsonl").write_text("{}")

    done = forget(store, [run], Wanted(content="id-1"))

    assert f"{run}: labels.jsonl may show or hold the texts" in done.elsewhere


def test_a_row_that_copies_a_rejected_text_goes_too(tmp_path, store):
    rejected = make_pair(1, f"{LONG} Good night.")
    store.save(questions=[asked(rejected)])
    kept = [make_pair(8, f"{LONG} Sleep well."), *distinct(4)[2:]]
    publish(tmp_path / "run", kept, others=ledger_of([rejected], "rejected", "near_duplicate"), test=1)

    done = forget(store, [tmp_path / "run"], Wanted(content="id-1"))

    assert (done.rows, done.quoting_rows) == (0, 1)
    assert "promised his daughter" not in text_of(tmp_path / "run/dataset")
    assert check_run(tmp_path / "run") == []


def test_a_rejected_copy_does_not_come_back_in_its_place(tmp_path, store):
    wanted, copy, other = make_pair(1, LONG), make_pair(2, f"{LONG} Good night."), make_pair(3)
    store.save(questions=[asked(pair) for pair in (wanted, copy, other)])

    done = forget(store, [], Wanted(content="id-1"))

    assert done.store.text_sha256 == {text_sha256(pair.chunk.text) for pair in (wanted, copy)}
    assert done.store.text_sha256 <= store.forgotten_hashes()


def test_another_store_that_a_run_was_made_with_is_named(tmp_path, store):
    other = tmp_path / "other.sqlite"
    AnswerStore(other).close()
    publish(tmp_path / "run", distinct(9))
    RunFolder(tmp_path / "run").update(params={"answers": str(other)})

    done = forget(store, [tmp_path / "run"], Wanted(author="author-1"))

    assert f"{other}: the answers that {tmp_path / 'run'} was made of; forget with --answers" in str(done)


def test_what_is_left_elsewhere_is_said_once(tmp_path, store):
    runs = [tmp_path / "posts/20260101T000000Z", tmp_path / "posts/20260201T000000Z"]
    for run in runs:
        publish(run, distinct(9))

    told = str(forget(store, runs, Wanted(author="author-1"))).split("\n")

    assert len([line for line in told if "Comet" in line]) == 1


def test_nothing_named_is_refused(tmp_path, store):
    with pytest.raises(ParamsError, match="expected --author, --link or --content, and one"):
        forget(store, [tmp_path], Wanted())


def test_a_folder_in_use_is_left_alone(tmp_path, store):
    publish(tmp_path / "run", distinct(9))

    with RunLock(RunFolder(tmp_path / "run")), pytest.raises(RunLocked):
        forget(store, [tmp_path / "run"], Wanted(author="author-1"))


def test_the_newest_of_each_params_file_is_found(tmp_path):
    names = ["posts/20260101T000000Z", "posts/20260301T000000Z", "articles/20260201T000000Z", "out", "other"]

    found = newest_of_each([RunFolder(tmp_path / name) for name in names])

    assert {str(run.path.relative_to(tmp_path)) for run in found} == {*names[1:]}


@pytest.mark.parametrize(
    "named", [{"author": "x"}, {"link": "x"}, {"content": "x"}], ids=["author", "link", "content"]
)
def test_what_is_known_nowhere_is_refused_and_leaves_no_mark(tmp_path, store, named):
    publish(tmp_path / "run", distinct(3))

    with pytest.raises(ParamsError, match="nothing is known under 'x'"):
        forget(store, [tmp_path / "run"], Wanted(**named))

    assert store.forgotten_hashes() == frozenset()


def numbered(folder: Path, text: str, *, qdrant: str = "", collection: str = "cleaned_posts") -> list:
    """Publish a run of a source of its own, whose content 5 is this text."""
    pairs = [make_pair(5, text, content_id="5", collection=collection), *distinct(3)]
    publish(folder, pairs, test=1)
    RunFolder(folder).update(params={"qdrant": qdrant})
    return pairs


@pytest.fixture
def namesakes(tmp_path, store):
    """Give two runs that read other texts under the id 5, both stored."""
    runs = [tmp_path / "demo", tmp_path / "mine"]
    for run, text in zip(runs, ("The demo's own words.", "My words, not for everyone."), strict=True):
        store.save(questions=[asked(numbered(run, text, qdrant=run.name)[0])])
    return runs


def test_an_id_that_two_sources_have_is_not_forgotten_but_listed(store, namesakes):
    with pytest.raises(ParamsError) as refused:
        forget(store, namesakes, Wanted(content="5"))

    told = str(refused.value)
    assert all(str(run) in told for run in namesakes)
    assert "My words, not" in told
    assert "--runs RUN_DIR" in told
    assert store.forgotten_hashes() == frozenset()


def test_a_named_run_says_which_of_two_is_meant(store, namesakes):
    demo, mine = namesakes

    done = forget(store, namesakes, Wanted(content="5"), named=[mine])

    assert (done.rows, done.rewritten) == (1, (mine,))
    assert "My words" not in text_of(mine / "dataset")
    assert "The demo's own" in text_of(demo / "dataset")
    assert [row[4] for row in store.origins(content_id="5")] == ["The demo's own words."]
    assert check_run(mine) == check_run(demo) == []


def test_a_collection_says_which_of_two_is_meant(tmp_path, store):
    runs = [tmp_path / "posts", tmp_path / "articles"]
    for run in runs:
        pairs = numbered(run, f"Words of {run.name}.", collection=f"cleaned_{run.name}")
        store.save(questions=[asked(pairs[0])])
    with pytest.raises(ParamsError, match="--collection NAME"):
        forget(store, runs, Wanted(content="5"))

    done = forget(store, runs, Wanted(content="5", collection="cleaned_posts"))

    assert done.rewritten == (runs[0],)
    assert "Words of articles." in text_of(runs[1] / "dataset")
    assert "Words of articles." in [row[4] for row in store.origins(content_id="5")]


def test_two_versions_of_one_content_are_one(tmp_path, store):
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        numbered(run, f"The {run.name} wording.")

    assert forget(store, runs, Wanted(content="5")).rewritten == tuple(sorted(runs))


def test_an_author_s_number_is_no_other_source_s(tmp_path, store, namesakes):
    theirs = asked(make_pair(5, "Another text.", content_id="5", author="theirs"))
    store.save(questions=[theirs])

    done = forget(store, namesakes, Wanted(author="theirs"))

    assert done.rewritten == ()
    marks = forget_marks(author="me", link="", collection="cleaned_posts", content_id="5")
    assert marks.isdisjoint(store.forgotten_hashes())


def test_what_was_looked_at_is_told(store, namesakes):
    told = str(forget(store, namesakes, Wanted(author="author-1"))).splitlines()

    assert told[-1] == ("run folders looked at: 2; those outside runs/ only if --runs names them")
