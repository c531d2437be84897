"""Splits: no test pair has a sibling or a near-copy in train."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from asking import document
from published_pairs import publish
from written_pairs import changed, pair, table_of

from llmtwin_data import overlaps
from llmtwin_data.checks import check_run
from llmtwin_data.loading import load_files
from llmtwin_data.params import Params
from llmtwin_data.pipeline import make_dataset
from llmtwin_data.reviews import Review, reviews_file, save_review
from llmtwin_data.sources import open_source
from llmtwin_data.splits import with_sides

FOOTER = (
    "You receive this letter because you subscribed to it on our page some time ago and never left. "
    "Forward it to a friend who may like it, or answer it: every answer is read by a person on Mondays. "
    "To stop it press the link below this line and confirm your wish on the page that opens in your browser."
)


def text_of(number: int, *, words: int = 80) -> str:
    draw = random.Random(number)
    return " ".join("".join(draw.choices("abcdefghiklmnoprstu", k=6)) for _ in range(words))


def contents(count: int, *, chunks: int = 1, first: int = 0, **fields: str):
    return [
        pair(
            f"Write about {number} {part}.", text_of(100 * number + part), number, start=1000 * part, **fields
        )
        for number in range(first, first + count)
        for part in range(chunks)
    ]


def split_pairs(rows, *, test_fraction, seed, previous=()):
    return with_sides(table_of(rows), Params(test_fraction=test_fraction, seed=seed), dict(previous))


def test_a_tenth_of_the_contents_goes_to_test():
    pairs = contents(50, chunks=3)

    split = split_pairs(pairs, test_fraction=0.1, seed=42)

    assert split.side.tolist().count("test") == 15
    assert set(split.groupby("content_id").side.nunique()) == {1}


def test_the_same_split_for_any_order():
    pairs = contents(40)

    forward, backward = (split_pairs(order, test_fraction=0.2, seed=1) for order in (pairs, pairs[::-1]))

    assert forward.side.tolist() == backward.side.tolist()[::-1]
    assert forward.side.tolist() != split_pairs(pairs, test_fraction=0.2, seed=2).side.tolist()


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        (0, 0.1, []),
        (1, 0.5, ["train"]),
        (3, 0.0, ["train"] * 3),
        (2, 0.9, ["test", "train"]),
        (2, 0.1, ["test", "train"]),
    ],
)
def test_few_contents(count, fraction, expected):
    assert sorted(split_pairs(contents(count), test_fraction=fraction, seed=42).side) == expected


def test_one_link_is_one_group_and_half_a_content_in_another_ties_them():
    pairs = contents(20)
    halves = [
        pair(f"Half of {n}.", " ".join(pairs[n].content.split()[:44]) + " end", n + 100) for n in range(20)
    ]

    linked = split_pairs(contents(6, link="https://example.com/a"), test_fraction=0.5, seed=42)
    tied = split_pairs(pairs + halves, test_fraction=0.3, seed=42)

    assert linked.side.tolist() == ["train"] * 6
    assert linked.attrs["certificate"]["note"] == "fewer than two groups: all in train"
    assert tied.side[:20].tolist() == tied.side[20:].tolist()
    assert tied.attrs["certificate"]["groups"] == 20


def test_old_contents_keep_their_side_when_the_collection_grows_unless_no_test_set_is_made():
    old = contents(30)
    before = split_pairs(old, test_fraction=0.2, seed=42)
    previous = {f"posts/{each.content_id}": side for each, side in zip(old, before.side, strict=True)}

    after = split_pairs(old + contents(10, first=50), test_fraction=0.2, seed=7, previous=previous)

    assert after.side[:30].tolist() == before.side.tolist()
    assert after.side[30:].tolist().count("test") == 2
    none = split_pairs(old, test_fraction=0, seed=7, previous=previous)
    assert none.side.tolist() == ["train"] * 30


OLD = contents(2)
# What ties contents that were train and test: rows, and the side of each.
TIES = {
    "a copy joins": ([*OLD, pair("A copy.", OLD[1].content + " again", 9)], ["train", "test", "test"]),
    "both in one": ([*OLD, pair("B.", f"{OLD[0].content} {OLD[1].content}", 9)], ["train", "test", ""]),
    "a link that changed": (contents(2, link="https://example.com/moved"), ["train", ""]),
    "a text that changed": (
        [pair("A.", text_of(1), 0), pair("B.", text_of(1)[:400], 1), pair("B.", text_of(2), 1, start=1000)],
        ["train", "", ""],
    ),
}


@pytest.mark.parametrize(("rows", "sides"), TIES.values(), ids=TIES)
def test_what_is_tied_to_one_side_joins_it_and_what_ties_both_is_left_out(rows, sides):
    split = split_pairs(rows, test_fraction=0.5, seed=1, previous={"posts/0": "train", "posts/1": "test"})

    out = split[split.side == ""]
    assert split.side.tolist() == sides
    assert (set(out.reason), set(out.value)) <= ({"tied"}, {"train and test"})
    assert split.attrs["certificate"]["tied"] == len(out)


@pytest.mark.parametrize("seed", range(12))
def test_check_agrees_with_the_split_whatever_links_and_texts_became_of(seed, tmp_path):
    draw = random.Random(seed)
    pairs = [
        pair(f"{n}.", " ".join(text_of(draw.randrange(12), words=40) for _ in range(2)), n,
             link=draw.choice(["", "", "https://a", "https://b"]))
        for n in range(30)
    ]  # fmt: skip
    previous = {f"posts/{n}": draw.choice(["train", "test"]) for n in range(15)}

    split = split_pairs(pairs, test_fraction=0.3, seed=seed, previous=previous)

    sided = [(each, side) for each, side in zip(pairs, split.side, strict=True) if side]
    sided.sort(key=lambda found: found[1], reverse=True)
    kept = [each for each, _ in sided]
    publish(tmp_path, kept, test=split.side.tolist().count("test"), certificate=split.attrs["certificate"],
            previous_sides=previous)  # fmt: skip
    assert check_run(tmp_path) == []


def letters():
    """Make 40 letters of three chunks, the last one ending in the same footer, some of them hardly more."""
    pairs = []
    for number in range(40):
        own = [text_of(100 * number + part, words=150) for part in range(3)]
        last = f"{text_of(999 + number, words=10 if number % 4 == 0 else 90)} {FOOTER}"
        pairs += [pair(f"{number} {k}", text, number, start=1000 * k) for k, text in enumerate([*own, last])]
    return pairs


def eights(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[n : n + 8]) for n in range(len(words) - 7)}


def leaking_by_hand(pairs, sides) -> int:
    """Count test chunks with a sibling, or with half of the smaller one's windows, in train; no index."""
    known = [(each.content_id, eights(each.content), side) for each, side in zip(pairs, sides, strict=True)]
    train = [(content, held) for content, held, side in known if side == "train"]
    return sum(
        any(mine == its or len(held & other) >= 0.5 * min(len(held), len(other)) for its, other in train)
        for mine, held, side in known
        if side == "test"
    )


