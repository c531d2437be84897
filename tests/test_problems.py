"""Replies told apart by what must be done."""

import json

import pytest

from llmtwin_data.transport import problem_of, read_error

CASES = [
    (401, {}, "key"),
    (403, {}, "key"),
    (402, {}, "billing"),
    (429, {"code": "insufficient_quota"}, "billing"),
    (429, {"type": "insufficient_quota"}, "billing"),
    (429, {"message": "You exceeded your current quota"}, "rate"),
    (404, {"code": "model_not_found"}, "model"),
    (404, {"message": "no route"}, "address"),
    (400, {"message": "bad field"}, "request"),
    (422, {}, "request"),
    (400, {"code": "context_length_exceeded"}, "too_long"),
    (400, {"message": "the request exceeds the available context size"}, "too_long"),
    (413, {}, "too_long"),
    (400, {"code": "content_filter"}, "filtered"),
    (408, {}, "server"),
    (409, {}, "server"),
    (425, {}, "server"),
    (500, {}, "server"),
    (502, {}, "server"),
    (504, {}, "server"),
    (503, {}, "overload"),
    (529, {}, "overload"),
    (307, {}, "redirect"),
    (204, {}, "answer"),
]


@pytest.mark.parametrize(("status", "error", "kind"), CASES)
def test_a_status_has_its_kind(status, error, kind):
    assert problem_of(status, {}, json.dumps({"error": error})).kind == kind


@pytest.mark.parametrize(("fault", "kind"), [("tls", "tls"), ("dns", "network"), ("timeout", "network")])
def test_a_fault_of_the_wire_has_its_kind(fault, kind):
    assert problem_of(0, {}, "", fault=fault).kind == kind


def test_success_is_no_problem():
    assert problem_of(200, {}, "{}") is None


BODIES = [
    ('{"error": {"message": "a", "code": "b", "param": "c"}}', ("a", "b", "c")),
    ('{"error": "a"}', ("a", "", "")),
    ('{"message": "a", "code": 400, "type": "b"}', ("a", "b", "")),
    ('{"detail": [{"loc": ["body"]}]}', ('[{"loc": ["body"]}]', "", "")),
    ("<html>\n a</html>", ("<html> a</html>", "", "")),
    ("[" * 100_000, ("[" * 300, "", "")),
]


@pytest.mark.parametrize(("body", "said"), BODIES, ids=range(len(BODIES)))
def test_every_server_is_understood(body, said):
    assert read_error(body) == said
