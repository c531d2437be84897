"""The LLM judge: a verdict on a pair, asked and stored like any other question, and how far to trust it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmtwin_data.prompts import Question, Recipe

if TYPE_CHECKING:
    from llmtwin_data.answers import AnswerStore
    from llmtwin_data.generation import Pair

SCORES = range(1, 6)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of one pair: 1 for another content's instruction, 5 for one that fits only this."""

    score: int
    reason: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a way of choosing pairs agrees with people's labels; None where nothing was chosen or good."""

    chooser: str
    chosen: int
    labelled: int
    precision: float | None
    recall: float | None


def verdict_question(pair: Pair, recipe: Recipe) -> Question:
    """Ask the judge about a pair: genre and instruction on a line each, then the content."""
    chunk = pair.chunk
    instruction = " ".join(pair.instruction.split())
    return Question(
        text=f"Genre: {chunk.data_type}\nInstruction: {instruction}\nContent:\n{chunk.text}",
        recipe=recipe,
        content_id=chunk.content_id,
        collection=chunk.collection,
        start=chunk.start,
        end=chunk.end,
        author=chunk.author,
        link=chunk.link,
    )


def read_verdicts(pairs: Sequence[Pair], recipe: Recipe, answers: AnswerStore) -> dict[str, Verdict]:
    """Give the stored verdicts by pair id; a pair without a valid one is absent."""
    keys = {pair.id: verdict_question(pair, recipe).key for pair in pairs}
    stored = answers.answers(list(keys.values()))
    found = ((pair_id, stored[key].values) for pair_id, key in keys.items() if key in stored)
    return {pair_id: Verdict(int(values[0]), values[1]) for pair_id, values in found if _is_verdict(values)}


def compare_choosers(
    pairs: Sequence[Pair],
    verdicts: Mapping[str, Verdict],
    labels: Mapping[str, bool],
    *,
    min_judge_score: int,
    seed: int,
) -> list[Agreement]:
    """Set the judge beside two baselines that choose as many labelled pairs: longest contents, chance.

    Notes
    -----
    The longest 1,000 answers beat two judged selections in Zhao et al. 2024 (*Long Is More for Alignment*),
    so a judge that does no better than length is not worth its price.
    """
    labelled = [pair for pair in pairs if pair.id in labels]
    judged = {pair.id for pair in labelled if _score(verdicts, pair) >= min_judge_score}
    draw = random.Random(seed)
    order = {pair.id: draw.random() for pair in sorted(labelled, key=lambda pair: pair.id)}
    longest = _first(labelled, len(judged), by=lambda pair: -len(pair.chunk.text))
    drawn = _first(labelled, len(judged), by=lambda pair: order[pair.id])
    choosers = {"judge": judged, "longest": longest, "random": drawn}
    return [agreement(name, chosen, labels) for name, chosen in choosers.items()]


def agreement(chooser: str, chosen: Set[str], labels: Mapping[str, bool]) -> Agreement:
    """Give precision and recall of the chosen pair ids against labels (True: a good pair)."""
    good = {pair_id for pair_id, label in labels.items() if label}
    taken = {pair_id for pair_id in chosen if pair_id in labels}
    hits = len(good & taken)
    return Agreement(chooser, len(taken), len(labels), _share(hits, len(taken)), _share(hits, len(good)))


def _is_verdict(values: Sequence[str]) -> bool:
    return len(values) > 1 and values[0].isascii() and values[0].isdigit() and int(values[0]) in SCORES


def _score(verdicts: Mapping[str, Verdict], pair: Pair) -> int:
    return verdicts[pair.id].score if pair.id in verdicts else 0


def _first(pairs: Sequence[Pair], count: int, *, by: Callable[[Pair], float]) -> set[str]:
    return {pair.id for pair in sorted(pairs, key=by)[:count]}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