def at_random(pairs) -> list[str]:
    drawn = set(random.Random(1).sample(range(len(pairs)), len(pairs) // 5))
    return ["test" if place in drawn else "train" for place in range(len(pairs))]


@pytest.mark.parametrize("seed", range(8))
def test_the_same_pairs_split_again_give_the_same_dataset(seed):
    draw = random.Random(seed)
    shared = [text_of(-1 - number, words=30) for number in range(6)]
    texts = [text_of(number, words=35) + " " + draw.choice(shared) for number in range(30)]
    pairs = [
        pair(f"Write about {n}.", text, n, link=draw.choice(["", "", "https://a.b/c"]))
        for n, text in enumerate(texts)
    ]

    first = split_pairs(pairs, test_fraction=0.3, seed=seed)
    second = split_pairs(pairs, test_fraction=0.3, seed=seed, previous=first.attrs["sides"])

    pd.testing.assert_frame_equal(second, first)
    assert second.attrs == first.attrs
    assert first.attrs["certificate"]["largest_group"] > 1


def test_boilerplate_neither_ties_all_nor_leaks():
    pairs = letters()

    split = split_pairs(pairs, test_fraction=0.2, seed=3)

    assert split.attrs["certificate"]["groups"] == 40
    assert split.attrs["certificate"]["max_containment"] < 0.5
    assert split.attrs["certificate"]["random_leak_share"] == 1.0
    assert leaking_by_hand(pairs, split.side) == 0
    assert leaking_by_hand(pairs, at_random(pairs)) == 32
    assert set(split.reason) - {""} == {"leak"}


@pytest.mark.parametrize("most", [1, 2])
def test_what_many_texts_share_is_found_as_what_few_share(most, monkeypatch):
    pairs = [changed(each, link="https://a.b/c") if n % 13 == 0 else each for n, each in enumerate(letters())]
    previous = {f"posts/{number}": draw for number, draw in enumerate(["train", "test"] * 9)}
    few = split_pairs(pairs, test_fraction=0.4, seed=3, previous=previous)
    monkeypatch.setattr(overlaps, "MOST_HOLDERS", most)

    many = split_pairs(pairs, test_fraction=0.4, seed=3, previous=previous)

    pd.testing.assert_frame_equal(many, few)
    assert many.attrs == few.attrs
    assert {"leak", "tied"} <= set(few.reason)


def test_every_pair_of_a_leaking_chunk_is_left_out():
    pairs = letters() + [changed(each, k=2) for each in letters()]

    split = split_pairs(pairs, test_fraction=0.2, seed=3)

    assert split.side[:160].tolist() == split.side[160:].tolist()
    assert (split.state == "rejected").tolist() == (split.side == "").tolist()


def test_a_copy_left_out_takes_the_side_of_what_it_copies():
    train, test, near, both, known = contents(5)
    rows = [train, test, near, both, changed(both, k=2), known]
    copied = ["", "", train.id, train.id, test.id, test.id]
    rows[2:] = [
        changed(row, state="rejected", reason="near_duplicate", value=original)
        for row, original in zip(rows[2:], copied[2:], strict=True)
    ]
    previous = {"posts/0": "train", "posts/1": "test", "posts/4": "train"}

    split = split_pairs(rows, test_fraction=0.5, seed=1, previous=previous)

    assert split.attrs["sides"] == previous | {"posts/2": "train", "posts/3": "train"}


def test_a_near_copy_stays_on_the_side_of_a_content_that_a_person_rejects(bench, tmp_path):
    words = document(900).split()
    texts = [" ".join(words), " ".join([*words[:-1], "indeed."]), *map(document, range(12))]
    rows = [{"id": n, "cleaned_content": text, "type": "posts"} for n, text in enumerate(texts)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_source(bench.settings().qdrant) as source:
        load_files(source, [tmp_path / "notes.jsonl"], collection="cleaned_notes")
    settings = bench.settings(collections=["cleaned_notes"], previous="")

    def version(name, test_fraction):
        own = replace(settings, run_dir=str(tmp_path / name), test_fraction=test_fraction)
        ledger = make_dataset(own, environ={})
        assert check_run(tmp_path / name) == []
        return ledger

    one = version("one", 0.1)
    kept = one.iloc[0]
    review = Review(kept.id, "reject", kept.instruction)
    save_review(reviews_file(Path(settings.answers)), review)
    two = version("two", 0.5)
    version("again", 0.5)

    assert (one.side[:2].tolist(), one.value[1]) == (["train", ""], kept.id)
    assert two.side[:2].tolist() == ["", "train"]
    assert (tmp_path / "again/dataset/manifest.json").read_bytes() == (
        tmp_path / "two/dataset/manifest.json"
    ).read_bytes()
