"""The Batch API of one endpoint: files up, batches submitted and found, results read."""

import json

import endpoint as scripted
import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.batches import Provider, read_result, request_line
from llmtwin_data.engine import Batch, Dialect, Slot, write_request
from llmtwin_data.errors import EndpointDown, KeyRejected
from llmtwin_data.replies import Completion
from llmtwin_data.transport import Problem

KEY = "sk-CANARY-0123456789"


@pytest.fixture
def server():
    with scripted.serve(batch_polls=2) as server:
        yield server


def provider_at(url, *, key=""):
    return Provider(endpoint_at(url, api_key=key), timeout_seconds=60.0)


def line_of(number):
    one = question(number, recipe_for(endpoint_at("http://h/v1")))
    return request_line(f"line-{number}", write_request(Batch([Slot(one, one.key)]), Dialect("m"))[0])


def submitted(provider, *numbers, tag="t"):
    return provider.submit(provider.upload(map(line_of, numbers)), tag=tag)


def test_a_batch_ends_and_its_results_carry_their_lines_names(server):
    with provider_at(server.base_url) as provider:
        batch = submitted(provider, 1, 2)
        looks = [provider.look(batch), provider.look(batch)]
        results = [result for name in looks[1].files for result in provider.results(name)]

    assert [(look.ended, look.status) for look in looks] == [(False, "in_progress"), (True, "completed")]
    assert [result["custom_id"] for result in results] == ["line-1", "line-2"]
    assert all(isinstance(read_result(result)[1], Completion) for result in results)


def test_a_batch_is_found_again_by_its_tag(server):
    with provider_at(server.base_url) as provider:
        first, second = submitted(provider, 1, tag="a"), submitted(provider, 2, tag="b")

        assert [provider.find("a"), provider.find("b"), provider.find("c")] == [first, second, ""]


def test_a_key_in_a_result_is_taken_out(server):
    server.change([{"when": {"kind": "line"}, "do": {"instruction": f"use {KEY}"}}])
    with provider_at(server.base_url, key=KEY) as provider:
        batch = submitted(provider, 1)
        provider.look(batch)
        results = [list(provider.results(name)) for name in provider.look(batch).files]

    assert "use [key]" in json.dumps(results)
    assert "CANARY" not in json.dumps(results)


@pytest.mark.parametrize(("status", "error"), [(401, KeyRejected), (404, EndpointDown)])
def test_a_refusal_is_told_apart(server, status, error):
    server.change([{"when": {"kind": "files"}, "do": {"status": status}}])

    with provider_at(server.base_url) as provider, pytest.raises(error, match=str(status)):
        provider.upload([b"{}"])


UNANSWERED = [
    ({"response": None, "error": {"code": "batch_expired"}}, ("server", "expired")),
    ({"response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, ("request", "http_400")),
    ({"response": {"status_code": 200, "body": "no"}}, ("answer", "not_json")),
]


@pytest.mark.parametrize(("result", "named"), UNANSWERED, ids=[named[1] for _, named in UNANSWERED])
def test_a_line_without_an_answer_is_a_problem(result, named):
    problem = read_result(result)[1]

    assert isinstance(problem, Problem)
    assert (problem.kind, problem.reason) == named
