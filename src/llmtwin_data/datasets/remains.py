"""Where forgotten texts may remain beside store and datasets: trials, reviews, reports, other run folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from llmtwin_data.answers import ForgetReport
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.datasets.manifests import read_manifest
from llmtwin_data.folders import RunFolder, disk_errors, resolve, told, write_atomically
from llmtwin_data.generation.pairs import row_id
from llmtwin_data.languages import windows

# What shares this many words in a row with a forgotten text quotes it.
QUOTED_WORDS = 20
# Instructions that one chunk may have: params allow no more.
MOST_INSTRUCTIONS = 20
# Files of a run folder that hold no text of a content.
WITHOUT_TEXTS = {"run.json", "ledger.jsonl", "comet.json", "upload_pending.json", "lock"}


def trial_stores(path: Path) -> list[Path]:
    """Give the stores that notebook 2 keeps beside the main one for its trials of batch sizes."""
    shape = re.compile(rf"{re.escape(path.stem)}\.batch\d+{re.escape(path.suffix)}")
    return sorted(file for file in path.parent.iterdir() if shape.fullmatch(file.name))


def asked_about(run: RunFolder, report: ForgetReport) -> bool:
    """Say whether a run asked about what is forgotten, as far as is known: it may, where no ledger tells."""
    if not run.ledger_file.exists():
        return True
    rows = read_ledger(run.ledger_file)
    return any((row.collection, row.content_id) in report.contents for row in rows)


def forget_reviews(path: Path, report: ForgetReport) -> int:
    """Take out the decisions on forgotten pairs, and those whose words quote a forgotten text."""
    numbers = range(1, MOST_INSTRUCTIONS + 1)
    gone = {row_id((*place, k)) for place in report.places for k in numbers}
    quotes = {window for text in report.texts for window in windows(text, size=QUOTED_WORDS)}
    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if not _reviews_one(line, gone, quotes)]
    if len(kept) < len(lines):
        write_atomically(path, "\n".join(kept))
    return len(lines) - len(kept)


def elsewhere(held: Mapping[Path, int], rewritten: Sequence[Path], answers: Path) -> Iterator[str]:
    """Say what a person has to delete; ``held`` are the runs that knew of it, with their published rows."""
    for path, rows in held.items():
        run = RunFolder(path)
        made_of = resolve(run.read().get("params", {}).get("answers", answers))
        if made_of.exists() and made_of != answers.resolve():
            yield f"{made_of}: the answers that {path} was made of; forget with --answers {made_of} as well"
        if rows and path not in rewritten:
            yield f"{told(run.dataset)}: an older dataset, {rows} rows of it"
        left = [
            file for file in sorted(path.rglob("*")) if file.is_file() and run.dataset not in file.parents
        ]
        names = [str(file.relative_to(path)) for file in left if file.name not in WITHOUT_TEXTS]
        if names:
            yield f"{told(path)}: {', '.join(names)} may show or hold the texts"
        if run.dataset.exists():
            name = read_manifest(run.dataset / "manifest.json").name
            yield f"Comet, if published: the experiment, and every version of {name} and {name}-files"
    yield "the source (Qdrant, JSONL files): later runs skip what is forgotten, but do not delete it there"


def _reviews_one(line: str, gone: AbstractSet[str], quotes: AbstractSet[int]) -> bool:
    try:
        review = json.loads(line)
    except ValueError:
        return False
    said = "\n".join(value for value in review.values() if isinstance(value, str))
    return review.get("pair_id") in gone or bool(quotes & windows(said, size=QUOTED_WORDS))
