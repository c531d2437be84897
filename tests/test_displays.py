"""Tables for people, notes and Markdown."""

from __future__ import annotations

import pandas
import pytest

from llmtwin_data.summaries.displays import (
    STYLE,
    code,
    format_usd,
    format_value,
    in_usd,
    show_note,
    show_table,
)

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("value", "column", "written"),
    [
        (1234567, "chunks", "1,234,567"),
        (0.1234, "share of all", "12.3 %"),
        (61.27, "usable, %", "61.3"),
        (0.00042, "cost, USD", "0.00042"),
        (0.0000444, "cost, USD", "0.000044"),
        (None, "rows", "–"),
        (float("nan"), "rows", "–"),
        (True, "self contained", "yes"),
        (0.87654, "grounding", "0.877"),
        (2914.625, "tokens per content", "2,915"),
    ],
    ids=[
        "count",
        "share",
        "percent",
        "money",
        "small money",
        "missing",
        "nan",
        "truth",
        "float",
        "large float",
    ],
)
def test_a_value_is_written_for_people(value, column, written):
    assert format_value(value, column=column) == written


def test_an_unknown_price_is_called_unknown():
    assert format_usd(None) == in_usd(None) == "unknown"
    assert in_usd(3.0) == "3.00 USD"


def test_small_sums_of_money_keep_their_digits():
    assert [format_usd(value) for value in (0, 0.0042, 12.5)] == ["0.00", "0.0042", "12.50"]


def test_a_table_escapes_cells_heads_and_caption():
    shown = show_table(pandas.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE)

    assert "<img" not in shown._repr_html_()
    assert shown._repr_html_().count("&lt;img") == 3


def test_an_empty_table_is_a_sentence():
    shown = show_table(pandas.DataFrame(), "Skipped", empty="Every content can be used.")

    assert repr(shown) == "Skipped: Every content can be used."


def test_a_head_is_spoken_words():
    assert "cost USD low" in str(show_table(pandas.DataFrame({"cost_usd_low": [1.0]})).html)


def test_a_name_from_outside_is_no_head_to_be_spoken():
    assert "<th>my_prompt</th>" in str(show_table(pandas.DataFrame({"my_prompt": ["x"]}), as_given=True).html)


def test_names_keep_their_case():
    assert "uppercase" not in STYLE


def test_a_note_escapes_its_text():
    assert "<img" not in str(show_note(HOSTILE).html)


def test_a_word_from_outside_cannot_leave_its_code_span():
    assert code("a`b\n# c") == "`a b # c`"


def test_numbers_that_are_written_already_are_aligned_like_numbers():
    shown = str(show_table(pandas.DataFrame({"a": ["1,931", "83.4 %", "–"], "b": ["x", "2", "3"]})).html)

    assert shown.count('<td class="lt-n">') == 3
