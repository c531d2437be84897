"""Pictures that put prompts, settings or the two sides of a split beside each other."""

from __future__ import annotations

from collections.abc import Sequence
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
WHOLE_RANGES = {"grounding": (-0.02, 1.02)}
GROUPS = ("data_type", "author", "language")


@styled
def draw_intervals(board: pandas.DataFrame, measures: Sequence[str]) -> Picture:
    """Draw each prompt's measures as a dot with its 95 % interval; prompts on the rows."""
    title = "Prompts on the same contents (mean and 95 % interval, bootstrap over contents)"
    if board.empty:
        return empty_picture(title)
    figure, axes = new_figure(
        panels=len(measures), columns=min(len(measures), 3), height=0.9 + 0.3 * len(board)
    )
    names = [drawable(name) for name in board["prompt"]]
    for panel, measure in zip(axes, measures, strict=True):
        _interval_panel(panel, board, measure)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(measure)
        panel.grid(visible=False, axis="y")
    return finish(figure, title)


@styled
def draw_lines(frame: pandas.DataFrame, *, measures: Sequence[str], title: str) -> Picture:
    """Draw each measure against the frame's first column, such as the batch size."""
    x = str(frame.columns[0])
    if len(frame) < 2:
        return empty_picture(f"{title}: fewer than two to compare")
    figure, axes = new_figure(panels=len(measures), columns=min(len(measures), 3), height=2.4)
    for panel, measure in zip(axes, measures, strict=True):
        panel.plot(frame[x].astype(str).tolist(), frame[measure].tolist(), "o-", color=BLUE)
        panel.set(title=measure, xlabel=x)
        panel.set_ylim(0, 1.15 * max(*frame[measure], 1))
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
    axes[-1].legend(loc="lower right")
    return finish(figure, title)


def _sides_panel(axes: Axes, pairs: pandas.DataFrame, name: str, sides: Sequence[str]) -> None:
    words = most_common(pairs[name]).index.tolist()
    for n, side in enumerate(sides):
        of_side = pairs.loc[pairs["side"] == side, name].astype(str)
        shares = [100 * float((of_side == word).mean()) for word in words]
        places = [place + 0.38 * n for place in range(len(words))]
        axes.barh(places, shares, height=0.36, color=CYCLE[n], hatch=HATCHES[n], label=side)
    axes.set_yticks([place + 0.19 for place in range(len(words))], [drawable(w, longest=18) for w in words])
    axes.invert_yaxis()
    axes.set(title=name.replace("_", " "), xlabel="% of the side's pairs")
    axes.grid(visible=False, axis="y")


def _interval_panel(axes: Axes, board: pandas.DataFrame, measure: str) -> None:
    """One dot a row with its interval, the winner's in colour."""
    for place, row in enumerate(board.to_dict("records")):
        colour = GREY if place else BLUE
        axes.plot(
            [row[f"{measure} low"], row[f"{measure} high"]], [place, place], color=colour, linewidth=2.5
        )
        axes.plot(row[measure], place, "o", color=colour, markersize=7)
    if measure in WHOLE_RANGES or "%" in measure:
        axes.set_xlim(WHOLE_RANGES.get(measure, (-2.0, 102.0)))
