"""Test rows that training has seen: the same text, a sibling, a near-copy, or the same instruction."""

from __future__ import annotations

from collections.abc import Iterable

from llmtwin_data.audits.audited import Audited, Finding, finding_of, plain_words
from llmtwin_data.measures.origins import origins_of
from llmtwin_data.measures.overlaps import NEAR_COPY, shared_windows
from llmtwin_data.splits.leaks import leaking_tests

# Share of test instructions that may stand in train: short requests meet by chance.
MOST_REPEATED = 0.01


def leaked(audited: Audited) -> Iterable[Finding]:
    """Look for test rows whose text, content or near-copy is in train."""
    what = f"test rows have a sibling or a text of containment {NEAR_COPY} in train"
    train, test = (_texts_on(audited, side) for side in ("train", "test"))
    if not (train and test):
        yield finding_of(
            "leak", what, audited, [], 0, 0.0, "not looked for: the rows do not tell train from test"
        )
        return
    near = leaking_tests(shared_windows(audited.texts), train=train, test=test)
    leaking = near | (train & test) | _siblings(audited, train=train, test=test)
    tests = [place for place, row in enumerate(audited.rows) if row.side == "test"]
    rows = [place for place in tests if audited.owners[place] in leaking]
    known = audited.contents or any(row.content_id for row in audited.rows)
    note = "" if known else "pieces of one source across the split are not seen without --contents"
    yield finding_of("leak", what, audited, rows, len(tests), 0.0, note)


def asked_before(audited: Audited) -> Iterable[Finding]:
    """Look for test rows whose instruction is in train."""
    trained = {plain_words(row) for row in audited.rows if row.side == "train"}
    tests = [place for place, row in enumerate(audited.rows) if row.side == "test"]
    rows = [place for place in tests if plain_words(audited.rows[place]) in trained]
    what = "test instructions stand in train word for word"
    yield finding_of("leak", what, audited, rows, len(tests), MOST_REPEATED)


def _texts_on(audited: Audited, side: str) -> set[int]:
    return {owner for row, owner in zip(audited.rows, audited.owners, strict=True) if row.side == side}


def _siblings(audited: Audited, *, train: set[int], test: set[int]) -> set[int]:
    """Give the test texts of a content that also has a text in train, as far as contents are known."""
    named = {owner: row.content_id for row, owner in zip(audited.rows, audited.owners, strict=True)}
    origins = origins_of(audited.texts, audited.contents)
    source = [named[text] or origin for text, origin in enumerate(origins)]
    trained = {source[text] for text in train} - {None}
    return {text for text in test if source[text] in trained}
