"""Addresses, keys and models, resolved and refused before anything is sent."""

import endpoint as scripted
import pytest

from llmtwin_data.endpoints import Endpoint, endpoint_of, fatal_error, normal_url
from llmtwin_data.errors import KeyRejected, ParamsError
from llmtwin_data.transport import Problem

URLS = [
    ("https://API.openai.com/v1/", "https://api.openai.com/v1"),
    ("http://localhost:8000", "http://localhost:8000"),
    ("https://host:443/v1", "https://host/v1"),
    ("http://host:80/v1", "http://host/v1"),
    (" http://[::1]:8080/v1 ", "http://[::1]:8080/v1"),
]
BAD = [
    "file:///etc/passwd",
    "ftp://host/v1",
    "host:8000",
    "//host/v1",
    "http://",
    "http://user:pw@host/v1",
    "http://user@host/v1",
    "http://host/v1?key=1",
    "http://169.254.169.254/latest",
    "http://[fe80::1]/v1",
    "http://[::ffff:169.254.169.254]/v1",
    "http://metadata.google.internal/v1",
    "http://0.0.0.0/v1",
    "http://host:99999/v1",
    "http://[::1/v1",
]


@pytest.mark.parametrize(("given", "normal"), URLS)
def test_base_urls_have_one_form(given, normal):
    assert normal_url(given) == normal


@pytest.mark.parametrize("address", BAD)
def test_a10_addresses_that_are_no_endpoint_are_refused(address):
    with pytest.raises(ParamsError, match="endpoint"):
        normal_url(address)


def test_a_refused_url_does_not_show_its_password():
    with pytest.raises(ParamsError) as refused:
        normal_url("http://me:sk-CANARY-123456@host/v1")

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
