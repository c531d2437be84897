"""Forgetting: what goes, what is listed, what stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import document
from published_pairs import SUBJECTS, ledger_of, make_pair, publish
from running import load
from store_records import Asked, answer, paid

from llmtwin_data.answers import AnswerStore
from llmtwin_data.checks import check_run
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder
from llmtwin_data.lineage import Origin, forget
from llmtwin_data.pipeline import make_dataset
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


@pytest.fixture
def study(bench):
    """Give the bench a collection of three authors, each post with a link."""
    rows = [
        {"id": n, "cleaned_content": document(n), "author_id": f"author-{n % 3}", "type": "posts"}
        | {"link": f"https://example.org/{n}"}
        for n in range(24)
    ]
    load(bench.folder / "authors", rows, file=bench.folder / "authors.jsonl")
    return bench.settings(qdrant=str(bench.folder / "authors"))


def ask(study):
    """Publish this study; return its ledger, and how many requests its store holds."""
    ledger = make_dataset(study, environ={})
    with AnswerStore(Path(study.answers)) as answers:
        return ledger, answers.totals()["requests"]


@pytest.mark.parametrize("name", ["author", "link", "content_id"])
def test_the_same_study_again_asks_nothing_and_no_file_of_its_dataset_holds_the_text(bench, study, name):
    before, requests = ask(study)
    value = before[before.state == "accepted"].iloc[0][name]
    of_it = before[before[name] == value]
    with AnswerStore(Path(study.answers)) as answers:
        done = forget(answers, [bench.out.path], Origin(**{name: value}))

    after, requests_then = ask(study)

    assert done.rows == {bench.out.path: sum(of_it.state == "accepted")}
    assert requests_then == requests
    held = b"".join(file.read_bytes() for file in bench.out.dataset.rglob("*") if file.is_file())
    assert not any(text.encode() in held for text in of_it.content)
    forgotten = after[after.content_id.isin(of_it.content_id)]
    assert set(forgotten.state + ": " + forgotten.reason) == {"skipped: forgotten"}
    assert sum(after.state == "accepted") == sum(before.state == "accepted") - sum(of_it.state == "accepted")
    assert check_run(bench.out.path) == []


def test_run_folders_are_left_as_they_are(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}

    done = forget(store, [tmp_path / "run"], Origin(author="author-1"))

    assert done.rows == {tmp_path / "run": 3}
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "named", [{"link": "https://example.org/4"}, {"content_id": "id-4"}], ids=["link", "content"]
)
def test_a_link_or_a_content_goes_alone(tmp_path, store, named):
    pairs = distinct(9)
    store.save(questions=[asked(pair) for pair in pairs], answers=[answer(asked(pair)) for pair in pairs])

    done = forget(store, [], Origin(**named))

    assert done.store.text_sha256 == {text_sha256(pairs[4].content)}
    assert store.answered([asked(pair).key for pair in pairs]) == {
        asked(pair).key for pair in pairs if pair is not pairs[4]
    }


def test_rows_that_quote_twenty_words_are_counted_too(tmp_path, store):
    quoting = make_pair(8, f"As a friend wrote: {LONG} I agree.")
    in_instruction = make_pair(7, "Something else.", instruction=f"Answer this: {LONG}", author="author-2")
    publish(tmp_path / "run", [make_pair(1, LONG), make_pair(3), quoting, in_instruction], test=1)

    done = forget(store, [tmp_path / "run"], Origin(author="author-1"))

    assert done.rows == {tmp_path / "run": 3}


def test_what_still_shows_it_is_listed_with_what_to_do(tmp_path, store):
    older, newer = tmp_path / "posts/20260101T000000Z", tmp_path / "posts/20260201T000000Z"
    for run in (older, newer):
        publish(run, distinct(9))
        (run / "report.html").write_text("shows texts")

    done = forget(store, [older, newer], Origin(author="author-1"))

    assert done.rows == {older: 3, newer: 3}
    for run in (older, newer):
        assert f"{run}: dataset (3 rows), report.html may show or hold the texts" in done.elsewhere
    assert any("posts-instruct-dataset-files" in line for line in done.elsewhere)
    assert "6 rows in 2 datasets are of it or quote it: run the same study again" in str(done)


def test_a_folder_that_does_not_say_what_it_read_is_listed(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    spool = tmp_path / "looked" / ".work" / "chunks.jsonl"
    spool.parent.mkdir(parents=True)
    spool.write_text(f'{{"author": "author-1", "text": "{LONG}"}}\n')

    done = forget(store, [tmp_path / "run", tmp_path / "looked"], Origin(author="author-1"))

    assert f"{tmp_path / 'looked'}: .work/chunks.jsonl may show or hold the texts" in done.elsewhere


def test_a_run_that_held_nothing_of_it_is_not_counted(tmp_path, store):
    publish(tmp_path / "run", distinct(3))
    store.save(questions=[Asked(LONG, author="somebody")])

    assert forget(store, [tmp_path / "run"], Origin(author="somebody")).rows == {}


def test_forgetting_twice_changes_nothing_more(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    forget(store, [tmp_path / "run"], Origin(author="author-1"))
    before = store.forgotten_hashes()

    again = forget(store, [], Origin(author="author-1"))

    assert (again.store.keys, again.store.requests, store.forgotten_hashes()) == (frozenset(), 0, before)


def test_the_store_is_told_the_texts(tmp_path, store):
    publish(tmp_path / "run", distinct(9))

    done = forget(store, [tmp_path / "run"], Origin(content_id="id-4"))

    assert len(done.store.text_sha256) == 1
    assert done.store.text_sha256 <= store.forgotten_hashes()


def asked(pair) -> Asked:
    place = {"content_id": pair.content_id, "collection": pair.collection, "author": pair.author}
    place["link"] = pair.link
    return Asked(pair.content, start=pair.start, end=pair.end, **place)


def test_a_store_of_trials_beside_it_is_named(tmp_path, store):
    other = tmp_path / "answers.batch1.sqlite"
    AnswerStore(other).close()
    store.save(questions=[asked(make_pair(1))])

    done = forget(store, [], Origin(content_id="id-1"))

    assert [line for line in done.elsewhere if "another store" in line] == [
        f"{other}: another store; forget with --answers {other} as well"
    ]


def test_reviews_beside_the_store_forget_too(tmp_path, store):
    pairs = distinct(9)
    questions = [asked(pair) for pair in pairs]
    store.save(requests=[paid(1, *questions)], questions=questions, answers=[answer(q) for q in questions])
    reviews = tmp_path / "answers.reviews.jsonl"
    for pair in pairs:
        save_review(reviews, Review(pair.id, "accept", pair.instruction))
    quoting = Review(pairs[2].id, "edit", "Write.", " ".join(["Say:", *pairs[1].content.split()[5:30]]))
    save_review(reviews, quoting)

    done = forget(store, [], Origin(author="author-1"), reviews=reviews)

    gone = [pair.content.split() for pair in pairs if pair.author == "author-1"]
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    runs = [" ".join(words[n : n + 20]).encode() for words in gone for n in range(21)]
    assert (len(gone), done.reviews, any(run in held for run in runs)) == (3, 4, False)
    assert " ".join(pairs[0].content.split()[:20]).encode() in held
    assert [review.pair_id for review in read_reviews(reviews)] == [
        p.id for p in pairs if p.author != "author-1"
    ]


def test_a_run_that_published_nothing_of_it_is_listed_as_well(tmp_path, store):
    pairs = distinct(9)
    store.save(questions=[asked(pairs[1])])
    run = tmp_path / "gated"
    publish(run, pairs[3:], others=ledger_of(pairs[1:2], "rejected", "copied"), test=1)
    (run / "labels.jsonl").write_text("{}")

    done = forget(store, [run], Origin(content_id="id-1"))

    assert f"{run}: labels.jsonl may show or hold the texts" in done.elsewhere


def test_a_rejected_copy_does_not_come_back_in_its_place(tmp_path, store):
    wanted, copy, other = make_pair(1, LONG), make_pair(2, f"{LONG} Good night."), make_pair(3)
    store.save(questions=[asked(pair) for pair in (wanted, copy, other)])

    done = forget(store, [], Origin(content_id="id-1"))

    assert done.store.text_sha256 == {text_sha256(pair.content) for pair in (wanted, copy)}
    assert done.store.text_sha256 <= store.forgotten_hashes()


def test_another_store_that_a_run_was_made_with_is_named(tmp_path, store):
    other = tmp_path / "other.sqlite"
    AnswerStore(other).close()
    publish(tmp_path / "run", distinct(9))
    RunFolder(tmp_path / "run").update(params={"answers": str(other)})

    done = forget(store, [tmp_path / "run"], Origin(author="author-1"))

    assert f"{other}: the answers that {tmp_path / 'run'} was made of; forget with --answers" in str(done)


def test_what_is_left_elsewhere_is_said_once(tmp_path, store):
    runs = [tmp_path / "posts/20260101T000000Z", tmp_path / "posts/20260201T000000Z"]
    for run in runs:
        publish(run, distinct(9))

    told = str(forget(store, runs, Origin(author="author-1"))).split("\n")

    assert len([line for line in told if "Comet" in line]) == 1


def test_an_author_s_number_is_no_other_source_s(store, namesakes):
    store.save(questions=[asked(make_pair(5, "Another text.", content_id="5", author="theirs"))])

    done = forget(store, namesakes, Origin(author="theirs"))

    assert done.rows == {}
    marks = forget_marks(author="me", link="", collection="cleaned_posts", content_id="5")
    assert marks.isdisjoint(store.forgotten_hashes())


def test_nothing_named_is_refused(tmp_path, store):
    with pytest.raises(ParamsError, match="expected --author, --link or --content, and one"):
        forget(store, [tmp_path], Origin())


@pytest.mark.parametrize(
    "named", [{"author": "x"}, {"link": "x"}, {"content_id": "x"}], ids=["author", "link", "content"]
)
def test_what_is_known_nowhere_is_refused_and_leaves_no_mark(tmp_path, store, named):
    publish(tmp_path / "run", distinct(3))

    with pytest.raises(ParamsError, match="nothing is known under 'x'"):
        forget(store, [tmp_path / "run"], Origin(**named))

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
        forget(store, namesakes, Origin(content_id="5"))

    told = str(refused.value)
    assert all(str(run) in told for run in namesakes)
    assert "My words, not" in told
    assert "--runs RUN_DIR" in told
    assert store.forgotten_hashes() == frozenset()


def test_a_named_run_says_which_of_two_is_meant(store, namesakes):
    mine = namesakes[1]

    done = forget(store, namesakes, Origin(content_id="5"), named=[mine])

    assert done.rows == {mine: 1}
    assert [row[4] for row in store.origins(content_id="5")] == ["The demo's own words."]


def test_a_collection_says_which_of_two_is_meant(tmp_path, store):
    runs = [tmp_path / "posts", tmp_path / "articles"]
    for run in runs:
        pairs = numbered(run, f"Words of {run.name}.", collection=f"cleaned_{run.name}")
        store.save(questions=[asked(pairs[0])])
    with pytest.raises(ParamsError, match="--collection NAME"):
        forget(store, runs, Origin(content_id="5"))

    done = forget(store, runs, Origin(content_id="5", collection="cleaned_posts"))

    assert done.rows == {runs[0]: 1}
    assert "Words of articles." in [row[4] for row in store.origins(content_id="5")]


def test_two_versions_of_one_content_are_one(tmp_path, store):
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        numbered(run, f"The {run.name} wording.")

    assert forget(store, runs, Origin(content_id="5")).rows == dict.fromkeys(runs, 1)


def test_what_was_looked_at_is_told(store, namesakes):
    told = str(forget(store, namesakes, Origin(author="author-1"))).splitlines()

    assert told[-1] == ("run folders looked at: 2; those outside runs/ only if --runs names them")
