import socket
from contextlib import nullcontext

import pandas as pd
import pytest
from documents import document

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROMPTS
from llmtwin_data.prices import Price, add_up, check_price, cost_usd, forecast, price_of
from llmtwin_data.prompts import Question, Recipe, load_template

OPENAI = "https://api.openai.com/v1"
CENT = Price(1.0, 10.0, "params")


def asked(number, text="", *, content_id="", collection="cleaned_posts", data_type="posts", **fields):
    recipe = Recipe("e", "m", load_template("grounded", folder=PROMPTS), data_type, **fields)
    text = text or document(number)
    return Question(text, recipe, content_id or str(number), collection, 0, len(text), "ada", "")


def expect(questions, *, price=CENT, done=(), seen=None, **options):
    table = forecast(
        questions,
        answered=set(done).intersection,
        price=price,
        batch_size=4,
        seen=set() if seen is None else seen,
        **options,
    )
    return list(table.itertuples())


def test_a_listed_price_comes_without_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    price = price_of("gpt-6-luna", base_url=OPENAI)

    assert (price.usd_per_million_input, price.usd_per_million_output) == (0.1, 0.5)
    assert price.source.startswith("genai-prices ")


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("no-such-model", OPENAI),
        ("gpt-4o-mini", "http://127.0.0.1:8000/v1"),
        ("qwen2.5:7b", "http://localhost:11434/v1"),
    ],
    ids=["unknown model", "local server", "ollama"],
)
def test_an_unknown_price_is_none(model, base_url):
    price = price_of(model, base_url=base_url)

    assert price == Price(None, None, "unknown")
    assert cost_usd(price, 1000, 1000) is None
    assert not price.is_known


def test_the_params_go_before_the_list():
    price = price_of("gpt-4o-mini", base_url=OPENAI, usd_per_million_input=1.0, usd_per_million_output=2.0)

    assert price == Price(1.0, 2.0, "params")
    assert cost_usd(price, 500_000, 250_000) == 1.0


def test_half_a_price_in_the_params_stays_unknown():
    price = price_of("no-such-model", base_url=OPENAI, usd_per_million_input=1.0)

    assert cost_usd(price, 1, 1) is None


def test_the_batch_api_costs_half():
    price = price_of("gpt-6-luna", base_url=OPENAI, batch=True)

    assert (price.usd_per_million_input, price.usd_per_million_output) == (0.05, 0.25)


def test_an_unknown_price_is_unknown_in_the_batch_api_too():
    assert price_of("no-such-model", base_url=OPENAI, batch=True).usd_per_million_input is None


def test_the_embedded_model_is_free():
    assert cost_usd(price_of("any.gguf", base_url="embedded"), 10**9, 10**9) == 0.0


@pytest.mark.parametrize("limit", [0.0, 1.0], ids=["no limit", "limit"])
def test_a_limit_needs_a_price(limit):
    with pytest.raises(ParamsError, match="usd_per_million_input") if limit else nullcontext():
        check_price(Price(None, None, "unknown"), model="m", max_cost_usd=limit)


def test_a_forecast_counts_what_is_open():
    questions = [asked(number, content_id=str(number // 2)) for number in range(10)]

    (found,) = expect(questions, done=[question.key for question in questions[:5]])

    assert (found.contents, found.chunks, found.answered) == (5, 10, 5)
    assert found.requests == 2  # batches of four by place: the first is done, one has three open, one has two
    assert found.cost_usd_low < found.cost_usd_high


def test_a_forecast_takes_the_batches_that_will_be_sent():
    told_apart = [asked(n, f"What my first summer of {document(n)}") for n in range(4)]
    alike = [asked(n, f"{document(900)} {document(901)} " * 3 + document(n)) for n in range(4)]

    assert [expect(questions)[0].requests for questions in (told_apart, alike)] == [1, 4]


def test_candidates_asked_one_by_one_are_as_many_requests():
    questions = [asked(n, candidates=3) for n in range(8)]

    (together,), (alone,) = expect(questions), expect(questions, one_by_one=True)

    assert (together.requests, alone.requests) == (2, 6)
    assert alone.prompt_tokens == 3 * together.prompt_tokens
    assert alone.completion_tokens == together.completion_tokens
    assert alone.cost_usd_low > together.cost_usd_low


def test_a_repeated_text_is_asked_once():
    (found,) = expect([asked(1)] * 3)

    assert (found.chunks, found.answered, found.requests) == (3, 2, 1)


def test_a_repeated_text_is_asked_where_it_comes_first():
    found = expect([asked(1), asked(1, collection="cleaned_articles")])

    assert [(one.collection, one.requests) for one in found] == [
        ("cleaned_posts", 1),
        ("cleaned_articles", 0),
    ]


def test_what_an_earlier_step_will_have_asked_is_not_asked_again():
    seen = set()
    trial, dataset = expect([asked(1)], seen=seen), expect([asked(1), asked(2)], seen=seen)

    assert (trial[0].answered, dataset[0].answered) == (0, 1)


def test_every_collection_and_data_type_has_its_own_forecast():
    found = expect([asked(1), asked(2, data_type="notes"), asked(3, collection="cleaned_articles")])

    assert [(one.collection, one.data_type, one.chunks) for one in found] == [
        ("cleaned_posts", "posts", 1),
        ("cleaned_posts", "notes", 1),
        ("cleaned_articles", "posts", 1),
    ]


def test_an_unknown_price_forecasts_no_cost_and_no_sum():
    (found,) = expect([asked(1)], price=Price(None, None, "unknown"))
    whole = add_up(row._asdict() for row in [found, *expect([asked(2)])])

    assert pd.isna([found.cost_usd_low, found.cost_usd_high]).all()
    assert (whole["chunks"], whole["prompt_tokens"] > 200, whole["cost_usd_low"]) == (2, True, None)
