"""Ten thousand fuzzed answers: every text ends in one state, and has no answer that is another's."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from documents import document
from product import ask_documents, settle_answer
from scripted import foreign, instruction_for, opening_of

ANSWERS = 10_000
TEXTS = 400
DOCUMENTS = [document(number) for number in range(TEXTS)]
# Of each text, the one answer that is its own.
OWN = {
    "same language": list(map(instruction_for, DOCUMENTS)),
    "other language": list(map(foreign, DOCUMENTS)),
    "verdicts": [f"reason {number}" for number in range(TEXTS)],
}
PAIRS = [
    f"Genre: posts\nInstruction: {own}\nContent:\n{text}"
    for own, text in zip(OWN["same language"], DOCUMENTS, strict=True)
]
# What is asked about, and the prompt.
ASKED = {
    "same language": (DOCUMENTS, "grounded"),
    "other language": (DOCUMENTS, "grounded"),
    "verdicts": (PAIRS, "judge"),
}


def told_in(item):
    return "reason" if "reason" in item else "instruction"


def drop(items, dice):
    return dice.sample(items, dice.randrange(len(items) + 1))


def repeat(items, dice):
    return items + dice.sample(items, dice.randrange(1, len(items) + 1))


def contradict(items, dice):
    return items + [item | {told_in(item): "something else"} for item in dice.sample(items, 1)]


def reorder(items, dice):
    return dice.sample(items, len(items))


def renumber(items, dice):
    item = dice.choice(items)
    item["content"] = dice.choice(
        [0, -1, 99, 10**30, True, None, 1.5, "1.0", "one", [1], dice.randrange(1, 9)]
    )
    return items


def count_elsewhere(items, dice):
    """Count from 0, from the place in the collection or near; the first without its number or left out."""
    by = dice.choice([-1, -1, -1, 1, 2, 40])
    items = [item | {"content": n + by} if type(n := item["content"]) is int else item for item in items]
    if dice.random() < 0.3:
        items[0]["content"] = None
    return items[dice.randrange(2) :]


def exchange(items, dice):
    """Two answers change places, each with its own opening."""
    one, other = dice.sample(items, 2)
    one["content"], other["content"] = other["content"], one["content"]
    return items


def rotate(items, dice):
    numbers = [item["content"] for item in items]
    by = dice.randrange(1, len(items))
    return [item | {"content": n} for item, n in zip(items, numbers[by:] + numbers[:by], strict=True)]


def exchange_below_openings(items, dice):
    """Two answers change places, under the right numbers and openings."""
    one, other = dice.sample(items, 2)
    name = told_in(one)
    one[name], other[name] = other[name], one[name]
    return items


def mix_openings(items, dice):
    """Openings change places, or are none."""
    one, other = dice.sample(items, 2)
    one["opening"], other["opening"] = other["opening"], dice.choice([one["opening"], "", "...", None, 7])
    return items


def retype(items, dice):
    item = dice.choice(items)
    item[told_in(item)] = dice.choice([7, None, ["x"], {"x": 1}, True])
    return items


def nothing(items, dice):
    return items


def cut(text, dice):
    return text[: dice.randrange(len(text))]


def garble(text, dice):
    place = dice.randrange(len(text))
    return text[:place] + dice.choice('{}[]",:\\x0 ') + text[place + 1 :]


def wrap(text, dice):
    return dice.choice(["```json\n{}\n```", "Sure!\n{}\nDone.", "\ufeff{}", "<think>[1]</think>{}"]).format(
        text
    )


def keep(text, dice):
    return text


OF_ITEMS = [
    drop, repeat, contradict, reorder, renumber, count_elsewhere, exchange, rotate, mix_openings, retype,
    nothing,
]  # fmt: skip
# Where these meet `mix_openings`, an answer may come to stand under the right opening of another text: what
# `exchange_below_openings` does, and is counted by itself.
MOVING = {renumber, count_elsewhere, exchange, rotate}
OF_TEXT = [cut, garble, wrap, keep, keep]


def fuzzed(case, numbers, dice, *, of_items):
    """Give an answer to these texts, spoiled in these ways, and in one as a text; and what was the matter."""
    name = "reason" if case == "verdicts" else "instruction"
    items = [
        {"content": place, "opening": opening_of(DOCUMENTS[number]), name: OWN[case][number], "score": 3}
        for place, number in enumerate(numbers, start=1)
    ]
    for spoil in of_items:
        items = spoil(items, dice) if len(items) > 1 else items
    kind = "verdicts" if case == "verdicts" else "instructions"
    text = dice.choice(OF_TEXT)(json.dumps({kind: items}), dice)
    problem = dice.choice(["", "", "", "cut", "filtered"])
    return "" if problem == "filtered" else text, problem


def settle_one(case, seed, of_items=None):
    """Settle one fuzzed answer to eight texts; count those with another's answer, the lost and the good."""
    dice = random.Random(f"{case} {seed}")
    numbers = dice.sample(range(TEXTS), 8)
    spoils = of_items or dice.sample(OF_ITEMS, dice.randrange(1, 3))
    if mix_openings in spoils:
        spoils = [spoil for spoil in spoils if spoil not in MOVING]
    texts, prompt = ASKED[case]
    answer, problem = fuzzed(case, numbers, dice, of_items=spoils)
    asked = {number: texts[number] for number in numbers}
    good, given_up, again = settle_answer(asked, answer, problem, prompt=prompt)
    return Counter(
        wrong=sum(values[-1] in {OWN[case][other] for other in numbers if other != n} for n, values in good),
        lost=sorted([number for number, _ in good] + given_up + again) != sorted(numbers),
        good=len(good),
    )


