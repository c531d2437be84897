"""Conclusions made of numbers."""

from __future__ import annotations

import pandas
import pytest

from llmtwin_data.endpoints import OPENAI, Endpoint
from llmtwin_data.endpoints.embedded import PACKAGED
from llmtwin_data.generation import LedgerRow
from llmtwin_data.params import Params
from llmtwin_data.summaries.conclusions import (
    conclude_exploration,
    conclude_generation,
    highest_cost,
    model_notice,
)

CONTENTS = pandas.DataFrame(
    {"author": ["1", "2"], "language": "en", "chunks": [1, 2], "damage": ["", ""], "characters": [100, 3000]}
    | {"collection": "cleaned_posts"}
)


def test_an_exploration_ends_in_numbers():
    text = conclude_exploration(
        CONTENTS, skipped=3, exact=1, near=0, cost_usd=0.4, settings=Params(), personal=2
    ).text

    for expected in (
        "2 contents",
        "2 authors",
        "3 chunks",
        "1 contents are longer",
        "3 are skipped",
        "0.4000 USD",
        "max_cost_usd: 0.4800  #",
        "personal_data: mask  # 2 findings",
    ):
        assert expected in text


def test_an_unclear_language_is_not_counted():
    contents = CONTENTS.assign(language=["en", "unclear"])

    text = conclude_exploration(contents, skipped=0, exact=0, near=0, cost_usd=0.0, settings=Params()).text

    assert "in 1 languages" in text


def test_an_empty_collection_says_what_to_look_at():
    text = conclude_exploration(
        CONTENTS.head(0), skipped=7, exact=0, near=0, cost_usd=0.0, settings=Params()
    ).text

    assert "7 were skipped" in text
    assert "llmtwin-data load" in text


def test_generation_ends_in_numbers():
    ledger = [
        LedgerRow(str(n), 0, 1, 1, state) for n, state in enumerate(["accepted", "accepted", "rejected"])
    ]

    text = conclude_generation(ledger, sides=["train", "test", ""], fields={}).text

    assert "2 of 3 instructions are published" in text
    assert "1 pairs to train on, 1 to test with" in text


def test_what_tuning_and_judging_asked_is_part_of_what_the_run_cost():
    asked = {"requests": 2, "tokens": 9, "cost_usd": 1.5}
    ledger = [LedgerRow("1", 0, 1, 1, "accepted")]

    text = conclude_generation(
        ledger, sides=["train"], fields={"asked": {"tuning: seed": asked, "verdicts": asked}}
    ).text

    assert "4 requests (cost: 3.00 USD)" in text


def test_an_empty_run_claims_nothing():
    assert "nothing to ask" in conclude_generation([], sides=[], fields={}).text


def test_the_tiny_model_is_named_plainly_and_others_are_not_blamed():
    forecast = pandas.DataFrame({"requests": [1000, 2]})
    small = Endpoint("http://127.0.0.1:1/v1", "embedded", PACKAGED, "sha256")
    other = Endpoint(OPENAI, OPENAI, "gpt-4o-mini", "gpt-4o-mini")

    assert "135 million parameters" in model_notice(small, forecast).text
    assert model_notice(other, forecast).text == (
        f"Endpoint `{OPENAI}`, model `gpt-4o-mini`: 1,002 requests to send."
    )


@pytest.mark.parametrize(
    ("costs", "total"),
    [([0.1, 0.2], pytest.approx(0.3)), ([0.1, None], None), ([], 0.0)],
    ids=["known", "unknown", "none"],
)
def test_a_forecast_with_one_unknown_price_is_unknown(costs, total):
    assert highest_cost(pandas.DataFrame({"cost_usd_low": costs, "cost_usd_high": costs})) == total
