"""Ten thousand fuzzed answers: every text ends in one state, and no instruction at another's text."""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from documents import document
from product import ask_documents, settle_answer
from scripted import instruction_for

ANSWERS = 10_000
TEXTS = 400
WORDS = {number: document(number).rstrip(".").split() for number in range(TEXTS)}
USED = Counter(word for words in WORDS.values() for word in words)
OWNER = {word: number for number, words in WORDS.items() for word in words if USED[word] == 1}


def drop(items, dice):
    return dice.sample(items, dice.randrange(len(items) + 1))


def repeat(items, dice):
    return items + dice.sample(items, dice.randrange(1, len(items) + 1))


def contradict(items, dice):
    return items + [item | {"instruction": "something else"} for item in dice.sample(items, 1)]


def reorder(items, dice):
    return dice.sample(items, len(items))


def renumber(items, dice):
    item = dice.choice(items)
    item["content"] = dice.choice(
        [0, -1, 99, 10**30, True, None, 1.5, "1.0", "one", [1], dice.randrange(1, 9)]
    )
    return items


def exchange(items, dice):
    one, other = dice.sample(items, 2)
    one["instruction"], other["instruction"] = other["instruction"], one["instruction"]
    return items


def rotate(items, dice):
    told = [item["instruction"] for item in items]
    by = dice.randrange(1, len(items))
    return [item | {"instruction": text} for item, text in zip(items, told[by:] + told[:by], strict=True)]


def retype(items, dice):
    dice.choice(items)["instruction"] = dice.choice([7, None, ["x"], {"x": 1}, True])
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


OF_ITEMS = [drop, repeat, contradict, reorder, renumber, exchange, rotate, retype, nothing]
OF_TEXT = [cut, garble, wrap, keep, keep]


def fuzzed(numbers, dice):
    """Give an answer to these texts, spoiled in one or two ways, and what was the matter with it."""
    items = [
        {"content": place, "instruction": instruction_for(document(number))}
        for place, number in enumerate(numbers, start=1)
    ]
    items = dice.choice(OF_ITEMS)(items, dice)
    text = dice.choice(OF_TEXT)(json.dumps({"instructions": items}), dice)
    problem = dice.choice(["", "", "", "cut", "filtered"])
    return "" if problem == "filtered" else text, problem


def strays(instruction, number):
    """Tell whether an instruction holds a word that only another document has."""
    return any(OWNER.get(word, number) != number for word in re.findall(r"[a-z]{8}", instruction))


def test_ten_thousand_fuzzed_answers_pair_nothing_wrong():
    wrong = lost = 0
    for seed in range(ANSWERS):
        dice = random.Random(seed)
        numbers = dice.sample(range(TEXTS), 8)
        good, given_up, again = settle_answer(numbers, *fuzzed(numbers, dice))
        wrong += sum(strays(instruction, number) for number, instruction in good)
        lost += sorted([number for number, _ in good] + given_up + again) != sorted(numbers)

    assert (wrong, lost) == (0, 0)


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
