"""Grounding inside one batch: an instruction against its own chunk and its batch-mates, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations

from llmtwin_data.measures.grounding import TERM_SATURATION, stems

# Two instructions are taken for exchanged when both together fit each other's chunks better by this factor.
EXCHANGE_FACTOR = 1.1
# One instruction is taken for another chunk's when it fits that one better by this factor.
STRAY_FACTOR = 3.0

Bag = Counter[str]


def ground_among(instruction: str, own: str, mates: Sequence[str]) -> float:
    """Give the own chunk's score over the best score among own chunk and batch-mates, 0.0 to 1.0.

    0.0 also where the instruction shares no term with any of them.
    """
    return weigh_among(instruction, own, mates)[0]


def weigh_among(instruction: str, own: str, others: Iterable[str]) -> tuple[float, float]:
    """Give what `ground_among` does, and the weight of the terms shared with the own chunk, from 0.0."""
    bags = [_bag(own), *(_bag(other) for other in dict.fromkeys(others) if other != own)]
    scores = _scores(set(stems(instruction)), bags)
    best = max(scores)
    return round(scores[0] / best, 4) if best else 0.0, round(scores[0], 4)


def find_swapped(instructions: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Give the positions whose instructions look exchanged, or written for another text of the batch."""
    bags = [_bag(text) for text in texts]
    queries = _telling([set(stems(instruction)) for instruction in instructions])
    table = [_scores(query, bags) for query in queries]
    swapped = {
        place for one, other in combinations(range(len(texts)), 2) for place in _exchanged(table, one, other)
    }
    return sorted(swapped | {place for place, row in enumerate(table) if _strays(row, place)})


def _exchanged(table: Sequence[Sequence[float]], one: int, other: int) -> tuple[int, ...]:
    kept = table[one][one] + table[other][other]
    crossed = table[one][other] + table[other][one]
    better_each = table[one][other] >= table[one][one] and table[other][one] >= table[other][other]
    return (one, other) if better_each and crossed > EXCHANGE_FACTOR * kept else ()


def _strays(row: Sequence[float], place: int) -> bool:
    return max(row) > STRAY_FACTOR * row[place] and max(row) >= 1.0


def _telling(queries: Sequence[set[str]]) -> list[set[str]]:
    """Leave out the terms that at least half of the batch's instructions use ("write", "post")."""
    used = Counter(term for query in queries for term in query)
    return [{term for term in query if 2 * used[term] < len(queries) or used[term] == 1} for query in queries]


def _scores(query: Iterable[str], bags: Sequence[Bag]) -> list[float]:
    scores = [0.0] * len(bags)
    for term in sorted(query):
        counts = [bag.get(term, 0) for bag in bags]
        holders = len(bags) - counts.count(0)
        if holders:
            weight = _weight(term) * math.log(1 + (len(bags) - holders + 0.5) / (holders + 0.5))
            scores = [
                score + weight * count / (count + TERM_SATURATION)
                for score, count in zip(scores, counts, strict=True)
            ]
    return scores


def _weight(term: str) -> float:
    """Weigh a spaced word by its length: among eight chunks a function word looks as rare as a name."""
    return min(len(term), 6) / 6 if term.isascii() else 1.0


@lru_cache(maxsize=1024)
def _bag(text: str) -> Bag:
    return Counter(stems(text))
