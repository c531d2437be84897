"""FAULTS.md, L63 and its kind: a key goes over https or to this machine, through no proxy or redirect."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import endpoint as scripted
from comet_sink import KEY, CometSink
from product import Failed, Study, ask_documents, command, publish_to_comet, read_contents, write_run
from qdrant_server import qdrant_server
from running import CANARIES, canaries_in, make_bench

CANARY = CANARIES["OPENAI_API_KEY"]
WITH_KEY = {"OPENAI_API_KEY": CANARY}
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


@pytest.fixture
def run(tmp_path):
    """A complete run that is not published yet."""
    write_run(tmp_path / "run", [{"number": number} for number in range(4)], test=1)
    return tmp_path / "run"


@pytest.mark.parametrize("model", ["", "unknown-model", "m"], ids=["no model", "a wrong one", "in a batch"])
def test_l63_no_proxy_hears_of_a_request_to_an_endpoint(tmp_path, proxy, model):
    unknown = {
        "when": {"model": "unknown-model"},
        "do": {"status": 404, "error": {"message": "no such model"}},
    }
    with scripted.serve(script=[unknown], models=("m",)) as server:
        bench = make_bench(tmp_path, server, documents=4)
        refused = pytest.raises(Failed, match="There are: m") if model == "unknown-model" else nullcontext()
        with refused:
            bench.publish(environ=WITH_KEY, model=model, mode="batch" if model == "m" else "live")

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
        with pytest.raises(Failed) as failed:
            list(read_contents(url, api_key="qd-CANARY"))
        assert failed.value.exit_code == 4

    assert proxy.heard == []


def test_l63_no_proxy_hears_of_a_request_to_comet(run, proxy):
    with CometSink() as sink:
        done = publish_to_comet(run, environ=dict.fromkeys(PROXIES, proxy.url) | sink.environ)

    assert done["state"] == "published"
    assert proxy.heard == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files"])
def test_l63_no_redirect_is_followed(tmp_path, path):
    with witness() as other, witness(location=other.url) as first:
        address = f"{first.url}/v1"
        if path == "/v1/models":
            with scripted.serve() as server:
                bench = make_bench(tmp_path, server, documents=1)
            with pytest.raises(Failed):
                bench.publish(environ=WITH_KEY, endpoint=address, model="")
        else:
            store = tmp_path / "answers.sqlite"
            outcome = ask_documents(range(8), address, store, api_key=CANARY, mode="batch")
            assert outcome.error == "EndpointDown"

        assert [heard for heard in first.heard if path in heard and CANARY in heard]
        assert other.heard == []


def test_l63_comet_follows_no_redirect(run):
    with witness() as other, witness(location=other.url) as first:
        environ = {
            "COMET_API_KEY": KEY,
            "COMET_URL_OVERRIDE": f"{first.url}/clientlib/",
            "COMET_WORKSPACE": "ws",
        }
        done = publish_to_comet(run, environ=environ, patience_seconds=20)

        assert done["state"] == "pending"
        assert [heard for heard in first.heard if KEY in heard]
        assert other.heard == []


def test_l63_an_endpoint_on_the_network_is_asked_without_the_key_and_it_is_said(tmp_path, lan, capsys):
    got_key = {"when": {"key": CANARY}, "do": {"status": 500}}
    with scripted.serve(script=[got_key, {"when": {"key": CANARY, "kind": "models"}, "do": {"status": 500}}],
                        models=("m",)) as server:  # fmt: skip
        bench = make_bench(tmp_path, server, documents=4)
        address = f"http://{lan}:{urlsplit(server.base_url).port}/v1"
        totals = bench.publish(environ=WITH_KEY, endpoint=address, model="")

    assert totals["accepted"] == 4
    line = "OPENAI_API_KEY is not sent to llm.lan, which is asked without it"
    assert capsys.readouterr().out.count(line) == 1


def test_l63_an_endpoint_that_wants_the_key_and_may_not_get_it_is_named(tmp_path, lan):
    with scripted.serve(script=[{"when": {}, "do": {"status": 401}}]) as server:
        bench = make_bench(tmp_path, server, documents=4)
        address = f"http://{lan}:{urlsplit(server.base_url).port}/v1"
        with pytest.raises(Failed, match=r"a key is wanted and none was sent.*over https or to this machine"):
            bench.publish(environ=WITH_KEY, endpoint=address)


def test_l63_qdrant_on_the_network_is_asked_without_the_key_and_it_is_said(tmp_path, lan):
    (tmp_path / "posts.jsonl").write_text('{"content": "one"}\n')
    with qdrant_server() as server:
        url = f"http://{lan}:{urlsplit(server.url).port}"
        arguments = ["load", tmp_path / "posts.jsonl", "--collection", "cleaned_posts", "--qdrant", url]

        code, output, errors = command(*arguments, environ={"QDRANT_API_KEY": CANARIES["QDRANT_API_KEY"]})

        assert code == 0, errors
        assert {seen.api_key for seen in server.requests} == {""}
    assert output.count("QDRANT_API_KEY is not sent to llm.lan") == 1


def test_l63_comet_on_the_network_gets_no_key_and_it_is_said(run, lan):
    with CometSink() as sink:
        address = f"http://{lan}:{urlsplit(sink.root).port}/clientlib/"

        done = publish_to_comet(run, environ=sink.environ | {"COMET_URL_OVERRIDE": address})

    assert (done["state"], done["reason"]) == ("pending", "no_key")
    assert "COMET_API_KEY is not sent to llm.lan" in done["line"]
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
        # The instruction is published, whatever its text says of it: no file may hold the key.
        with Study(bench.study(min_evidence=0), environ=WITH_KEY) as study:
            study.publish()
            told = json.dumps([decided["instruction"] for decided in study.decide()])

    assert canaries_in(tmp_path) == []
    assert CANARY not in told
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert spelled.encode().replace(b"\\", b"") not in stored.replace(b"\\", b"")


@pytest.mark.parametrize(
    "host",
    ["2852039166", "0xa9fea9fe", "0xA9.254.169.254", "0251.0376.0251.0376", "169.254.43518",
     "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "１６９.254.169.254",
     "169。254。169。254", "[fe80::1]", "169.254.169.254.", "[fd20:ce::254]"],
)  # fmt: skip
def test_l64_a_metadata_address_is_refused_in_any_spelling(tmp_path, host):
    bench = make_bench(tmp_path, scripted.Server(f"http://{host}/v1"), documents=1)

    with pytest.raises(Failed, match="never an LLM") as failed:
        bench.publish(model="m")

    assert failed.value.exit_code == 2
