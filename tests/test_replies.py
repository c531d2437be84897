"""A completion read: its envelope, its numbered answers, and the openings that prove them."""

import json

import pytest

from llmtwin_data.prompts import head_of
from llmtwin_data.replies import find_items, read_choice, read_completion
from llmtwin_data.transport import Problem


def choice(**fields):
    message = {"content": "text"} | fields.pop("message", {})
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"} | fields]})


CHOICES = [
    (choice(), ("text", "")),
    (choice(finish_reason="length"), ("text", "cut")),
    (choice(finish_reason="MAX_TOKENS"), ("text", "cut")),
    (choice(finish_reason="model_length"), ("text", "cut")),
    (choice(finish_reason="content_filter"), ("", "filtered")),
    (choice(finish_reason="SAFETY"), ("", "filtered")),
    (choice(finish_reason="sensitive"), ("", "filtered")),
    (choice(finish_reason="refusal"), ("", "refused")),
    (choice(finish_reason=7), ("text", "")),
    (choice(message={"refusal": "no"}), ("", "refused")),
    (choice(message={"content": None}), ("", "empty_answer")),
    (choice(message={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), ("ab", "")),
    ('{"choices": []}', ("", "empty_answer")),
    ('{"choices": [7]}', ("", "empty_answer")),
    ("{}", ("", "empty_answer")),
]


@pytest.mark.parametrize(("body", "expected"), CHOICES, ids=range(len(CHOICES)))
def test_a_choice_says_its_problem(body, expected):
    found = read_completion(body).choices[0]

    assert (found.text, found.problem) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "reasoning_content": '{"a": 1}'}, ('{"a": 1}', "")),
        ({"content": "", "reasoning": '\n{"a": 1}'}, ('\n{"a": 1}', "")),
        ({"content": " ", "reasoning": 'Or {"a": 0}?</think>{"a": 1}'}, ('{"a": 1}', "")),
        ({"content": None, "reasoning_content": '```json\n{"a": 1}\n```'}, ('```json\n{"a": 1}\n```', "")),
        ({"content": None, "reasoning_content": 'Say {"a": 1}?'}, ("", "empty_answer")),
        ({"content": None, "reasoning": '{"a', "finish_reason": "length"}, ("", "cut")),
    ],
    ids=["no content", "empty", "after a thought", "fenced", "only thought", "cut"],
)
def test_l52_an_answer_in_the_place_of_the_thought_is_read(message, expected):
    body = choice(message=message, finish_reason=message.pop("finish_reason", "stop"))
    found = read_completion(body).choices[0]

    assert (found.text, found.problem) == expected


@pytest.mark.parametrize("body", ["", "<html>", "[]", "7", '{"error": {"message": "x"}}', "[" * 100_000])
def test_what_is_no_completion_is_a_problem(body):
    assert isinstance(read_completion(body), Problem)


def test_an_error_inside_keeps_its_kind():
    assert read_completion('{"error": {"code": 429, "message": "slow"}}').kind == "rate"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (choice(finish_reason="insufficient_system_resource"), "server"),
        (choice(finish_reason="abort"), "server"),
        (choice(error={"code": "429", "message": "upstream"}), "rate"),
        ('{"choices": [{"finish_reason": "stop"}], "error": {"code": 529}}', "overload"),
    ],
    ids=["no room", "abort", "digits", "beside an empty choice"],
)
def test_l53_an_end_by_an_error_of_the_server_is_for_now(body, kind):
    assert read_completion(body).kind == kind


@pytest.mark.parametrize("count", [-1, "7", 1.5, True, None, 10**12])
def test_tokens_are_believed_only_as_numbers(count):
    body = json.dumps({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 3}})

    assert read_completion(body).prompt_tokens is None
    assert read_completion(body).completion_tokens == 3


@pytest.mark.parametrize(
    ("told", "kept"), [("/home/me/small.gguf", "small.gguf"), ("org/model", "org/model")]
)
def test_a_model_is_never_recorded_as_a_path(told, kept):
    assert read_completion(json.dumps({"model": told})).model == kept


REFUSALS = [
    ("I'm sorry, but I can't help with that.", True),
    ("I cannot assist with this request because I am unable to read it.", True),
    ("Sorry, I won't write that.", True),
    ("I apologize for any inconvenience, but I’m unable to process this content.", True),
    ("很抱歉，我無法協助", True),
    ("不好意思，我無法為這段內容撰寫指令。", True),
    ("Lo siento, no puedo ayudarte con eso.", True),
    ('{"instructions": [{"content": 1, "instruction": "Sorry, I can\'t: write it."}]}', False),
    ("抱歉，最近很忙。", False),
    ("Here are the instructions.", False),
    ("Write about why I can't sleep.", False),
]


@pytest.mark.parametrize(("text", "refused"), REFUSALS)
def test_refusals_are_told_from_texts(text, refused):
    assert (read(text, count=1).problems == {1: "refused"}) is refused


