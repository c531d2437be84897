"""The envelope of a completion."""

import json

import pytest

from llmtwin_data.replies import is_refusal, read_completion
from llmtwin_data.transport import Problem


def choice(**fields):
    message = {"content": "text"} | fields.pop("message", {})
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"} | fields]})


CHOICES = [
    (choice(), ("text", "")),
    (choice(finish_reason="length"), ("text", "cut")),
    (choice(finish_reason="content_filter"), ("", "filtered")),
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


@pytest.mark.parametrize("body", ["", "<html>", "[]", "7", '{"error": {"message": "x"}}', "[" * 100_000])
def test_what_is_no_completion_is_a_problem(body):
    assert isinstance(read_completion(body), Problem)


def test_an_error_inside_keeps_its_kind():
    assert read_completion('{"error": {"code": 429, "message": "slow"}}').kind == "rate"


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
    ("Here are the instructions.", False),
    ("Write about why I can't sleep.", False),
]


@pytest.mark.parametrize(("text", "refused"), REFUSALS)
def test_refusals_are_told_from_texts(text, refused):
    assert is_refusal(text) is refused


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
