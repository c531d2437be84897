"""One look for every figure: colours all eyes can tell apart, titles on the left, pictures that print."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Okabe and Ito, Color Universal Design (2008); yellow is left out, being too pale on paper.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#222222"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, GREY)
# Bars are hatched as well where colours stand beside each other, so that a grey print still tells them apart.
HATCHES = ("", "///")
# Pixels per inch in the file; shown at half of it, so that letters stay sharp on fine screens.
DPI = 144
LABEL_CHARS = 26
# More bars than this in one panel cannot be read; the rest is one bar.
MOST_BARS = 8
STYLE: dict[Any, Any] = {
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


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished figure and the sentence that stands in for it where it cannot be seen."""

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """Render without any date or version, so that the same figure gives the same bytes."""
        return _fewer_colours(_render(self.figure))

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        width = round(self.figure.get_figwidth() * DPI / 2 * 1.35)
        shown = {"image/png": {"alt": self.alt, "width": width}}
        return {"image/png": self.png(), "text/plain": self.alt}, shown

    def __repr__(self) -> str:
        return self.alt


def styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function that draws or renders in the house's look and leave matplotlib as it was."""

    @wraps(draw)
    def in_style(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        import matplotlib

        with matplotlib.rc_context({**STYLE, "font.family": _fonts()}):
            return draw(*args, **kwargs)

    return in_style


def new_figure(
    *, panels: int = 1, columns: int = 1, width: float = 9.0, height: float = 3.0
) -> tuple[Figure, list[Axes]]:
    """Give a figure with so many panels; the height is that of one row, in inches."""
    from matplotlib.figure import Figure

    rows = -(-panels // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, axes[:panels]


def finish(figure: Figure, title: str) -> Picture:
    """Set the title over all panels, write large numbers with commas; the figure is then done."""
    from matplotlib.ticker import ScalarFormatter

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if type(axis.get_major_formatter()) is ScalarFormatter and max(axis.get_view_interval()) >= 1000:
            axis.set_major_formatter("{x:,.0f}")
    figure.suptitle(
        drawable(title, longest=200), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK
    )
    return Picture(figure, title)


def empty_picture(title: str) -> Picture:
    """Say in a small figure that there is nothing to draw."""
    figure, (axes,) = new_figure(height=1.2)
    axes.axis("off")
    axes.text(0, 0.5, "nothing to draw", color=GREY, fontsize=11, va="center")
    return finish(figure, title)


def draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], *, colour: str = BLUE) -> None:
    """Draw horizontal bars, the first on top, each with its number at the end."""
    places = list(range(len(names)))
    axes.barh(places, list(values), color=colour, height=0.68)
    axes.set_yticks(places, [drawable(name) for name in names])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    for place, value in zip(places, values, strict=True):
        write_beside(axes, value, place, f"{value:,.0f}")


def write_beside(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a number just right of a bar's end."""
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def drawable(text: object, *, longest: int = LABEL_CHARS) -> str:
    """Shorten a word from outside, and replace what no font here can draw; ``$`` begins no formula."""
    glyphs = _glyphs()
    word = "".join(c if ord(c) in glyphs else "\N{WHITE SQUARE}" for c in " ".join(str(text).split()))
    return (word if len(word) <= longest else word[: longest - 1] + "…").replace("$", r"\$")


def most_common(column: pandas.Series[Any]) -> pandas.Series[Any]:
    """Count the words of a column; those beyond the most common are one last row, "others"."""
    counts = column.astype(str).value_counts()
    if len(counts) <= MOST_BARS:
        return counts
    shown = counts.head(MOST_BARS - 1)
    shown[f"{len(counts) - MOST_BARS + 1} others"] = int(counts.iloc[MOST_BARS - 1 :].sum())
    return shown


@cache
def _fonts() -> list[str]:
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    wide = ("Noto Sans CJK TC", "Noto Sans CJK JP", "Source Han Sans TC", "PingFang TC", "Microsoft JhengHei")
    return ["DejaVu Sans", *[name for name in wide if name in known][:1]]


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    paths = (font_manager.findfont(name) for name in _fonts())
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())


@styled
def _render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _fewer_colours(png: bytes) -> bytes:
    from PIL import Image

    # 128 colours are plenty for flat figures and halve the size.
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(colors=128, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    picture.save(smaller, format="PNG", optimize=True)
    return smaller.getvalue()