def hidden_in(usage, **message):
    return read_completion(
        json.dumps({"choices": [{"message": {"content": "A text."} | message}], "usage": usage})
    )


COUNTED = {"prompt_tokens": 10, "completion_tokens": 900}
HIDDEN = [
    ({**COUNTED, "completion_tokens_details": {"reasoning_tokens": 700}}, {}, 700),
    ({**COUNTED, "completion_tokens_details": {"reasoning_tokens": 0}}, {}, 0),
    (COUNTED, {"reasoning_content": "Hm. " * 500}, 898),
    (COUNTED, {"reasoning": "Hm. " * 500}, 898),
    (COUNTED, {"content": "<think>Hm. </think>A text."}, 898),
    (COUNTED, {"content": "<think>Hm. "}, 900),
    (COUNTED, {"content": None}, 900),
    (COUNTED, {}, 898),  # far more than the text explains
    ({**COUNTED, "completion_tokens": 9}, {}, None),
    ({**COUNTED, "completion_tokens_details": {"reasoning_tokens": -1}}, {"content": "word " * 800}, None),
    ({**COUNTED, "completion_tokens_details": "many"}, {"content": "word " * 800}, None),
    (None, {}, None),
]


@pytest.mark.parametrize(("usage", "message", "hidden"), HIDDEN)
def test_hidden_tokens_are_read_or_told_by_what_else_was_written(usage, message, hidden):
    assert hidden_in(usage, **message).reasoning_tokens == hidden


def test_hidden_tokens_that_are_counted_beside_the_others_are_added_to_them():
    beside = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 730}
    found = hidden_in(beside | {"completion_tokens_details": {"reasoning_tokens": 700}})

    assert (found.completion_tokens, found.reasoning_tokens) == (720, 700)


TWO = '{"instructions": [{"content": 1, "instruction": "a"}, {"content": 2, "instruction": "b"}]}'

POST = "We moved our nightly job from cron to a queue."
OTHER = "Cron never told us when it failed, and nobody looked."


def read(text, *, count=2, k=1, kind="instructions", **more):
    return read_choice(text, kind=kind, k=k, count=count, **more)


def answer(*items):
    return json.dumps(
        {"instructions": [dict(zip(("content", "instruction"), item, strict=True)) for item in items]}
    )


