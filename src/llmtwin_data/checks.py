"""The promises of a run, verified from its files alone."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from llmtwin_data.answers import AnswerStore
from llmtwin_data.cluster import BLOCK_ROWS, blocks
from llmtwin_data.contents import KEY, PLACE, SKIPPED, places_of, row_id, rows_of
from llmtwin_data.curation import REASONS
from llmtwin_data.datasets import (
    SIDES,
    STATES,
    Manifest,
    Rows,
    content_of_row,
    fates_sha256,
    file_entry,
    find_breaks,
    ledger_totals,
    lines_of,
    place_of_row,
    read_ledger,
    read_manifest,
    rendered_files,
    seal_of,
    stored_sides,
)
from llmtwin_data.errors import LlmTwinError
from llmtwin_data.folders import RunFolder
from llmtwin_data.overlaps import shared_windows
from llmtwin_data.prompts import answer_key
from llmtwin_data.screening import find_personal_data, find_secrets
from llmtwin_data.splits import find_leaks
from llmtwin_data.texts import counted, text_sha256

# Findings of one kind that are shown; the first ones say what is wrong.
MOST = 5


def check_run(run_dir: Path | str) -> list[str]:
    """Check seal, ledger, manifest, files, formats, sides and rows; no finding means that all promises hold.

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
    complete, manifest_file = facts.get("state") == "complete", run.dataset / "manifest.json"
    findings = [*_recorded_faults(run, facts)]
    if complete or run.ledger_file.exists():
        findings += _readable("ledger.jsonl", _ledger_faults(run, facts, complete=complete))
    if complete or run.dataset.exists():
        faults = check_dataset(run.dataset)
        findings += faults
        if complete and manifest_file.is_file():
            if facts.get("manifest_sha256") != file_entry(manifest_file)["sha256"]:
                findings.append("dataset/manifest.json: changed since run.json recorded it (manifest_sha256)")
            elif not faults:
                findings += _readable("dataset/", _pairing_faults(run))
    return findings + _readable("seal", _seal_faults(run, facts))


def check_dataset(dataset: Path) -> list[str]:
    """Check a dataset folder against its own manifest: files, formats, sides, rows."""
    return _readable("dataset/", _dataset_faults(dataset))


def publication_of(run_dir: Path) -> str:
    """Return in words what a run published, how it ended if not well, and whether it has no seal."""
    run = RunFolder(run_dir)
    facts, manifest_file = run.read(), run.dataset / "manifest.json"
    words = "nothing was published"
    if manifest_file.is_file():
        manifest = read_manifest(manifest_file)
        rows = counted(sum(manifest.counts.values()), "row")
        words = f"published: {manifest.name}, {rows}, manifest {manifest.sha256[:12]}"
    if facts.get("state") != "complete":
        words += f", the run is {facts.get('state')}"
    if "seal" not in facts:
        words += "; it has no seal, so run.json and verdicts.jsonl are taken as they are"
    return words


def check_answers(
    run_dir: Path, answers: AnswerStore, *, edits: Collection[tuple[str, str]] = ()
) -> list[str]:
    """Check that each published instruction is the stored answer to its own text.

    ``edits``: the id of a pair and the wording that a person gave it; they stand in a dataset as well.
    """
    return _readable("dataset/", _first(_answer_faults(run_dir / "dataset", answers, edits)))


def _answer_faults(dataset: Path, answers: AnswerStore, edits: Collection[tuple[str, str]]) -> Iterator[str]:
    sides = stored_sides(dataset) if dataset.exists() else {}
    recipes, store = answers.recipe_hashes(), answers.path.name
    for part in blocks(lines_of(sides)):
        stored = answers.answers([row["answer_key"] for _, _, row in part])
        for line, _, row in part:
            answer, edited = stored.get(row["answer_key"]), (row["id"], row["instruction"]) in edits
            if answer is None:
                yield f"dataset/{line}: {store} holds no such answer; another store, or forgotten since"
            elif row["instruction"] not in answer.values[row["k"] - 1 : row["k"]] and not edited:
                yield f"dataset/{line}: its instruction is not the one in {store}"
            elif row["answer_key"] not in (answer_key(row["content"], recipe) for recipe in recipes):
                yield f"dataset/{line}: its answer in {store} is to another text"


