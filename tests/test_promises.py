"""What must hold of ledger rows and dataset rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from published_pairs import ledger_of, make_pair, publish
from written_pairs import table_of

from llmtwin_data.checks import find_leaks, find_ledger_faults, find_unaccounted
from llmtwin_data.contents import places_of
from llmtwin_data.datasets import ledger_totals, read_manifest, stored_sides

PAIRS = [make_pair(number) for number in range(8)]
ACCEPTED = ledger_of(PAIRS)


def faults(rows, *, complete=True) -> list[str]:
    ledger = table_of(rows)
    return list(find_ledger_faults(ledger, totals=ledger_totals(ledger), complete=complete))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ledger_of([make_pair(0)]), "stands there twice"),
        (ledger_of([make_pair(30)], "rejected"), "expected a reason for rejected, found ''"),
        (ledger_of([make_pair(30)], "rejected", "ugly"), "expected a reason for rejected, found 'ugly'"),
        (ledger_of([make_pair(30)], "gone", "x"), "expected a final state, found 'gone'"),
        (ledger_of([make_pair(30, start=5)], "failed", "refused"), "a chunk ends at 0, the next starts at 5"),
        (ledger_of([make_pair(30, k=2)], "failed", "refused"), "expected instructions from 1 on, found [2]"),
    ],
    ids=["twice", "no reason", "unknown reason", "unknown state", "gap", "number"],
)
def test_i1_what_the_ledger_does_not_account_for_is_found(rows, said):
    findings = faults([*ACCEPTED, *rows])

    assert any(finding.startswith("ledger.jsonl: ") and said in finding for finding in findings)


def test_chunks_that_tile_and_several_instructions_are_accounted_for():
    chunks = [make_pair(30, "a" * 10), make_pair(30, "b" * 5, start=10, end=15), make_pair(30, "a" * 10, k=2)]

    assert faults(ledger_of(chunks)) == []


def test_chunks_that_overlap_are_found():
    chunks = [make_pair(30, "a" * 10), make_pair(30, "b" * 5, start=8, end=13)]

    assert faults(ledger_of(chunks)) == [
        "ledger.jsonl: cleaned_posts/id-30: a chunk ends at 10, the next starts at 8"
    ]


def test_pending_rows_are_allowed_while_a_run_is_not_complete():
    pending = ledger_of(ACCEPTED, "pending")

    assert faults(pending, complete=False) == []
    assert len(faults(pending)) == 8


def test_an_accepted_instruction_without_a_row_is_found(tmp_path):
    publish(tmp_path, PAIRS)
    more = set(places_of(table_of([*PAIRS, make_pair(9)])))

    (finding,) = find_unaccounted(stored_sides(tmp_path / "dataset"), more)
    assert finding.startswith("ledger.jsonl: ('cleaned_posts', 'id-9'")


def test_a_content_named_on_both_sides_is_found(tmp_path):
    publish(tmp_path, PAIRS)
    manifest = read_manifest(tmp_path / "dataset/manifest.json")
    both = replace(manifest, sides=manifest.sides | {"test": manifest.sides["train"]})

    assert len(list(find_leaks(stored_sides(tmp_path / "dataset"), both))) == 6
