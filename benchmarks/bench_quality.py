"""From stored answers to a published dataset at 10,000 and 100,000 pairs: seconds a step, and memory.

`--large 1000000` takes 20 minutes. Posts of about 700 characters, one in fifty a near copy of another. Their
source is a folder of pages, so that neither Qdrant nor making them counts. Of the made texts few words tell,
so that evidence, which would reject nearly all, rejects none.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import pandas as pd
import psutil
from bench_memory import Generated
from setting import Clock, in_own_process, instruction_for, options, peak_mb, show, text_of

from llmtwin_data import pipeline
from llmtwin_data.answers import Answer, AnswerStore
from llmtwin_data.contents import PLACE, row_id
from llmtwin_data.embeddings import PackagedModel
from llmtwin_data.overlaps import near_duplicates
from llmtwin_data.params import Params
from llmtwin_data.prompts import Question

GIVEN = {"collection": "cleaned_posts", "start": 0, "k": 1, "state": "accepted", "reason": "", "value": ""}
STEPS = ("read", "answers", "measures", "verdicts", "decisions", "sides", "publish")


def post_of(number: int) -> str:
    """Give a post of about 700 characters; one in fifty is the one before it, and a sentence."""
    copied = number % 50 == 1
    return text_of(number - copied, words=120) + " With an addition." * copied


class Posts(Generated):
    """A source of the posts of a folder, a page a file."""

    def __init__(self, size: int, folder: str) -> None:
        super().__init__(size)
        self.folder = folder

    def scroll(self, collection, *, offset=None, page_size=256, authors=(), platforms=(), fields):
        """Read one page."""
        points = json.loads(Path(self.folder, f"{offset or 0}.json").read_text())
        last = (offset or 0) + len(points)
        return points, last if last < self.size else None


def settings_in(folder: str) -> Params:
    """Give the settings of a study whose store and run lie in this folder."""
    return Params(
        seed=42, endpoint="http://127.0.0.1:9/v1", model="none", embedding_model="off", min_evidence=0.0,
        quality_gate="warn", answers=f"{folder}/answers.sqlite", run_dir=f"{folder}/run",
    )  # fmt: skip


def fill(count: int, folder: str) -> None:
    """Write so many posts, and store the answers to them, as asking does."""
    settings = settings_in(folder)
    recipe = pipeline.recipe_maker(settings)("posts")
    with AnswerStore(Path(settings.answers)) as store:
        store.save(recipes=[recipe])
        for first in range(0, count, 2_000):
            questions = [
                Question(text, recipe, str(number), "cleaned_posts", 0, len(text), "", f"https://e/{number}")
                for number in range(first, min(first + 2_000, count))
                for text in [post_of(number)]
            ]
            costs = {"prompt_tokens": 500, "completion_tokens": 20, "cost_usd": 1e-4, "model": "none"}
            answers = [Answer(it.key, "ok", (instruction_for(it.text),), **costs) for it in questions]
            store.save(answers=answers, questions=questions)
            payloads = [{"cleaned_content": it.text, "type": "posts", "link": it.link} for it in questions]
            Path(folder, f"{first}.json").write_text(json.dumps([*enumerate(payloads, first)]))
    print("0")


def part(count: int, folder: str) -> None:
    """Go from the store to the dataset; print seconds a step, and the peak of the larger process."""
    settings, clocks = settings_in(folder), [Clock() for _ in STEPS]
    reading, answering, measuring, judging, deciding, splitting, publishing = clocks
    with AnswerStore(Path(settings.answers)) as store:
        with reading:
            table = pipeline.read_chunks(Posts(count, folder), settings, store)
        with answering:
            table = pipeline.with_answers(table, settings, store)
        with measuring:
            table = pipeline.with_measures(table, settings, store)
        with judging:
            table = pipeline.with_verdicts(table, settings, store)
    with deciding:
        table = pipeline.with_decisions(table, settings)
    with splitting:
        table = pipeline.with_sides(table, settings, pipeline.previous_of(table, settings))
    accepted = int((table.state == "accepted").sum())
    with publishing:
        pipeline.publish(table, settings)
    seconds = [clock.took.wall for clock in clocks]
    children = psutil.Process().children()
    cpu = sum(sum(it.cpu_times()[:2]) for it in [psutil.Process(), *children])
    statuses = [Path(f"/proc/{it.pid}/status").read_text() for it in children]
    peaks = [int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024 for status in statuses]
    print(json.dumps([count, accepted, *seconds, sum(seconds), cpu, max([peak_mb(), *peaks])]))


def table_of(count: int) -> pd.DataFrame:
    """Give so many of the pairs as a table with answers."""
    texts = [post_of(number) for number in range(count)]
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


def vectors(count: int, folder: str) -> None:
    """Compute the vectors of so many posts, then read them; print seconds, and the file's kB a text."""
    model, texts = PackagedModel(Path(folder) / "vectors.sqlite", writes=True), [*map(post_of, range(count))]
    with Clock() as computing:
        model(texts)
    with Clock() as reading:
        model(texts)
    seconds = [clock.took.wall for clock in (computing, reading)]
    print(json.dumps([count, *seconds, (Path(folder) / "vectors.sqlite").stat().st_size / count / 1000]))


def main() -> None:
    """Print a row a size."""
    given, rows = options(small=10_000, large=100_000, vectors=4_000), []
    for size in (given.small, given.large):
        with tempfile.TemporaryDirectory() as folder:
            in_own_process(__file__, "fill", size, folder)
            rows.append(in_own_process(__file__, "part", size, folder))
    columns = ("pairs", "accepted", *(f"{step} s" for step in STEPS), "all s", "cpu s", "peak MiB")
    show("From stored answers to a published dataset", columns, rows)
    columns = ("texts", "planted", "found", "wrong", "seconds", "cpu s", "MiB more")
    show("Near-copies", columns, [in_own_process(__file__, "copies", min(given.large, 100_000))])
    with tempfile.TemporaryDirectory() as folder:
        rows = [in_own_process(__file__, "vectors", given.vectors, folder)]
    show("Vectors of the packaged model, on all cores", ("texts", "computed s", "again s", "kB a text"), rows)


if __name__ == "__main__":
    if sys.argv[1:2] in (["fill"], ["part"], ["copies"], ["vectors"]):
        parts = {"fill": fill, "part": part, "copies": copies, "vectors": vectors}
        parts[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
    else:
        main()
