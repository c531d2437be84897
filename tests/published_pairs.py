"""A finished run folder made of given pairs, without engine, source or model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmtwin_data.contents import Chunk, LedgerRow, Pair
from llmtwin_data.curation import Verdict
from llmtwin_data.datasets import Making, Manifest, dataset_rows, ledger_totals, publish_dataset, run_fields
from llmtwin_data.folders import RunFolder
from llmtwin_data.measures import Measures

MEASURED = Measures(
    grounding=1.0,
    grounding_rank=1,
    grounding_margin=0.5,
    copied_instruction=0.0,
    copied_content=0.0,
    genericness=0.0,
    repeats=0,
    language="en",
    language_asked="same",
    language_ok=True,
    characters=20,
    tokens=5,
    self_contained=True,
)
SUBJECTS = ("bread", "rivers", "chess", "bees", "glaciers", "typography", "trams", "olives", "clay", "comets")


def make_pair(number: int, text: str = "", **changes: object) -> Pair:
    """Make the pair of content ``number``; changes are fields of the chunk or of the pair."""
    text = (
        text
        or f"Notes on {SUBJECTS[number % 10]}, part {number}: what I learned in a year of looking closely."
    )
    chunk = Chunk(
        content_id=f"id-{number}",
        collection="cleaned_posts",
        start=0,
        end=len(text),
        text=text,
        data_type="posts",
        author=f"author-{number % 3}",
        platform="linkedin",
        link=f"https://example.org/{number}",
    )
    of_chunk = {name: value for name, value in changes.items() if name in Chunk.__slots__}
    of_pair = {name: value for name, value in changes.items() if name not in of_chunk}
    pair = Pair(
        chunk=replace(chunk, **of_chunk),
        k=1,
        instruction=f"Write part {number} on {SUBJECTS[number % 10]}.",
        prompt="grounded",
        prompt_sha256="ab" * 32,
        model="scripted",
        answer_key=f"{number:064x}",
    )
    return replace(pair, **of_pair)


def ledger_of(pairs: Sequence[Pair], state: str = "accepted", reason: str = "") -> list[LedgerRow]:
    """Give the ledger rows of pairs that all ended in one state."""
    return [_ledger_row(pair, state, reason) for pair in pairs]


def publish(
    folder: Path,
    pairs: Sequence[Pair],
    *,
    test: int = 2,
    others: Sequence[LedgerRow] = (),
    verdicts: dict[str, Verdict] | None = None,
    **options: object,
) -> Manifest:
    """Publish the pairs into a run folder, the last ``test`` of them as the test set, and say complete."""
    run = RunFolder(folder)
    sides = ["train"] * (len(pairs) - test) + ["test"] * test
    rows = dataset_rows(pairs, [MEASURED] * len(pairs), verdicts or {}, sides)
    ledger = [*ledger_of(pairs), *others]
    given = {
        "name": "posts-instruct-dataset",
        "certificate": {"shared_contents": 0},
        "rules": {"secrets": "drop"},
    }
    manifest = publish_dataset(*rows, Making(ledger=ledger, **(given | options)), run=run)
    run.update(state="complete", totals=ledger_totals(ledger), **run_fields(run, manifest))
    return manifest


def _ledger_row(pair: Pair, state: str, reason: str) -> LedgerRow:
    chunk = pair.chunk
    cost = {"requests": 1, "prompt_tokens": 90, "completion_tokens": 12, "cost_usd": 0.0001}
    place = (chunk.content_id, chunk.start, chunk.end, pair.k)
    return LedgerRow(*place, state, reason, collection=chunk.collection, **cost)
