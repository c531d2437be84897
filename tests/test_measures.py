"""Measures: numbers about pairs, without a model; swaps and candidates."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from written import written

from llmtwin_data.embeddings import encode_packaged
from llmtwin_data.folders import PROMPTS
from llmtwin_data.measures import (
    MEASURES,
    RETRIEVAL,
    choose_candidate,
    copied_fractions,
    find_swapped,
    ground,
    ground_among,
    leans_on_text,
    measure_pairs,
)
from llmtwin_data.prompts import load_template

DOCKER = (
    "We cut our Docker image from two gigabytes to ninety megabytes with a multi-stage build, and the deploy "
    "that took nine minutes now takes one. The hard part was finding out which packages nobody had used."
)
BREAD = "My sourdough starter died twice before I learned to feed it at the same hour every single day."
ABOUT_DOCKER = "Write a post about shrinking a Docker image with a multi-stage build."
KUBERNETES = "昨天我們把 Kubernetes 叢集升級到 1.30,結果排程器在半夜停了三個小時,所有的工作都卡住了。"


def measure(instruction, text=DOCKER, *others, language="same", encode=None):
    return measure_pairs([instruction], [0], [text, *others], asked_language=language, encode=encode).iloc[0]


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
        "evidence": 0.8611,
        "measured_by": "words",
        "repeated_bigrams": 0.0,
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


def test_what_is_known_of_texts_is_not_told_again():
    known = pd.DataFrame({"content": [DOCKER, BREAD], "text_language": ["und", "de"], "document": [1, 2]})

    found = measure_pairs([ABOUT_DOCKER] * 2, [0, 1], known, asked_language="same", encode=None)

    assert found.language_asked.tolist() == ["und", "de"]


def test_repeats_are_counted_by_words():
    found = measure_pairs(
        ["Write, now.", "write now", "other words"],
        [0, 1, 1],
        [DOCKER, BREAD],
        asked_language="same",
        encode=None,
    )

    assert found.repeats.tolist() == [1, 1, 0]


def test_words_do_not_measure_another_language():
    measures = measure("Write about a Kubernetes upgrade.", KUBERNETES, "另一篇文章")

    assert measures[RETRIEVAL].isna().tolist() == [True, True, True, False]
    assert (measures.measured_by, measures.genericness) == ("", 0)


def test_embeddings_measure_another_language():
    text = "家裡的麵包機壞了,我只好用手揉麵團,結果比以前好吃。"

    own, other = (
        measure("Write about a Kubernetes upgrade that stopped all jobs.", *texts, encode=encode_packaged)
        for texts in ([KUBERNETES, text], [text, KUBERNETES])
    )

    assert (own.measured_by, own.grounding, own.grounding_rank) == ("embeddings", 1.0, 1)
    assert (other.grounding, other.grounding_rank, other.evidence < 0.5) == (0.0, 2, True)


def test_a_loop_is_counted():
    assert measure("a phone a phone a phone").repeated_bigrams == 0.6


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


def test_vectors_alone_are_never_evidence_above_six_tenths():
    others = [text for _, text in written()][:20]
    by_words = measure(ABOUT_DOCKER, DOCKER, *others, encode=encode_packaged)
    by_vectors = measure(
        "Explain how container images were made smaller.", DOCKER, *others, encode=encode_packaged
    )

    assert (by_words.measured_by, by_words.evidence > 0.6) == ("words", True)
    assert (by_vectors.measured_by, 0.5 < by_vectors.evidence <= 0.6) == ("embeddings", True)


def test_no_pairs():
    assert (
        measure_pairs([], [], [DOCKER], asked_language="same", encode=None).dtypes.astype(str).to_dict()
        == MEASURES
    )


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param(["Write about my sourdough.", ABOUT_DOCKER], 1, id="the grounded one"),
        pytest.param([DOCKER, ABOUT_DOCKER], 1, id="not the quotation"),
        pytest.param(["Summarise this post about a Docker image.", ABOUT_DOCKER], 1, id="self-contained"),
        pytest.param(["Docker", ABOUT_DOCKER], 1, id="not a fragment"),
        pytest.param(["https://docker.com/the-hard-part-of-an-image", ABOUT_DOCKER], 1, id="not an address"),
        pytest.param([f"{ABOUT_DOCKER[:-1]} called ", ABOUT_DOCKER], 1, id="not half a sentence"),
        pytest.param([f"{ABOUT_DOCKER[:-1]}:", ABOUT_DOCKER], 1, id="not the head of a list"),
        pytest.param([f"{ABOUT_DOCKER} {ABOUT_DOCKER}", "Write about the hard part."], 1, id="not a loop"),
        pytest.param(["Write a post", f"{ABOUT_DOCKER}\n{ABOUT_DOCKER}"], 1, id="two that begin alike"),
        pytest.param([ABOUT_DOCKER, ABOUT_DOCKER], 0, id="the first of equals"),
    ],
)
@pytest.mark.parametrize("encode", [None, encode_packaged], ids=["by words", "by vectors"])
def test_choose_candidate(candidates, chosen, encode):
    assert choose_candidate(candidates, DOCKER, [BREAD], encode=encode) == chosen


STRAY = "Write a story about the hard part of nine minutes."


@pytest.mark.parametrize(
    ("candidates", "own"),
    [
        pytest.param(
            [STRAY, "Explain how container images were made much smaller."], DOCKER, id="other words"
        ),
        pytest.param(
            ["Write about my sourdough.", "Write about an upgrade that stopped all jobs."],
            KUBERNETES,
            id="en of zh",
        ),
        pytest.param(["寫一篇關於酵種麵包的貼文", "寫一篇關於縮小容器映像檔的貼文"], DOCKER, id="zh of en"),
    ],
)
@pytest.mark.parametrize("others", [(), (BREAD, KUBERNETES)], ids=["alone", "beside others"])
def test_vectors_choose_what_words_cannot(candidates, own, others):
    for order in (candidates, candidates[::-1]):
        chosen = choose_candidate(order, own, [own, *others], encode=encode_packaged)
        assert order[chosen] == candidates[1]


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


TEXTS = [
    "We cut our Docker image from two gigabytes to ninety megabytes.",
    "My sourdough starter died twice.",
    "Trams in our town run late on Mondays.",
]


def grounded(instructions, texts, owners=None):
    return ground(instructions, texts, range(len(texts)) if owners is None else owners)[RETRIEVAL]


def test_own_chunk_is_the_best():
    found = grounded(["Write about a smaller Docker image."], TEXTS, [0])

    assert found.values.tolist() == [[1.0, 1, 1.0, 0.0]]


def test_a_stray_instruction_ranks_behind():
    found = grounded(["Write about a smaller Docker image."], TEXTS, [1]).iloc[0]

    assert (found.grounding, found.grounding_rank, found.grounding_margin) == (0.0, 2, -1.0)


def test_equal_chunks_count_as_one():
    instructions = ["Write about a smaller Docker image.", "Feed a sourdough starter."]

    once, twice = grounded(instructions, TEXTS, [0, 1]), grounded(instructions, [*TEXTS, TEXTS[0]], [3, 1])

    pd.testing.assert_frame_equal(once, twice)


def test_words_that_are_in_no_chunk_fit_all_as_well():
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]

    found = grounded(["Please summarize everything."], texts, [0]).iloc[0]

    assert (found.grounding, found.genericness) == (0.0, 1.0)


def test_what_every_instruction_says_retrieves_nothing():
    texts = [f"{text} LinkedIn." if place == 2 else text for place, text in enumerate(TEXTS)]
    instructions = ["Write for LinkedIn about Docker.", "Write for LinkedIn about sourdough."]

    assert grounded(instructions, texts, [0, 1]).grounding_rank.tolist() == [1, 1]


@pytest.mark.parametrize("texts", [[], ["one text about bees"]], ids=["no chunk", "one chunk"])
def test_few_chunks(texts):
    found = grounded(["Write about bees."] * len(texts), texts)

    assert found[["grounding", "grounding_rank", "genericness"]].values.tolist() == [[1.0, 1, 0.0]] * len(
        texts
    )


def test_best_names_the_chunk_that_fits():
    found = ground(["trams", "sourdough starter", "nothing at all"], [TEXTS[0], *TEXTS])

    assert found.best.fillna(-1).tolist() == [3, 2, -1]
    found = ground(["trams", "sourdough starter", "nothing at all"], [TEXTS[0], *TEXTS], [3, 2, 0])
    assert found.grounding.tolist() == [1.0, 1.0, 0.0]


def measured(places, owners):
    pairs = written()
    return measure_pairs(
        [pairs[place][0] for place in places],
        [places.index(owner) for owner in owners],
        [pairs[place][1] for place in places],
        asked_language="same",
        encode=None,
    )


@pytest.mark.parametrize("sample", [8, 1000], ids=["others are drawn", "all"])
def test_measures_go_by_no_order(monkeypatch, sample):
    monkeypatch.setattr("llmtwin_data.measures.SAMPLE", sample)
    places = [*range(len(written()))]
    shuffled = random.Random(3).sample(places, len(places))

    found = measured(shuffled, shuffled).set_axis(shuffled)

    pd.testing.assert_frame_equal(found.sort_index(), measured(places, places), check_exact=True)


def test_a_draw_of_others_tells_own_from_swapped(monkeypatch):
    monkeypatch.setattr("llmtwin_data.measures.SAMPLE", 8)
    places = [*range(len(written()))]

    own, swapped = measured(places, places), measured(places, [*places[1:], 0])
    taken = (swapped.grounding >= 0.5) & (swapped.evidence >= 0.5)

    assert own.grounding_rank.max() <= 9
    assert ((own.grounding >= 0.5).mean() > 0.95, taken.mean() < 0.05) == (True, True)


IMAGE, STARTER = DOCKER.partition(",")[0], BREAD
ABOUT_STARTER = "Write a post about keeping a sourdough starter alive."


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_swaps_are_found_in_95_of_100_batches_and_2_of_100_right_ones_doubted(size):
    draw, pairs, found, doubted = random.Random(size), written(), 0, 0
    for _ in range(200):
        instructions, texts = map(list, zip(*draw.sample(pairs, size), strict=True))
        doubted += len(find_swapped(instructions, texts))
        one, other = draw.sample(range(size), 2)
        instructions[one], instructions[other] = instructions[other], instructions[one]
        found += {one, other} <= set(find_swapped(instructions, texts))

    assert (found >= 190, doubted <= 0.02 * 200 * size) == (True, True)


def test_a_whole_batch_moved_by_one_is_found():
    instructions, texts = zip(*random.Random(1).sample(written(), 8), strict=True)

    assert len(find_swapped([*instructions[1:], instructions[0]], texts)) >= 7


@pytest.mark.parametrize(
    ("instructions", "texts"),
    [([ABOUT_DOCKER, ABOUT_DOCKER], [IMAGE, IMAGE]), ([ABOUT_STARTER], [IMAGE])],
    ids=["equal texts", "one text alone"],
)
def test_what_is_never_swapped(instructions, texts):
    assert find_swapped(instructions, texts) == []


@pytest.mark.parametrize(
    ("instruction", "own", "mates", "expected"),
    [
        pytest.param(ABOUT_DOCKER, IMAGE, [STARTER], 1.0, id="own fits best"),
        pytest.param("Write about trams.", IMAGE, [STARTER], 0.0, id="nothing in common"),
        pytest.param(ABOUT_DOCKER, IMAGE, [], 1.0, id="no mates"),
        pytest.param(ABOUT_DOCKER, IMAGE, [IMAGE], 1.0, id="its own copy as mate"),
        pytest.param("", IMAGE, [STARTER], 0.0, id="empty"),
        pytest.param(ABOUT_DOCKER, STARTER, [IMAGE], 0.0, id="a mate that fits better"),
    ],
)
def test_ground_among(instruction, own, mates, expected):
    assert ground_among(instruction, own, mates)[0] == expected


LEANING = [
    "Summarise this post.", "What does the author argue about caching?", "Explain the text above",
    "According to the article, why is it slow?", "Describe what content number 3 says",
    "What information does the extract provide about the main topic?", "Rewrite the post.",
    "Based on the provided document, list three tips", "What do the following authors argue?",
    "What does the paragraph say of elements?", "Resume este artículo", "Faça um resumo deste texto",
    "Résume cet article sur Docker", "Fasse diesen Beitrag zusammen", "Riassumi questo articolo",
    "總結本文的重點", "請根據這篇文章寫一個摘要", "根据上述内容写一段话", "この記事を要約してください",
    "이 글을 요약해 주세요",
]  # fmt: skip
STANDING = [
    "Write the post that made your team laugh: a story on cron jobs",
    "Write a LinkedIn post about text generation", "Write an article on this week's outage",
    "Explain how to write a README for a command line tool", "Explain the paragraph element of HTML",
    "Write about the following author: Kafka", "Compare the following authors: Kafka, Borges and Calvino.",
    "Explain why the text field of a form must be validated",
    "Describe the content strategy of a small team", "Escribe un artículo sobre Docker",
    "Schreibe einen Beitrag über diese Woche", "寫一篇文章,介紹日本文化", "寫一篇關於版本文件管理的貼文",
    "用中文中的成語寫一篇短文",
]  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "leans"), [(each, each in LEANING) for each in [*LEANING, *STANDING]]
)
def test_what_leans_on_a_text_that_its_reader_lacks(instruction, leans):
    assert leans_on_text(instruction) == leans
