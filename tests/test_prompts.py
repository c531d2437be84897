"""Prompts: templates, keys, messages and schemas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtwin_data import prompts
from llmtwin_data.errors import ParamsError
from llmtwin_data.prompts import DataFormatter, Recipe, Template
from llmtwin_data.texts import estimate_tokens

PROMPTS = Path(__file__).parents[1] / "params" / "prompts"


def recipe(name: str = "grounded", **changes) -> Recipe:
    template = prompts.load_template(name, folder=PROMPTS)
    return Recipe(**({"endpoint": "e", "model": "m", "template": template, "data_type": "posts"} | changes))


def test_a_text_with_slots_or_braces_is_sent_as_it_is():
    text = 'costs $5 or ${data_type} {"a": [1]} {{ __class__ }} %s'

    sent = prompts.build_messages(recipe(), [text], boundary="x")[-1]["content"]

    assert text in sent


SLIPS = {
    "no slot": "system: s\nuser: 'no slot'",
    "an unknown slot": "system: s\nuser: $contents $nonsense",
    "a bad slot": "system: s\nuser: $contents $ 5",
    "a tab": "system: s\nuser: '$contents'\n\tx: 1",
    "no system": "system:\nuser: '$contents'",
    "a list for user": "system: s\nuser: [1]",
    "a number for examples": "system: s\nuser: '$contents'\nexamples: 3",
    "half an example": "system: s\nuser: '$contents'\nexamples: [{content: c}]",
    "user twice": "system: s\nuser: '$contents'\nuser: '$contents'",
}


@pytest.mark.parametrize("words", SLIPS.values(), ids=SLIPS)
def test_a11_a_slip_in_a_prompt_file_is_told_with_its_name(tmp_path, words):
    (tmp_path / "bad.yaml").write_text(f"kind: instructions\n{words}\n")

    with pytest.raises(ParamsError, match=r"bad\.yaml"):
        prompts.load_template("bad", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("judge", "expected one that asks for instructions, found verdicts"), ("grounde", "grounded")],
)
def test_a_prompt_of_another_kind_or_an_unknown_one_is_named(name, words):
    with pytest.raises(ParamsError, match=words):
        prompts.load_template(name, folder=PROMPTS, kind="instructions")


def test_a_boundary_depends_on_the_batch_and_is_in_no_text():
    first = prompts.batch_boundary(["a", "b"])
    forged = prompts.batch_boundary([f"a {first}", "b"])

    assert first == prompts.batch_boundary(["a", "b"])
    assert forged not in f"a {first}"


@pytest.mark.parametrize("changes", [{"model": "n"}, {"data_type": "articles"}, {"candidates": 3}], ids=str)
def test_a_changed_recipe_changes_the_key_of_every_answer(changes):
    changed = recipe(**changes)

    assert prompts.answer_key("text", recipe().sha256) != prompts.answer_key("text", changed.sha256)


def test_the_key_depends_on_no_place_and_is_the_one_it_always_was():
    first = prompts.Question("text", recipe(), "1", "posts", 0, 4, "a", "")
    second = prompts.Question("text", recipe(), "2", "other", 9, 13, "b", "link")
    template = Template("t", "instructions", "s", "Do $contents", (), "0")

    assert first.key == second.key
    assert recipe(template=template).sha256.startswith("656751823fbe29b6")


def test_the_schema_allows_only_the_numbers_of_the_batch_and_asks_several_as_a_list():
    item, several = (
        prompts.answer_schema(recipe(k=k), 3)["properties"]["instructions"]["items"] for k in (1, 3)
    )

    assert item["properties"]["content"]["enum"] == [1, 2, 3]
    assert item["required"] == ["content", "opening", "instruction"]
    assert several["properties"]["instructions"]["type"] == "array"


def test_a_text_alone_is_asked_as_it_was_before_there_were_openings():
    user = prompts.build_messages(recipe("seed"), ["word"], boundary="x")[-1]

    assert "opening" not in json.dumps(prompts.answer_schema(recipe(), 1)) + user["content"]
    assert '{"instructions":[{"content":N,"instruction":"..."}]}' in user["content"]
    assert user["content"].endswith("CONTENTS FOR GENERATION:\nContent number 1 x\nword\n")
    assert prompts.output_tokens(recipe(), 1) == 160


@pytest.mark.parametrize("name", ["seed", "grounded", "small", "judge"])
def test_the_form_for_several_texts_asks_for_openings_and_has_nothing_to_copy(name):
    asked = recipe(name)
    user = prompts.build_messages(asked, ["first", "second"], boundary="x")[-1]["content"]
    items = prompts.answer_schema(asked, 2)["properties"][asked.kind]["items"]

    assert list(items["properties"])[:2] == ["content", "opening"]
    assert "first 6 words" in user[: user.index("Content number 1")]
    assert "..." not in user
    assert name == "small" or '"opening":""' in user


def test_the_limit_leaves_room_for_openings():
    assert prompts.output_tokens(recipe(), 8) == 40 + 8 * (120 + 40)
    assert prompts.output_tokens(recipe(max_output_tokens=500), 8) == 500


def test_examples_stand_before_the_question_as_earlier_turns():
    template = Template("t", "instructions", "", "Do $contents", (("example text", "Write it."),), "0")

    messages = prompts.build_messages(recipe(template=template), ["real"], boundary="b")

    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == '{"instructions": [{"content": 1, "instruction": "Write it."}]}'


def test_what_is_not_content_costs_at_most_twenty_two_tokens_a_pair():
    texts = ["word"] * 8

    messages = prompts.build_messages(recipe(), texts, boundary=prompts.batch_boundary(texts))

    frame_tokens = 8  # chat models count four around each message
    total = sum(estimate_tokens(message["content"]) for message in messages) + frame_tokens
    assert (total - len(texts)) / len(texts) <= 22


def test_the_form_of_the_answer_follows_k():
    text = prompts.build_messages(recipe(k=2), ["a"], boundary="b")[-1]["content"]

    assert '{"content":N,"instructions":["...","..."]}' in text


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("zh-TW", "in Traditional Chinese"),
        ("pt", "in Portuguese"),
        ("pt-BR", "in Brazilian Portuguese"),
        ("sr-Latn", "in Serbian (Latin)"),
        ("same", "in the language of each content"),
    ],
)
def test_the_language_is_said_in_words(tag, words):
    message = prompts.build_messages(recipe(language=tag), ["a"], boundary="b")[-1]["content"]

    assert f"{words}." in message or f"{words}:" in message or f"{words}," in message


def test_the_seeds_example_path_has_no_number_line():
    assert DataFormatter.format_data(["an example"], is_example=True) == "an example\n"


def test_the_seeds_batch_is_numbered_from_its_start_index():
    assert DataFormatter.format_batch("Context.\n", ["a"], start_index=7) == "Context.\nContent number 7\na\n"
