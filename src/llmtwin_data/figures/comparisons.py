"""Pictures that put prompts, settings or the two sides of a split beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from llmtwin_data.figures.drawing import (
    BLUE,
    CYCLE,
    GREY,
    HATCHES,
    MOST_BARS,
    Picture,
    drawable,
    empty_picture,
    finish,
    most_common,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

# Drawn whole, as every % is, so that a small difference looks small.
WHOLE_RANGES = {"grounding": (-0.05, 1.05), "judge score, 1–5": (0.8, 5.2)}
# Characters on one line, of a row's name and of the titles of a row of panels; the rest goes to the next.
NAME_CHARS, TITLE_CHARS = 32, 68


@styled
def draw_intervals(board: pandas.DataFrame, *, title: str) -> Picture:
    """Draw each measure as a dot with its 95 % interval; the board's first column names the rows."""
    names = [wrap(drawable(name, longest=120), NAME_CHARS) for name in board.iloc[:, 0]] if len(board) else []
    measures = _measures_of(board)
    if not measures:
        return empty_picture(title)
    columns = min(len(measures), 3 if len(measures) % 3 == 0 else 4)
    height = 1.0 + 0.27 * sum(map(len, names))
    figure, axes = new_figure(panels=len(measures), columns=columns, height=height)
    for place, (panel, measure) in enumerate(zip(axes, measures, strict=True)):
        _interval_panel(panel, board, measure)
        labels = ["" if place % columns else "\n".join(name) for name in names]
        panel.set_yticks(range(len(names)), labels)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title("\n".join(wrap(measure, TITLE_CHARS // columns)))
        panel.grid(visible=False, axis="y")
    return finish(figure, title)


@styled
def draw_split(
    pairs: pandas.DataFrame, *, by: Sequence[str] = ("data_type", "author", "language")
) -> Picture:
    """Draw the shares of train and test side by side; alike bars say that test looks like train."""
    sides = [side for side in ("train", "test") if len(pairs) and (pairs["side"] == side).any()]
    counts = " and ".join(f"{int((pairs['side'] == side).sum()):,} in {side}" for side in sides) or "no pair"
    title = f"What train and test are made of (share of pairs; {counts})"
    if not sides:
        return empty_picture(title)
    figure, axes = new_figure(panels=len(by), columns=len(by), height=1.1 + 0.28 * MOST_BARS)
    for panel, name in zip(axes, by, strict=True):
        _sides_panel(panel, pairs, name, sides)
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return finish(figure, title)


def _sides_panel(axes: Axes, pairs: pandas.DataFrame, name: str, sides: Sequence[str]) -> None:
    known = pairs[name].astype(str)
    words = most_common(pairs.loc[pairs["side"].isin(sides), name]).index.tolist()
    # The last word may be "others": what none of the words before names.
    named = known.where(known.isin(words), words[-1])
    for n, side in enumerate(sides):
        of_side = named[pairs["side"] == side]
        shares = [100 * float((of_side == word).mean()) for word in words]
        places = [place + 0.38 * n for place in range(len(words))]
        axes.barh(places, shares, height=0.36, color=CYCLE[n], hatch=HATCHES[n], label=side)
    axes.set_yticks([place + 0.19 for place in range(len(words))], [drawable(w, longest=18) for w in words])
    # Room for three rows at least, so that a single one is a bar and no wall.
    axes.set_ylim(max(len(words), 3) - 0.4, -0.4)
    axes.set(title=name.replace("_", " "), xlabel="% of the side's pairs")
    axes.grid(visible=False, axis="y")


def _measures_of(board: pandas.DataFrame) -> list[str]:
    names = [name.removesuffix(" low") for name in map(str, board.columns) if name.endswith(" low")]
    # Where all is free, or nothing known, there is no cost to draw.
    return [name for name in names if board[name].fillna(0).any() or "%" in name]


def _interval_panel(axes: Axes, board: pandas.DataFrame, measure: str) -> None:
    """One dot a row with its interval; the first row, which is the best, in colour and square."""
    for place, row in enumerate(board.to_dict("records")):
        colour, marker = (GREY, "o") if place else (BLUE, "s")
        ends = [row[f"{measure} low"], row[f"{measure} high"]]
        axes.plot(ends, [place, place], color=colour, linewidth=2.5)
        axes.plot(row[measure], place, marker, color=colour, markersize=7)
    if measure in WHOLE_RANGES or "%" in measure:
        axes.set_xlim(WHOLE_RANGES.get(measure, (-5.0, 105.0)))
    axes.locator_params(axis="x", nbins=3)
