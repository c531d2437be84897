"""The pictures of the notebooks, each from plain frames of numbers; `drawing` holds their look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmtwin_data.figures.drawing import (
    BLUE,
    CYCLE,
    GREY,
    INK,
    MOST_BARS,
    VERMILLION,
    Picture,
    draw_bars,
    drawable,
    empty_picture,
    finish,
    most_common,
    new_figure,
    styled,
    write_beside,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

BINS = 30
# From so many pairs on, the few rejected would be lines too thin to see beside the tallest bar.
MANY_PAIRS = 200


@styled
def draw_shares(
    contents: pandas.DataFrame, *, by: Sequence[str] = ("author", "platform", "language")
) -> Picture:
    """Draw how many contents there are of each author, platform, language."""
    title = f"Contents by {', '.join(by)} (count; {len(contents):,} contents)"
    if contents.empty:
        return empty_picture(title)
    counts = [most_common(contents[name]) for name in by]
    figure, axes = new_figure(panels=len(by), columns=len(by), height=0.9 + 0.3 * max(map(len, counts)))
    for panel, name, count in zip(axes, by, counts, strict=True):
        draw_bars(panel, [str(word) or "(none)" for word in count.index], count.tolist())
        panel.set_title(name.replace("_", " "))
    return finish(figure, title)


@styled
def draw_lengths(contents: pandas.DataFrame, *, chunk_chars: int) -> Picture:
    """Draw the lengths of the contents, kind by kind, with the chunk limit in it."""
    longer = int((contents["characters"] > chunk_chars).sum()) if len(contents) else 0
    title = f"Length of {len(contents):,} contents (characters); {longer:,} exceed the chunk limit"
    if contents.empty:
        return empty_picture(title)
    figure, (axes,) = new_figure(height=3.1)
    kinds = sorted(contents["data_type"].unique())
    lengths = [contents.loc[contents["data_type"] == kind, "characters"].tolist() for kind in kinds]
    _stacked(axes, lengths)
    _name_patches(axes, kinds)
    _limit(axes, chunk_chars, f"chunk_chars = {chunk_chars:,}")
    axes.set(xlabel="characters of one content (log scale)", ylabel="contents")
    return finish(figure, title)


@styled
def draw_vocabulary(words: pandas.DataFrame, *, top: int = 8) -> Picture:
    """Draw the words that set each author apart, by how surely they do."""
    title = "Words that tell authors apart (log-odds against all others, z-score)"
    found = list(dict.fromkeys(words["author"])) if len(words) else []
    if not found:
        return empty_picture(title)
    authors = found[:MOST_BARS]
    if len(found) > len(authors):
        title = f"{title}; {len(authors)} of {len(found):,} authors"
    columns = min(len(authors), 4)
    figure, axes = new_figure(panels=len(authors), columns=columns, height=0.8 + 0.24 * top)
    for panel, author in zip(axes, authors, strict=True):
        rows = words[words["author"] == author].head(top)
        places = list(range(len(rows)))
        panel.hlines(places, 0, rows["z"].tolist(), color=GREY, linewidth=1)
        panel.plot(rows["z"].tolist(), places, "o", color=BLUE, markersize=5)
        panel.set_yticks(places, [drawable(word, longest=16) for word in rows["word"]])
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_title(drawable(author, longest=18))
    return finish(figure, title)


@styled
def draw_waterfall(steps: pandas.DataFrame) -> Picture:
    """Draw what became of every chunk, from what was asked to what is published."""
    if steps.empty:
        return empty_picture("From instructions asked to accepted (count)")
    asked, accepted = int(steps["left"].iloc[0]), int(steps["left"].iloc[-1])
    figure, (axes,) = new_figure(height=0.9 + 0.32 * len(steps))
    for place, (left, lost) in enumerate(zip(steps["left"], steps["lost"], strict=True)):
        colour = VERMILLION if lost else BLUE
        axes.barh(place, lost or left, left=left if lost else 0, color=colour, height=0.66)
        write_beside(axes, left + lost, place, f"− {lost:,}" if lost else f"{left:,}")
    axes.set_yticks(range(len(steps)), [drawable(name, longest=40) for name in steps["step"]])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("instructions")
    return finish(figure, f"From {asked:,} instructions asked to {accepted:,} accepted (count)")


@styled
def draw_measures(measured: pandas.DataFrame, *, limits: Mapping[str, float]) -> Picture:
    """Draw each measure's distribution, accepted and rejected apart, with its limit."""
    scale = ", log scale" if len(measured) >= MANY_PAIRS else ""
    title = f"Measures of {len(measured):,} pairs (pairs in each bin{scale}; dashed: the limit)"
    names = [name for name in measured.columns if name != "accepted" and measured[name].notna().any()]
    if measured.empty or not names:
        return empty_picture(title)
    figure, axes = new_figure(panels=len(names), columns=3, height=2.3)
    for panel, name in zip(axes, names, strict=True):
        _measure_panel(panel, measured, name, limits.get(name))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return finish(figure, title)


def _stacked(axes: Axes, groups: Sequence[Sequence[float]]) -> None:
    import numpy
    from matplotlib.ticker import LogLocator, NullFormatter

    values = [max(value, 1.0) for group in groups for value in group]
    edges = numpy.geomspace(min(values) * 0.99, max(*values, min(values) + 1) * 1.01, BINS).tolist()
    colours = [CYCLE[n % len(CYCLE)] for n in range(len(groups))]
    axes.hist(list(groups), bins=edges, stacked=True, color=colours, edgecolor="white", linewidth=0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_patches(axes: Axes, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=CYCLE[n % len(CYCLE)], label=drawable(name)) for n, name in enumerate(names)]
    axes.legend(handles=patches, loc="upper left")


def _limit(axes: Axes, value: float, label: str) -> None:
    axes.axvline(value, color=INK, linestyle="--", linewidth=1.2)
    where = axes.get_xaxis_transform()
    axes.text(value, 1.01, label, transform=where, ha="center", va="bottom", fontsize=9, color=INK)


def _measure_panel(axes: Axes, measured: pandas.DataFrame, name: str, limit: float | None) -> None:
    import numpy
    from matplotlib.ticker import NullFormatter

    accepted = measured["accepted"].astype(bool)
    groups = [measured.loc[kept, name].dropna().astype(float).tolist() for kept in (accepted, ~accepted)]
    # Measures from 0 to 1 are drawn on their whole range: otherwise equal values have no width.
    span = (0.0, 1.0) if max(map(max, filter(None, groups))) <= 1 else None
    edges = numpy.histogram_bin_edges([value for group in groups for value in group], bins=BINS, range=span)
    # Not stacked: on a log scale, which shows the few beside the many, each height must stand for itself.
    axes.hist(groups[0], bins=edges.tolist(), color=BLUE, label="accepted")
    axes.hist(
        groups[1], bins=edges.tolist(), histtype="step", color=VERMILLION, linewidth=1.8, label="rejected"
    )
    if len(measured) >= MANY_PAIRS:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if limit is not None:
        axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
    axes.set_title(name)
