"""One call and its pace: a deadline, bounded bodies, problems by name; pace on a clock of the test."""

import asyncio
import contextlib
import json
import resource
import socket

import endpoint as scripted
import openai
import pytest
from asking import endpoint_at, question, recipe_for

from llmtwin_data.engine import Batch, Dialect, Slot, write_request
from llmtwin_data.transport import (
    Pace,
    Patience,
    allowed_connections,
    live_client,
    openai_client,
    post,
    problem_of,
    read_error,
    unreachable,
)

ENDPOINT = endpoint_at("http://h/v1")
SLOT = Slot(question(1, recipe_for(ENDPOINT)), "")
BODY = write_request(Batch([SLOT]), Dialect("m"))[0]


def send(server, *, api_key="", timeout_seconds=60.0):
    async def once():
        async with live_client(server.base_url, api_key, concurrency=1, connect_seconds=60.0) as client:
            return await post(client, BODY, idempotency_key="k", timeout_seconds=timeout_seconds)

    return asyncio.run(once())


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


@pytest.mark.parametrize("late", [0.0, 0.05], ids=["in one breath", "while nobody asks"])
def test_l60_a_second_answer_is_never_taken_for_that_of_the_next_request(late):
    def response(text):
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()

    async def answer_twice(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                asked = await reader.readexactly(1)
                writer.write(response(asked.decode()))
                await asyncio.sleep(late)
                writer.write(response("stale"))
        writer.close()

    async def ask():
        server = await asyncio.start_server(answer_twice, "127.0.0.1", 0)
        place = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        replies = []
        async with server, live_client(place, "", concurrency=1, connect_seconds=5.0) as client:
            for body in (b"1", b"2", b"3"):
                reply = await post(client, body, idempotency_key="a", timeout_seconds=5.0)
                replies.append(reply.text)
                await asyncio.sleep(2 * late)
        return replies

    assert asyncio.run(ask()) == ["1", "2", "3"]


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
    (400, {"message": "Your credit balance is too low to access the API."}, "billing"),
    (403, {"message": "Insufficient Balance"}, "billing"),
    (403, {"message": "The input was flagged; this model requires moderation"}, "filtered"),
    (400, {"message": "API key not valid. Please pass a valid API key."}, "key"),
    (400, {"message": "Incorrect API key provided"}, "key"),
    (400, {"message": "missing api_key"}, "key"),
    (400, {"message": "The model `m-9` does not exist or you do not have access to it."}, "model"),
    (400, {"message": "m-9 is not a valid model ID"}, "model"),
    (405, {}, "address"),
    (400, {"code": "tool_use_failed", "message": "Failed to call a function."}, "slip"),
    (422, {"message": "The model's output is not valid JSON."}, "slip"),
    (400, {"message": "Model output did not match the schema"}, "slip"),
    (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}, "too_long"),
    (400, {"message": "Range of input length should be [1, 30720]"}, "too_long"),
    (400, {"message": "The number of input tokens exceeds the limit of 8192"}, "too_long"),
    (400, {"code": "data_inspection_failed", "message": "Input may hold inappropriate content."}, "filtered"),
    (400, {"message": "Your request was rejected as a result of our safety system."}, "filtered"),
    (400, {"message": "guided decoding is switched off on this server"}, "schema"),
    (400, {"message": "'response_format' of type 'json_schema' is not supported with this model"}, "schema"),
    (500, {"message": "could not compile the JSON schema"}, "schema"),
    (500, {"message": "Unable to build grammar"}, "schema"),
    (400, {"message": "'max_tokens' exceeds what this model writes"}, "request"),
    (400, {"message": "Unknown parameter: 'reasoning_effort' for this model"}, "request"),
    (400, {"message": "Authorization header is missing"}, "key"),
    (400, {"message": "User location is not supported for the API use."}, "key"),
    (400, {"message": "This organization has been disabled."}, "key"),
    (403, {"message": "Sorry, your account balance is insufficient"}, "billing"),
    (412, {"message": "Account suspended: monthly spending limit reached"}, "billing"),
    (400, {"message": "You have reached your specified API usage limits."}, "billing"),
    (429, {"message": "余额不足或无可用资源包,请充值。"}, "billing"),
    (403, {"message": "API rate limit exceeded"}, "rate"),
    (400, {"message": "Too many requests, please wait"}, "rate"),
    (498, {"message": "Flex tier capacity exceeded"}, "overload"),
    (424, {"message": "Request failed during generation: Server error"}, "server"),
    (400, {"message": "Model Not Exist"}, "model"),
    (400, {"message": "Invalid model: m-9"}, "model"),
    (400, {"message": "模型不存在，请检查模型代码。"}, "model"),
    (400, {"message": "The model `m-9` has been decommissioned and is no longer supported."}, "model"),
    (410, {"message": "m-9 is gone"}, "model"),
    (404, {"message": "No endpoints found for m/m-9."}, "model"),
    (400, {"message": "No models loaded. Please load one"}, "model"),
    (404, {"message": "No endpoints found that can handle the requested parameters."}, "schema"),
    (
        400,
        {"message": "This model's maximum prompt length is 131072 but the request contains 200000 tokens."},
        "too_long",
    ),
    (400, {"message": "Your request exceeded model token limit: 8192"}, "too_long"),
    (
        400,
        {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
        "too_long",
    ),
    (
        422,
        {"message": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"},
        "too_long",
    ),
    (400, {"message": "Prompt 超长"}, "too_long"),
    (500, {"message": "rpc error: the request exceeds the available context size"}, "too_long"),
    (400, {"message": "Content Exists Risk"}, "filtered"),
    (403, {"message": "Content violates usage guidelines."}, "filtered"),
    (424, {"message": "Prompt blocked due to security configurations"}, "filtered"),
    (446, {"message": "The guardrail checks have failed."}, "filtered"),
    (400, {"message": "The input text may contain sensitive information."}, "filtered"),
    (400, {"message": "可能包含不安全或敏感内容"}, "filtered"),
    (400, {"message": "JSON mode is not supported for this model"}, "schema"),
    (400, {"message": "output_config.format: Extra inputs are not permitted"}, "schema"),
    (400, {"message": "Invalid model output: it is not valid JSON"}, "slip"),
    (400, {"message": "invalid json generation"}, "slip"),
    (400, {"message": "'temperature' does not support 0.7 with this model"}, "request"),
    (400, {"message": "For this model max_tokens is deprecated; use max_completion_tokens"}, "request"),
]


@pytest.mark.parametrize(("status", "error", "kind"), CASES)
def test_a_status_has_its_kind(status, error, kind):
    assert problem_of(status, {}, json.dumps({"error": error})).kind == kind
    assert problem_of(status, {}, json.dumps([{"error": error}])).kind == kind


@pytest.mark.parametrize(("fault", "kind"), [("tls", "tls"), ("dns", "network"), ("timeout", "network")])
def test_a_fault_of_the_wire_has_its_kind(fault, kind):
    assert problem_of(0, {}, "", fault=fault).kind == kind


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


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def pace_of(clock, *, ceiling=64, **settings):
    return Pace(Patience(), ceiling=ceiling, now=clock, **settings)


@pytest.mark.parametrize(("ceiling", "trips"), [(64, 2), (256, 2), (1024, 2)])
def test_slow_start_reaches_the_ceiling_in_a_few_round_trips(clock, ceiling, trips):
    pace = pace_of(clock, ceiling=ceiling)

    for _ in range(trips):
        for _ in range(int(pace.limit)):
            pace.succeeded()

    assert pace.limit == ceiling


def test_after_a_cut_it_grows_by_a_sixteenth_of_the_ceiling_a_round_trip(clock):
    pace = pace_of(clock)
    for _ in range(10):
        pace.succeeded()
    pace.overloaded(clock(), wait=None)
    cut = pace.limit

    for _ in range(int(cut)):
        pace.succeeded()

    assert cut == 32
    assert cut + 3.5 < pace.limit <= cut + 4


def test_retry_after_zero_is_not_a_licence_to_hammer(clock):
    pace = pace_of(clock)
    for moment in (0.0, 1.0, 2.0):
        clock.now = moment
        pace.overloaded(moment, wait=0.0)

    assert pace.wait() >= 1.0


def test_single_faults_between_successes_do_not_slow_down(clock):
    pace = pace_of(clock)
    for _ in range(20):
        pace.succeeded()

    for _ in range(20):
        pace.faulted(clock(), reached=True)
        pace.succeeded()

    assert pace.limit == 64


def test_a_burst_of_faults_waits_for_one_backoff(clock):
    pace = pace_of(clock)
    pace.succeeded()

    for _ in range(64):
        pace.faulted(0.0, reached=True)

    assert pace.wait() == Patience().backoff


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"])
def test_l64_a_name_that_leads_to_a_metadata_address_is_not_connected_to(monkeypatch, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 80, *([0, 0] if ":" in address else [])))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    connected = []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: connected.append(given))
    base_url = "http://llm.example.org/v1"
    words = "llm.example.org port 80 leads to a metadata address, which is never an LLM"

    async def ask():
        client = live_client(base_url, "", concurrency=1, connect_seconds=1.0)
        async with client:
            return await post(client, b"{}", idempotency_key="a", timeout_seconds=5.0)

    assert unreachable(base_url) == words
    reply = asyncio.run(ask())
    assert (reply.problem, reply.text, reply.sent) == ("dns", words, False)
    client = openai_client(base_url, "", timeout=1.0, max_retries=0)
    with client, pytest.raises((openai.APIConnectionError, OSError)):
        client.models.list()
    assert connected == []


def test_a_name_is_asked_at_the_address_that_was_looked_at():
    with scripted.serve(models=["one-1"]) as server:
        by_name = server.base_url.replace("127.0.0.1", "localhost")
        with openai_client(by_name, "", timeout=5.0, max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["one-1"]
        assert unreachable(by_name) == ""


def test_l64_the_address_that_was_looked_at_is_the_one_that_is_connected_to(monkeypatch):
    asked = []
    with scripted.serve() as server:
        port = int(server.root.rpartition(":")[2])
        look_up = socket.getaddrinfo

        def resolve(host, *arguments, **options):
            asked.append(host)
            return look_up("127.0.0.1" if host == "llm.example.org" else host, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

        assert unreachable(f"http://llm.example.org:{port}/v1") == ""

    assert asked.count("llm.example.org") == 1
