"""Near-copies among texts: MinHash proposes, shared words decide."""

from __future__ import annotations

from collections.abc import Sequence


def near_duplicates(texts: Sequence[str], *, threshold: float) -> list[int | None]:
    """Give for each text the index of the earlier text it nearly copies, or None where it is kept."""
    raise NotImplementedError
