"""Lineage: a row traced to its origin, prompt, request and raw answer."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from published_pairs import make_pair, publish

from llmtwin_data.answers import Answer, AnswerStore, PaidRequest
from llmtwin_data.errors import ParamsError
from llmtwin_data.lineage import trace
from llmtwin_data.prompts import Question, Recipe, Template, batch_boundary, build_messages
from llmtwin_data.texts import text_sha256

TEMPLATE = Template(
    "grounded", "instructions", "You name tasks.", "Give $count for:\n$contents", (), "cd" * 32
)
RECIPE = Recipe("embedded", "scripted", TEMPLATE, "posts")
RAW = '{"instructions": [{"content": 1, "instruction": "Write part 0 on bread."}]}'


@dataclass
class Asked:
    """A batch of pairs as the engine would have stored it."""

    pairs: list

    @property
    def texts(self) -> list[str]:
        return [pair.content for pair in self.pairs]

    @property
    def messages(self) -> list[dict[str, str]]:
        return build_messages(RECIPE, self.texts, boundary=batch_boundary(self.texts))

    def save(self, store: AnswerStore) -> None:
        skeleton = json.dumps(self.messages, ensure_ascii=False)
        for text in self.texts:
            inner = json.dumps(text, ensure_ascii=False)[1:-1]
            skeleton = skeleton.replace(inner, "{{sha256:" + text_sha256(text) + "}}")
        request = PaidRequest(
            "request-1", RECIPE.sha256, tuple(map(text_sha256, self.texts)), skeleton, RAW, 200, "ok", 1,
            90, 12, 0.0001, "scripted", at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        answers = [
            Answer(pair.answer_key, "ok", (pair.instruction,), model="scripted", request_id="request-1")
            for pair in self.pairs
        ]
        store.save(requests=[request], answers=answers, questions=self.questions(), recipes=[RECIPE])

    def questions(self) -> list[Question]:
        return [
            Question(c.content, RECIPE, c.content_id, c.collection, c.start, c.end, c.author, c.link)
            for c in self.pairs
        ]


def keyed(number: int, text: str = ""):
    """Make a pair whose answer key is the one that the engine would give it."""
    pair = make_pair(number, text)
    question = Question(
        pair.content,
        RECIPE,
        pair.content_id,
        pair.collection,
        pair.start,
        pair.end,
        pair.author,
        pair.link,
    )
    return make_pair(number, text, answer_key=question.key)


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture
def asked(store, tmp_path):
    batch = Asked([keyed(0, 'Bread "rises"\nslowly.\u2028Always.'), keyed(1), keyed(2)])
    batch.save(store)
    publish(tmp_path / "run", batch.pairs, test=0)
    return batch


def test_the_prompt_is_reproduced_byte_for_byte(asked, store, tmp_path):
    told = trace(asked.pairs[0].id, [tmp_path / "run"], store)

    for message in asked.messages:
        assert f"== prompt, {message['role']}\n{message['content']}\n" in told
    assert f"== raw answer\n{RAW}\n" in told


def test_origin_request_and_measures_are_told(asked, store, tmp_path):
    told = trace(asked.pairs[1].id, [tmp_path / "run"], store).split("\n")

    assert told[0] == f"row {asked.pairs[1].id} (run, train)"
    assert told[1].startswith("content cleaned_posts/id-1, characters 0 to ")
    assert "author author-1" in told
    assert "request request-1 2026-01-01T00:00:00Z" in told
    assert "this row's is content number 2" in told
    assert "grounding 1.0" in told


def test_forgotten_batch_mates_are_marked(asked, store, tmp_path):
    store.forget(author="author-2")

    told = trace(asked.pairs[0].id, [tmp_path / "run"], store)

    assert "1 of them forgotten since" in told
    assert text_sha256(asked.texts[2]) in told
    assert asked.texts[2] not in told
    assert asked.texts[1] in told


def test_a_row_of_another_store_is_traced_to_its_origin_only(asked, tmp_path):
    with AnswerStore(tmp_path / "other.sqlite") as other:
        told = trace(asked.pairs[0].id, [tmp_path / "run"], other)

    assert "request: not in this store of answers" in told
    assert "instruction 1: Write part 0 on bread." in told


def test_an_unknown_row_is_refused(asked, store, tmp_path):
    with pytest.raises(ParamsError, match="found 'nope' in none of 2 datasets"):
        trace("nope", [tmp_path / "run", tmp_path / "nowhere"], store)


def test_the_beginning_of_an_id_is_enough(asked, store, tmp_path):
    row_id = asked.pairs[1].id

    assert trace(row_id[:8], [tmp_path / "run"], store) == trace(row_id, [tmp_path / "run"], store)
    with pytest.raises(ParamsError, match="none of 1"):
        trace(row_id[:5], [tmp_path / "run"], store)


def test_a_beginning_that_several_ids_share_is_refused(asked, store, tmp_path, monkeypatch):
    monkeypatch.setattr("llmtwin_data.lineage.SHORTEST_PREFIX", 0)

    with pytest.raises(ParamsError, match="several: "):
        trace("", [tmp_path / "run"], store)
