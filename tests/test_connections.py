"""One session: a deadline, bounded bodies, and no key in any text."""

import asyncio
import resource

import endpoint as scripted
import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.engine import Batch, Dialect, Slot, write_request
from llmtwin_data.transport import allowed_connections, live_client, post

ENDPOINT = endpoint_at("http://h/v1")
SLOT = Slot(question(1, recipe_for(ENDPOINT)), "")
BODY = write_request(Batch([SLOT]), Dialect("m"))[0]


def send(server, *, api_key="", timeout_seconds=60.0):
    async def once():
        async with live_client(server.base_url, api_key, concurrency=1, connect_seconds=60.0) as client:
            return await post(client, BODY, idempotency_key="k", timeout_seconds=timeout_seconds)

    return asyncio.run(once())


def test_a_reply_has_status_headers_and_text():
    with scripted.serve() as server:
        reply = send(server)

    assert (reply.status, reply.problem, reply.sent) == (200, "", True)
    assert "choices" in reply.text


FAULTS = [
    ({"silence": True}, "timeout"),
    ({"reset": True}, "reset"),
    ({"cut": 30}, "cut_body"),
    ({"drip": 0.2}, "timeout"),
    ({"big": 9 * 2**20}, "unusable_body"),
    ({"gzip_bomb": 2**30}, "unusable_body"),
    ({"headers": {"Content-Encoding": "br"}}, "unusable_body"),
]


@pytest.mark.parametrize(("do", "problem"), FAULTS, ids=[name for _, name in FAULTS])
def test_what_the_wire_does_is_named_and_never_raised(do, problem):
    with scripted.serve(script=[{"when": {}, "do": do}]) as server:
        reply = send(server, timeout_seconds=0.5 if problem == "timeout" else 60.0)

    assert (reply.status, reply.problem, reply.sent) == (0, problem, True)


def test_key_and_idempotency_key_go_out_as_headers():
    with scripted.serve(keep_bodies=True) as server:
        send(server, api_key="secret")
        headers = server.bodies()[0]["headers"]

    assert headers["authorization"] == "Bearer secret"
    assert headers["idempotency-key"] == "k"


def test_nothing_of_the_environment_goes_out(monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: sk-CANARY\nAuthorization: Bearer sk-CANARY")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-CANARY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    with scripted.serve(keep_bodies=True) as server:
        send(server)
        headers = server.bodies()[0]["headers"]

    assert "authorization" not in headers
    assert "CANARY" not in str(headers)


def test_open_files_limit_the_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        assert allowed_connections(256) == 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
