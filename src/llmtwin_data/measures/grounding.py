"""Grounding: does an instruction retrieve its own chunk among all chunks, by BM25 over integer weights."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmtwin_data.languages import normal_form, terms

# Okapi BM25 as in Robertson and Zaragoza (2009), with Lucene's idf, which is never negative.
TERM_SATURATION = 1.2
LENGTH_WEIGHT = 0.75
# Weights are integers, so that sums, ties and ranks are the same on every machine.
UNITS = 1000
# A chunk fits an instruction "as well" from this share of the best chunk's score.
AS_WELL = 0.9
# In a smaller set one near-copy of the own chunk would look like half of all chunks.
FEWEST_OTHERS = 10
# Characters kept of a word: cutting is a stemmer that needs no language (McNamee and Mayfield 2004).
STEM_CHARS = 6

# A term is common when it is in one chunk of so many.
COMMON = 8

Weights = NDArray[np.int32]
Posting = tuple[NDArray[np.int64] | None, Weights]


@dataclass(frozen=True, slots=True)
class Grounding:
    """How an instruction retrieves its own chunk; chunks of equal normal form count as one.

    ``score`` is the own chunk's BM25 score over the best chunk's, 0.0 to 1.0; ``rank`` is 1 for the best;
    ``margin`` is own minus the best other over the larger of both, -1.0 to 1.0; ``genericness`` is the share
    of other chunks (of ten, where there are fewer) that fit the instruction about as well as the one it fits
    best, 0.0 to 1.0.
    """

    score: float
    rank: int
    margin: float
    genericness: float


class ChunkIndex:
    """The chunks' weights for those terms that instructions use; chunks are added one by one."""

    def __init__(self, instructions: Sequence[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        self._queries = [self._query(instruction) for instruction in instructions]
        self._documents: dict[bytes, int] = {}
        self._document_of = array("i")
        self._terms = array("i")
        self._counts = array("i")
        self._sizes = array("i")
        self._lengths = array("i")

    def add(self, text: str) -> None:
        """Add the next chunk; one of equal normal form that was seen before costs nothing."""
        form = normal_form(text).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(form, digest_size=12).digest()
        document = self._documents.setdefault(digest, len(self._documents))
        self._document_of.append(document)
        if document == len(self._lengths):
            self._add_terms(stems(text))

    def ground(self, owners: Sequence[int]) -> list[Grounding]:
        """Ground each instruction; ``owners`` gives the position of its own chunk in the order of adding."""
        scored = zip(self._scores(), owners, strict=True)
        return [_grounding(scores, self._document_of[owner]) for scores, owner in scored]

    def best(self) -> list[int | None]:
        """Give for each instruction the distinct chunk it fits best, by number; None where it fits none."""
        return [int(scores.argmax()) if scores.any() else None for scores in self._scores()]

    def _scores(self) -> Iterator[Weights]:
        """Yield the scores of all distinct chunks for one instruction after the other, in one array."""
        postings = self._postings()
        scores = np.zeros(len(self._lengths), dtype=np.int32)
        for query in self._queries:
            scores.fill(0)
            for documents, weights in map(postings.__getitem__, query):
                if documents is None:
                    scores += weights
                else:
                    np.add.at(scores, documents, weights)
            yield scores

    def _query(self, instruction: str) -> list[int]:
        known = self._vocabulary
        return [known.setdefault(term, len(known)) for term in dict.fromkeys(stems(instruction))]

    def _add_terms(self, found: list[str]) -> None:
        known = self._vocabulary
        counts = Counter([known[term] for term in found if term in known])
        self._terms.extend(counts.keys())
        self._counts.extend(counts.values())
        self._sizes.append(len(counts))
        self._lengths.append(len(found))

    def _postings(self) -> list[Posting]:
        if not self._vocabulary:
            return []
        lengths = np.array(self._lengths, dtype=np.float64)
        norms = TERM_SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * lengths / max(lengths.mean(), 1.0))
        found = np.array(self._terms, dtype=np.int32)
        order = np.argsort(found, kind="stable")
        cuts = np.searchsorted(found[order], np.arange(1, len(self._vocabulary)))
        documents = np.repeat(np.arange(len(lengths)), np.array(self._sizes))[order]
        counts = np.array(self._counts, dtype=np.int32)[order]
        by_term = zip(np.split(documents, cuts), np.split(counts, cuts), self._rarities(), strict=True)
        return [
            _posting(held, _weights(times, norms[held], len(norms), rarity), total=len(norms))
            for held, times, rarity in by_term
        ]

    def _rarities(self) -> list[float]:
        """Weigh a term by how few instructions use it: "write a post about" tells nothing, 0.0 to 1.0."""
        used = Counter(term for query in self._queries for term in query)
        total = len(self._queries)
        highest = math.log((total + 1) / 1.5)
        return [math.log((total + 1) / (used[term] + 0.5)) / highest for term in range(len(self._vocabulary))]


def stems(text: str) -> list[str]:
    """Give the retrieval terms of a text, words cut to their first characters."""
    return [term[:STEM_CHARS] for term in terms(text)]


def _posting(documents: NDArray[np.int64], weights: Weights, *, total: int) -> Posting:
    """Spread a common term's weights over all chunks, which is faster than looking its chunks up."""
    if len(documents) < total / COMMON:
        return documents, weights
    spread = np.zeros(total, dtype=np.int32)
    spread[documents] = weights
    return None, spread


def _weights(counts: NDArray[np.int32], norms: NDArray[np.float64], total: int, rarity: float) -> Weights:
    idf = math.log(1 + (total - len(counts) + 0.5) / (len(counts) + 0.5))
    saturated = counts * (TERM_SATURATION + 1) / (counts + norms)
    return np.rint(UNITS * rarity * idf * saturated).astype(np.int32)


def _grounding(scores: Weights, document: int) -> Grounding:
    own, best = int(scores[document]), int(scores.max())
    rank = 1 + int(np.count_nonzero(scores > own))
    as_well = int(np.count_nonzero(scores >= math.ceil(AS_WELL * best)))
    scores[document] = 0
    other = int(scores.max())
    return Grounding(
        score=round(own / best, 4) if best else 0.0,
        rank=rank,
        margin=round((own - other) / max(own, other, 1), 4),
        genericness=round((as_well - 1) / max(len(scores) - 1, FEWEST_OTHERS), 4),
    )
