"""Numbers that are not ours and openings, through the command: no row and no verdict is a neighbour's."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from asking import document
from running import make_bench
from scripted import foreign

TEXTS = 35
FOREIGN = {foreign(document(number)): number for number in range(TEXTS)}
COUNTED = [{"count_from": 0}, {"count_from": 33}, {"count_from": 2}, {"count_from": 0, "drop": [1]}]
# Each second request only, so that something is published all the same.
WHEN = {"always": {}, "sometimes": {"every": 2}, "in batches": {"contents": {"from": 2}}}


def rows_of(bench):
    files = bench.out.dataset.glob("*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def doc_of(text):
    return int(re.search(r"DOC-(\d+)", text).group(1))


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("counted", COUNTED, ids=str)
def test_l58_no_row_carries_its_neighbours_instruction(tmp_path, counted, when):
    script = [{"when": WHEN[when], "do": counted | {"foreign": True}}, {"when": {}, "do": {"foreign": True}}]
    with scripted.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=TEXTS)
        done = bench.run(instruction_language="zh-TW")

    rows = rows_of(bench)
    assert [row for row in rows if FOREIGN[row["instruction"]] != doc_of(row["content"])] == []
    assert bool(rows) is (when != "always"), done.stderr[-2000:]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("counted", COUNTED, ids=str)
def test_l59_no_verdict_is_the_neighbours(tmp_path, counted, when):
    script = [{"when": WHEN[when] | {"asks": "verdicts"}, "do": counted}]
    with scripted.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=TEXTS)
        texts = [f"{document(n)} SCORE-{n % 5 + 1}" for n in range(TEXTS)]
        done = bench.run(judge_model="judge")

    print(texts[0], rows_of(bench)[:1], done.stderr[-500:])