@pytest.mark.parametrize("case", OWN)
def test_l58_l59_ten_thousand_fuzzed_answers_pair_nothing_wrong(case):
    counts = Counter()
    for seed in range(ANSWERS // len(OWN) + 1):
        counts.update(settle_one(case, seed))

    assert (counts["wrong"], counts["lost"]) == (0, 0)
    assert counts["good"] > ANSWERS // len(OWN)  # of eight times as many texts


@pytest.mark.parametrize(("case", "found_by_words"), [(case, case == "same language") for case in OWN])
def test_l58_what_is_exchanged_under_right_openings_is_counted(case, found_by_words, record_property):
    """No opening shows it: words do, for instructions in the content's language."""
    counts = Counter()
    for seed in range(1_000):
        counts.update(settle_one(case, seed, [exchange_below_openings]))

    record_property("accepted of 2,000 exchanged", counts["wrong"])
    print(f"{case}: {counts['wrong']} of 2,000 exchanged answers accepted")
    assert counts["lost"] == 0
    assert (counts["wrong"] == 0) is found_by_words
    assert counts["wrong"] <= 2_000


FAULTS = [
    {"status": 429},
    {"status": 500},
    {"reset": True},
    {"cut": 60},
    {"drop": 3},
    {"repeat": True, "numbers": [2]},
    {"order": "shuffle"},
    {"number": 2},
    {"finish": "length", "keep": 3},
    {"raw": "I had a look at them."},
    {"html": True},
    {"swap": [1, 4]},
    {"instruction": None},
    {"wrap": "fenced_prose"},
]


@pytest.fixture
def mixed():
    """Each fault at three in a hundred requests."""
    return [{"when": {"fraction": 0.03 * place}, "do": do} for place, do in enumerate(FAULTS, start=1)]


def test_mixed_faults_on_the_wire_lose_and_mix_up_nothing(tmp_path, mixed):
    docs = range(1_600)
    with scripted.serve(script=mixed) as server:
        outcome = ask_documents(docs, server.base_url, tmp_path / "answers.sqlite", concurrency=32)

    assert outcome.error == ""
    assert outcome.wrong() == []
    assert outcome.report["pending"] == 0
    assert len(outcome.answers) == len(docs)


def test_five_in_a_hundred_faults_cost_eight_in_a_hundred_requests(tmp_path):
    script = [{"when": {"fraction": 0.01 * n}, "do": do} for n, do in enumerate(FAULTS[:5], start=1)]
    with scripted.serve(script=script) as server:
        outcome = ask_documents(range(4_000), server.base_url, tmp_path / "answers.sqlite", concurrency=32)
        requests = server.stats()["requests"]

    assert len(outcome.good()) == 4_000
    assert requests <= 1.08 * 500
