"""The sample contents are what their README says they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from uuid import UUID

import pytest

SAMPLES = Path(__file__).parents[1] / "data" / "sample"
FILES = ("posts", "articles", "repositories")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SPANISH = re.compile(r"[ñ¿¡«]|\b(?:que|los|una)\b")


def payloads(name):
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()]


def text_of(payload):
    return payload.get("cleaned_content") or payload.get("content") or ""


def written(name):
    """The texts that hold words, not only blanks or tags."""
    texts = [text_of(payload) for payload in payloads(name)]
    return [text for text in texts if re.sub(r"<[^>]*>", "", text).strip()]


def is_spanish(text):
    return len(SPANISH.findall(text)) / len(text) > 0.01


@pytest.mark.parametrize(("name", "least"), [("posts", 64), ("articles", 12), ("repositories", 6)])
def test_there_are_enough(name, least):
    assert len(written(name)) >= least


@pytest.mark.parametrize(("name", "shortest", "longest"), [("posts", 80, 1800), ("articles", 1500, 7000)])
def test_lengths_are_those_of_real_ones(name, shortest, longest):
    lengths = [len(text) for text in written(name)]

    assert min(lengths) >= shortest
    assert max(lengths) <= longest
    assert max(lengths) > 5 * min(lengths) or name == "articles"


@pytest.mark.parametrize("name", FILES)
def test_ids_are_unique_uuids_and_integers(name):
    ids = [payload["id"] for payload in payloads(name)]

    assert len({str(point) for point in ids}) == len(ids)
    assert {type(point) for point in ids} == {int, str}
    assert all(UUID(point) for point in ids if isinstance(point, str))


@pytest.mark.parametrize("name", FILES)
def test_three_authors_by_id(name):
    authors = [payload.get("author_id", payload.get("owner_id")) for payload in payloads(name)]

    assert {str(author) for author in authors} == {"1", "2", "3"}
    assert {type(author) for author in authors} == {int, str}


def test_payloads_have_the_shapes_of_course_and_handbook():
    shapes = {name: {frozenset(payload) - {"id"} for payload in payloads(name)} for name in FILES}

    handbook = {"platform", "author_id", "author_full_name", "content"}
    assert shapes["posts"] == {
        frozenset({"platform", "author_id", "cleaned_content", "image", "type"}),
        frozenset(handbook | {"image"}),
    }
    assert shapes["articles"] == {
        frozenset({"platform", "link", "cleaned_content", "author_id", "type"}),
        frozenset(handbook | {"link"}),
    }
    assert shapes["repositories"] == {frozenset({"name", "link", "cleaned_content", "owner_id", "type"})}


def test_authors_full_names_are_roles():
    names = {payload.get("author_full_name") for name in FILES for payload in payloads(name)}

    assert names - {None} == {"ML Engineer", "Platform Lead", "Developer Advocate"}


def test_several_languages():
    posts, articles = written("posts"), written("articles")

    assert sum(len(CHINESE.findall(text)) > 50 for text in posts) >= 6
    assert sum(len(CHINESE.findall(text)) > 500 for text in articles) == 1
    assert sum(is_spanish(text) for text in posts) >= 5
    assert sum(is_spanish(text) for text in articles) == 1


def test_some_are_copies_and_some_are_empty():
    posts = written("posts")

    assert len(posts) - len(set(posts)) == 2
    assert len(payloads("posts")) - len(posts) == 3


def test_three_articles_share_a_notice():
    endings = [text.rpartition("\n---\n")[2] for text in written("articles")]

    assert max(endings.count(ending) for ending in endings) == 3


def test_the_only_key_is_the_documented_example():
    found = [key for name in FILES for text in written(name) for key in re.findall(r"AKIA[0-9A-Z]{16}", text)]

    assert found == ["AKIAIOSFODNN7EXAMPLE"]


def test_addresses_belong_to_nobody():
    everything = "\n".join(text for name in FILES for text in written(name))

    hosts = set(re.findall(r"(?:https?://|@)([\w.-]+\.\w+)", everything))
    assert {host for host in hosts if not re.search(r"(^|\.)example\.(com|org)$", host)} == set()
    assert re.findall(r"\+\d[\d ]{8,}\d", everything) == ["+1 555 0123 456"]
