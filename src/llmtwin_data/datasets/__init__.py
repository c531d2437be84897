"""The dataset: accepted pairs in every format, with card and manifest, published whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.cards import card_text
from llmtwin_data.datasets.formats import FORMATS, find_breaks, rendered_files
from llmtwin_data.datasets.ledgers import fates_sha256, ledger_totals, write_ledger
from llmtwin_data.datasets.manifests import Manifest, file_entry, hashed_write
from llmtwin_data.datasets.parquet import write_parquet
from llmtwin_data.datasets.rows import SIDES, Row, Rows, content_of_row, place_of_row
from llmtwin_data.errors import QualityGate, RunIncomplete
from llmtwin_data.folders import RunFolder, disk_errors, publish_folder, write_atomically
from llmtwin_data.generation import LedgerRow, Pair
from llmtwin_data.judging import Verdict
from llmtwin_data.measures import Measures

Sides = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What a dataset is made of besides its rows.

    ``previous_sides`` has the side of each ``collection/content_id`` in the dataset before; those without a
    row now stay known, so that a content which comes back comes back to its side.
    """

    name: str
    ledger: Sequence[LedgerRow]
    certificate: Mapping[str, Any]
    rules: Mapping[str, Any]
    screened: Mapping[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    previous_sides: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def dataset_rows(
    pairs: Sequence[Pair], measures: Sequence[Measures], verdicts: Mapping[str, Verdict], sides: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the rows of train and test, in the order of the pairs; a pair whose side is empty is left out."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for pair, measured, side in zip(pairs, measures, sides, strict=True):
        if side:
            found[side].append(_row(pair, measured, verdicts.get(pair.id)))
    return found["train"], found["test"]


def publish_dataset(train: Sequence[Row], test: Sequence[Row], making: Making, *, run: RunFolder) -> Manifest:
    """Write ledger and dataset into the run folder; the dataset that was there goes when the new is whole.

    Record ``run_fields`` of the manifest in run.json afterwards.

    Raises
    ------
    RunIncomplete
        Some ledger rows are pending.
    QualityGate
        A consumer could not read the rows, or ledger and rows disagree.
    DiskFailed
        Disk full or read-only; the dataset that was there is untouched.
    """
    staged = run.dataset.with_name(".dataset.staged")
    _check_ledger(making.ledger, [*train, *test])
    try:
        with disk_errors(run.dataset):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            manifest = write_dataset(train, test, making, folder=staged)
            write_ledger(run.ledger_file, making.ledger)
            publish_folder(staged, run.dataset)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def write_dataset(train: Sequence[Row], test: Sequence[Row], making: Making, *, folder: Path) -> Manifest:
    """Write every file of the dataset into an empty folder, the manifest last."""
    sides = {"train": train, "test": test}
    if breaks := find_breaks(sides):
        raise QualityGate("dataset not written, its consumers would break:\n" + "\n".join(breaks[:8]))
    counts = {side: len(sides[side]) for side in SIDES}
    files = _write_rows(folder, sides)
    card = card_text(sides, making, configs=_configs(counts), files=files)
    files["README.md"] = hashed_write(folder / "README.md", [card.encode()]) | {"rows": None}
    manifest = Manifest(
        making.name, counts, dict(sorted(files.items())), _contents_by_side(sides, making.previous_sides),
        dict(making.certificate), dict(making.rules), fates_sha256(making.ledger), list(making.notes),
        dict(making.screened),
    )  # fmt: skip
    write_atomically(folder / "manifest.json", manifest.as_json())
    return manifest


def run_fields(run: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Give what run.json must hold, so that `checks.check_run` sees any change of manifest or ledger."""
    ledger = hashlib.sha256(run.ledger_file.read_bytes()).hexdigest()
    return {"dataset_name": manifest.name, "manifest_sha256": manifest.sha256, "ledger_sha256": ledger}


def _row(pair: Pair, measured: Measures, verdict: Verdict | None) -> dict[str, Any]:
    chunk = pair.chunk
    row: dict[str, Any] = {"id": pair.id, "instruction": pair.instruction, "content": chunk.text}
    row |= {key: getattr(chunk, key) for key in ("content_id", "start", "end", "author", "platform", "link")}
    row |= {"data_type": chunk.data_type, "prompt": pair.prompt, "prompt_sha256": pair.prompt_sha256}
    row |= {"model": pair.model, "answer_key": pair.answer_key} | asdict(measured)
    row |= {
        "judge_score": verdict.score if verdict else None,
        "judge_reason": verdict.reason if verdict else None,
    }
    return row | {"collection": chunk.collection, "k": pair.k, "masked": chunk.masked}


def _check_ledger(ledger: Sequence[LedgerRow], rows: Sequence[Row]) -> None:
    if pending := ledger_totals(ledger)["pending"]:
        raise RunIncomplete(
            f"dataset not written: {pending} of {len(ledger)} instructions are pending; run again"
        )
    accepted = {row.place for row in ledger if row.state == "accepted"}
    written = {place_of_row(row) for row in rows}
    if accepted != written:
        raise QualityGate(
            f"dataset not written: the ledger accepts {len(accepted)} instructions, found {len(rows)} rows; "
            f"in only one of the two, for example: {sorted(accepted ^ written)[:3]}"
        )


def _write_rows(folder: Path, sides: Sides) -> dict[str, dict[str, Any]]:
    files = {}
    for name, rendered in rendered_files(sides).items():
        files[name] = hashed_write(folder / name, rendered.render()) | {"rows": rendered.rows}
    for side in SIDES:
        path = folder / f"{side}.parquet"
        write_parquet(path, sides[side])
        files[path.name] = file_entry(path) | {"rows": len(sides[side])}
    return files


def _configs(counts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    filled = [side for side in SIDES if counts[side]]
    # One kind of file in all configs: `datasets` reads every config with the loader of the first.
    default = {"default": {side: f"{side}.jsonl" for side in filled}}
    return default | {shape.name: {side: shape.path(side) for side in filled} for shape in FORMATS}


def _contents_by_side(sides: Mapping[str, Rows], previous: Mapping[str, str]) -> dict[str, list[str]]:
    found = dict(previous) | {content_of_row(row): side for side in SIDES for row in sides[side]}
    return {side: sorted(content for content, its in found.items() if its == side) for side in SIDES}
