"""Words about numbers."""

from __future__ import annotations

import re

import pytest

from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.texts import counted

SOURCES = sorted((PROJECT_ROOT / "src" / "llmtwin_data").rglob("*.py"))
NOUNS = "contents|chunks|languages|authors|pairs|runs|requests|findings|rows|answers|texts|reviews"
# "3 of 1 rows" cannot be, and a constant is never one.
COUNTED_BY_HAND = re.compile(rf"(?<!of )\{{(?![A-Z_]+\}})[^{{}}\"]*\}} (?:{NOUNS})\b")


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "content", "0 contents"),
        (1, "content", "1 content"),
        (2000, "content", "2,000 contents"),
        (1, "near-copy", "1 near-copy"),
        (2, "near-copy", "2 near-copies"),
        (2, "key", "2 keys"),
    ],
)
def test_a_number_has_its_noun(number, noun, words):
    assert counted(number, noun) == words


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_noun_is_counted_by_hand(source):
    assert COUNTED_BY_HAND.findall(source.read_text(encoding="utf-8")) == []
