"""From which contents texts come: by shared windows of words, and by what they retrieve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmtwin_data.contents import Content
from llmtwin_data.measures.grounding import ChunkIndex
from llmtwin_data.measures.overlaps import NEAR_COPY, shared_windows


def origins_of(texts: Sequence[str], contents: Sequence[Content]) -> list[str | None]:
    """Give for each text the content that holds at least half of its windows, or None."""
    if not contents:
        return [None] * len(texts)
    windows = shared_windows([*texts, *(content.text for content in contents)])
    is_content = np.arange(len(windows.sizes)) >= len(texts)
    held = windows.held_by(is_content)
    origins: list[str | None] = []
    for number in range(len(texts)):
        counts = held.counts(number)
        best = int(counts.argmax())
        enough = counts[best] > 0 and counts[best] >= NEAR_COPY * windows.sizes[number]
        origins.append(_name(contents[best - len(texts)]) if enough else None)
    return origins


def coverage_of(queries: Sequence[str], texts: Sequence[str]) -> tuple[int, float]:
    """Give how many texts are the best match of some query, and how many so many random draws would reach.

    A set written without its sources keeps coming back to a few texts: 2,500 published instructions reached
    177 of 424 chunks, a control reached 395.
    """
    index = ChunkIndex(queries)
    for text in texts:
        index.add(text)
    reached = {best for best in index.best() if best is not None}
    total = len(set(texts))
    return len(reached), total * (1 - (1 - 1 / max(total, 1)) ** len(queries))


def _name(content: Content) -> str:
    return f"{content.collection}/{content.id}"
