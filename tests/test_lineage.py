"""A row traced to its origin, what changed between two datasets, and what is forgotten."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import document
from published_pairs import SUBJECTS, ledger_of, make_pair, publish
from running import load
from store_records import Asked, answer, paid

from llmtwin_data.answers import Answer, AnswerStore, Origin, PaidRequest
from llmtwin_data.checks import check_run
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.folders import RunFolder
from llmtwin_data.lineage import (
    count_changes,
    describe_changes,
    diff_datasets,
    forget,
    previous_sides,
    read_version,
    remember,
    trace,
)
from llmtwin_data.params import Params
from llmtwin_data.pipeline import make_dataset
from llmtwin_data.prompts import Question, Recipe, Template, batch_boundary, build_messages
from llmtwin_data.reviews import Review, read_reviews, save_review
from llmtwin_data.texts import forget_marks, text_sha256

TEMPLATE = Template(
    "grounded", "instructions", "You name tasks.", "Give $count for:\n$contents", (), "cd" * 32
)
RECIPE = Recipe("embedded", "scripted", TEMPLATE, "posts")
RAW = '{"instructions": [{"content": 1, "instruction": "Write part 0 on bread."}]}'


@dataclass
class Batch:
    """A batch of pairs as the engine would have stored it."""

    pairs: list

    @property
    def texts(self) -> list[str]:
        return [pair.content for pair in self.pairs]

    @property
    def messages(self) -> list[dict[str, str]]:
        return build_messages(RECIPE, self.texts, boundary=batch_boundary(self.texts))

    def save(self, store: AnswerStore) -> None:
        skeleton = json.dumps(self.messages, ensure_ascii=False)
        for text in self.texts:
            inner = json.dumps(text, ensure_ascii=False)[1:-1]
            skeleton = skeleton.replace(inner, "{{sha256:" + text_sha256(text) + "}}")
        request = PaidRequest(
            "request-1", RECIPE.sha256, tuple(map(text_sha256, self.texts)), skeleton, RAW, 200, "ok", 1,
            90, 12, 0.0001, "scripted", at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        answers = [
            Answer(pair.answer_key, "ok", (pair.instruction,), model="scripted", request_id="request-1")
            for pair in self.pairs
        ]
        store.save(requests=[request], answers=answers, questions=self.questions(), recipes=[RECIPE])

    def questions(self) -> list[Question]:
        return [
            Question(c.content, RECIPE, c.content_id, c.collection, c.start, c.end, c.author, c.link)
            for c in self.pairs
        ]


def keyed(number: int, text: str = ""):
    """Make a pair whose answer key is the one that the engine would give it."""
    (question,) = Batch([make_pair(number, text)]).questions()
    return make_pair(number, text, answer_key=question.key)


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture
def batch(store, tmp_path):
    batch = Batch([keyed(0, 'Bread "rises"\nslowly.\u2028Always.'), keyed(1), keyed(2)])
    batch.save(store)
    publish(tmp_path / "run", batch.pairs, test=0)
    return batch


def test_origin_prompt_byte_for_byte_request_and_measures_are_told(batch, store, tmp_path):
    told = trace(batch.pairs[1].id, [tmp_path / "run"], store)
    lines = told.split("\n")

    for message in batch.messages:
        assert f"== prompt, {message['role']}\n{message['content']}\n" in told
    assert f"== raw answer\n{RAW}\n" in told
    assert lines[0] == f"row {batch.pairs[1].id} ({tmp_path / 'run'}, train)"
    assert lines[1].startswith("content cleaned_posts/id-1, characters 0 to ")
    expected = {"author author-1", "request request-1 2026-01-01T00:00:00Z", "this row's is content number 2"}
    assert expected | {"grounding 1.0"} <= {*lines}


def test_forgotten_batch_mates_are_marked(batch, store, tmp_path):
    store.forget(Origin(author="author-2"))

    told = trace(batch.pairs[0].id, [tmp_path / "run"], store)

    assert "1 of them forgotten since" in told
    assert text_sha256(batch.texts[2]) in told
    assert batch.texts[2] not in told
    assert batch.texts[1] in told


def test_a_row_of_another_store_is_traced_to_its_origin_only(batch, tmp_path):
    with AnswerStore(tmp_path / "other.sqlite") as other:
        told = trace(batch.pairs[0].id, [tmp_path / "run"], other)

    assert "request: not in this store of answers" in told
    assert "instruction 1: Write part 0 on bread." in told


def test_the_beginning_of_an_id_is_enough_if_it_is_long_and_one_row_s(batch, store, tmp_path, monkeypatch):
    row_id, runs = batch.pairs[1].id, [tmp_path / "run"]

    assert trace(row_id[:8], runs, store) == trace(row_id, runs, store)
    with pytest.raises(ParamsError, match="none of 1"):
        trace(row_id[:5], runs, store)
    with pytest.raises(ParamsError, match="found 'nope' in none of 2 datasets"):
        trace("nope", [*runs, tmp_path / "nowhere"], store)
    monkeypatch.setattr("llmtwin_data.lineage.SHORTEST_PREFIX", 0)
    with pytest.raises(ParamsError, match="several: "):
        trace("", runs, store)


PAIRS = [make_pair(number) for number in range(6)]


def test_contents_that_come_and_go_are_added_and_removed(tmp_path):
    publish(tmp_path / "a", PAIRS)
    publish(tmp_path / "b", [*PAIRS[1:], make_pair(9)])

    diff = diff_datasets(tmp_path / "a", tmp_path / "b/dataset/manifest.json").set_index("kind")

    assert (diff.id.added, diff.id.removed) == (make_pair(9).id, PAIRS[0].id)
    place = diff.loc["removed", ["collection", "content_id", "start", "end", "k"]]
    assert list(place) == ["cleaned_posts", "id-0", 0, PAIRS[0].end, 1]


def test_an_edited_content_is_changed_though_its_offsets_moved(tmp_path):
    publish(tmp_path / "a", PAIRS)
    edited = make_pair(0, "Notes on bread, second edition, with a word about salt.")
    publish(tmp_path / "b", [edited, make_pair(1, instruction="Another one."), *PAIRS[2:]])

    diff = diff_datasets(tmp_path / "a", tmp_path / "b")

    assert set(diff.what) == {"content", "instruction"}
    assert count_changes(diff) == {"added": 0, "removed": 0, "changed": 2, "moved": 0}
    assert set(diff.words) == {
        "[-Write part 1 on rivers.-]{+Another one.+}",
        "Notes on bread, [-part 0: what I learned in-]{+second edition, with+} a "
        "[-year of looking closely.-]{+word about salt.+}",
    }


def test_rows_whose_state_or_side_the_others_changed_are_moved(tmp_path):
    publish(tmp_path / "a", PAIRS, others=ledger_of([make_pair(8)], "rejected", "ungrounded"))
    others = ledger_of(PAIRS[:1], "rejected", "near_duplicate")
    publish(tmp_path / "b", [make_pair(8), *PAIRS[1:]], test=1, others=others)

    diff = diff_datasets(tmp_path / "a", tmp_path / "b")

    assert set(diff.kind) == {"moved"}
    assert list(diff[["content_id", "before", "after"]].itertuples(index=False, name=None)) == [
        ("id-0", "train", "rejected: near_duplicate"),
        ("id-4", "test", "train"),
        ("id-8", "rejected: ungrounded", "train"),
    ]


def test_the_printed_difference_counts_and_names(tmp_path):
    publish(tmp_path / "a", PAIRS)
    publish(tmp_path / "b", [make_pair(number) for number in range(40)])

    lines = describe_changes(diff_datasets(tmp_path / "a", tmp_path / "b")).split("\n")

    assert lines[0] == "added 34  removed 0  changed 0  moved 2"
    assert lines[-3] == "added    and 14 more"
    assert lines[-1].endswith("#1  test -> train")


def test_a_folder_without_a_dataset_or_its_rows_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"expected a manifest\.json"):
        diff_datasets(tmp_path, tmp_path)
    publish(tmp_path, PAIRS)
    (tmp_path / "dataset/train.jsonl").unlink()

    with pytest.raises(ParamsError, match=r"found no train\.jsonl"):
        read_version(tmp_path)


def test_what_was_published_before_is_compared_though_its_dataset_is_gone(tmp_path):
    settings, run = Params(answers=str(tmp_path / "answers.sqlite")), RunFolder(tmp_path / "run")
    first = publish(run.path, PAIRS, others=ledger_of([make_pair(8)], "rejected", "copied"))
    assert remember(settings, first, run, read_version(run.path)) == {}
    (kept,) = tmp_path.glob("published/*.rows")
    # As it was written before.
    fields = json.loads(kept.read_text())
    *rows, rejected = fields["rows"]
    kept.write_text(json.dumps(fields | {"rows": rows, "fates": [rejected[:6]]}))
    second = publish(run.path, PAIRS[:4])

    changes = remember(settings, second, run, read_version(run.path))

    assert (changes["against"], changes["removed"], changes["moved"]) == (first.sha256, 2, 2)
    kept.write_text("[]")
    with pytest.raises(DiskFailed, match=r"expected the version of a dataset.*move it away"):
        remember(settings, second, run, read_version(run.path))


@pytest.mark.parametrize(
    "named", ["", "dataset", "dataset/manifest.json"], ids=["run", "dataset", "manifest"]
)
def test_sides_are_kept_of_a_run_a_dataset_or_a_manifest(tmp_path, named):
    publish(tmp_path, PAIRS, test=2)

    sides = previous_sides(Params(previous=str(tmp_path / named)), "any")

    assert Counter(sides.values()) == {"train": len(PAIRS) - 2, "test": 2}


LONG = (
    "The night train crossed the border at four, and nobody on board was awake to see the river freeze, "
    "except the cook, who had promised his daughter a letter about ice."
)


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


def test_rows_that_quote_twenty_words_are_counted_too(tmp_path, store):
    quoting = make_pair(8, f"As a friend wrote: {LONG} I agree.")
    in_instruction = make_pair(7, "Something else.", instruction=f"Answer this: {LONG}", author="author-2")
    publish(tmp_path / "run", [make_pair(1, LONG), make_pair(3), quoting, in_instruction], test=1)

    done = forget(store, [tmp_path / "run"], Origin(author="author-1"))

    assert done.rows == {tmp_path / "run": 3}


def test_what_still_shows_it_is_listed_with_what_to_do_and_left_as_it_is(tmp_path, store):
    older, newer = tmp_path / "posts/20260101T000000Z", tmp_path / "posts/20260201T000000Z"
    for run in (older, newer):
        publish(run, distinct(9))
        (run / "report.html").write_text("shows texts")
    before = {file: file.read_bytes() for file in (tmp_path / "posts").rglob("*") if file.is_file()}

    done = forget(store, [older, newer], Origin(author="author-1"))

    assert done.rows == {older: 3, newer: 3}
    assert len(done.store.text_sha256) == 3
    assert done.store.text_sha256 <= store.forgotten_hashes()
    for run in (older, newer):
        assert f"{run}: dataset (3 rows), report.html may show or hold the texts" in done.elsewhere
    assert any("posts-instruct-dataset-files" in line for line in done.elsewhere)
    assert len([line for line in str(done).split("\n") if "Comet" in line]) == 1
    assert "6 rows in 2 datasets are of it or quote it: run the same study again" in str(done)
    assert str(done).endswith("folders looked at: 2; those outside runs/ only if --runs names them")
    assert {file: file.read_bytes() for file in (tmp_path / "posts").rglob("*") if file.is_file()} == before


def test_every_folder_that_may_still_show_it_is_listed(tmp_path, store):
    pairs = distinct(9)
    store.save(questions=[asked(pairs[1])])
    gated, unknown, other = tmp_path / "gated", tmp_path / "unknown", tmp_path / "other.sqlite"
    publish(gated, pairs[3:], others=ledger_of(pairs[1:2], "rejected", "copied"), test=1)
    (gated / "labels.jsonl").write_text("{}")
    AnswerStore(other).close()
    RunFolder(gated).update(params={"answers": str(other)})
    (unknown / ".work").mkdir(parents=True)
    (unknown / ".work/chunks.jsonl").write_text("{}")

    done = forget(store, [gated, unknown], Origin(content_id="id-1"))

    assert f"{gated}: labels.jsonl may show or hold the texts" in done.elsewhere
    assert f"{unknown}: .work/chunks.jsonl may show or hold the texts" in done.elsewhere
    assert f"{other}: the answers that {gated} was made of; forget with --answers" in str(done)


def test_forgetting_twice_changes_nothing_more(tmp_path, store):
    publish(tmp_path / "run", distinct(9))
    forget(store, [tmp_path / "run"], Origin(author="author-1"))
    before, reviews = store.forgotten_hashes(), tmp_path / "reviews.jsonl"
    reviews.write_text("[1]\n")  # no review, and nothing of it

    again = forget(store, [], Origin(author="author-1"), reviews=reviews)

    assert (again.store.keys, store.forgotten_hashes()) == (frozenset(), before)
    assert (again.reviews, reviews.read_text()) == (0, "[1]\n")


def asked(pair) -> Asked:
    place = {"content_id": pair.content_id, "collection": pair.collection, "author": pair.author}
    place["link"] = pair.link
    return Asked(pair.content, start=pair.start, end=pair.end, **place)


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


def test_a_rejected_copy_does_not_come_back_in_its_place(tmp_path, store):
    wanted, copy, other = make_pair(1, LONG), make_pair(2, f"{LONG} Good night."), make_pair(3)
    store.save(questions=[asked(pair) for pair in (wanted, copy, other)])

    done = forget(store, [], Origin(content_id="id-1"))

    assert done.store.text_sha256 == {text_sha256(pair.content) for pair in (wanted, copy)}
    assert done.store.text_sha256 <= store.forgotten_hashes()


def test_an_author_s_number_is_no_other_source_s(store, namesakes):
    store.save(questions=[asked(make_pair(5, "Another text.", content_id="5", author="theirs"))])

    done = forget(store, namesakes, Origin(author="theirs"))

    assert done.rows == {}
    marks = forget_marks(author="me", link="", collection="cleaned_posts", content_id="5")
    assert marks.isdisjoint(store.forgotten_hashes())


@pytest.mark.parametrize(
    "named",
    [{"author": "x"}, {"link": "x"}, {"content_id": "x"}, {}],
    ids=["author", "link", "content", "none"],
)
def test_what_is_known_nowhere_or_not_named_is_refused_and_leaves_no_mark(tmp_path, store, named):
    publish(tmp_path / "run", distinct(3))
    said = "nothing is known under 'x'" if named else "expected --author, --link or --content, and one"

    with pytest.raises(ParamsError, match=said):
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
    assert [row[4] for row in store.origins(Origin(content_id="5"))] == ["The demo's own words."]


def test_a_collection_says_which_of_two_is_meant(tmp_path, store):
    runs = [tmp_path / "posts", tmp_path / "articles"]
    for run in runs:
        pairs = numbered(run, f"Words of {run.name}.", collection=f"cleaned_{run.name}")
        store.save(questions=[asked(pairs[0])])
    with pytest.raises(ParamsError, match="--collection NAME"):
        forget(store, runs, Origin(content_id="5"))

    done = forget(store, runs, Origin(content_id="5", collection="cleaned_posts"))

    assert done.rows == {runs[0]: 1}
    assert "Words of articles." in [row[4] for row in store.origins(Origin(content_id="5"))]


def test_two_versions_of_one_content_are_one(tmp_path, store):
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        numbered(run, f"The {run.name} wording.")

    assert forget(store, runs, Origin(content_id="5")).rows == dict.fromkeys(runs, 1)
