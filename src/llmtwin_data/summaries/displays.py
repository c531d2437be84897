"""What notebooks and report show: escaped HTML, tables for people, Markdown made of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    import pandas

# JupyterLab right-aligns every cell with a rule of its own, hence "important".
# Colours of marks and lines are half transparent, so that one sheet serves light, dark and print.
STYLE = Markup("""<style>
.lt-table{border-collapse:collapse;font-size:.92em;margin:.4em 0 1em;font-variant-numeric:tabular-nums}
.lt-table caption{text-align:left;font-weight:600;padding:.2em 0 .4em;white-space:nowrap}
.lt-table th,.lt-table td{padding:.28em .8em;border-bottom:1px solid rgba(128,128,128,.3);
text-align:left!important;vertical-align:top;overflow-wrap:break-word}
.lt-table td.lt-long{overflow-wrap:anywhere;min-width:9em}
.lt-table th{border-bottom:2px solid rgba(128,128,128,.6);font-weight:600}
.lt-table .lt-n{text-align:right!important}
.lt-table td.lt-n{white-space:nowrap}
.lt-card{border:1px solid rgba(128,128,128,.4);border-left:5px solid #0072B2;border-radius:6px;margin:.7em 0;
padding:.1em 0;max-width:72em;break-inside:avoid}
.lt-card.lt-bad{border-left-color:#D55E00}
.lt-card.lt-plain{border-left-color:rgba(128,128,128,.6)}
.lt-head{font-size:.82em;opacity:.8;padding:.35em .9em 0;overflow-wrap:anywhere}
.lt-cols{display:flex;flex-wrap:wrap;gap:0 1.4em;padding:.2em .9em .5em}
.lt-col{flex:1 1 15em;min-width:0}
.lt-col.lt-wide{flex:2 1 24em}
.lt-origin{font-size:.82em;opacity:.8;overflow-wrap:anywhere}
.lt-name{font-size:.8em;opacity:.7;padding-top:.4em}
.lt-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.5}
.lt-text mark{background:rgba(86,180,233,.38);color:inherit;border-radius:3px;padding:0 .1em}
.lt-card details>summary{cursor:pointer;font-size:.82em;opacity:.8}
.lt-pill{display:inline-block;border:1px solid rgba(128,128,128,.5);border-radius:1em;padding:0 .6em;
margin:.1em .3em .1em 0;font-size:.95em}
.lt-note{border-left:5px solid #E69F00;background:rgba(230,159,0,.13);padding:.6em .9em;margin:.7em 0;
border-radius:4px;max-width:72em}
.lt-note.lt-bad{border-left-color:#D55E00;background:rgba(213,94,0,.13)}
.lt-note.lt-good{border-left-color:#009E73;background:rgba(0,158,115,.13)}
</style>""")

SHARE_COLUMNS = re.compile(r"share|fraction")
MONEY_COLUMNS = re.compile(r"\bUSD\b")
# Numbers that are written already stand below each other as well.
NUMBER = re.compile(r"–|[<−+-]? ?\d[\d,.]*( ?(%|s|USD))?")
# A longer word, such as a hash, may be broken anywhere; shorter ones keep whole.
LONGEST_WORD = 24
# A page in any other state says so in a colour that warns.
GOOD_STATES = ("complete", "nothing found")


@dataclass(frozen=True, slots=True)
class Display:
    """Escaped HTML with a plain text beside it; a cell that ends in one shows it."""

    html: Markup
    text: str = ""

    def _repr_html_(self) -> str:
        return str(STYLE + self.html)

    def __html__(self) -> str:
        return str(self.html)

    def __repr__(self) -> str:
        return self.text or self.html.striptags()


@dataclass(frozen=True, slots=True)
class Markdown:
    """Markdown whose numbers were computed; words from outside go in by :func:`code`."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def show_table(
    frame: pandas.DataFrame, caption: str = "", *, empty: str = "Nothing to show.", as_given: bool = False
) -> Display:
    """Format a frame for people by its columns' names: ``share``, ``%`` and ``USD`` say what numbers are.

    Blanks stand for the names' underscores, unless ``as_given``: prompts and params are called as they are.
    """
    if frame.empty:
        return show_note(f"{caption}: {empty}" if caption else empty, level="plain")
    numeric = [_is_numeric(frame[name]) for name in frame.columns]
    names = [str(name) if as_given else _spoken(str(name)) for name in frame.columns]
    head = Markup("").join(_cell("th", name, numeric[n]) for n, name in enumerate(names))
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(_row(row, names, numeric)) for row in frame.itertuples(index=False)
    )
    title = Markup("<caption>{}</caption>").format(caption) if caption else Markup("")
    frame_html = Markup('<table class="lt-table">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>')
    return Display(frame_html.format(title, head, rows), text=f"{caption}\n{frame.to_string(index=False)}")


