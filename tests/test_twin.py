"""The meeting before training: what the style score can tell, and answers asked like any other."""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from written import read_lines

from llmtwin_data import pipeline, twin
from llmtwin_data.cli import main
from llmtwin_data.errors import SourceError
from llmtwin_data.folders import PROJECT_ROOT

DATA = PROJECT_ROOT / "tests" / "data" / "addresses"
WORD = re.compile(r"\S+")
PLAIN = "In conclusion, it is important to note that leveraging robust solutions will empower stakeholders. " * 8


def documents():
    """Return real authors' documents and the sample's, by name of the set."""
    addresses = lzma.decompress((DATA / "roosevelts.jsonl.xz").read_bytes()).decode().splitlines()
    sample = [line for name in ("posts", "articles", "repositories") for line in sample_lines(name)]
    return {"two Roosevelts": list(map(json.loads, addresses)), "sample": sample}


def sample_lines(name):
    return read_lines(PROJECT_ROOT / "data" / "sample" / f"{name}.jsonl")


def passages_of(lines):
    """Cut documents into passages of 150 words; what is left over only serves as train."""
    rows = []
    for number, line in enumerate(lines):
        text = line.get("cleaned_content") or line.get("content") or ""
        words = list(WORD.finditer(text))
        for at in range(0, len(words), 150):
            part = words[at : at + 150]
            author = str(line.get("author_id") or line.get("owner_id"))
            rows.append((f"d{number}", author, text[part[0].start() : part[-1].end()], len(part) == 150))
    return pd.DataFrame(rows, columns=["content_id", "author", "content", "whole"])


def named_right(passages):
    """Return for each measure the share of whole passages nearest to their own author.

    A passage is compared with no passage of its own document.
    """
    near = {name: pd.DataFrame() for name in twin.STYLE}
    for author in passages.author.unique():
        own = passages.author == author
        groups = own.map({True: twin.CEILING, False: twin.FLOOR})
        texts = pd.concat([passages[own].assign(group="train"), passages.assign(group=groups)])
        scored = twin.with_style(texts.reset_index(drop=True))[own.sum() :].reset_index(drop=True)
        for name, frame in near.items():
            frame[author] = scored[name]
    whole = passages.whole
    return {
        name: (frame[whole].idxmax(axis=1) == passages.author[whole]).mean() for name, frame in near.items()
    }


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("two Roosevelts", {"style": 0.94, "style_masked": 0.88, "style_words": 0.88}),
        # Three roles written by one hand about one field: chance is a third.
        ("sample", {"style": 0.82, "style_masked": 0.64, "style_words": 0.6}),
    ],
    ids=["real authors", "sample"],
)
def test_a_passage_is_nearest_to_its_author_whose_document_is_left_out(texts, expected):
    shares = named_right(passages_of(documents()[texts]))

    assert {name: round(float(shares[name]), 3) for name in expected if shares[name] < expected[name]} == {}
