"""Samples that look like the whole: seeded, one chunk a content, every stratum in proportion."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from llmtwin_data.chunks import Chunk

Stratum = tuple[str, str, str]


def stratified_sample(chunks: Sequence[Chunk], *, most: int, seed: int) -> list[Chunk]:
    """Draw one chunk of each of at most ``most`` contents, spread over kind, author and length.

    Parameters
    ----------
    chunks
        All of them; they may stay on disk, since only the drawn ones are kept.
    seed
        Same chunks and seed give the same sample, in the order of ``chunks``.
    """
    draw = random.Random(seed)
    strata = _strata(chunks, draw)
    shares = _shares({name: len(places) for name, places in strata.items()}, most)
    drawn = [place for name in sorted(strata) for place in draw.sample(strata[name], shares[name])]
    return [chunks[place] for place in sorted(drawn)]


def _strata(chunks: Sequence[Chunk], draw: random.Random) -> dict[Stratum, list[int]]:
    """One place a content, by what makes contents differ."""
    contents: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    kinds: list[Stratum] = []
    for place, chunk in enumerate(chunks):
        contents[chunk.collection, chunk.content_id].append(place)
        kinds.append((chunk.data_type, chunk.author, _length_class(len(chunk.text))))
    strata: defaultdict[Stratum, list[int]] = defaultdict(list)
    for places in contents.values():
        place = draw.choice(places)
        strata[kinds[place]].append(place)
    return strata


def _length_class(characters: int) -> str:
    return "short" if characters < 300 else "long" if characters >= 1200 else "middle"


def _shares(sizes: dict[Stratum, int], most: int) -> dict[Stratum, int]:
    """Give each stratum its part by largest remainder, none more than it holds."""
    total = sum(sizes.values())
    if total <= most:
        return sizes
    exact = {name: most * size / total for name, size in sizes.items()}
    shares = {name: int(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: most - sum(shares.values())]:
        shares[name] += 1
    return shares
