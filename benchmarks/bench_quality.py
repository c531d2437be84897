"""Measures by words, curation, split and near-copies of 10,000 and 100,000 pairs: seconds and memory.

Of the made texts few words tell, so that evidence, which would reject nearly all, rejects none.
"""

from __future__ import annotations

import json
import sys

import pandas as pd
from setting import Clock, in_own_process, instruction_for, options, peak_mb, show, text_of

from llmtwin_data.contents import PLACE, row_id
from llmtwin_data.curation import with_decisions
from llmtwin_data.measures import with_measures
from llmtwin_data.overlaps import near_duplicates
from llmtwin_data.params import Params
from llmtwin_data.splits import with_sides

GIVEN = {"collection": "cleaned_posts", "start": 0, "k": 1, "state": "accepted", "reason": "", "value": ""}


def table_of(count: int) -> pd.DataFrame:
    """Give so many pairs as the scripted endpoint makes them; one in fifty is a near copy of another."""
    texts = [
        f"{text_of(number - 1, words=120)} With an addition."
        if number % 50 == 1
        else text_of(number, words=120)
        for number in range(count)
    ]
    columns = {
        "content_id": [str(number) for number in range(count)],
        "link": [f"https://e/{number}" for number in range(count)],
        "content": texts,
        "end": [len(text) for text in texts],
        "instruction": [instruction_for(text) for text in texts],
    }
    table = pd.DataFrame(columns).assign(
        review="", boilerplate=0.0, judge_score=pd.array([pd.NA] * count, "Int64"), **GIVEN
    )
    return table.assign(id=[row_id(place) for place in table[PLACE].itertuples(index=False, name=None)])


def part(count: int) -> None:
    """Measure one size; print seconds and peak."""
    settings, table = Params(seed=42, embedding_model="off", min_evidence=0.0), table_of(count)
    before = peak_mb()
    with Clock() as measuring:
        table = with_measures(table, settings)
    with Clock() as curating:
        table = with_decisions(table, settings)
    accepted = int((table.state == "accepted").sum())
    with Clock() as splitting:
        with_sides(table, settings, {})
    seconds = [clock.took.wall for clock in (measuring, curating, splitting)]
    print(json.dumps([count, accepted, *seconds, sum(seconds), before, peak_mb()]))


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
    show("Measures by words, curation and split", columns, rows)
    columns = ("texts", "planted", "found", "wrong", "seconds", "cpu s", "MiB more")
    show("Near-copies", columns, [in_own_process(__file__, "copies", given.large)])


if __name__ == "__main__":
    if sys.argv[1:2] in (["part"], ["copies"]):
        {"part": part, "copies": copies}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
