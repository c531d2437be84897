"""The embedded model: found, served and asked for real."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from llmtwin_data import endpoints, prompts
from llmtwin_data.errors import ParamsError

PROMPTS = Path(__file__).parents[1] / "params" / "prompts"
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

    with endpoints.serve_model(endpoints.model_path("")) as base_url:
        first = ask(base_url, recipe)
    with endpoints.serve_model(endpoints.model_path("")) as base_url:
        second = ask(base_url, recipe)

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


@pytest.mark.parametrize("model", ["no-such.gguf", __file__], ids=["missing", "not a GGUF"])
def test_a_model_that_is_no_gguf_is_refused(model):
    with pytest.raises(ParamsError, match="GGUF"):
        endpoints.model_path(model)
