"""The notebooks' pictures, in colours that all eyes can tell apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from textwrap import fill, wrap
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from PIL import Image

# Okabe and Ito, Color Universal Design (2008); yellow is left out, being too pale on paper.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#222222"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, GREY)
# Pixels per inch in the file; shown at half of it, so that letters stay sharp on fine screens.
DPI = 144
LABEL_CHARS = 26
# Characters on one line, of a row's name and of the titles of a row of panels; the rest goes to the next.
NAME_CHARS, TITLE_CHARS = 32, 68
# Characters on one line of a figure's title, alone and beside a legend.
WHOLE_CHARS, BESIDE_LEGEND = 95, 68
# More bars than this in one panel cannot be read; the rest is one bar.
MOST_BARS = 8
BINS = 30
NOTHING = "nothing to draw."
# Measures worth a picture, and what stands over it.
DRAWN = {
    **{name: name for name in ("grounding", "evidence", "copied", "genericness")},
    "characters": "characters of the instruction",
    "tokens": "tokens of the pair",
}
# From so many pairs on, the few rejected would be lines too thin to see beside the tallest bar.
MANY_PAIRS = 200
# Drawn whole, as every % is, so that a small difference looks small.
WHOLE_RANGES = {"grounding": (-0.05, 1.05), "judge score, 1–5": (0.8, 5.2)}
# A number just right of a bar's end.
BESIDE: dict[str, Any] = {"padding": 4, "fontsize": 9, "color": INK}
WIDE_FONTS = (
    *("Noto Sans CJK TC", "Noto Sans CJK JP", "Source Han Sans TC", "PingFang TC", "Microsoft JhengHei"),
)
_KNOWN_FONTS = {font.name for font in font_manager.fontManager.ttflist}
FONTS = ["DejaVu Sans", *[name for name in WIDE_FONTS if name in _KNOWN_FONTS][:1]]
STYLE: dict[Any, Any] = {
    "font.family": FONTS,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "llmtwin",
}


# Draws or renders in the house's look and leaves matplotlib as it was.
styled = matplotlib.rc_context(STYLE)


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure and the sentence that stands in for it where it cannot be seen, or there is none."""

    figure: Figure | None
    alt: str

    @styled
    def png(self) -> bytes:
        """Render without any date or version, so that the same figure gives the same bytes."""
        assert self.figure, self.alt
        drawn, smaller = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
        # 128 colours are plenty for flat figures and halve the size.
        picture = Image.open(drawn).convert("RGB").quantize(colors=128, dither=Image.Dither.NONE)
        picture.save(smaller, format="PNG", optimize=True)
        return smaller.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not self.figure:
            kind = "nothing" if self.alt.endswith(NOTHING) else "plain"
            return {"text/html": f'<p class="lt-{kind}">{escape(self.alt)}</p>', "text/plain": self.alt}, {}
        width = round(self.figure.get_figwidth() * DPI / 2 * 1.35)
        return (
            {"image/png": self.png(), "text/plain": self.alt},
            {"image/png": {"alt": self.alt, "width": width}},
        )

    def __repr__(self) -> str:
        return self.alt


@styled
def draw_shares(contents: pd.DataFrame) -> Picture:
    """Draw how many contents there are of each author, platform, language; what is one of a kind is said."""
    counts, same = _told_apart(contents, ("author", "platform", "language"))
    title = f"Contents by {', '.join(counts)} (count, {len(contents):,} in all{same})"
    if not counts:
        return Picture(None, f"Contents: {len(contents):,}{same}.")
    figure, axes = _panels(
        len(counts), columns=len(counts), height=0.9 + 0.3 * max(map(len, counts.values()))
    )
    for panel, (name, count) in zip(axes, counts.items(), strict=True):
        bars = panel.barh(range(len(count)), count.tolist(), color=BLUE, height=0.68)
        panel.bar_label(bars, fmt="{:,.0f}", **BESIDE)
        _name_rows(panel, [drawable(word or "(none)") for word in count.index])
        panel.margins(x=0.14)
        panel.locator_params(axis="x", integer=True)
        panel.set_title(name)
    return finish(figure, title)


