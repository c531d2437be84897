"""FAULTS.md, L63 and its kind: a key goes over https or to this machine, through no proxy or redirect."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from asking import QUICK
from comet_sink import KEY, CometSink
from finished_run import finish_run
from qdrant_server import qdrant_server
from running import CANARIES, canaries_in, make_bench

from llmtwin_data.cli import main
from llmtwin_data.endpoints import list_models, open_endpoint
from llmtwin_data.endpoints.connections import without_keys
from llmtwin_data.endpoints.providers import Provider
from llmtwin_data.environment import may_be_sent_key
from llmtwin_data.errors import EndpointDown, LlmTwinError, ParamsError, SourceError
from llmtwin_data.generator import DatasetGenerator
from llmtwin_data.sources import open_source
from llmtwin_data.tracking import publish_run

CANARY = CANARIES["OPENAI_API_KEY"]
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class Witness:
    """A server on loopback that keeps what arrives, and redirects it where it is told to."""

    def __init__(self, *, location: str = "") -> None:
        self.heard: list[str] = []
        witness = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                witness.heard.append(f"{self.requestline}\n{self.headers}{body!r}")
                self.send_response(307 if location else 502)
                self.send_header("Location", location + urlsplit(self.path).path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_PUT = do_CONNECT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def witness(*, location: str = "") -> Iterator[Witness]:
    found = Witness(location=location)
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


@pytest.fixture
def proxy(monkeypatch) -> Iterator[Witness]:
    """A proxy for everything, as the environment names it."""
    with witness() as found:
        for name in PROXIES:
            monkeypatch.setenv(name, found.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield found


@pytest.fixture
def lan(monkeypatch) -> str:
    """A name that is not localhost and still leads to loopback."""
    known, resolve = socket.getaddrinfo, aiohttp.DefaultResolver.resolve

    def led(host):
        return "127.0.0.1" if host == "llm.lan" else host

    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: known(led(host), *more, **named))
    monkeypatch.setattr(
        aiohttp.DefaultResolver,
        "resolve",
        lambda self, host, *more, **named: resolve(self, led(host), *more, **named),
    )
    return "llm.lan"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.openai.com/v1", True),
        ("https://192.168.1.5", True),
        ("http://localhost:8000/v1", True),
        ("http://LOCALHOST", True),
        ("http://127.0.0.1", True),
        ("http://127.9.8.7:1", True),
        ("http://127.1", True),
        ("http://2130706433", True),
        ("http://0x7f.1", True),
        ("http://[::1]:8000", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://192.168.1.5", False),
        ("http://10.0.0.7", False),
        ("http://172.17.0.1", False),
        ("http://169.254.1.1", False),
        ("http://[fd00::1]", False),
        ("http://[::ffff:192.168.1.5]", False),
        ("http://0.0.0.0", False),
        ("http://128.1", False),
        ("http://vllm", False),
        ("http://gpu.local", False),
        ("http://gpu.internal", False),
        ("http://localhost.evil.example", False),
        ("http://evil.localhost", False),
        ("http://127.0.0.1.nip.io", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://evil.example#@127.0.0.1", False),
        ("http://cafe", False),
        ("ftp://127.0.0.1", False),
        ("localhost", False),
        ("http://", False),
    ],
)
def test_l63_one_rule_says_which_address_may_be_sent_a_key(url, expected):
    assert may_be_sent_key(url) is expected


@pytest.mark.parametrize("model", ["", "unknown-model", "m"], ids=["no model", "a wrong one", "in a batch"])
def test_l63_no_proxy_hears_of_a_request_to_an_endpoint(tmp_path, proxy, model):
    unknown = {
        "when": {"model": "unknown-model"},
        "do": {"status": 404, "error": {"message": "no such model"}},
    }
    with scripted.serve(script=[unknown], models=("m",)) as server:
        bench = make_bench(tmp_path, server, documents=4)
        settings = bench.settings(model=model, mode="batch" if model == "m" else "live")
        with DatasetGenerator(settings, environ={"OPENAI_API_KEY": CANARY}, patience=QUICK) as generator:
            if model == "unknown-model":
                with pytest.raises(LlmTwinError, match="There are: m"):
                    generator.publish()
            else:
                generator.publish()

    assert proxy.heard == []
    assert canaries_in(tmp_path) == []


def test_l63_the_command_goes_through_no_proxy(tmp_path, proxy):
    with scripted.serve(models=("m",)) as server:
        bench = make_bench(tmp_path, server, documents=4)

        done = bench.run("--only", "3", model="")

    assert done.returncode == 0, done.stderr
    assert proxy.heard == []


def test_l63_no_proxy_hears_of_a_request_to_qdrant(proxy):
    for url in ("https://0.0.0.0:1", "http://0.0.0.0:1", "http://127.0.0.1:1"):
        with open_source(url, api_key="qd-CANARY") as source, pytest.raises(SourceError):
            source.collections()

    assert proxy.heard == []


def test_l63_no_proxy_hears_of_a_request_to_comet(tmp_path, proxy):
    run = finish_run(tmp_path / "run")
    with CometSink() as sink:
        done = publish_run(run.path, environ=dict.fromkeys(PROXIES, proxy.url) | sink.environ)

    assert done.state == "published"
    assert proxy.heard == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files"])
def test_l63_no_redirect_is_followed(path):
    with witness() as other, witness(location=other.url) as first:
        with open_endpoint(f"{first.url}/v1", model="m", environ={"OPENAI_API_KEY": CANARY}) as endpoint:
            if path == "/v1/models":
                assert list_models(endpoint.base_url, endpoint.api_key) == {}
            else:
                with Provider(endpoint, timeout_seconds=5) as provider, pytest.raises(EndpointDown):
                    provider.upload([b"{}"])

        assert [heard for heard in first.heard if path in heard and CANARY in heard]
        assert other.heard == []


def test_l63_comet_follows_no_redirect(tmp_path):
    run = finish_run(tmp_path / "run")
    with witness() as other, witness(location=other.url) as first:
        environ = {
            "COMET_API_KEY": KEY,
            "COMET_URL_OVERRIDE": f"{first.url}/clientlib/",
            "COMET_WORKSPACE": "ws",
        }
        done = publish_run(run.path, environ=environ, patience_seconds=20)

        assert done.state == "pending"
        assert [heard for heard in first.heard if KEY in heard]
        assert other.heard == []


def test_l63_an_endpoint_on_the_network_is_asked_without_the_key_and_it_is_said(tmp_path, lan, capsys):
    got_key = {"when": {"key": CANARY}, "do": {"status": 500}}
    with scripted.serve(script=[got_key, {"when": {"key": CANARY, "kind": "models"}, "do": {"status": 500}}],
                        models=("m",)) as server:  # fmt: skip
        bench = make_bench(tmp_path, server, documents=4)
        address = f"http://{lan}:{urlsplit(server.base_url).port}/v1"
        settings = bench.settings(endpoint=address, model="")
        with DatasetGenerator(settings, environ={"OPENAI_API_KEY": CANARY}) as generator:
            generator.publish()
            totals = generator.totals()

    assert totals["accepted"] == 4
    line = "OPENAI_API_KEY is not sent to llm.lan, which is asked without it"
    assert capsys.readouterr().out.count(line) == 1


def test_l63_an_endpoint_that_wants_the_key_and_may_not_get_it_is_named(tmp_path, lan):
    with scripted.serve(script=[{"when": {}, "do": {"status": 401}}]) as server:
        bench = make_bench(tmp_path, server, documents=4)
        settings = bench.settings(endpoint=f"http://{lan}:{urlsplit(server.base_url).port}/v1")
        with (
            DatasetGenerator(settings, environ={"OPENAI_API_KEY": CANARY}) as generator,
            pytest.raises(
                LlmTwinError, match=r"a key is wanted and none was sent.*over https or to this machine"
            ),
        ):
            generator.publish()


def test_l63_qdrant_on_the_network_is_asked_without_the_key_and_it_is_said(
    tmp_path, lan, capsys, monkeypatch
):
    monkeypatch.setenv("QDRANT_API_KEY", CANARIES["QDRANT_API_KEY"])
    (tmp_path / "posts.jsonl").write_text('{"content": "one"}\n')
    with qdrant_server() as server:
        url = f"http://{lan}:{urlsplit(server.url).port}"
        arguments = ["load", str(tmp_path / "posts.jsonl"), "--collection", "cleaned_posts", "--qdrant", url]

        assert main(arguments) == 0

        assert {seen.api_key for seen in server.requests} == {""}
    assert capsys.readouterr().out.count("QDRANT_API_KEY is not sent to llm.lan") == 1


def test_l63_comet_on_the_network_gets_no_key_and_it_is_said(tmp_path, lan):
    run = finish_run(tmp_path / "run")
    with CometSink() as sink:
        address = f"http://{lan}:{urlsplit(sink.root).port}/clientlib/"

        done = publish_run(run.path, environ=sink.environ | {"COMET_URL_OVERRIDE": address})

    assert (done.state, done.reason) == ("pending", "no_key")
    assert "COMET_API_KEY is not sent to llm.lan" in done.line
    assert sink.heard == []


def escaped(text: str, *, every: int, digits: str = "04x") -> str:
    return "".join(char if at % every else f"\\u{ord(char):{digits}}" for at, char in enumerate(text))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    "spelled",
    [CANARY, escaped(CANARY, every=1), escaped(CANARY, every=5), escaped(CANARY, every=1, digits="04X")],
    ids=["plain", "all", "some", "upper case"],
)
def test_l63_a_key_echoed_with_escapes_is_in_no_file(tmp_path, spelled, depth):
    answer = '{"instructions": [{"content": 1, "instruction": "Write on DOC-0 with the key %s in hand"}]}'
    content = json.dumps(answer % "KEY") if depth else json.dumps("KEY")
    body = '{"choices": [{"message": {"content": CONTENT}, "finish_reason": "stop"}]}'
    body = body.replace("CONTENT", content).replace("KEY", spelled.replace("\\", "\\" * 2**depth))
    wrong = {"status": 500, "body": f'{{"error": {{"message": "not {spelled}"}}}}'}
    script = [
        {"when": {"request": 1}, "do": wrong},
        {"when": {"request": {"from": 2, "to": 3}}, "do": {"body": body}},
    ]
    with scripted.serve(script=script) as server:
        bench = make_bench(tmp_path, server, documents=1)
        with DatasetGenerator(bench.settings(), environ={"OPENAI_API_KEY": CANARY}) as generator:
            generator.publish()
            told = json.dumps([pair.instruction for pair in generator.pairs()])

    assert canaries_in(tmp_path) == []
    assert CANARY not in told
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert spelled.encode().replace(b"\\", b"") not in stored.replace(b"\\", b"")


def test_l63_looking_for_a_key_takes_no_time_in_a_hostile_body():
    for body in ("\\" * 4_000_000 + "\\u", "s\\u0073" * 500_000, "sk-" * 1_000_000 + "\\/"):
        assert without_keys(body, CANARY) == body


@pytest.mark.parametrize(
    "host",
    ["2852039166", "0xa9fea9fe", "0xA9.254.169.254", "0251.0376.0251.0376", "169.254.43518",
     "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "１６９.254.169.254",
     "169。254。169。254", "[fe80::1]"],
)  # fmt: skip
def test_l64_a_metadata_address_is_refused_in_any_spelling(host):
    with (
        pytest.raises(ParamsError, match="never an LLM"),
        open_endpoint(f"http://{host}/v1", model="m", environ={}),
    ):
        pass
