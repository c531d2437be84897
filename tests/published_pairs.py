"""A finished run folder made of given pairs, without engine, source or model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from written_pairs import changed, pair, table_of

from llmtwin_data.datasets import Manifest, ledger_totals, publish_dataset, run_fields, seal_run, write_ledger
from llmtwin_data.folders import RunFolder

SUBJECTS = ("bread", "rivers", "chess", "bees", "glaciers", "typography", "trams", "olives", "clay", "comets")


def make_pair(number: int, text: str = "", **columns: Any) -> SimpleNamespace:
    """Make the row of content ``number``, with other values in some columns."""
    subject = SUBJECTS[number % 10]
    text = text or f"Notes on {subject}, part {number}: what I learned in a year of looking closely."
    given = {"content_id": f"id-{number}", "collection": "cleaned_posts", "author": f"author-{number % 3}"}
    given |= {"link": f"https://example.org/{number}", "answer_key": f"{number:064x}", "model": "scripted"}
    given |= {"prompt_sha256": "ab" * 32}
    return changed(pair(f"Write part {number} on {subject}.", text, number), **given | columns)


def ledger_of(
    rows: Iterable[SimpleNamespace], state: str = "accepted", reason: str = ""
) -> list[SimpleNamespace]:
    """Give the rows as if they all had ended in one state."""
    return [changed(row, state=state, reason=reason) for row in rows]


def publish(
    folder: Path,
    pairs: Sequence[SimpleNamespace],
    *,
    test: int = 2,
    others: Sequence[SimpleNamespace] = (),
    **options: Any,
) -> Manifest:
    """Publish the pairs into a run folder, the last ``test`` of them as the test set, and say complete."""
    run = RunFolder(folder)
    sides = ["train"] * (len(pairs) - test) + ["test"] * test
    sided = [changed(row, side=side) for row, side in zip(pairs, sides, strict=True)]
    ledger = table_of([*sided, *others])
    ledger.attrs["sides"] = options.pop("previous_sides", {})
    ledger.attrs["certificate"] = options.pop("certificate", {"shared_contents": 0})
    given = {"name": "posts-instruct-dataset", "rules": {"secrets": "drop"}, "screened": {}}
    manifest = publish_dataset(ledger, run, **given | options)
    write_ledger(run.ledger_file, ledger)
    seal_run(run, state="complete", totals=ledger_totals(ledger), **run_fields(run, manifest))
    return manifest
