"""The promises of a run, verified from its files alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import islice, pairwise, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from llmtwin_data.contents import SKIPPED, Place, Span, places_of, row_id, rows_of
from llmtwin_data.curation import REASONS
from llmtwin_data.datasets import (
    SIDES,
    STATES,
    Manifest,
    Row,
    Rows,
    content_of_row,
    fates_sha256,
    file_entry,
    find_breaks,
    ledger_totals,
    place_of_row,
    read_ledger,
    read_manifest,
    read_parquet,
    rendered_files,
    stored_sides,
)
from llmtwin_data.errors import LlmTwinError
from llmtwin_data.folders import RunFolder
from llmtwin_data.overlaps import shared_windows
from llmtwin_data.screening import Finding, find_personal_data, find_secrets
from llmtwin_data.splits import find_leaks as near_copies
from llmtwin_data.texts import counted


def find_ledger_faults(ledger: pd.DataFrame, *, totals: Mapping[str, Any], complete: bool) -> Iterator[str]:
    """Find what is accounted for twice, not at all, or without a valid state and reason (I1)."""
    places, seen = places_of(ledger), set[Place]()
    for number, (place, row) in enumerate(zip(places, rows_of(ledger), strict=True), start=1):
        if place in seen:
            yield f"ledger.jsonl: line {number}: {place} stands there twice"
        seen.add(place)
        if fault := _state_fault(row, complete=complete):
            yield f"ledger.jsonl: line {number}: {fault}"
    yield from _tiling_faults(places)
    for name, found in ledger_totals(ledger).items():
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
            yield f"manifest.json: counts.{side} is {told}, {side}.jsonl has {counted(count, 'row')}"


def find_leaks(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Find what stands on both sides: a content, a link, or a chunk that shares half of its words."""
    for content in sorted(set(manifest.sides["train"]) & set(manifest.sides["test"])):
        yield f"manifest.json: content {content} is on both sides"
    train = {mark for row in sides["train"] for mark in _marks(row)}
    for number, row in enumerate(sides["test"], start=1):
        for kind, value in sorted(train.intersection(_marks(row))):
            yield f"test.jsonl: line {number}: its {kind} is in train.jsonl too: {value[:60]!r}"
    lines = [(side, number) for side in SIDES for number, _ in enumerate(sides[side], start=1)]
    windows = shared_windows(row["content"] for side in SIDES for row in sides[side])
    leaks = near_copies(windows, [side for side, _ in lines])
    for chunk, share in leaks.chunks.items():
        side, number = lines[chunk]
        yield f"{side}.jsonl: line {number}: shares {share:.0%} of its windows with the other side"
    counts = {f"{side}_chunks": len({place_of_row(row)[:-1] for row in sides[side]}) for side in SIDES}
    for name, count in {**counts, "max_containment": leaks.max_containment}.items():
        told = manifest.certificate.get(name, count)
        if told != count:
            yield f"manifest.json: certificate.{name} is {told}, the rows give {count}"


def _state_fault(row: Any, *, complete: bool) -> str:
    if row.state not in STATES or (row.state == "pending" and complete):
        return f"expected a final state, found {row.state!r}"
    if row.state == "accepted":
        return f"expected no reason for accepted, found {row.reason!r}" if row.reason else ""
    known = {"rejected": REASONS, "skipped": SKIPPED}.get(row.state)
    if (known is not None and row.reason not in known) or (row.state == "failed" and not row.reason):
        return f"expected a reason for {row.state}, found {row.reason!r}"
    return ""


def _tiling_faults(places: Iterable[Place]) -> Iterator[str]:
    """Find chunks of a content that overlap or leave a gap, and instruction numbers that are missing."""
    numbers: dict[Span, set[int]] = defaultdict(set)
    for collection, content_id, start, end, k in places:
        numbers[collection, content_id, start, end].add(k)
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


# Findings of one kind that are told; the first ones say what is wrong.
MOST = 5


def check_run(run_dir: Path | str) -> list[str]:
    """Check state, ledger, manifest, files, formats, sides and rows; no finding means that all promises hold.

    A run that is not complete is held to less: its ledger may have pending rows, it need not have a dataset,
    and a dataset that is there, from before, is checked against its own manifest only.
    """
    run = RunFolder(Path(run_dir))
    try:
        facts = run.read()
    except LlmTwinError as error:
        return [f"run.json: {error}"]
    if not facts:
        return ["run.json: expected the state of a run, found no such file"]
    complete = facts.get("state") == "complete"
    findings = [*_recorded_files(run, facts)]
    if complete or run.ledger_file.exists():
        findings += _guarded("ledger.jsonl", _ledger(run, facts, complete=complete))
    if complete or run.dataset.exists():
        findings += _guarded("dataset/", _dataset(run, facts, complete=complete))
    return findings


