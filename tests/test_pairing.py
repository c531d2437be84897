"""Reading answers: by number, exactly, from JSON however it is wrapped."""

import json

import pytest

from llmtwin_data.generation.pairing import clean, exact_number, find_items, read_choice

TWO = '{"instructions": [{"content": 1, "instruction": "a"}, {"content": 2, "instruction": "b"}]}'


def read(text, *, count=2, k=1, kind="instructions", **more):
    return read_choice(text, kind=kind, k=k, count=count, **more)


def answer(*items):
    return json.dumps(
        {"instructions": [dict(zip(("content", "instruction"), item, strict=True)) for item in items]}
    )


WRAPPED = {
    "plain": TWO,
    "bare_list": json.dumps(json.loads(TWO)["instructions"]),
    "fenced": f"```json\n{TWO}\n```",
    "prose": f"Here [1] it is: {TWO} Anything else {{}}?",
    "thought": f'<think>{{"instructions": [{{"content": 1, "instruction": "draft"}}]}}</think>{TWO}',
    "trailing_commas": TWO.replace("}]}", "},],}"),
    "digits_as_text": TWO.replace("2", '"2"'),
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_answers_are_found_in_every_wrapping(text):
    assert read(text).values == {1: ("a",), 2: ("b",)}


def test_a_comma_in_a_string_is_not_a_trailing_one():
    text = '{"instructions": [{"content": 1, "instruction": "a, ] b"},]}'

    assert read(text, count=1).values == {1: ("a, ] b",)}


NUMBERS = [
    (3, 3),
    ("3", 3),
    (True, None),
    (3.0, None),
    ("03", None),
    ("３", None),
    ("3 ", None),
    ("Content 3", None),
]


@pytest.mark.parametrize(
    ("given", "meant"), [*NUMBERS, ("0", None), ("99999", None), (None, None), ([3], None)]
)
def test_only_exact_numbers_are_numbers(given, meant):
    assert exact_number(given) == meant


def test_a_number_with_two_texts_is_trusted_in_neither():
    reading = read(answer((1, "a"), (1, "c"), (2, "b")))

    assert reading.values == {2: ("b",)}
    assert reading.problems == {1: "repeated"}


def test_the_same_said_twice_is_said():
    assert read(answer((1, "a"), (1, "a"), (2, "b"))).problems == {}


def test_numbers_never_asked_are_counted_and_ignored():
    reading = read(answer((1, "a"), (2, "b"), (3, "c"), (0, "d")))

    assert sorted(reading.values) == [1, 2]
    assert reading.ignored == 2


def test_what_is_missing_or_of_another_type_is_named():
    assert read(answer((2, ["b"]))).problems == {1: "missing", 2: "malformed"}


def test_whole_items_before_a_cut_count():
    reading = read(TWO[: TWO.index("b") + 1], cut=True)

    assert reading.values == {1: ("a",)}
    assert reading.problems == {2: "cut"}


@pytest.mark.parametrize(
    "text", ["", "no", "[" * 200_000, '{"instructions": {}}', '{"instructions": [NaN]}', "9" * 9_000]
)
def test_nonsense_is_malformed_and_never_crashes(text):
    assert set(read(text).problems.values()) <= {"malformed", "missing"}
    assert read(text).values == {}


@pytest.mark.parametrize(
    ("listed", "good"), [(["a", "b"], True), (["a"], False), (["a", "b", "c"], False), (["a", 1], False)]
)
def test_several_instructions_come_as_many_as_asked(listed, good):
    text = json.dumps({"instructions": [{"content": 1, "instructions": listed}]})

    assert (read(text, count=1, k=2).values == {1: ("a", "b")}) is good


@pytest.mark.parametrize(
    ("score", "good"), [(3, True), ("3", True), (0, False), (6, False), (3.5, False), (None, False)]
)
def test_a_verdict_is_a_score_with_its_reason(score, good):
    text = json.dumps({"verdicts": [{"content": 1, "reason": "clear", "score": score}]})

    assert (read(text, count=1, kind="verdicts").values == {1: ("3", "clear")}) is good


@pytest.mark.parametrize("reason", ["", "...", None, 3])
def test_a_verdict_without_a_reason_is_none(reason):
    text = json.dumps({"verdicts": [{"content": 1, "reason": reason, "score": 4}]})

    assert read(text, count=1, kind="verdicts").problems == {1: "malformed"}


def test_a_quoted_boundary_is_a_problem():
    assert read(answer((1, "as in f0f0f0"), (2, "b")), boundary="f0f0f0").problems == {1: "boundary"}


def test_an_empty_list_is_an_answer_without_items():
    assert find_items('{"instructions": []}', kind="instructions") == []


def test_texts_are_cleaned_for_storage():
    assert clean(" a\0\ud800\u2028b ") == "a\ufffd\u2028b"
