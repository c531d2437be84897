"""Measures: numbers about pairs, without a model."""

from __future__ import annotations

import random

import pytest
from written import written

from llmtwin_data.folders import PROMPTS
from llmtwin_data.measures import MEASURES, RETRIEVAL, choose_candidate, copied_fractions, measure_pairs
from llmtwin_data.prompts import load_template

DOCKER = (
    "We cut our Docker image from two gigabytes to ninety megabytes with a multi-stage build, and the deploy "
    "that took nine minutes now takes one. The hard part was finding out which packages nobody had used."
)
BREAD = "My sourdough starter died twice before I learned to feed it at the same hour every single day."
ABOUT_DOCKER = "Write a post about shrinking a Docker image with a multi-stage build."
KUBERNETES = "昨天我們把 Kubernetes 叢集升級到 1.30,結果排程器在半夜停了三個小時,所有的工作都卡住了。"


def measure(instruction, text=DOCKER, *others, language="same"):
    return measure_pairs([instruction], [0], [text, *others], asked_language=language).iloc[0]


def test_a_good_pair():
    found = measure(ABOUT_DOCKER, DOCKER, BREAD)

    assert found.to_dict() == {
        "grounding": 1.0,
        "grounding_rank": 1,
        "grounding_margin": 1.0,
        "copied_instruction": 0.0,
        "copied_content": 0.0,
        "genericness": 0.0,
        "repeats": 0,
        "language": "en",
        "language_asked": "en",
        "language_ok": True,
        "characters": len(ABOUT_DOCKER),
        "tokens": found.tokens,
        "self_contained": True,
    }


@pytest.mark.parametrize(
    ("instruction", "content", "expected"),
    [
        pytest.param(ABOUT_DOCKER, DOCKER, (0.0, 0.0), id="own words"),
        pytest.param(DOCKER, DOCKER, (1.0, 1.0), id="the content itself"),
        pytest.param("My sourdough starter died twice before I", BREAD, (1.0, 0.0), id="a short quotation"),
        pytest.param("MY SOURDOUGH\u200b starter, died: twice before I", BREAD, (1.0, 0.0), id="disguised"),
        pytest.param("a b c d e f g h i", "x a b c d e f g h", (0.5, 0.5), id="half"),
        pytest.param("say it short", "it", (0.0, 1.0), id="content shorter than a window"),
        pytest.param("我們把叢集升級到新版", "昨天我們把叢集升級到新版結果", (1.0, 0.4286), id="Chinese"),
        pytest.param("", "a b", (0.0, 0.0), id="empty"),
    ],
)
def test_copied_fractions(instruction, content, expected):
    assert copied_fractions(instruction, content) == expected


def test_repeats_are_counted_by_words():
    found = measure_pairs(
        ["Write, now.", "write now", "other words"], [0, 1, 1], [DOCKER, BREAD], asked_language="same"
    )

    assert found.repeats.tolist() == [1, 1, 0]


def test_another_script_cannot_be_grounded():
    found = measure("Write a post about an outage at night.", KUBERNETES, "另一篇文章")

    assert found[RETRIEVAL].isna().tolist() == [True, True, True, False]
    assert found.genericness == 0


def test_a_name_grounds_across_scripts():
    assert measure("Write about a Kubernetes upgrade.", KUBERNETES, "另一篇文章").grounding == 1.0


@pytest.mark.parametrize(
    ("instruction", "asked", "ok"),
    [
        ("撰寫一篇貼文,說明叢集升級後排程器為何停擺", "zh-Hant", True),
        ("撰写一篇帖子,说明集群升级后调度器为何停摆", "zh-Hant", False),
        ("撰写一篇帖子,说明集群升级后调度器为何停摆", "same", False),
        ("Write a post on why the scheduler stopped after the upgrade", "zh-TW", False),
        ("Write a post on why the scheduler stopped after the upgrade", "en", True),
    ],
)
def test_language_asked_against_found(instruction, asked, ok):
    assert measure(instruction, KUBERNETES, language=asked).language_ok == ok


def test_no_pairs():
    assert measure_pairs([], [], [DOCKER], asked_language="same").dtypes.astype(str).to_dict() == MEASURES


def test_written_pairs_are_well_measured():
    instructions, texts = zip(*written(), strict=True)

    found = measure_pairs(instructions, range(len(texts)), texts, asked_language="same")

    assert (found.language_ok & found.self_contained).all()
    assert found.copied_instruction.max() < 0.5
    assert found.genericness.max() < 0.05


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param(["Write about my sourdough.", ABOUT_DOCKER], 1, id="the grounded one"),
        pytest.param([DOCKER, ABOUT_DOCKER], 1, id="not the quotation"),
        pytest.param(["Summarise this post about a Docker image.", ABOUT_DOCKER], 1, id="self-contained"),
        pytest.param(["Docker", ABOUT_DOCKER], 1, id="not a fragment"),
        pytest.param([ABOUT_DOCKER, ABOUT_DOCKER], 0, id="the first of equals"),
    ],
)
def test_choose_candidate(candidates, chosen):
    assert choose_candidate(candidates, DOCKER, [BREAD]) == chosen


@pytest.mark.parametrize(("others", "least"), [(0, 0.97), (32, 0.99)], ids=["alone", "beside a sample"])
def test_the_own_instruction_wins_over_one_that_shares_a_word(others, least):
    draw, pairs = random.Random(7), written()
    sample = draw.sample([text for _, text in pairs], others)

    chosen = [
        choose_candidate([stray, instruction], text, sample)
        for instruction, text in pairs
        for stray, _ in draw.sample(pairs, 6)
        if stray != instruction
    ]

    assert sum(chosen) >= least * len(chosen)


@pytest.mark.parametrize("name", ["small", "grounded", "seed"])
def test_a_copy_of_the_prompt_is_chosen_only_where_there_is_nothing_else(name):
    template = load_template(name, folder=PROMPTS)
    copies = [
        *(answer for _, answer in template.examples),
        template.system.strip().split(".")[0] or "Write it",
    ]

    for copy in copies:
        text = f"{copy} {DOCKER}"
        assert choose_candidate([copy, ABOUT_DOCKER], text, [BREAD], prompt_words=template.words) == 1
        assert choose_candidate([copy, copy], text, [BREAD], prompt_words=template.words) == 0