def check_dataset(dataset: Path) -> list[str]:
    """Check a dataset folder against its own manifest: files, formats, sides, rows."""
    manifest_file = dataset / "manifest.json"
    if not manifest_file.is_file():
        return ["dataset/manifest.json: expected the manifest of a whole dataset, found no such file"]
    manifest = read_manifest(manifest_file)
    if findings := [*_files(dataset, manifest)]:
        return findings
    sides = stored_sides(dataset)
    checks = (_formats(sides, manifest), _parquet(dataset, sides), find_breaks(sides))
    return [
        f"dataset/{finding}"
        for check in (*checks, find_row_faults(sides, manifest), find_leaks(sides, manifest))
        for finding in _first(check)
    ]


def _recorded_files(run: RunFolder, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare report and notebooks with the hashes that run.json holds of them once the driver is done."""
    recorded = facts.get("files") or {}
    if facts.get("state") in ("running", "incomplete"):  # these hashes would be of what stood there before
        return
    there = [str(path.relative_to(run.path)) for path in (run.report, *sorted(run.notebooks.glob("*.ipynb")))]
    for name in dict.fromkeys([*recorded, *(there if recorded else [])]):
        path = run.path / name
        if name not in recorded and path.is_file():
            yield f"{name}: run.json does not name this file"
        elif name in recorded and not path.is_file():
            yield f"{name}: run.json names this file, found no such file"
        elif name in recorded and file_entry(path)["sha256"] != recorded[name]:
            yield f"{name}: changed since run.json recorded it"


def _ledger(run: RunFolder, facts: Mapping[str, Any], *, complete: bool) -> Iterator[str]:
    rows = read_ledger(run.ledger_file)
    if complete and facts.get("ledger_sha256") != file_entry(run.ledger_file)["sha256"]:
        yield "ledger.jsonl: changed since run.json recorded it (ledger_sha256)"
    yield from _first(find_ledger_faults(rows, totals=facts.get("totals", {}), complete=complete))


def _dataset(run: RunFolder, facts: Mapping[str, Any], *, complete: bool) -> Iterator[str]:
    found = check_dataset(run.dataset)
    yield from found
    manifest_file = run.dataset / "manifest.json"
    if not complete or not manifest_file.is_file():
        return
    if facts.get("manifest_sha256") != file_entry(manifest_file)["sha256"]:
        yield "dataset/manifest.json: changed since run.json recorded it (manifest_sha256)"
    elif not found:
        yield from _against_ledger(run, read_manifest(manifest_file))


def _against_ledger(run: RunFolder, manifest: Manifest) -> Iterator[str]:
    ledger = read_ledger(run.ledger_file)
    if fates_sha256(ledger) != manifest.ledger_sha256:
        yield "ledger.jsonl: other rows, states or reasons than those that the dataset was made of"
    accepted = set(places_of(ledger[ledger.state == "accepted"]))
    yield from _first(find_unaccounted(stored_sides(run.dataset), accepted))


def _files(dataset: Path, manifest: Manifest) -> Iterator[str]:
    there = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if not path.is_dir()}
    for name in sorted(there - {*manifest.files, "manifest.json"}):
        yield f"dataset/{name}: not in manifest.json"
    for name, entry in manifest.files.items():
        if name not in there:
            yield f"dataset/{name}: manifest.json names this file, found no such file"
            continue
        found = file_entry(dataset / name)
        for fact in ("sha256", "bytes"):
            if found[fact] != entry[fact]:
                yield f"dataset/{name}: expected {fact} {entry[fact]}, found {found[fact]}"


def _formats(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Render every text file from train.jsonl and test.jsonl again, and compare."""
    rendered = rendered_files(sides)
    expected = {*rendered, *(f"{side}.parquet" for side in SIDES), "README.md"}
    for name in sorted(expected ^ set(manifest.files)):
        word = "missing" if name in expected else "more"
        yield f"manifest.json: expected the files of a dataset, {name} is {word}"
    for name, file in rendered.items():
        entry = manifest.files.get(name)
        if entry and _sha256(file.render()) != entry["sha256"]:
            yield f"{name}: does not hold the rows of train.jsonl and test.jsonl as we write them"
        if entry and file.rows != entry["rows"]:
            yield f"manifest.json: expected {counted(file.rows, 'row')} for {name}, found {entry['rows']}"


def _parquet(dataset: Path, sides: Mapping[str, Rows]) -> Iterator[str]:
    for side in SIDES:
        pairs = zip_longest(sides[side], read_parquet(dataset / f"{side}.parquet"))
        for number, (row, same) in enumerate(pairs, start=1):
            if row != same:
                yield f"{side}.parquet: row {number} differs from line {number} of {side}.jsonl"
                break


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _first(findings: Iterable[str]) -> list[str]:
    remaining = iter(findings)
    told = [*islice(remaining, MOST)]
    more = sum(1 for _ in remaining)
    return (
        [*told, f"{told[-1].split(':')[0]}: and {counted(more, 'more finding')} of this kind"]
        if more
        else told
    )


def _guarded(name: str, findings: Iterable[str]) -> list[str]:
    """Make a file that cannot be read a finding as well."""
    found: list[str] = []
    try:
        found.extend(findings)
    except (LlmTwinError, OSError, KeyError, TypeError, ValueError) as error:
        found.append(f"{name}: cannot be read: {error}")
    return found
