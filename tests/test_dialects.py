"""Requests as an endpoint wants them."""

import json

import pytest
from asking import endpoint_at, recipe_for

from llmtwin_data.endpoints.problems import Problem
from llmtwin_data.errors import ParamsError
from llmtwin_data.generation.dialects import Dialect, idempotency_key

RECIPE = recipe_for(endpoint_at("http://h/v1"), request_extra='{"top_p": 0.9}')
MESSAGES = [{"role": "user", "content": "né"}]


def body(dialect, **more):
    return json.loads(dialect.body(RECIPE, MESSAGES, count=3, **more))


def refusal(message, param=""):
    return Problem("request", "http_400", message, param)


def test_a_request_holds_all_that_is_asked():
    sent = body(Dialect("m"), choices=2)

    assert sent["messages"] == MESSAGES
    assert (sent["model"], sent["n"], sent["top_p"], sent["temperature"]) == ("m", 2, 0.9, 0.7)
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["instructions"]["items"]["properties"]["content"]["enum"] == [1, 2, 3]


def test_room_is_doubled_for_what_was_cut():
    dialect = Dialect("m")

    assert body(dialect, stretch=1)["max_tokens"] == 2 * body(dialect)["max_tokens"]
    assert body(dialect, stretch=9)["max_tokens"] == 4 * body(dialect)["max_tokens"]


REFUSED = [
    ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens", "max_tokens"),
    ("'temperature' does not support 0.7 with this model", "", "temperature"),
    ("Unrecognized request argument supplied: n", "n", "n"),
]


@pytest.mark.parametrize(("message", "param", "gone"), REFUSED)
def test_a_field_that_is_refused_is_left_out(message, param, gone):
    dialect = Dialect("m")

    assert dialect.learn(refusal(message, param), RECIPE)
    assert gone not in body(dialect, choices=2)


def test_structured_output_steps_down():
    dialect = Dialect("m")
    unknown = refusal("This model does not support response format `json_schema`")

    steps = [(dialect.learn(unknown, RECIPE), body(dialect).get("response_format")) for _ in range(3)]

    assert steps == [(True, {"type": "json_object"}), (True, None), (False, None)]


def test_what_names_no_field_teaches_nothing():
    assert not Dialect("m").learn(refusal("the text is bad"), RECIPE)


def test_a_field_that_was_asked_for_is_never_dropped():
    with pytest.raises(ParamsError, match="top_p"):
        Dialect("m").learn(refusal("no such thing", "top_p"), RECIPE)


def test_keys_depend_on_body_and_attempt_alone():
    assert idempotency_key(b"a", 0) == idempotency_key(b"a", 0)
    assert len({idempotency_key(b"a", 0), idempotency_key(b"a", 1), idempotency_key(b"b", 0)}) == 3
