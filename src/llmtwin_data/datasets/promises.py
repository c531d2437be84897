"""What must hold of ledger rows and dataset rows, whatever file they came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import pairwise
from typing import Any

from llmtwin_data.chunks import Span
from llmtwin_data.contents import SKIPPED
from llmtwin_data.curation import REASONS
from llmtwin_data.datasets.ledgers import STATES, ledger_totals
from llmtwin_data.datasets.manifests import Manifest
from llmtwin_data.datasets.rows import SIDES, Row, Rows, content_of_row, place_of_row
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Place, row_id
from llmtwin_data.measures.overlaps import shared_windows
from llmtwin_data.screening import Finding, find_personal_data, find_secrets
from llmtwin_data.splits.leaks import Leaks
from llmtwin_data.splits.leaks import find_leaks as near_copies


def find_ledger_faults(
    rows: Iterable[LedgerRow], *, totals: Mapping[str, Any], complete: bool
) -> Iterator[str]:
    """Find what is accounted for twice, not at all, or without a valid state and reason (I1)."""
    rows = list(rows)
    seen: set[Place] = set()
    for number, row in enumerate(rows, start=1):
        if row.place in seen:
            yield f"ledger.jsonl: line {number}: {row.place} stands there twice"
        seen.add(row.place)
        if fault := _state_fault(row, complete=complete):
            yield f"ledger.jsonl: line {number}: {fault}"
    yield from _tiling_faults(rows)
    for name, found in ledger_totals(rows).items():
        if complete and totals.get(name, found if name == "pending" else None) != found:
            yield f"run.json: totals.{name} is {totals.get(name)}, the rows of ledger.jsonl give {found}"


def find_unaccounted(sides: Mapping[str, Rows], accepted: Set[Place]) -> Iterator[str]:
    """Find rows that the ledger does not accept, and accepted instructions that have no row."""
    missing = set(accepted)
    for side in SIDES:
        for number, row in enumerate(sides[side], start=1):
            if place_of_row(row) not in accepted:
                yield f"dataset/{side}.jsonl: line {number}: ledger.jsonl does not accept this row"
            missing.discard(place_of_row(row))
    for place in sorted(missing):
        yield f"ledger.jsonl: {place} is accepted, but has no row in train.jsonl or test.jsonl"


def find_row_faults(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Find rows whose id, length or side is not what their origin says, or that hold what was screened."""
    searches = [find_secrets] if manifest.rules.get("secrets", "drop") != "keep" else []
    searches += [find_personal_data] if manifest.rules.get("personal_data", "keep") != "keep" else []
    known = {side: set(manifest.sides[side]) for side in SIDES}
    for side in SIDES:
        count = 0
        for count, row in enumerate(sides[side], start=1):
            for fault in _row_faults(row, searches):
                yield f"{side}.jsonl: line {count}: {fault}"
            if content_of_row(row) not in known[side]:
                yield f"manifest.json: sides.{side} does not name the content of line {count} of {side}.jsonl"
        told = manifest.counts.get(side)
        if count != told:
            yield f"manifest.json: counts.{side} is {told}, {side}.jsonl has {count} rows"


def find_leaks(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Find what stands on both sides: a content, a link, or a chunk that shares half of its words."""
    for content in sorted(set(manifest.sides["train"]) & set(manifest.sides["test"])):
        yield f"manifest.json: content {content} is on both sides"
    train = {mark for row in sides["train"] for mark in _marks(row)}
    for number, row in enumerate(sides["test"], start=1):
        for kind, value in sorted(train.intersection(_marks(row))):
            yield f"test.jsonl: line {number}: its {kind} is in train.jsonl too: {value[:60]!r}"
    lines = [(side, number) for side in SIDES for number, _ in enumerate(sides[side], start=1)]
    leaks = _leaks(sides)
    for chunk, share in leaks.chunks.items():
        side, number = lines[chunk]
        yield f"{side}.jsonl: line {number}: shares {share:.0%} of its windows with the other side"
    for name, found in _certified(sides, leaks).items():
        told = manifest.certificate.get(name, found)
        if told != found:
            yield f"manifest.json: certificate.{name} is {told}, the rows give {found}"


def certified(sides: Mapping[str, Rows]) -> dict[str, Any]:
    """Give what a certificate says of the published rows alone, whatever was left out before."""
    return _certified(sides, _leaks(sides))


def _certified(sides: Mapping[str, Rows], leaks: Leaks) -> dict[str, Any]:
    chunks = {f"{side}_chunks": len({place_of_row(row)[:-1] for row in sides[side]}) for side in SIDES}
    return chunks | {"max_containment": leaks.max_containment}


def _leaks(sides: Mapping[str, Rows]) -> Leaks:
    windows = shared_windows(row["content"] for side in SIDES for row in sides[side])
    return near_copies(windows, [side for side in SIDES for _ in sides[side]])


def _state_fault(row: LedgerRow, *, complete: bool) -> str:
    if row.state not in STATES or (row.state == "pending" and complete):
        return f"expected a final state, found {row.state!r}"
    if row.state == "accepted":
        return f"expected no reason for accepted, found {row.reason!r}" if row.reason else ""
    known = {"rejected": REASONS, "skipped": SKIPPED}.get(row.state)
    if (known is not None and row.reason not in known) or (row.state == "failed" and not row.reason):
        return f"expected a reason for {row.state}, found {row.reason!r}"
    return ""


def _tiling_faults(rows: Iterable[LedgerRow]) -> Iterator[str]:
    """Find chunks of a content that overlap or leave a gap, and instruction numbers that are missing."""
    numbers: dict[Span, set[int]] = defaultdict(set)
    for row in rows:
        numbers[row.span].add(row.k)
    by_content: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for (collection, content_id, start, end), ks in numbers.items():
        by_content[collection, content_id].append((start, end))
        if ks != set(range(1, len(ks) + 1)):
            chunk = f"{collection}/{content_id} {start} to {end}"
            yield f"ledger.jsonl: {chunk}: expected instructions from 1 on, found {sorted(ks)}"
    for (collection, content_id), spans in by_content.items():
        for (_, before), (start, _) in pairwise([(0, 0), *sorted(spans)]):
            if start != before:
                content = f"{collection}/{content_id}"
                yield f"ledger.jsonl: {content}: a chunk ends at {before}, the next starts at {start}"


def _row_faults(row: Row, searches: Iterable[Callable[[str], list[Finding]]]) -> Iterator[str]:
    if row["id"] != row_id(place_of_row(row)):
        yield f"expected the id {row_id(place_of_row(row))} from its origin, found {row['id']}"
    if not row["masked"] and len(row["content"]) != row["end"] - row["start"]:
        yield f"expected {row['end'] - row['start']} characters of content, found {len(row['content'])}"
    for finding in (found for find in searches for found in find(f"{row['instruction']}\n{row['content']}")):
        what = "a secret" if finding.group == "secret" else "personal data"
        yield f"holds what looks like {what} ({finding.kind})"


def _marks(row: Row) -> Iterator[tuple[str, str]]:
    yield "content", content_of_row(row)
    if row["link"]:
        yield "link", row["link"]