DRAFT = 'Perhaps {"instructions": [{"content": 1, "instruction": "draft"}]}? No.'
WRAPPED = {
    "plain": TWO,
    "bare_list": json.dumps(json.loads(TWO)["instructions"]),
    "fenced": f"```json\n{TWO}\n```",
    "prose": f"Here [1] it is: {TWO} Anything else {{}}?",
    "channel": f'<|channel>thought {{"instructions": [{{"content": 1, "instruction": "d"}}]}}<channel|>{TWO}',
    "harmony": f'<|channel|>analysis<|message|>[{{"content": 1}}]<|end|><|channel|>final<|message|>{TWO}',
    "thought": f'<think>{{"instructions": [{{"content": 1, "instruction": "draft"}}]}}</think>{TWO}',
    "thinking_of_another_name": f"<Thinking>{DRAFT}</Thinking>{TWO}",
    "thinking_in_brackets": f"[THINK]{DRAFT}[/THINK]{TWO}",
    "thinking_of_a_family": f"<seed:think>{DRAFT}</seed:think>{TWO}",
    "thinking_in_triangles": f"◁think▷{DRAFT}◁/think▷{TWO}",
    "thinking_until_its_end": f"<|START_THINKING|>{DRAFT}<|END_THINKING|>{TWO}",
    "harmony_with_its_form": f"{DRAFT}<|channel|>final <|constrain|>json<|message|>{TWO}<|return|>",
    "harmony_without_its_marks": f"assistantanalysis{DRAFT}assistantfinal{TWO}",
    "trailing_commas": TWO.replace("}]}", "},],}"),
    "digits_as_text": TWO.replace("2", '"2"'),
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_l51_answers_are_found_in_every_wrapping(text):
    assert read(text).values == {1: ("a",), 2: ("b",)}


def test_a_comma_in_a_string_is_not_a_trailing_one():
    text = '{"instructions": [{"content": 1, "instruction": "a, ] b"},]}'

    assert read(text, count=1).values == {1: ("a, ] b",)}


def test_the_same_said_twice_is_said():
    assert read(answer((1, "a"), (1, "a"), (2, "b"))).problems == {}


OTHERWISE = {
    "from 0": (0, 1, 2),
    "from 0, one left out": (1, 0),
    "from the place in the collection": (41, 42, 43),
    "shifted": (2, 3, 4),
    "one too many": (1, 2, 3, 4),
    "0 as text": ("0", "1", "2"),
    "0 as float": (0.0, 1, 2),
    "0 with a word": ("Content 0", 1, 2),
    "0 left out, as if it were the usual": (None, 1, 2),
    "a word for the first": ("first", 2, 3),
    "a word for the last": (1, 2, "last"),
    "below 0": (-1, 1, 2, 3),
    "very large": (1, 2, 10**30),
}


@pytest.mark.parametrize("numbers", OTHERWISE.values(), ids=OTHERWISE)
@pytest.mark.parametrize("kind", ["instructions", "verdicts"])
def test_l58_l59_numbers_that_are_not_ours_make_nothing_trusted(kind, numbers):
    items = [{"content": n, "instruction": "a", "reason": "a", "score": 3} for n in numbers]

    reading = read(json.dumps({kind: items}), kind=kind, count=3)

    assert (reading.values, reading.problems) == ({}, dict.fromkeys((1, 2, 3), "numbers"))
    assert reading.ignored == len(items)


@pytest.mark.parametrize("odd", [None, 2.0, "Content 2", True, 1.5, "two", [2]])
def test_an_item_without_a_number_among_good_ones_is_ignored_and_asked_again(odd):
    reading = read(answer((1, "a"), (odd, "b"), (3, "c")), count=3)

    assert (sorted(reading.values), reading.problems, reading.ignored) == ([1, 3], {2: "missing"}, 1)


def test_what_is_missing_or_of_another_type_is_named():
    assert read(answer((2, ["b"]))).problems == {1: "missing", 2: "malformed"}


@pytest.mark.parametrize(
    "text", ["", "no", "[" * 200_000, '{"instructions": {}}', '{"instructions": [NaN]}', "9" * 9_000]
)
def test_nonsense_is_malformed_and_never_crashes(text):
    assert set(read(text).problems.values()) <= {"malformed", "missing"}
    assert read(text).values == {}


@pytest.mark.parametrize(
    ("listed", "good"), [(["a", "b"], True), (["a"], False), (["a", "b", "c"], False), (["a", 1], False)]
)
def test_several_instructions_come_as_many_as_asked(listed, good):
    text = json.dumps({"instructions": [{"content": 1, "instructions": listed}]})

    assert (read(text, count=1, k=2).values == {1: ("a", "b")}) is good


@pytest.mark.parametrize(
    ("score", "good"), [(3, True), ("3", True), (0, False), (6, False), (3.5, False), (None, False)]
)
def test_a_verdict_is_a_score_with_its_reason(score, good):
    text = json.dumps({"verdicts": [{"content": 1, "reason": "clear", "score": score}]})

    assert (read(text, count=1, kind="verdicts").values == {1: ("3", "clear")}) is good


@pytest.mark.parametrize("reason", ["", "...", None, 3])
def test_a_verdict_without_a_reason_is_none(reason):
    text = json.dumps({"verdicts": [{"content": 1, "reason": reason, "score": 4}]})

    assert read(text, count=1, kind="verdicts").problems == {1: "malformed"}


def proven(opening, *, text=POST, mate=OTHER, kind="instructions"):
    item = {"content": 1, "opening": opening, "instruction": "a", "reason": "a", "score": 3}
    heads = [head_of(text), head_of(mate)]
    reading = read(json.dumps({kind: [item]}), kind=kind, heads=heads)
    assert reading.unproven == (not reading.values)
    return bool(reading.values)


@pytest.mark.parametrize(
    ("opening", "good"),
    [
        ("We moved our nightly", True),
        ("we  MOVED our “nightly”", True),
        ("**We moved our nightly job**...", True),
        (POST, True),
        ("our nightly job from", True),  # not the very first words, but of the first lines
        ("We moved our", False),
        ("We moved our weekly", False),
        ("We moved our nightl", False),
        ("Cron never told us", False),
        ("", False),
        ("...", False),
        (None, False),
        (["We moved our nightly"], False),
    ],
)
@pytest.mark.parametrize("kind", ["instructions", "verdicts"])
def test_an_opening_holds_if_its_four_words_stand_in_the_first_lines(kind, opening, good):
    assert proven(opening, kind=kind) is good


def test_an_opening_that_a_batch_mate_has_too_proves_nothing():
    assert not proven("We moved our nightly", mate=f"Yesterday. {POST}")


def test_an_opening_far_down_the_text_proves_nothing():
    assert not proven("We moved our nightly", text="word " * 200 + POST)


@pytest.mark.parametrize(
    ("opening", "good"),
    [
        ("我們把每晚的工作", True),
        ("我們把每晚的工", False),
        ("我们把每晚的工作", False),
        ("我們把 每晚的工作！", True),
    ],
)
def test_eight_characters_are_an_opening_where_words_have_no_spaces(opening, good):
    assert proven(opening, text="我們把每晚的工作從排程改成佇列。") is good


@pytest.mark.parametrize(
    ("opening", "good"), [("Hello, world", True), ("hello", False), ("Hello world two", False)]
)
def test_a_short_text_is_its_own_opening(opening, good):
    assert proven(opening, text="Hello world!") is good


def test_a_text_without_words_shows_no_opening():
    assert not proven("!!!", text="🎉🎉🎉")


def test_an_empty_list_is_an_answer_without_items():
    assert find_items('{"instructions": []}', kind="instructions") == []
