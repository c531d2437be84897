"""The promises about a run folder, verified from its files alone; each finding begins with its file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.formats import find_breaks, rendered_files
from llmtwin_data.datasets.ledgers import fates_sha256, read_ledger
from llmtwin_data.datasets.manifests import Manifest, file_entry, read_manifest
from llmtwin_data.datasets.parquet import read_parquet
from llmtwin_data.datasets.promises import find_leaks, find_ledger_faults, find_row_faults, find_unaccounted
from llmtwin_data.datasets.rows import SIDES, Rows, stored_sides
from llmtwin_data.errors import LlmTwinError
from llmtwin_data.folders import RunFolder

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
    accepted = {row.place for row in ledger if row.state == "accepted"}
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
            yield f"manifest.json: expected {file.rows} rows for {name}, found {entry['rows']}"


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
    return [*told, f"{told[-1].split(':')[0]}: and {more} more findings of this kind"] if more else told


def _guarded(name: str, findings: Iterable[str]) -> list[str]:
    """Make a file that cannot be read a finding as well."""
    found: list[str] = []
    try:
        found.extend(findings)
    except (LlmTwinError, OSError, KeyError, TypeError, ValueError) as error:
        found.append(f"{name}: cannot be read: {error}")
    return found
