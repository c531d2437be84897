"""Forget an author, a link or a content: out of store and newest datasets, with a list of what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from llmtwin_data.answers import AnswerStore, ForgetReport, text_hash
from llmtwin_data.chunks import Span
from llmtwin_data.datasets import Making, publish_dataset, run_fields
from llmtwin_data.datasets.ledgers import ledger_totals, read_ledger
from llmtwin_data.datasets.manifests import read_manifest, sides_of
from llmtwin_data.datasets.mentions import Wanted, find_wanted
from llmtwin_data.datasets.promises import certified
from llmtwin_data.datasets.remains import QUOTED_WORDS, asked_about, elsewhere, forget_reviews, trial_stores
from llmtwin_data.datasets.rows import SIDES, Row, place_of_row, stored_sides
from llmtwin_data.folders import RunFolder, RunLock, told
from llmtwin_data.generation import LedgerRow
from llmtwin_data.generation.pairs import Place
from llmtwin_data.languages import windows


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, and what a person has to delete elsewhere."""

    rows: int
    quoting_rows: int
    contained: dict[Path, int]
    rewritten: tuple[Path, ...]
    elsewhere: tuple[str, ...]
    store: ForgetReport
    reviews: int = 0

    looked_at: int = 0

    def __str__(self) -> str:
        taken = f"{len(self.store.keys)} answers and {len(self.store.text_sha256)} texts"
        lines = [
            f"{self.rows} rows in {len(self.contained)} datasets; {self.quoting_rows} more rows quoted them",
            f"taken out of the store: {taken}, {self.reviews} reviews; later runs skip them as forgotten",
            *(f"rewritten without them: {told(path / 'dataset')}" for path in self.rewritten),
            "left for you to delete:",
            *(f"  {place}" for place in self.elsewhere),
            f"run folders looked at: {self.looked_at}; those outside runs/ only if --runs names them",
        ]
        return "\n".join(lines)


def forget(
    answers: AnswerStore,
    run_dirs: Iterable[Path],
    wanted: Wanted,
    *,
    named: Iterable[Path] = (),
    reviews: Path | None = None,
) -> Forgotten:
    """Take an author, a link or a content out of the store and out of the newest dataset of each params file.

    Parameters
    ----------
    answers
        The stores of trials beside it are treated as well.
    run_dirs
        Every run folder there is; older datasets stay as they are and are listed.
    named
        Those of them whose source is meant, where several sources have the content's id.
    reviews
        File of what people decided about pairs, one JSON object a line.

    Raises
    ------
    ParamsError
        Nothing was named, nothing is known under it, or several contents are.
    RunLocked
        A run works in one of the folders to rewrite.
    """
    folders = [RunFolder(Path(path)) for path in run_dirs]
    mentions, name = find_wanted(answers, [run.path for run in folders], wanted, named=named)
    runs = [run for run in folders if (run.dataset / "manifest.json").is_file()]
    newest = newest_of_each(runs)
    spans = {run.path: {item.span for item in mentions if item.run == run.path} for run in folders}
    found = {run.path: sum(_span(row) in spans[run.path] for row in _rows(run)) for run in runs}
    contained = {path: rows for path, rows in found.items() if rows}
    with ExitStack() as locks:
        for run in newest:
            locks.enter_context(RunLock(run))
        report = _forget_in_stores(answers, name, {item.text for item in mentions} - {""})
        hashes = answers.forgotten_hashes()
        quoting = {run.path: _quoting(run, spans[run.path], report.texts, hashes) for run in newest}
        rewritten = tuple(
            run.path for run in newest if _rewrite(run, spans[run.path], quoting[run.path], report)
        )
    held = contained | {
        run.path: 0
        for run in folders
        if run.path not in contained and (spans[run.path] or asked_about(run, report))
    }
    report = replace(report, places=report.places | {item.span for item in mentions})
    return Forgotten(
        sum(contained.values()),
        sum(map(len, quoting.values())),
        contained,
        rewritten,
        tuple(dict.fromkeys(elsewhere(held, rewritten, answers.path))),
        report,
        forget_reviews(reviews, report) if reviews and reviews.exists() else 0,
        len(folders),
    )


def newest_of_each(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Give the newest run of each params file (``runs/<stem>/<UTC time>``), and every other folder."""

    def stem(run: RunFolder) -> str:
        return str(run.path.parent if run.path.name[:4].isdecimal() else run.path)

    in_order = sorted(runs, key=lambda run: (stem(run), run.path.name))
    return [[*group][-1] for _, group in groupby(in_order, key=stem)]


def _rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    for rows in stored_sides(run.dataset).values():
        yield from rows


def _forget_in_stores(answers: AnswerStore, name: Wanted, texts: AbstractSet[str]) -> ForgetReport:
    report = answers.forget(**name.as_origin, texts=sorted(texts))
    for trial in trial_stores(answers.path):
        with AnswerStore(trial) as store:
            store.forget(**name.as_origin, texts=sorted(report.texts))
    return report


def _quoting(
    run: RunFolder, spans: AbstractSet[Span], texts: AbstractSet[str], hashes: AbstractSet[str]
) -> list[dict[str, Any]]:
    """Find other rows that hold a run of words of the texts, or whose text the store forgot as well."""
    forgotten = {window for text in texts for window in windows(text, size=QUOTED_WORDS)}
    others = (row for row in _rows(run) if _span(row) not in spans)
    return [row for row in others if text_hash(row["content"]) in hashes or forgotten & _row_windows(row)]


def _row_windows(row: Row) -> set[int]:
    return windows(row["content"], size=QUOTED_WORDS) | windows(row["instruction"], size=QUOTED_WORDS)


def _rewrite(run: RunFolder, spans: AbstractSet[Span], quoting: Sequence[Row], report: ForgetReport) -> bool:
    """Write the dataset of a run again without what is forgotten; False where it held nothing of it."""
    # Another source may have another content under an id that the store knew.
    others = {_span(row)[:2] for row in _rows(run)}
    contents = {span[:2] for span in spans} | (set(report.contents) - others)
    gone = {place_of_row(row) for row in quoting}
    before = read_ledger(run.ledger_file)
    ledger = [_forgotten(row, gone, contents) for row in before]
    if ledger == before:
        return False
    _publish_again(run, ledger, contents)
    return True


def _span(row: Row) -> Span:
    return row["collection"], row["content_id"], row["start"], row["end"]


def _forgotten(row: LedgerRow, gone: AbstractSet[Place], contents: AbstractSet[tuple[str, str]]) -> LedgerRow:
    if row.place in gone or (row.collection, row.content_id) in contents:
        return replace(row, state="skipped", reason="forgotten", value="")
    return row


def _publish_again(
    run: RunFolder, ledger: Sequence[LedgerRow], contents: AbstractSet[tuple[str, str]]
) -> None:
    manifest = read_manifest(run.dataset / "manifest.json")
    kept = {row.place for row in ledger if row.state == "accepted"}
    stored = stored_sides(run.dataset)
    train, test = ([row for row in stored[side] if place_of_row(row) in kept] for side in SIDES)
    names = {"/".join(content) for content in contents}
    sides = {content: side for content, side in sides_of(manifest).items() if content not in names}
    making = Making(
        name=manifest.name, ledger=ledger, rules=manifest.rules, previous_sides=sides, notes=manifest.notes,
        certificate=manifest.certificate | certified({"train": train, "test": test}),
        screened=manifest.screened,
    )  # fmt: skip
    published = publish_dataset(train, test, making, run=run)
    totals = run.read().get("totals", {}) | ledger_totals(ledger)
    run.update(totals=totals, **run_fields(run, published))
