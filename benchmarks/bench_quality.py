"""Measures, curation, split and near-copies of 10,000 and 100,000 pairs: seconds and memory, no LLM."""

from __future__ import annotations

import json
import sys

from setting import Clock, in_own_process, instruction_for, options, peak_mb, show, text_of

from llmtwin_data.contents import Chunk, Pair
from llmtwin_data.curation import Rules, curate
from llmtwin_data.measures import measure_pairs
from llmtwin_data.overlaps import near_duplicates
from llmtwin_data.splits import split_pairs


def pairs_of(count: int) -> list[Pair]:
    """Give so many pairs as the scripted endpoint makes them; one in fifty is a near copy of another."""
    pairs = []
    for number in range(count):
        text = text_of(number - 1 if number % 50 == 1 else number, words=120)
        text = f"{text} With an addition." if number % 50 == 1 else text
        chunk = Chunk(
            str(number),
            "cleaned_posts",
            0,
            len(text),
            text,
            "posts",
            "ada",
            "linkedin",
            f"https://e/{number}",
        )
        pairs.append(Pair(chunk, 1, instruction_for(text), "grounded", "0" * 64, "m", str(number)))
    return pairs


def part(count: int) -> None:
    """Measure one size; print seconds and peak."""
    pairs = pairs_of(count)
    texts = [pair.chunk.text for pair in pairs]
    before = peak_mb()
    with Clock() as measuring:
        measures = measure_pairs(
            [pair.instruction for pair in pairs], range(count), texts, asked_language="same"
        )
    with Clock() as curating:
        decisions = curate(pairs, measures, rules=Rules())
    accepted = [pair for pair, decision in zip(pairs, decisions, strict=True) if decision.accepted]
    with Clock() as splitting:
        split_pairs(accepted, test_fraction=0.1, seed=42)
    seconds = [clock.took.wall for clock in (measuring, curating, splitting)]
    print(json.dumps([count, len(accepted), *seconds, sum(seconds), before, peak_mb()]))


def copies(count: int) -> None:
    """Plant copies with one word in thirty changed; print what is found and what it takes."""
    planted = count // 50
    texts = [text_of(number, words=60) for number in range(count - planted)]
    for place in range(planted):
        words = texts[place * 49].split()
        words[place % 20 + 5 :: 30] = ["again"] * len(words[place % 20 + 5 :: 30])
        texts.append(" ".join(words))
    before = peak_mb()
    with Clock() as looking:
        kept = near_duplicates(texts, threshold=0.8)
    right = sum(kept[count - planted + place] == place * 49 for place in range(planted))
    wrong = sum(found is not None for found in kept) - right
    print(json.dumps([count, planted, right, wrong, looking.took.wall, looking.took.cpu, peak_mb() - before]))


def main() -> None:
    """Print a row a size."""
    given = options(small=10_000, large=100_000)
    rows = [in_own_process(__file__, "part", size) for size in (given.small, given.large)]
    columns = (
        "pairs", "accepted", "measures s", "curation s", "split s", "together s", "MiB before", "peak MiB",
    )  # fmt: skip
    show("Measures, curation and split", columns, rows)
    columns = ("texts", "planted", "found", "wrong", "seconds", "cpu s", "MiB more")
    show("Near-copies", columns, [in_own_process(__file__, "copies", given.large)])


if __name__ == "__main__":
    if sys.argv[1:2] in (["part"], ["copies"]):
        {"part": part, "copies": copies}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
