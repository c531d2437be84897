"""Requests as an endpoint wants them."""

import json

import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.engine import Batch, Dialect, Slot, idempotency_key, write_request
from llmtwin_data.errors import ParamsError
from llmtwin_data.transport import Problem

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


def test_the_limit_is_doubled_for_what_was_cut_and_has_room_besides():
    def limit(**more):
        return json.loads(write_request(Batch([slot], **more), Dialect("m"))[0])["max_tokens"]

    slot = Slot(question(1, RECIPE), "key")

    assert limit(stretch=1) == 2 * limit()
    assert limit(stretch=9) == 4 * limit()
    assert limit(stretch=1, room=500) == 2 * limit() + 500


def test_an_effort_is_sent_unless_the_params_name_one():
    asked = recipe_for(endpoint_at("http://h/v1"), request_extra='{"reasoning_effort": "medium"}')
    dialect = Dialect("m", effort="none")

    assert body(dialect)["reasoning_effort"] == "none"
    assert json.loads(dialect.body(asked, MESSAGES, count=1))["reasoning_effort"] == "medium"


REFUSED = [
    ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens", "max_tokens"),
    ("'temperature' does not support 0.7 with this model", "", "temperature"),
    ("Unrecognized request argument supplied: n", "n", "n"),
    ("Unrecognized request argument supplied: reasoning_effort", "", "reasoning_effort"),
    (
        "Unsupported value: 'reasoning_effort' does not support 'none' with this model.",
        "reasoning_effort",
        "reasoning_effort",
    ),
    (
        '[{"type": "extra_forbidden", "loc": ["body", "reasoning_effort"], "msg": "not permitted"}]',
        "",
        "reasoning_effort",
    ),
    ("temperature is only supported with reasoning_effort none", "", "temperature"),
]


@pytest.mark.parametrize(("message", "param", "gone"), REFUSED)
def test_a_field_that_is_refused_is_left_out(message, param, gone):
    dialect = Dialect("m", effort="none")

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
