"""What every report is made of: the published rows, their changes, and numbers said as people say them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmtwin_data.datasets.rows import stored_sides
from llmtwin_data.folders import RunFolder

if TYPE_CHECKING:
    import pandas

# What the kinds of `datasets.versions.Diff` mean.
CHANGES = {
    "added": "of a chunk that only the later dataset knows",
    "removed": "of a chunk that only the earlier dataset knows",
    "changed": "another wording, or another text of the content",
    "moved": "the same words on the other side of the split, or published in one dataset only",
}


def dataset_rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Read the published rows, each with its ``side``; none where nothing is published."""
    for side, rows in stored_sides(run.dataset).items():
        if rows.path.exists():
            yield from (row | {"side": side} for row in rows)


def changes_frame(counts: Mapping[str, Any]) -> pandas.DataFrame:
    """Say how many instructions differ between two datasets, and what each kind of change means."""
    import pandas

    rows = [(kind, counts.get(kind, 0), meaning) for kind, meaning in CHANGES.items()]
    return pandas.DataFrame(rows, columns=["change", "instructions", "meaning"])


def grounded_first(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Give the share of rows whose own content is found first, of those where that can be measured."""
    ranks = [row["grounding_rank"] for row in rows if row.get("grounding_rank") is not None]
    return sum(rank == 1 for rank in ranks) / len(ranks) if ranks else None


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )
