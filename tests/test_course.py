"""The seed's flow by its own names: Qdrant stand-in, scripted endpoint, Comet sink, and its two files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import endpoint
import pytest
from comet_sink import CometSink
from qdrant_server import qdrant_server

from llmtwin_data.course import DatasetGenerator
from llmtwin_data.params import load_params
from llmtwin_data.prompts import DataFormatter
from llmtwin_data.sources import open_source

ROOT = Path(__file__).parents[1]
POSTS = [
    {"platform": "linkedin", "author_id": "2", "cleaned_content": text, "image": None, "type": "posts"}
    for text in (
        "DOC-0 Do you want to learn how to build a feature store? Start with the tables that you have.",
        "DOC-1 Three years ago I deleted a production database on a Friday. This is what it taught me.",
        "DOC-2 A model that nobody monitors is a model that nobody trusts. Five graphs are enough.",
    )
]


class Files:
    """The seed's file handler, as far as it is called."""

    def __init__(self):
        self.written = {}

    def write_json(self, filename, data):
        self.written[filename] = data


class Loud(DataFormatter):
    """A formatter of one's own."""

    @classmethod
    def format_data(cls, data_points, is_example=False, start_index=1, *, boundary=""):
        listed = super().format_data(data_points, is_example, start_index, boundary=boundary)
        return f"READ THIS WELL\n{listed}"


@pytest.fixture
def seed(tmp_path):
    """Give the settings of the seed's own case on servers of our own, and those servers."""
    with qdrant_server() as qdrant, CometSink() as comet, endpoint.serve(keep_bodies=True) as llm:
        with open_source(qdrant.url) as source:
            source.write("cleaned_posts", enumerate(POSTS))
        settings = replace(
            load_params(ROOT / "params" / "seed.yaml"),
            qdrant=qdrant.url,
            endpoint=llm.base_url,
            answers=str(tmp_path / "answers.sqlite"),
            run_dir=str(tmp_path / "run"),
            test_fraction=0.3,
            quality_gate="warn",
            previous="none",
        )
        yield settings, comet, llm


def test_the_seed_s_flow_ends_in_its_two_files(seed, tmp_path):
    settings, comet, llm = seed
    files = Files()
    generator = DatasetGenerator(files, None, Loud, settings=settings, environ=comet.environ)

    pairs = generator.generate_training_data("cleaned_posts", batch_size=1)

    names = ["cleaned_posts_training.json", "cleaned_posts_testing.json"]
    course = [json.loads((tmp_path / "run/dataset/formats/course" / name).read_text()) for name in names]
    assert [files.written[name] for name in names] == course
    assert course[0] + course[1] == pairs
    assert {tuple(pair) for pair in pairs} == {("instruction", "content")}
    assert sorted(pair["content"] for pair in pairs) == [post["cleaned_content"] for post in POSTS]
    assert all("READ THIS WELL" in str(call["body"]["messages"][-1]) for call in llm.bodies())
    assert all("Traditional Chinese" in str(call["body"]["messages"][-1]) for call in llm.bodies())


def test_contents_are_read_by_the_seed_s_name(seed):
    settings, _, _ = seed

    texts = DatasetGenerator(settings=settings, environ={}).fetch_all_cleaned_content("cleaned_posts")

    assert texts == [post["cleaned_content"] for post in POSTS]


def test_a_prompt_is_formatted_as_the_seed_does():
    prompt = DataFormatter.format_prompt(["First post.", "Second post."], 4)

    assert "You must generate exactly a list of 2 objects" in prompt
    assert "contents of posts" in prompt
    assert "CONTENTS FOR GENERATION" in prompt
    assert "Content number 4\nFirst post.\nContent number 5\nSecond post.\n" in prompt