def _recorded_faults(run: RunFolder, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare report and notebooks with the hashes that run.json holds of them once the driver is done."""
    recorded = facts.get("files") or {}
    # The hashes of a run that goes on would be of what stood there before.
    if not (recorded or facts.get("seal")) or facts.get("state") in ("running", "incomplete"):
        return
    present = [run.report, *sorted(run.notebooks.glob("*.ipynb"))]
    for name in dict.fromkeys([*recorded, *(str(path.relative_to(run.path)) for path in present)]):
        path = run.path / name
        if name in recorded and not path.is_file():
            yield f"{name}: run.json names this file, found no such file"
        elif path.is_file() and name not in recorded:
            yield f"{name}: run.json does not name this file"
        elif path.is_file() and file_entry(path)["sha256"] != recorded[name]:
            yield f"{name}: changed since run.json recorded it"


def _seal_faults(run: RunFolder, facts: Mapping[str, Any]) -> Iterator[str]:
    """Find what is no more as it was when the run ended; a run of before there were seals has none."""
    if "seal" in facts:
        # Name and hash of what is in one only, or differs.
        for name in sorted(dict(facts["seal"].items() ^ seal_of(run, facts).items())):
            yield f"{name}: changed since the run was sealed"
    elif facts.get("state") == "complete" and (read_ledger(run.ledger_file).instruction_sha256 != "").any():
        yield "run.json: expected the seal of a complete run, found none"


def _ledger_faults(run: RunFolder, facts: Mapping[str, Any], *, complete: bool) -> Iterator[str]:
    ledger = read_ledger(run.ledger_file)
    if complete and facts.get("ledger_sha256") != file_entry(run.ledger_file)["sha256"]:
        yield "ledger.jsonl: changed since run.json recorded it (ledger_sha256)"
    faults = chain(_state_faults(ledger, complete=complete), _tiling_faults(ledger))
    yield from _first(f"ledger.jsonl: {fault}" for fault in faults)
    for name, number in (ledger_totals(ledger) if complete else {}).items():
        recorded = facts.get("totals", {}).get(name, number if name == "pending" else None)
        if recorded != number:
            yield f"run.json: totals.{name} is {recorded}, the rows of ledger.jsonl give {number}"


def _state_faults(ledger: pd.DataFrame, *, complete: bool) -> Iterator[str]:
    """Find what is accounted for twice, or without a valid state and reason (I1)."""
    reasons = {"accepted": {""}, "rejected": REASONS, "skipped": SKIPPED}
    rows = zip(places_of(ledger), rows_of(ledger), ledger.duplicated(PLACE), strict=True)
    for number, (place, row, again) in enumerate(rows, start=1):
        if again:
            yield f"line {number}: {place} stands there twice"
        without = row.state == "failed" and not row.reason
        if row.state not in STATES or (row.state == "pending" and complete):
            yield f"line {number}: expected a final state, found {row.state!r}"
        elif without or row.reason not in reasons.get(row.state, [row.reason]):
            expected = "no reason" if row.state == "accepted" else "a reason"
            yield f"line {number}: expected {expected} for {row.state}, found {row.reason!r}"


def _tiling_faults(ledger: pd.DataFrame) -> Iterator[str]:
    """Find instruction numbers that are missing, and chunks of a content that overlap or leave a gap."""
    numbers = ledger.groupby(KEY, observed=True).k.unique()
    for place, its in zip(numbers.index, numbers, strict=True):
        if {*its} != {*range(1, len(its) + 1)}:
            chunk = "{}/{} {} to {}".format(*place)
            yield f"{chunk}: expected instructions from 1 on, found {sorted(its.tolist())}"
    chunks = numbers.index.to_frame(index=False)
    before = chunks.groupby(KEY[:2]).end.shift(fill_value=0)
    for row, end in zip(rows_of(chunks), before, strict=True):
        if row.start != end:
            content = f"{row.collection}/{row.content_id}"
            yield f"{content}: a chunk ends at {end}, the next starts at {row.start}"


def _pairing_faults(run: RunFolder) -> Iterator[str]:
    """Find rows that the ledger does not accept, and accepted instructions that have no row."""
    ledger = read_ledger(run.ledger_file)
    if fates_sha256(ledger) != read_manifest(run.dataset / "manifest.json").ledger_sha256:
        yield "ledger.jsonl: other rows, states or reasons than those that the dataset was made of"
    accepted = ledger[ledger.state == "accepted"]
    hashes = dict(zip(places_of(accepted), accepted.instruction_sha256, strict=True))
    is_tied = (ledger.instruction_sha256 != "").any()
    faults = []
    # No two rows have one place: they would have one id.
    for line, _, row in lines_of(stored_sides(run.dataset)):
        known = hashes.pop(place_of_row(row), None)
        if known is None:
            faults.append(f"dataset/{line}: ledger.jsonl does not accept this row")
        elif is_tied and known != text_sha256(row["instruction"]):
            faults.append(f"dataset/{line}: ledger.jsonl has another instruction")
    for place in sorted(hashes):
        faults.append(f"ledger.jsonl: {place} is accepted, but has no row in train.jsonl or test.jsonl")
    yield from _first(faults)


def _dataset_faults(dataset: Path) -> Iterator[str]:
    if not (dataset / "manifest.json").is_file():
        yield "dataset/manifest.json: expected the manifest of a whole dataset, found no such file"
        return
    manifest = read_manifest(dataset / "manifest.json")
    if faults := [*_file_faults(dataset, manifest)]:
        yield from faults
        return
    sides = stored_sides(dataset)
    kinds = (
        _format_faults(sides, manifest),
        _parquet_faults(dataset, sides),
        find_breaks(sides),
        _row_faults(sides, manifest),
        _leaks(sides, manifest),
    )
    yield from (f"dataset/{finding}" for kind in kinds for finding in _first(kind))


def _file_faults(dataset: Path, manifest: Manifest) -> Iterator[str]:
    present = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if not path.is_dir()}
    for name in sorted(present - {*manifest.files, "manifest.json"}):
        yield f"dataset/{name}: not in manifest.json"
    for name, entry in manifest.files.items():
        if name not in present:
            yield f"dataset/{name}: manifest.json names this file, found no such file"
            continue
        for fact, value in file_entry(dataset / name).items():
            if value != entry[fact]:
                yield f"dataset/{name}: expected {fact} {entry[fact]}, found {value}"


def _format_faults(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Render every text file from train.jsonl and test.jsonl again, and compare."""
    expected = {f"{side}.parquet" for side in SIDES} | {"README.md"}
    # Datasets of before have no files for trainers; the manifest's hashes hold those that are there.
    expected |= {name for name in manifest.files if name.startswith("training/")}
    digests, counts = defaultdict[str, Any](hashlib.sha256), Counter[str]()
    for name, rows, piece in rendered_files(sides, system=manifest.rules.get("system", "")):
        digests[name].update(piece)
        counts[name] += rows
    for name, rows in counts.items():
        if not (entry := manifest.files.get(name)):
            continue
        if digests[name].hexdigest() != entry["sha256"]:
            yield f"{name}: does not hold the rows of train.jsonl and test.jsonl as we write them"
        if rows != entry["rows"]:
            yield f"manifest.json: expected {counted(rows, 'row')} for {name}, found {entry['rows']}"
    expected |= counts.keys()
    for name in sorted(expected ^ set(manifest.files)):
        word = "missing" if name in expected else "more"
        yield f"manifest.json: expected the files of a dataset, {name} is {word}"


def _parquet_faults(dataset: Path, sides: Mapping[str, Rows]) -> Iterator[str]:
    from pyarrow import parquet

    for side in SIDES:
        (file,) = parquet.ParquetDataset(dataset / f"{side}.parquet", pre_buffer=False).fragments
        # Else whole groups are read ahead, as many as there are.
        batches = file.to_batches(batch_size=BLOCK_ROWS, batch_readahead=0, use_threads=False)
        pairs = zip_longest(sides[side], chain.from_iterable(batch.to_pylist() for batch in batches))
        number = next((number for number, (row, same) in enumerate(pairs, start=1) if row != same), None)
        if number:
            yield f"{side}.parquet: row {number} differs from line {number} of {side}.jsonl"


def _row_faults(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Find rows whose id, length or side is not what their origin says, or that hold what was screened."""
    rules = manifest.rules
    searches = [find_secrets] if rules.get("secrets", "drop") != "keep" else []
    searches += [find_personal_data] if rules.get("personal_data", "keep") != "keep" else []
    known, counts = {side: set(manifest.sides[side]) for side in SIDES}, Counter[str]()
    for line, side, row in lines_of(sides):
        counts[side] += 1
        if row["id"] != (expected := row_id(place_of_row(row))):
            yield f"{line}: expected the id {expected} from its origin, found {row['id']}"
        length = row["end"] - row["start"]
        if not row["masked"] and len(row["content"]) != length:
            yield f"{line}: expected {length} characters of content, found {len(row['content'])}"
        # Each by itself, as before publishing: glued together they can look like what neither holds.
        for finding in chain(*(find(row[name]) for name in ("instruction", "content") for find in searches)):
            what = "a secret" if finding.group == "secret" else "personal data"
            yield f"{line}: holds what looks like {what} ({finding.kind})"
        if content_of_row(row) not in known[side]:
            yield f"{line}: sides.{side} of manifest.json does not name its content"
    for side in SIDES:
        if counts[side] != (recorded := manifest.counts.get(side)):
            rows = counted(counts[side], "row")
            yield f"manifest.json: counts.{side} is {recorded}, {side}.jsonl has {rows}"


def _leaks(sides: Mapping[str, Rows], manifest: Manifest) -> Iterator[str]:
    """Find what stands on both sides: a content, a link, or a chunk that shares half of its words."""
    for content in sorted(set(manifest.sides["train"]) & set(manifest.sides["test"])):
        yield f"manifest.json: content {content} is on both sides"
    origins = (
        (line, side, content_of_row(row), row["link"], *place_of_row(row))
        for line, side, row in lines_of(sides)
    )
    rows = pd.DataFrame(origins, columns=["line", "side", "content", "link", *PLACE])
    train, test = (rows[rows.side == side] for side in SIDES)
    for kind in ("content", "link"):
        for row in rows_of(test[test[kind].isin(train[kind]) & (test[kind] != "")]):
            yield f"{row.line}: its {kind} is in train.jsonl too: {getattr(row, kind)[:60]!r}"
    leaks = find_leaks(shared_windows(row["content"] for _, _, row in lines_of(sides)), rows.side.to_numpy())
    for chunk, share in leaks.chunks.items():
        yield f"{rows.line[chunk]}: shares {share:.0%} of its windows with the other side"
    chunks = rows.side[~rows.duplicated(["side", *KEY])]
    certificate: dict[str, float] = {f"{side}_chunks": int((chunks == side).sum()) for side in SIDES}
    certificate["max_containment"] = leaks.max_containment
    for name, figure in certificate.items():
        if manifest.certificate.get(name, figure) != figure:
            yield f"manifest.json: certificate.{name} is {manifest.certificate[name]}, the rows give {figure}"


def _first(findings: Iterable[str]) -> list[str]:
    findings = [*findings]
    if len(findings) <= MOST:
        return findings
    more = counted(len(findings) - MOST, "more finding")
    return [*findings[:MOST], f"{findings[MOST - 1].split(':')[0]}: and {more} of this kind"]


def _readable(name: str, findings: Iterable[str]) -> list[str]:
    """Make a file that cannot be read a finding as well."""
    collected = list[str]()
    try:
        collected.extend(findings)
    except (LlmTwinError, OSError, KeyError, TypeError, ValueError) as error:
        collected.append(f"{name}: cannot be read: {error}")
    return collected