@styled
def draw_lengths(contents: pd.DataFrame, *, chunk_chars: int) -> Picture:
    """Draw the lengths of the contents, kind by kind, with the chunk limit in it."""
    longer = int((contents.characters > chunk_chars).sum())
    title = f"Length of contents (characters; {len(contents):,} in all, {longer:,} beyond the chunk limit)"
    figure, (axes,) = _panels(height=3.1)
    groups = {drawable(kind): rows.characters.clip(lower=1) for kind, rows in contents.groupby("data_type")}
    shortest, longest = contents.characters.clip(lower=1).agg(["min", "max"])
    edges = np.geomspace(shortest * 0.99, max(longest, shortest + 1) * 1.01, BINS).tolist()
    colours = [CYCLE[n % len(CYCLE)] for n in range(len(groups))]
    axes.hist(
        [rows.tolist() for rows in groups.values()],
        bins=edges, stacked=True, color=colours, label=list(groups), edgecolor="white", linewidth=0.4,
    )  # fmt: skip
    axes.legend(loc="upper left")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(chunk_chars, color=INK, linestyle="--", linewidth=1.2)
    axes.text(
        chunk_chars, 1.01, f"chunk_chars = {chunk_chars:,}",
        transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9, color=INK,
    )  # fmt: skip
    axes.set(xlabel="characters of one content (log scale)", ylabel="contents")
    axes.locator_params(axis="y", integer=True)
    return finish(figure, title)


@styled
def draw_vocabulary(words: pd.DataFrame) -> Picture:
    """Draw the words that set each author apart, by how surely they do."""
    title = "Words that tell authors apart (log-odds against all others, z-score)"
    authors = list(words.author.unique())
    if len(authors) < 2:
        return _nothing(title)
    if len(authors) > MOST_BARS:
        title = f"{title}; {MOST_BARS} of {len(authors):,} authors"
    authors = authors[:MOST_BARS]
    figure, axes = _panels(len(authors), columns=min(len(authors), 4), height=0.8 + 0.24 * MOST_BARS)
    for panel, author in zip(axes, authors, strict=True):
        rows = words[words.author == author].head(MOST_BARS)
        panel.hlines(range(len(rows)), 0, rows.z.tolist(), color=GREY, linewidth=1)
        panel.plot(rows.z.tolist(), range(len(rows)), "o", color=BLUE, markersize=5)
        panel.set_yticks(range(len(rows)), [drawable(word, longest=16) for word in rows.word])
        panel.invert_yaxis()
        panel.set_xlim(left=0)
        panel.set_title(drawable(author, longest=18))
    return finish(figure, title)


@styled
def draw_waterfall(ledger: pd.DataFrame) -> Picture:
    """Draw what became of every chunk, from what was asked to what is published."""
    rows = ledger[ledger.state != "skipped"]
    lost = rows[rows.state != "accepted"].groupby(["state", "reason"]).size().sort_values(ascending=False)
    lost = lost.sort_index(level="state", sort_remaining=False, kind="stable")
    accepted = len(rows) - int(lost.sum())
    if not len(lost):
        return Picture(None, f"Accepted: {accepted:,} of {accepted:,} instructions that were asked for.")
    reasons = [f"{state}: {reason.replace('_', ' ')}".removesuffix(": ") for state, reason in lost.index]
    figure, (axes,) = _panels(height=0.9 + 0.32 * (len(lost) + 2))
    ends = axes.barh([0, len(lost) + 1], [len(rows), accepted], color=BLUE, height=0.66)
    axes.bar_label(ends, fmt="{:,.0f}", **BESIDE)
    left = len(rows) - lost.cumsum()
    losses = axes.barh(range(1, len(lost) + 1), lost, left=left, color=VERMILLION, height=0.66)
    axes.bar_label(losses, fmt="− {:,.0f}", **BESIDE)
    _name_rows(axes, [drawable(name, longest=40) for name in ("asked", *reasons, "accepted")])
    axes.margins(x=0.1)
    axes.set_xlabel("instructions")
    return finish(figure, f"From {len(rows):,} instructions asked to {accepted:,} accepted (count)")


