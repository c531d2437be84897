"""Figures: drawn from any frame, whatever words stand in it, the same bytes each time."""

from __future__ import annotations

import pandas
import pytest

from llmtwin_data.figures import (
    draw_axis,
    draw_intervals,
    draw_lengths,
    draw_measures,
    draw_shares,
    draw_split,
    draw_vocabulary,
    draw_waterfall,
    drawable,
    finish,
    most_common,
)

NAMES = ["1", "$x$ and $y$", "作者", "\u202eevil", "👩‍💻", "", "a" * 300, "<b>", "9"]
CONTENTS = pandas.DataFrame(
    {"author": NAMES, "platform": NAMES, "language": "en", "data_type": NAMES, "characters": range(1, 10)}
)
BOARD = pandas.DataFrame(
    {
        "trial": NAMES[:2],
        "m": [0.5, 0.2],
        "m low": [0.4, 0.1],
        "m high": [0.6, None],
        "n": None,
        "n low": None,
    }
)
FIGURES = {
    "shares": lambda rows: draw_shares(CONTENTS.head(rows)),
    "lengths": lambda rows: draw_lengths(CONTENTS.head(rows), chunk_chars=5),
    "vocabulary": lambda rows: draw_vocabulary(
        pandas.DataFrame({"author": NAMES, "word": NAMES, "z": [1.0] * 9}).head(rows)
    ),
    "waterfall": lambda rows: draw_waterfall(
        pandas.DataFrame({"state": ["rejected", "failed", "accepted"], "reason": ["too_$", "x", ""]}).head(
            rows
        )
    ),
    "measures": lambda rows: draw_measures(
        pandas.DataFrame({"grounding": [0.1, None, 0.9], "state": ["accepted", "rejected", "accepted"]}).head(
            rows
        ),
        limits={"grounding": 0.5},
    ),
    "intervals": lambda rows: draw_intervals(BOARD.head(rows), title="t"),
    "split": lambda rows: draw_split(CONTENTS.assign(side=["train", "test", ""] * 3).head(rows)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_of_many(name):
    picture = FIGURES[name](100)

    assert picture.png().startswith(b"\x89PNG")
    assert picture.alt


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (FIGURES["shares"], "Contents: 1; all of author 1, platform 1, language en."),
        (FIGURES["split"], "Pairs: 1 in train; all of data type 1, author 1, language en."),
        (FIGURES["vocabulary"],
         "Words that tell authors apart (log-odds against all others, z-score): nothing to draw."),
        (FIGURES["intervals"], "t: nothing to draw."),
        (lambda rows: draw_waterfall(pandas.DataFrame({"state": ["accepted"], "reason": [""]})),
         "Accepted: 1 of 1 instructions that were asked for."),
    ],
    ids=["shares", "split", "vocabulary", "intervals", "waterfall"],
)  # fmt: skip
def test_a_chart_of_one_bar_is_a_sentence(draw, said):
    data, _ = draw(1)._repr_mimebundle_()

    assert data["text/plain"] == said
    assert ('class="lt-nothing"' in data["text/html"]) == said.endswith("nothing to draw.")


@pytest.mark.parametrize("name", ["vocabulary", "measures", "intervals", "split"])
def test_a_figure_of_nothing_is_half_a_line(name):
    data, _ = FIGURES[name](0)._repr_mimebundle_()

    assert sorted(data) == ["text/html", "text/plain"]
    assert data["text/plain"].endswith(": nothing to draw.")


def test_the_same_numbers_give_the_same_bytes():
    assert FIGURES["lengths"](9).png() == FIGURES["lengths"](9).png()


def test_a_figure_is_small_and_tells_its_subject_to_those_who_cannot_see_it():
    data, metadata = FIGURES["shares"](9)._repr_mimebundle_()

    assert len(data["image/png"]) < 60_000
    assert (
        metadata["image/png"]["alt"] == "Contents by author, platform (count, 9 in all; all of language en)"
    )


def test_large_numbers_on_an_axis_have_commas():
    axes = FIGURES["shares"](9).figure.axes[0]
    axes.set_xlim(0, 5000)

    assert finish(axes.figure, "t").figure.axes[0].xaxis.get_major_formatter()(4000) == "4,000"


def test_many_authors_do_not_make_many_panels():
    words = pandas.DataFrame({"author": [str(n) for n in range(90)], "word": "w", "z": 1.0})

    assert "8 of 90 authors" in draw_vocabulary(words).alt


def test_the_bars_of_a_side_add_up_to_all_of_it():
    frame = CONTENTS.assign(side=["train", "test", "train"] * 3, author=[str(n) for n in range(9)])
    frame = pandas.concat([frame, frame.assign(author=[str(n) for n in range(9, 18)])])

    axes = draw_split(frame).figure.axes[1]

    assert [round(sum(bar.get_width() for bar in bars)) for bars in axes.containers] == [100, 100]


def test_a_waterfall_ends_at_the_accepted():
    fates = (
        [("accepted", "")] * 5 + [("rejected", "copied")] * 3 + [("failed", "refused"), ("skipped", "blank")]
    )

    axes = draw_waterfall(pandas.DataFrame(fates, columns=["state", "reason"])).figure.axes[0]

    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["asked", "failed: refused", "rejected: copied", "accepted"]
    assert [text.get_text() for text in axes.texts] == ["9", "5", "− 1", "− 3"]


def test_a_word_no_font_can_draw_becomes_a_square():
    assert drawable("a\U000e0001b") == "a\N{WHITE SQUARE}b"


def test_rare_words_become_one_last_row():
    counts = most_common(pandas.Series([*"aaabbb", *map(str, range(20))]))

    assert counts.iloc[:2].tolist() == [3, 3]
    assert (counts.index[-1], counts.iloc[-1]) == ("15 others", 15)


def test_the_axis_has_a_row_a_group_and_without_floor_and_ceiling_there_is_no_picture():
    rows = [("other authors", 0.2, 0.1, 0.3), ("plain", 0.25, None, None), ("the author", 0.5, 0.4, 0.6)]
    axis = pandas.DataFrame(rows, columns=["texts", "near", "near low", "near high"])

    drawn, empty = draw_axis(axis), draw_axis(axis.head(0))

    names = [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()]
    assert names == ["other authors (floor)", "plain", "the author (ceiling)"]
    assert (empty.figure, empty.alt.endswith("nothing to draw.")) == (None, True)
