import socket
from dataclasses import dataclass

import pytest

from llmtwin_data.prices import Price, Workload, cost_usd, forecast, price_of

OPENAI = "https://api.openai.com/v1"
CENT = Price(1.0, 10.0, "params")


@dataclass(frozen=True)
class Piece:
    content_id: str
    text: str = "Some words about storage engines."
    collection: str = "cleaned_posts"
    data_type: str = "posts"


def key_of(piece):
    return f"{piece.content_id}/{piece.text}"


def workload(**changes):
    return Workload(**({"batch_size": 4, "frame_tokens": lambda data_type, count: 100} | changes))


def test_a_listed_price_comes_without_the_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    price = price_of("gpt-4o-mini", base_url=OPENAI)

    assert (price.usd_per_million_input, price.usd_per_million_output) == (0.15, 0.6)
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
    price = price_of("gpt-4o-mini", base_url=OPENAI, batch=True)

    assert (price.usd_per_million_input, price.usd_per_million_output) == (0.075, 0.3)


def test_an_unknown_price_is_unknown_in_the_batch_api_too():
    assert price_of("no-such-model", base_url=OPENAI, batch=True).usd_per_million_input is None


def test_the_embedded_model_is_free():
    assert cost_usd(price_of("any.gguf", base_url="embedded"), 10**9, 10**9) == 0.0


def test_a_forecast_counts_what_is_open():
    pieces = [Piece(str(number // 2), text=f"text {number}") for number in range(10)]
    done = {key_of(piece) for piece in pieces[:5]}

    (found,) = forecast(pieces, key_of=key_of, answered=done.intersection, price=CENT, workload=workload())

    assert (found.contents, found.chunks, found.answered) == (5, 10, 5)
    assert found.requests == 2  # batches of four by place: the first is done, one has three open, one has two
    assert found.cost_usd_low < found.cost_usd_high


def test_a_repeated_text_is_asked_once():
    pieces = [Piece("1"), Piece("1"), Piece("1")]

    (found,) = forecast(pieces, key_of=key_of, answered=lambda keys: set(), price=CENT, workload=workload())

    assert (found.chunks, found.answered, found.requests) == (3, 2, 1)


def test_every_collection_and_data_type_has_its_own_forecast():
    pieces = [Piece("1"), Piece("2", data_type="notes"), Piece("3", collection="cleaned_articles")]

    found = forecast(pieces, key_of=key_of, answered=lambda keys: set(), price=CENT, workload=workload())

    assert [(one.collection, one.data_type, one.chunks) for one in found] == [
        ("cleaned_posts", "posts", 1),
        ("cleaned_posts", "notes", 1),
        ("cleaned_articles", "posts", 1),
    ]


def test_a_pilot_narrows_the_forecast():
    pieces = [Piece(str(number)) for number in range(100)]
    wide, narrow = (
        forecast(pieces, key_of=key_of, answered=lambda keys: set(), price=CENT, workload=load)[0]
        for load in (workload(), workload(seen_tokens=(60.0, 40.0)))
    )

    assert narrow.prompt_tokens == 6000
    assert narrow.completion_tokens == 4000
    assert narrow.cost_usd_high - narrow.cost_usd_low < wide.cost_usd_high - wide.cost_usd_low


def test_an_unknown_price_forecasts_no_cost():
    unknown = Price(None, None, "unknown")

    (found,) = forecast(
        [Piece("1")], key_of=key_of, answered=lambda keys: set(), price=unknown, workload=workload()
    )

    assert (found.cost_usd_low, found.cost_usd_high) == (None, None)
    assert found.prompt_tokens > 100