def render_page(*, state: str, **values: Any) -> str:
    """Fill the page that reports and audits share, escaping everything that is not `Markup`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmtwin_data.summaries", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2")
    return page.render(style=STYLE, state=state, good=state in GOOD_STATES, **values)


def show_note(text: str, *, level: str = "warning") -> Display:
    """Put one plain statement in a coloured box: ``good``, ``warning``, ``bad`` or ``plain``."""
    kind = {"good": " lt-good", "bad": " lt-bad"}.get(level, "")
    box = Markup('<div class="lt-note{}">{}</div>') if level != "plain" else Markup("<p>{1}</p>")
    return Display(box.format(kind, text), text=text)


def join_displays(displays: Iterable[Display]) -> Display:
    """Show several things in one output."""
    shown = list(displays)
    return Display(Markup("").join(item.html for item in shown), "\n".join(repr(item) for item in shown))


def code(word: object) -> str:
    """Quote a word from outside for Markdown, so that none of it is read as markup."""
    return "`" + re.sub(r"[`\r\n]+", " ", str(word)).strip() + "`"


def format_value(value: Any, *, column: str = "") -> str:
    """Write one value for people; the column's name tells shares and money."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if MONEY_COLUMNS.search(column):
        return format_usd(value)
    if "%" in column:
        return f"{value:.1f}"
    if SHARE_COLUMNS.search(column):
        return f"{100 * value:.1f} %" if not 0 < value < 0.0005 else "< 0.1 %"
    return f"{value:,}" if isinstance(value, int) else _decimals(value)


def format_usd(value: float | None) -> str:
    """Write money so that small sums stay readable: 0.0042 USD, not 0.00."""
    if value is None:
        return "unknown"
    if value >= 1 or value <= 0:
        return f"{value:,.2f}"
    digits = max(4, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def in_usd(value: float | None) -> str:
    """Write money with its unit, and an unknown sum without."""
    return "unknown" if value is None else f"{format_usd(value)} USD"


def _decimals(value: float) -> str:
    if abs(value) >= 100 or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.001 else f"{value:.5f}"


def _is_numeric(column: pandas.Series[Any]) -> bool:
    return all(
        NUMBER.fullmatch(value)
        if isinstance(value, str)
        else isinstance(value, (int, float)) or value is None
        for value in column.tolist()
    )


def _spoken(name: str) -> str:
    return re.sub(r"\busd\b", "USD", name.replace("_", " "))


def _cell(tag: str, value: object, numeric: bool) -> Markup:
    longest = max(map(len, str(value).split()), default=0)
    kind = "lt-n" if numeric else "lt-long" if longest > LONGEST_WORD else ""
    opening = Markup('<{} class="{}">' if kind else "<{}>").format(Markup(tag), kind)
    return opening + escape(value) + Markup("</{}>").format(Markup(tag))


def _row(row: Iterable[Any], names: list[str], numeric: list[bool]) -> Markup:
    values = zip(row, names, numeric, strict=True)
    return Markup("").join(
        _cell("td", format_value(_plain(value), column=name), right) for value, name, right in values
    )


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