@styled
def draw_measures(pairs: pd.DataFrame, *, limits: Mapping[str, float]) -> Picture:
    """Draw the distribution of each of `DRAWN`, accepted and rejected apart, with its limit."""
    is_many = len(pairs) >= MANY_PAIRS
    scale = ", log scale" if is_many else ""
    title = f"Measures of {len(pairs):,} pairs (pairs in each bin{scale}; dashed: the limit)"
    names = [name for name in DRAWN if name in pairs and pairs[name].notna().any()]
    if not names:
        return _nothing(title)
    figure, axes = _panels(len(names), columns=3, height=2.3)
    accepted = pairs.state == "accepted"
    for panel, name in zip(axes, names, strict=True):
        values = pairs[name].astype(float)
        # Measures from 0 to 1 are drawn on their whole range: otherwise equal values have no width.
        span = (0.0, 1.0) if values.max() <= 1 else None
        edges = np.histogram_bin_edges(values.dropna(), bins=BINS, range=span).tolist()
        # Not stacked: on a log scale, which shows the few beside the many, each height must stand for itself.
        panel.hist(values[accepted].dropna(), bins=edges, color=BLUE, label="accepted")
        lost = values[~accepted].dropna()
        panel.hist(lost, bins=edges, histtype="step", color=VERMILLION, linewidth=1.8, label="rejected")
        if is_many:
            panel.set_yscale("log")
            panel.set_ylim(bottom=0.7)
            panel.yaxis.set_major_formatter("{x:,.0f}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        else:
            panel.locator_params(axis="y", integer=True)
        if name in limits:
            panel.axvline(limits[name], color=INK, linestyle="--", linewidth=1.2)
        panel.set_title(DRAWN[name])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return finish(figure, title)


@styled
def draw_intervals(board: pd.DataFrame, *, title: str) -> Picture:
    """Draw each measure as a dot with its 95 % interval; the board's first column names the rows.

    A measure is a column that has a ``low`` and a ``high`` beside it.
    """
    names = [wrap(drawable(name, longest=120), NAME_CHARS) for name in board.iloc[:, 0]] if len(board) else []
    # Where all is free, or nothing known, there is no cost to draw.
    measures = [name for name in _measures_of(board) if board[name].fillna(0).any() or "%" in name]
    if not measures or len(names) < 2:
        return _nothing(title)
    columns = min(len(measures), 3 if len(measures) % 3 == 0 else 4)
    figure, axes = _panels(len(measures), columns=columns, height=1.0 + 0.27 * sum(map(len, names)))
    # The first row, which is the best, in colour and square.
    looks = [(BLUE, "s"), *[(GREY, "o")] * (len(names) - 1)]
    for place, (panel, measure) in enumerate(zip(axes, measures, strict=True)):
        _draw_dots(panel, board, measure, looks)
        if measure in WHOLE_RANGES or "%" in measure:
            panel.set_xlim(WHOLE_RANGES.get(measure, (-5.0, 105.0)))
        panel.locator_params(axis="x", nbins=3)
        _name_rows(panel, ["" if place % columns else "\n".join(name) for name in names])
        panel.set_title("\n".join(wrap(measure, TITLE_CHARS // columns)))
    return finish(figure, title)


@styled
def draw_axis(axis: pd.DataFrame) -> Picture:
    """Draw how near texts are to an author's manner: the first row is the floor, the last one the ceiling.

    Measures are columns as for `draw_intervals`.
    """
    title = "How near texts come to the author's manner (cosine to the train texts, 95 % interval)"
    measures = _measures_of(axis)
    if axis.empty:
        return _nothing(title)
    figure, axes = _panels(len(measures), columns=len(measures), height=1.5 + 0.32 * len(axis))
    names = axis.texts.tolist()
    names[0], names[-1] = f"{names[0]} (floor)", f"{names[-1]} (ceiling)"
    names = ["\n".join(wrap(drawable(name, longest=60), LABEL_CHARS)) for name in names]
    end = (GREY, "s")
    looks = [end, *((CYCLE[row % len(CYCLE)], "o") for row in range(len(names) - 2)), end]
    for place, (panel, measure) in enumerate(zip(axes, measures, strict=True)):
        # Between floor and ceiling lies all that an answer can gain.
        panel.axvspan(axis[measure].iloc[0], axis[measure].iloc[-1], color=SKY, alpha=0.18, linewidth=0)
        _draw_dots(panel, axis, measure, looks)
        panel.locator_params(axis="x", nbins=4)
        panel.margins(x=0.12)
        _name_rows(panel, ["" if place else name for name in names])
        panel.set(title=measure, xlabel="others ← → the author" if place == len(axes) // 2 else "")
    return finish(figure, title)


def _measures_of(frame: pd.DataFrame) -> list[str]:
    return [name.removesuffix(" low") for name in map(str, frame.columns) if name.endswith(" low")]


def _draw_dots(panel: Axes, frame: pd.DataFrame, measure: str, looks: Sequence[tuple[str, str]]) -> None:
    """Draw a measure of every row on its interval; a look is the row's colour and marker."""
    intervals = frame[[measure, f"{measure} low", f"{measure} high"]].itertuples(index=False)
    for row, ((value, low, high), (colour, marker)) in enumerate(zip(intervals, looks, strict=True)):
        panel.plot([low, high], [row, row], color=colour, linewidth=2.5)
        panel.plot(value, row, marker, color=colour, markersize=7)
    panel.set_ylim(len(frame) - 0.5, -0.5)


@styled
def draw_split(pairs: pd.DataFrame) -> Picture:
    """Draw the shares of train and test side by side; alike bars say that test looks like train."""
    pairs = pairs[pairs.side.isin(["train", "test"])]
    sizes = pairs.side.value_counts().sort_index(ascending=False)
    counts = " and ".join(f"{count:,} in {side}" for side, count in sizes.items()) or "no pair"
    kinds_of, same = _told_apart(pairs, ("data_type", "author", "language"))
    title = f"What train and test are made of (share of pairs; {counts}{same})"
    if pairs.empty:
        return _nothing(title)
    if not kinds_of or len(sizes) < 2:
        return Picture(None, f"Pairs: {counts}{same}.")
    figure, axes = _panels(len(kinds_of), columns=len(kinds_of), height=1.1 + 0.28 * MOST_BARS)
    for panel, (name, kinds) in zip(axes, kinds_of.items(), strict=True):
        words = kinds.index.tolist()
        # The last word may be "others": what none of the words before names.
        column = pairs[name].astype(str).where(lambda known, words=words: known.isin(words), words[-1])
        shares = 100 * pd.crosstab(column, pairs.side, normalize="columns").reindex(words, fill_value=0)
        places = np.arange(len(words))
        for n, side in enumerate(sizes.index):
            # Hatched as well, so that a grey print still tells the sides apart.
            look: dict[str, Any] = {"color": CYCLE[n], "hatch": "///" if n else "", "label": side}
            panel.barh(places + 0.38 * n, shares[side], height=0.36, **look)
        panel.set_yticks(places + 0.19, [drawable(word, longest=18) for word in words])
        # Room for three rows at least, so that a single one is a bar and no wall.
        panel.set_ylim(max(len(words), 3) - 0.4, -0.4)
        panel.set(title=name.replace("_", " "), xlabel="% of the side's pairs")
        panel.grid(visible=False, axis="y")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return finish(figure, title)


def finish(figure: Figure, title: str) -> Picture:
    """Set the title over all panels and commas into large numbers; the figure is then done."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if type(axis.get_major_formatter()) is ScalarFormatter and max(axis.get_view_interval()) >= 1000:
            axis.set_major_formatter("{x:,.0f}")
    words = fill(drawable(title, longest=200), BESIDE_LEGEND if figure.legends else WHOLE_CHARS)
    figure.suptitle(words, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return Picture(figure, title)


def drawable(text: object, *, longest: int = LABEL_CHARS) -> str:
    """Return a word from outside shortened, what no font here can draw replaced; ``$`` begins no formula."""
    glyphs = _glyphs()
    word = "".join(c if ord(c) in glyphs else "\N{WHITE SQUARE}" for c in " ".join(str(text).split()))
    return (word if len(word) <= longest else word[: longest - 1] + "…").replace("$", r"\$")


def most_common(column: pd.Series[Any]) -> pd.Series[int]:
    """Return how often each word of a column stands there; those beyond the most common are one last row."""
    counts = column.astype(str).value_counts()
    if len(counts) <= MOST_BARS:
        return counts
    rest = counts.iloc[MOST_BARS - 1 :]
    return pd.concat([counts.head(MOST_BARS - 1), pd.Series({f"{len(rest)} others": rest.sum()})])


def _told_apart(rows: pd.DataFrame, names: Sequence[str]) -> tuple[dict[str, pd.Series[int]], str]:
    """Return the counts of the columns that tell rows apart, and in words what all rows have in common."""
    counts = {name: most_common(rows[name]) for name in names}
    differing = {name: kinds for name, kinds in counts.items() if len(kinds) > 1}
    same = [
        f"{name.replace('_', ' ')} {kinds.index[0] or '(none)'}"
        for name, kinds in counts.items()
        if len(kinds) == 1
    ]
    return differing, f"; all of {', '.join(same)}" if same else ""


def _panels(count: int = 1, *, columns: int = 1, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels; the height is that of one row, in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(9.0, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def _nothing(title: str) -> Picture:
    return Picture(None, f"{title}: {NOTHING}")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


@cache
def _glyphs() -> frozenset[int]:
    paths = (font_manager.findfont(name) for name in FONTS)
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())
