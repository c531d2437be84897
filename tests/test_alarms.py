"""Alarms over a whole run."""

from __future__ import annotations

import random

import pytest
from written_pairs import changed, measured, pair, table_of, written_pairs

from llmtwin_data import curation


@pytest.fixture(scope="module")
def good():
    return written_pairs()


def alarms_of(pairs, *, language="same"):
    found = curation.alarms_of(measured(pairs, language=language), instruction_language=language)
    return {alarm.name: alarm for alarm in found}


def reworded(pairs, instructions):
    return [changed(each, instruction=words) for each, words in zip(pairs, instructions, strict=True)]


def retold(pairs, change):
    return [changed(each, content=change(each.content)) for each in pairs]


def test_a_good_run_raises_none(good):
    assert alarms_of(good) == {}


def test_good_pilots_raise_none(good):
    draw = random.Random(5)

    assert [found for _ in range(30) if (found := alarms_of(draw.sample(good, 32)))] == []


def test_shuffled_pairs_are_ungrounded(good):
    instructions = [each.instruction for each in good]

    alarm = alarms_of(reworded(good, instructions[5:] + instructions[:5]))["ungrounded"]

    assert alarm.level == "alarm"
    assert "retrieve their own chunk" in alarm.seen
    assert len(alarm.examples) == 3


def test_a_prompt_without_the_content_is_ungrounded(good):
    subjects = ("leadership", "productivity", "remote work", "innovation", "networking", "marketing", "agile")
    invented = [f"Write about {subjects[n % 7]} in {n} lessons." for n in range(len(good))]

    assert "ungrounded" in alarms_of(reworded(good, invented))


def test_one_instruction_for_all_is_a_collapse(good):
    alarm = alarms_of(reworded(good, ["Write a LinkedIn post."] * len(good)))["collapsed"]

    assert alarm.seen.startswith("76 of 77 instructions repeat another")


def test_equal_contents_may_have_equal_instructions(good):
    twice = good[:20] + [changed(each, content_id=f"x{each.content_id}") for each in good[:20]]

    assert "collapsed" not in alarms_of(twice)


def test_another_language_than_asked(good):
    alarm = alarms_of(good, language="zh-Hant")["language"]

    assert "zh-Hant" in alarm.expected
    assert "en 64" in alarm.seen


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        (lambda text: text.replace(" ", ""), "all blanks deleted"),
        (
            lambda text: "".join(character for character in text if character in " ,.:!?\n") * 5,
            "letters deleted",
        ),
    ],
    ids=["blanks", "letters"],
)
def test_destroyed_contents(good, change, sign):
    assert sign in alarms_of(retold(good, change))["destroyed"].seen


def test_one_destroyed_collection_among_whole_ones(good):
    code = [
        pair(f"Write a script {n}.", "".join(each.content.split()), n, collection="code")
        for n, each in enumerate(good[-9:])
    ]

    assert "of code look destroyed" in alarms_of(good + code)["destroyed"].seen


def test_few_pairs_say_nothing(good):
    assert alarms_of(reworded(good[:7], ["Write a post."] * 7)) == {}


def test_c17_one_author_raises_none(good):
    one = [changed(each, author="7") for each in good]

    assert alarms_of(one) == {}


def test_one_content_that_fills_the_set_is_only_a_warning(good):
    one = [changed(each, content_id="7", start=n) for n, each in enumerate(good)]

    alarm = alarms_of(one)["one_content"]

    assert (alarm.level, alarm.seen) == ("warning", "content posts/7 has 77 of 77 pairs")


def test_no_pairs():
    assert alarms_of([]) == {}


def test_no_pair_left_is_an_alarm_whatever_the_number(good):
    fates = [
        ("rejected", "length"),
        ("failed", "refused"),
        ("rejected", "near_duplicate"),
        ("skipped", "empty"),
    ]
    given = zip(good, fates, strict=False)
    rows = [changed(each, state=state, reason=reason) for each, (state, reason) in given]
    rows[2:] = [changed(row, instruction=None) for row in rows[2:]]

    (alarm,) = curation.alarms_of(table_of(rows))

    assert (alarm.name, alarm.level, alarm.seen) == (
        "empty",
        "alarm",
        "0 of 3 instructions accepted; rejected length 1, failed refused 1, rejected near duplicate 1",
    )
    assert len(alarm.examples) == 2
    assert curation.alarms_of(table_of([*rows, good[5]])) == curation.alarms_of(table_of(rows[3:])) == []
