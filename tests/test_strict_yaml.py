"""YAML without surprises."""

from __future__ import annotations

import math

import pytest

from llmtwin_data.errors import ParamsError
from llmtwin_data.strict_yaml import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("~", None),
        ("010", 10),
        ("1e5", 100_000.0),
        ("-.5", -0.5),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("<<", "<<"),
    ],
)
def test_words_are_read_as_in_yaml_1_2(text, value):
    found = parse(f"key: {text}\n", place="test")["key"]

    assert (type(found), found) == (type(value), value)


def test_numbers_that_are_none_are_read_as_such():
    found = parse("[.inf, -.inf, .nan]", place="test")

    assert found[:2] == [math.inf, -math.inf]
    assert math.isnan(found[2])


@pytest.mark.parametrize("text", ["a: [", "[" * 5000, "a: b: c", "\x00", "- a\nb: c"])
def test_what_is_no_yaml_names_its_place(text):
    with pytest.raises(ParamsError, match=r"study\.yaml"):
        parse(text, place="study.yaml")
