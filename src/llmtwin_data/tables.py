"""What cells and reports show: tables, texts side by side, last words made of numbers; all escaped."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from llmtwin_data.contents import KEY, SKIPPED, records_of, screened_counts
from llmtwin_data.curation import REASONS, Alarm, damage_of
from llmtwin_data.endpoints import PACKAGED
from llmtwin_data.engine import GenerationReport
from llmtwin_data.overlaps import near_duplicates
from llmtwin_data.params import Params
from llmtwin_data.prices import REFINED, Forecast, add_up, cost_range, forecasts_of, format_usd, spent
from llmtwin_data.texts import counted, estimate_tokens, language_of, terms, words

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
.lt-name{font-size:.8em;opacity:.7;padding-top:.4em;overflow-wrap:anywhere}
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

# A page in any other state says so in a colour that warns.
GOOD_STATES = ("complete", "nothing found")
UNCLEAR = "unclear"
# Characters that tell a content's language well enough to count; more would double the time of the table.
LANGUAGE_CHARS = 400
# Rows of an overview, the smallest groups together in the last but one.
MOST_ROWS = 12
# Measures worth a picture, and the params that limit two of them, each with the value that switches it off.
DRAWN = ["grounding", "copied", "genericness", "characters", "tokens"]
LIMITS = {"min_grounding": 0.0, "max_copied": 1.0}
# Characters: the classes of length that a sample is drawn from.
SHORT, LONG = 300, 1200
# What a certificate's numbers say to someone who did not write the split.
STATEMENTS = {
    "groups": "groups of contents that share text, each on one side",
    "largest_group": "contents in the largest group",
    "checked_pairs": "pairs of a train and a test chunk that were compared",
    "max_containment": "most that a published test chunk shares with train (1: all of it)",
    "leaks_rejected": "chunks left out for sharing more than that limit",
    "tied": "chunks left out for tying contents of both sides",
    "random_leak_share": "share of test that a split by row would have leaked",
}
# A model below about 1 B parameters writes instructions that a person should not train on unread.
SMALL_MODEL = (
    "**A tiny embedded model wrote these instructions.** It has 135 million parameters and comes as a "
    "package, so that everything runs without a key. Its instructions are often vague or wrong; they show "
    "the way, they are no training data. For a real model set `OPENAI_API_KEY`, or `endpoint` and `model` "
    "in the params file, and run again."
)

_SHARE_COLUMNS = re.compile(r"share|fraction")
_MONEY_COLUMNS = re.compile(r"\bUSD\b")
# Numbers that are written already stand below each other as well.
_NUMBER = re.compile(r"–|[<−+-]? ?\d[\d,.]*( ?(%|s|USD))?")
# A longer word, such as a hash, may be broken anywhere; shorter ones keep whole.
_LONGEST_WORD = 24
# Characters and lines of a content that are shown at once; the rest is folded away, never cut.
_SHOWN_CHARS, _SHOWN_LINES = 700, 12
# Letters of a shared phrase that tell: "the most" and "a train" do not, "vector search" does. Shorter words
# are mostly grammar, in any language, but an ideograph or an acronym.
_TELLING_LETTERS, _FEWEST_LETTERS, _LETTERS_A_SIGN = 10, 4, 3
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_IDEOGRAPH = re.compile(rf"[{_CJK}]")
# A word counts once a content, so that one long content cannot make a word typical of its author.
_FEWEST_CONTENTS = 2
# Weight of the prior: as if each author had written this many more words like everyone's.
_PRIOR_WORDS = 500.0


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


def show(
    frame: pd.DataFrame, title: str = "", *, empty: str = "Nothing to show.", as_given: bool = False
) -> Display:
    """Return a table for people; names of columns say what numbers are: ``share``, ``%`` and ``USD``.

    Blanks stand for the names' underscores, unless ``as_given``: prompts and params are called as they are.
    """
    if frame.empty:
        return show_note(f"{title}: {empty}" if title else empty, level="plain")
    names = [
        str(name) if as_given else re.sub(r"\busd\b", "USD", str(name).replace("_", " ")) for name in frame
    ]
    columns = [[_plain(value) for value in frame.iloc[:, place].tolist()] for place in range(len(names))]
    numeric = [all(map(_is_number, column)) for column in columns]
    head = Markup("").join(_cell("th", name, right) for name, right in zip(names, numeric, strict=True))
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                _cell("td", format_value(value, column=name), right)
                for value, name, right in zip(row, names, numeric, strict=True)
            )
        )
        for row in zip(*columns, strict=True)
    )
    caption = Markup("<caption>{}</caption>").format(title) if title else Markup("")
    table = Markup('<table class="lt-table">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>')
    return Display(table.format(caption, head, body), text=f"{title}\n{frame.to_string(index=False)}")


def show_note(text: str, *, level: str = "warning") -> Display:
    """Return one plain statement in a coloured box: ``good``, ``warning``, ``bad`` or ``plain``."""
    kind = {"good": " lt-good", "bad": " lt-bad"}.get(level, "")
    box = Markup('<div class="lt-note{}">{}</div>') if level != "plain" else Markup("<p>{1}</p>")
    return Display(box.format(kind, text), text=text)


def join_displays(displays: Iterable[Display]) -> Display:
    """Return several things as one output."""
    parts = list(displays)
    return Display(Markup("").join(part.html for part in parts), "\n".join(map(repr, parts)))


def render_page(*, state: str, **values: Any) -> str:
    """Return the page that reports and audits share, everything escaped that is not `Markup`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmtwin_data", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2")
    return page.render(style=STYLE, state=state, good=state in GOOD_STATES, **values)


def code(word: object) -> str:
    """Return a word from outside as Markdown code, so that none of it is read as markup."""
    return "`" + re.sub(r"[`\r\n]+", " ", str(word)).strip() + "`"


def format_value(value: Any, *, column: str = "") -> str:
    """Return one value as people write it; the column's name tells shares and money."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if _MONEY_COLUMNS.search(column):
        return format_usd(value)
    if "%" in column:
        return f"{value:.1f}"
    if _SHARE_COLUMNS.search(column):
        return f"{100 * value:.1f} %" if not 0 < value < 0.0005 else "< 0.1 %"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100 or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.001 else f"{value:.5f}"


def in_usd(value: float | None) -> str:
    """Return money with its unit, and an unknown sum without."""
    return "unknown" if value is None or math.isnan(value) else f"{format_usd(value)} USD"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA else value


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_NUMBER.fullmatch(value))
    return value is None or isinstance(value, (int, float))


def _cell(tag: str, value: object, numeric: bool) -> Markup:
    longest = max(map(len, str(value).split()), default=0)
    kind = "lt-n" if numeric else "lt-long" if longest > _LONGEST_WORD else ""
    opening = Markup('<{} class="{}">' if kind else "<{}>").format(Markup(tag), kind)
    return opening + escape(value) + Markup("</{}>").format(Markup(tag))


def show_texts(rows: pd.DataFrame, *, note: str = "", empty: str = "No content to show.") -> Display:
    """Return contents as they are, one card each; ``note`` names a column that stands in the head."""
    cards = [
        _card(
            row,
            _column("content", _folded(row["content"]), wide=True),
            notes={note: row[note]} if note else {},
        )
        for row in records_of(rows)
    ]
    return _cards(cards, "\n\n".join(rows.content), empty=empty)


def show_pairs(rows: pd.DataFrame, *, empty: str = "No pair to show.") -> Display:
    """Return pairs, rows of the ledger or of a dataset, side by side, what they share marked.

    In the head stand its measures, its verdict and why it was rejected, as far as the rows have such columns.
    """
    cards, texts = [], []
    for row in records_of(rows):
        instruction, content = row["instruction"], row["content"]
        columns = _column("instruction", mark_shared(instruction, content))
        columns += _column("content", _folded(content, instruction), wide=True)
        kind = {"accepted": "", "rejected": " lt-bad"}.get(row.get("state", "accepted"), " lt-plain")
        cards.append(_card(row, columns, notes=_notes(row), kind=kind))
        texts.append(f"{instruction}\n  → {content}")
    return _cards(cards, "\n\n".join(texts), empty=empty)


def show_alike(chunks: pd.DataFrame, copies: pd.DataFrame, *, empty: str = "No near-duplicates.") -> Display:
    """Return each copy, a row of `copies_of`, beside what it repeats, what both share marked."""
    cards, texts = [], []
    for label, original in zip(copies.index, copies.get("copy_of", ()), strict=True):
        first, second = records_of(chunks.loc[[original, label]])
        left = _column(_origin(first), _folded(first["content"], second["content"], telling=0))
        right = _column(_origin(second), _folded(second["content"], first["content"], telling=0))
        cards.append(_card({}, left + right))
        texts.append(f"{first['content']}\n≈\n{second['content']}")
    return _cards(cards, "\n\n".join(texts), empty=empty)


def show_instructions(rows: pd.DataFrame, *, by: str = "trial") -> Display:
    """Return several instructions for the same contents, a card a content; the column ``by`` names each."""
    cards, texts = [], []
    for _, group in rows.groupby(KEY, sort=False):
        first = records_of(group)[0]
        named = dict(zip(group[by], group.instruction.fillna("(no usable answer)"), strict=True))
        parts = [_named(name, mark_shared(words, first["content"])) for name, words in named.items()]
        left = Markup('<div class="lt-col">{}</div>').format(Markup("").join(parts))
        right = _column("content", _folded(first["content"], " ".join(named.values())), wide=True)
        cards.append(_card(first, left + right))
        texts += [f"{name}: {words}" for name, words in named.items()]
    return _cards(cards, "\n".join(texts), empty="No instruction to show.")


def mark_shared(text: str, other: str, *, telling: int = _TELLING_LETTERS) -> Markup:
    """Return a text escaped, with a mark on phrases of two or more telling words that the other holds too."""
    shared = set(pairwise(word.casefold() for word in _TOKEN.findall(other)))
    runs: list[list[re.Match[str]]] = []
    for left, right in pairwise(_TOKEN.finditer(text)):
        if (left.group().casefold(), right.group().casefold()) not in shared:
            continue
        if runs and runs[-1][-1] is left:
            runs[-1].append(right)
        else:
            runs.append([left, right])
    marked, end = Markup(""), 0
    for run in runs:
        if sum(map(_letters, run)) >= telling:
            marked += escape(text[end : run[0].start()])
            end = run[-1].end()
            marked += Markup("<mark>{}</mark>").format(text[run[0].start() : end])
    return marked + escape(text[end:])


def _letters(token: re.Match[str]) -> int:
    word = token.group()
    if _IDEOGRAPH.match(word) or (word.isupper() and len(word) > 1):
        return max(_LETTERS_A_SIGN, len(word))
    return len(word) if len(word) >= _FEWEST_LETTERS else 0


def _folded(text: str, other: str = "", *, telling: int = _TELLING_LETTERS) -> Markup:
    """Return a text marked, its end folded away; one hardly longer than what is shown stays whole."""
    # A CJK character takes the room of two letters.
    limit = _SHOWN_CHARS // 2 if _IDEOGRAPH.search(text[:50]) else _SHOWN_CHARS
    lines = text.splitlines(keepends=True)
    if len(text) <= limit * 1.3 and len(lines) <= _SHOWN_LINES * 1.3:
        return mark_shared(text, other, telling=telling)
    cut = len("".join(lines[:_SHOWN_LINES]))
    cut = cut if cut < limit else text.rfind(" ", limit // 2, limit) + 1 or limit
    head, rest = (mark_shared(part, other, telling=telling) for part in (text[:cut], text[cut:]))
    fold = Markup("<details><summary>{:,} more characters</summary>{}</details>")
    return head + fold.format(len(text) - cut, rest)


def _cards(cards: Sequence[Markup], text: str, *, empty: str) -> Display:
    return Display(Markup("").join(cards), text) if cards else show_note(empty, level="plain")


def _card(
    row: Mapping[str, Any],
    columns: Markup,
    *,
    notes: Mapping[str, object] | None = None,
    kind: str = " lt-plain",
) -> Markup:
    pill = Markup('<span class="lt-pill">{} <b>{}</b></span>')
    pills = Markup("").join(pill.format(name, value) for name, value in (notes or {}).items())
    head = Markup('<div class="lt-head">{}{}</div>').format(pills, _origin(row)) if row else Markup("")
    return Markup('<div class="lt-card{}">{}<div class="lt-cols">{}</div></div>').format(kind, head, columns)


def _column(name: str, text: Markup, *, wide: bool = False) -> Markup:
    return Markup('<div class="lt-col{}">{}</div>').format(" lt-wide" if wide else "", _named(name, text))


def _named(name: str, text: Markup) -> Markup:
    return Markup('<div class="lt-name">{}</div><div class="lt-text" dir="auto">{}</div>').format(name, text)


def _notes(row: Mapping[str, Any]) -> dict[str, object]:
    """Return what stands over a pair: why it was rejected, its measures, its verdict."""
    notes: dict[str, object] = {}
    if row.get("state") == "rejected":
        reason, value = row["reason"], row["value"]
        # A measure stands over the pair anyway, another pair's id is cut.
        value = "" if re.fullmatch(r"\d\.\d{4}", value) else value
        value = f"of {value[:8]}" if "duplicate" in reason else value
        notes["rejected:"] = f"{reason.replace('_', ' ')} {value}".strip()
    if "grounding" in row:
        is_known = pd.notna(row["grounding"])
        notes["grounding"] = f"{row['grounding']:.2f}" if is_known else "cannot be measured"
    if "copied_content" in row and pd.notna(row["copied_content"]):
        notes["copied"] = f"{100 * max(row['copied_instruction'], row['copied_content']):.0f} %"
    if pd.notna(row.get("judge_score")):
        notes["judge"] = f"{row['judge_score']} of 5"
        notes |= {"because": row["judge_reason"]} if row.get("judge_reason") else {}
    return notes


def _origin(row: Mapping[str, Any]) -> str:
    data_type, author, platform, content_id = (
        str(row.get(name) or "") for name in ("data_type", "author", "platform", "content_id")
    )
    return " · ".join(filter(None, [data_type, author and f"author {author}", platform, content_id]))


def contents_of(chunks: pd.DataFrame) -> pd.DataFrame:
    """Return a row a content that is not skipped, labelled as its first chunk is in ``chunks``.

    Columns: ``collection``, ``content_id``, ``data_type``, ``author``, ``platform``, ``language`` (BCP 47, or
    unclear), ``characters``, ``tokens`` (estimate), ``chunks``, ``damage`` (the first sign of it, or empty).
    """
    rows = chunks[chunks.state != "skipped"]
    rows = rows.assign(
        label=rows.index,
        language=rows.content,
        characters=rows.content.str.len(),
        tokens=rows.content.map(estimate_tokens),
        chunks=1,
        damage=rows.content.map(damage_of).replace("", None),
    )
    firsts = ["label", "data_type", "author", "platform", "language", "damage"]
    columns = dict.fromkeys(firsts, "first") | dict.fromkeys(["characters", "tokens", "chunks"], "sum")
    contents = rows.groupby(["collection", "content_id"], sort=False, as_index=False).agg(columns)
    openings = contents.language.str[:LANGUAGE_CHARS]
    return contents.assign(
        language=openings.map(language_of).replace("und", UNCLEAR), damage=contents.damage.fillna("")
    ).set_index("label")


def overview(contents: pd.DataFrame, *, by: str = "data_type") -> pd.DataFrame:
    """Return contents, authors, chunks and tokens for each value of a column, with a last row for all."""
    names = contents[by].replace("", "(none)")
    order = names.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    if len(order) > MOST_ROWS:
        others = f"{len(order) - MOST_ROWS + 1:,} others"
        order = order[: MOST_ROWS - 1]
        names, order = names.where(names.isin(order), others), [*order, others]
    columns = {
        "contents": ("content_id", "size"),
        "authors": ("author", "nunique"),
        "languages": ("language", lambda tags: ", ".join(sorted(set(tags)))),
        "median characters": ("characters", lambda lengths: int(lengths.median())),
        "longest": ("characters", "max"),
        "chunks": ("chunks", "sum"),
        "tokens (estimate)": ("tokens", "sum"),
    }
    groups = contents.groupby(names).agg(**columns).loc[order]
    everything = contents.groupby(pd.Series("all", contents.index)).agg(**columns)
    table = pd.concat([groups, everything]).rename_axis(by).reset_index()
    return table.drop(columns=[f"{by}s"], errors="ignore")


def reasons_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many of these rows have each reason, what the reason means, and an example's content id."""
    table = (
        rows.groupby("reason").agg(count=("reason", "size"), example=("content_id", "first")).reset_index()
    )
    meanings = SKIPPED if (rows.state == "skipped").all() else REASONS
    table.insert(1, "meaning", table.reason.map(meanings).fillna(""))
    table = table.assign(reason=table.reason.str.replace("_", " "))
    return table.sort_values(["count", "reason"], ascending=[False, True])


def findings(chunks: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """Return how often each kind of secret and personal datum was found, and what was done about it."""
    counts = screened_counts(chunks, settings)
    rows = [{"kind": kind} | fates for kinds in counts.values() for kind, fates in kinds.items()]
    columns = ["kind", "found", "dropped", "masked", "kept"]
    return pd.DataFrame(rows, columns=columns).sort_values("found", ascending=False, kind="stable")


def copies_of(chunks: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """Return the chunks that repeat an earlier one, labelled as in ``chunks``.

    Columns: ``copy_of``, the label of the one before, and ``exact``: equal but for case and white space.
    """
    rows = chunks[chunks.state != "skipped"]
    texts = rows.content.tolist()
    equal, near = (
        pd.Series(near_duplicates(texts, threshold=least), rows.index, "Int64") for least in (1, threshold)
    )
    places = equal.fillna(near).dropna().astype(int)
    originals = rows.index[places.to_numpy()]
    return pd.DataFrame({"copy_of": originals, "exact": equal[places.index].notna()}, places.index)


def telling_words(rows: pd.DataFrame, *, top: int = 8) -> pd.DataFrame:
    """Return the words that tell authors apart, the surest first.

    Parameters
    ----------
    rows
        One a content, with ``author`` and ``content``.

    Returns
    -------
    pd.DataFrame
        ``author``, ``word``, ``z`` (log-odds over its standard error), ``contents`` that hold the word.

    Notes
    -----
    Log-odds with an informative Dirichlet prior: Monroe, Colaresi and Quinn 2008, *Fightin' Words*.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for author, text in zip(rows.author, rows.content, strict=True):
        counts[author].update(_telling(text))
    total = sum(counts.values(), Counter[str]())
    authors = sorted(counts, key=lambda author: (-counts[author].total(), author))
    ranked = [row for author in authors for row in _best_words(author, counts[author], total)[:top]]
    return pd.DataFrame(ranked, columns=["author", "word", "z", "contents"])


def _telling(text: str) -> set[str]:
    """Return whole words, or pairs of characters of scripts without spaces; terms would lack a plural's s."""
    whole = (
        words(text) if text.isascii() else words(text) + [term for term in terms(text) if term[0] >= "\u1100"]
    )
    return {
        word
        for word in whole
        if not word.isdigit() and len(word) >= (_FEWEST_LETTERS if word[0] < "\u1100" else 2)
    }


def _best_words(author: str, own: Counter[str], total: Counter[str]) -> list[tuple[str, str, float, int]]:
    others = total - own
    if not others:
        return []
    rows = []
    size, own_size, other_size = total.total(), own.total() + _PRIOR_WORDS, others.total() + _PRIOR_WORDS
    for word, count in own.items():
        prior = _PRIOR_WORDS * total[word] / size
        mine, theirs = count + prior, others[word] + prior
        odds = math.log(mine / (own_size - mine)) - math.log(theirs / (other_size - theirs))
        z = round(odds / math.sqrt(1 / mine + 1 / theirs), 2)
        if count >= _FEWEST_CONTENTS and z > 0:
            rows.append((author, word, z, count))
    return sorted(rows, key=lambda row: (-row[2], row[1]))


def sample_of(chunks: pd.DataFrame, *, most: int, seed: int) -> pd.DataFrame:
    """Return one chunk of each of at most ``most`` contents, spread over kind, author and length.

    Every stratum gives its part in proportion. Same chunks and seed give the same rows, in their order.
    """
    rows, draw = chunks[chunks.state != "skipped"], random.Random(seed)
    lengths = pd.cut(
        rows.content.str.len(), [-1, SHORT - 1, LONG - 1, np.inf], labels=["short", "middle", "long"]
    )
    kinds = list(zip(rows.data_type, rows.author, lengths, strict=True))
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, content in enumerate(zip(rows.collection, rows.content_id, strict=True)):
        places[content].append(place)
    strata: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for of_content in places.values():
        place = draw.choice(of_content)
        strata[kinds[place]].append(place)
    shares = _shares({name: len(of_stratum) for name, of_stratum in strata.items()}, most)
    return rows.iloc[
        sorted(place for name in sorted(strata) for place in draw.sample(strata[name], shares[name]))
    ]


def _shares(sizes: dict[tuple[str, str, str], int], most: int) -> dict[tuple[str, str, str], int]:
    """Return each stratum's part by largest remainder, none more than it holds."""
    total = sum(sizes.values())
    if total <= most:
        return sizes
    exact = {name: most * size / total for name, size in sizes.items()}
    shares = {name: int(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: most - sum(shares.values())]:
        shares[name] += 1
    return shares


def by_step(forecast: pd.DataFrame, *, total: bool = True) -> pd.DataFrame:
    """Return a forecast added up for people, a row a step, and a last one for all where they add up."""
    steps = {str(what): add_up(forecasts_of(rows)) for what, rows in forecast.groupby("what", sort=False)}
    steps |= {"all": add_up(steps.values())} if total and len(steps) > 1 else {}
    return pd.DataFrame(
        {
            "what": what,
            "requests": step.requests,
            "prompt tokens": step.prompt_tokens,
            "completion tokens": step.completion_tokens,
            "cost, USD": cost_range(step.cost_usd_low, step.cost_usd_high),
        }
        for what, step in steps.items()
    )


def with_total(forecast: pd.DataFrame) -> pd.DataFrame:
    """Return a forecast with a last row that adds up what is to be sent, a cost only where all are known."""
    if len(forecast) < 2:
        return forecast
    total = asdict(add_up(forecasts_of(forecast)))
    blank = dict.fromkeys(["collection", "data_type", "contents", "chunks", "answered"], "")
    rows = forecast.astype(object).to_dict("records")
    return pd.DataFrame([*rows, {"what": "total"} | total | blank], columns=forecast.columns, dtype=object)


def model_notice(settings: Params, forecast: pd.DataFrame) -> Markdown:
    """Return who is asked and how much, and plainly what the packaged model is."""
    who = f"Endpoint {code(settings.endpoint)}, model {code(settings.model)}"
    is_small = (settings.endpoint, settings.model) == ("embedded", PACKAGED)
    notice = f"{who}: {counted(int(forecast.requests.sum()), 'request')} to send."
    return Markdown(notice + (f"\n\n> {SMALL_MODEL}" if is_small else ""))


def asked(report: GenerationReport) -> pd.DataFrame:
    """Return what one call of asking did, in words."""
    rows: dict[str, Any] = {
        "instructions asked for": report.questions,
        "answered before, not paid again": report.answered_before,
        "answered now": report.answered,
        "failed for good": report.failed,
        "still pending": report.pending,
        "requests sent": report.requests,
        "most requests in flight": report.max_in_flight,
        "prompt tokens": report.prompt_tokens,
        "completion tokens": report.completion_tokens,
        "hidden ones among them, of a model that thinks": report.reasoning_tokens,
        "cost": in_usd(report.cost_usd),
        "time": f"{report.seconds:,.1f} s",
    }
    if report.too_long:
        rows["batches made smaller, for the endpoint refused"] = f"{report.too_long:,} characters"
    if report.ignored:
        rows["answers ignored, for their numbers were never asked about"] = report.ignored
    if report.cannot_copy:
        rows["contents asked one by one, for the endpoint"] = "does not copy a text's first words"
    return pd.DataFrame({"what": list(rows), "value": list(map(_comma, rows.values()))})


def measured(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the measures worth drawing of each pair, and whether it was accepted."""
    pairs = ledger[ledger.instruction.notna()]
    return pairs.assign(copied=copied_of(pairs), accepted=pairs.state == "accepted")[[*DRAWN, "accepted"]]


def copied_of(pairs: pd.DataFrame) -> pd.Series[float]:
    """Return what ``max_copied`` limits: the larger share of words that one has from the other."""
    return pairs[["copied_instruction", "copied_content"]].astype(float).max(axis=1)


def limits_of(settings: Params) -> dict[str, float]:
    """Return the limits that are switched on, by the measure that each is about."""
    given = {name.partition("_")[2]: (getattr(settings, name), off) for name, off in LIMITS.items()}
    return {measure: value for measure, (value, off) in given.items() if value != off}


def show_alarms(alarms: Sequence[Alarm]) -> Display:
    """Return each alarm as a box with what was seen, what was expected and its examples."""
    if not alarms:
        return show_note("No alarm: nothing about these pairs as a whole looks wrong.", level="good")
    boxes = []
    for alarm in alarms:
        text = f"{alarm.name}: seen {alarm.seen}; expected {alarm.expected}."
        examples = " ".join(f"“{example}”" for example in alarm.examples)
        level = "bad" if alarm.level == "alarm" else "warning"
        boxes.append(show_note(f"{text} Examples: {examples}" if examples else text, level=level))
    return join_displays(boxes)


def ranked(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the accepted rows, the best grounded and least copied first."""
    rows = ledger[ledger.state == "accepted"]
    merit = rows.grounding_margin.fillna(0) - copied_of(rows) - rows.genericness
    return rows.loc[merit.sort_values(ascending=False, kind="stable").index]


def waterfall(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return the steps from asked to accepted: ``step``, ``left`` after it, ``lost`` in it."""
    rows = ledger[ledger.state != "skipped"]
    lost = rows[rows.state != "accepted"].groupby(["state", "reason"]).size()
    order = {"pending": 0, "failed": 1, "rejected": 2}
    names = sorted(lost.index, key=lambda name: (order[name[0]], -lost[name], name[1]))
    steps, left = [("asked", len(rows), 0)], len(rows)
    for state, reason in names:
        left -= lost[state, reason]
        steps.append((f"{state}: {reason.replace('_', ' ')}".removesuffix(": "), left, lost[state, reason]))
    return pd.DataFrame(
        [*steps, ("accepted", left, 0)] if len(rows) else [], columns=["step", "left", "lost"]
    )


def certificate(ledger: pd.DataFrame) -> pd.DataFrame:
    """Return what the split proves about itself, each number in words."""
    rows = [
        (STATEMENTS.get(key, key.replace("_", " ")), _comma(value))
        for key, value in ledger.attrs["certificate"].items()
        if value != ""
    ]
    return pd.DataFrame(rows, columns=["statement", "value"])


def files_of(dataset: Path) -> pd.DataFrame:
    """Return the published files as the manifest knows them."""
    manifest = dataset / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.exists() else {}
    rows = [
        (name, file.get("rows"), file["bytes"], file["sha256"][:12]) for name, file in sorted(files.items())
    ]
    return pd.DataFrame(rows, columns=["file", "rows", "bytes", "sha256 begins"])


def forecast_and_actual(fields: Mapping[str, Any]) -> pd.DataFrame:
    """Return what run.json holds as forecast beside what was asked; stored answers cost nothing in either."""
    forecasts = {name: Forecast(**row) for name, row in fields.get("forecast", {}).items()}
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for name, part in fields.get("asked", {}).items():
        parts.setdefault(name.split(":")[0], []).append(part)
    if REFINED in forecasts:
        parts[REFINED] = parts.get("instructions", [])
    rows = []
    for step in dict.fromkeys([*forecasts, *parts]):
        known, total = forecasts.get(step), spent(parts.get(step, []))
        rows.append(
            {
                "step": step,
                "requests forecast": known.requests if known else None,
                "requests sent": total["requests"],
                "tokens forecast": known.prompt_tokens + known.completion_tokens if known else None,
                "tokens used": total["tokens"],
                "forecast, USD": cost_range(known.cost_usd_low, known.cost_usd_high) if known else "",
                "paid, USD": format_usd(total["cost_usd"]),
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _comma(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_comma(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_comma, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def conclude_exploration(
    chunks: pd.DataFrame,
    contents: pd.DataFrame,
    copies: pd.DataFrame,
    forecast: pd.DataFrame,
    settings: Params,
) -> Markdown:
    """Return in numbers what there is, what will be lost, what it will cost, and the params for it."""
    lost = int((chunks.state == "skipped").sum())
    if contents.empty:
        return Markdown(
            f"**There is nothing to make pairs of**: usable contents: 0, skipped: {lost:,}. "
            "Look at `collections`, `authors` and `platforms`, or load contents with `llmtwin-data load`."
        )
    exact, near = (int((copies.exact == is_exact).sum()) for is_exact in (True, False))
    destroyed = int((contents.damage != "").sum())
    cut = int((contents.characters > settings.chunk_chars).sum())
    cost = add_up(forecasts_of(forecast)).cost_usd_high
    unknown = ", ".join(map(code, forecast.what[forecast.cost_usd_high.isna()].unique()))
    lines = [
        f"**{counted(len(contents), 'content')}** by {counted(contents.author.nunique(), 'author')} in "
        f"{counted(len({*contents.language} - {UNCLEAR}), 'language')}, in "
        f"**{counted(int(contents.chunks.sum()), 'chunk')}**. Longer than {settings.chunk_chars:,} "
        f"characters, and so cut at sentence ends: {counted(cut, 'content')}.",
        f"Skipped, with their reasons above: {lost:,}. Destroyed upstream, to be fetched again rather than "
        f"trained on: {counted(destroyed, 'content')}.",
        f"Repeating another exactly: {counted(exact, 'chunk')}; nearly: {counted(near, 'chunk')}. Curation "
        "drops their pairs, and an exact repetition is not paid twice.",
    ]
    if unknown:
        prices = "`usd_per_million_input` and `usd_per_million_output` give that of `model`"
        lines.append(f"The price is unknown of {unknown}; {prices}.")
    elif cost:
        lines.append(f"All that is still to be asked costs at most about **{format_usd(cost)} USD**.")
    else:
        lines.append("What this run asks costs nothing with this endpoint, or is answered already.")
    longest, kept = int(contents.characters.quantile(0.95)), int(findings(chunks, settings).kept.sum())
    params = [
        f"collections: [{', '.join(settings.collections)}]  # {counted(len(contents), 'content')}",
        f"chunk_chars: {settings.chunk_chars}  # 95 % of the contents have at most {longest:,} characters",
    ]
    if kept:
        params.append(f"personal_data: mask  # sent and published as they are: {counted(kept, 'finding')}")
    if cost:
        params.append(f"max_cost_usd: {format_usd(1.2 * cost)}  # the forecast's upper end and a fifth")
    yaml = "\n".join(params)
    return Markdown(f"{bullets(lines)}\n\nParams that follow from it:\n\n```yaml\n{yaml}\n```")


def conclude_generation(ledger: pd.DataFrame, fields: Mapping[str, Any]) -> Markdown:
    """Return in numbers what was published, and what the run cost by ``fields``, its run.json."""
    states = ledger.state[ledger.state != "skipped"].value_counts()
    total, cost = int(states.sum()), spent(fields.get("asked", {}).values())
    if not total:
        return Markdown("**There was nothing to ask**: no usable chunk was found; the dataset is empty.")
    accepted, rejected, failed = (int(states.get(state, 0)) for state in ("accepted", "rejected", "failed"))
    train, test = (int((ledger.side == side).sum()) for side in ("train", "test"))
    lines = [
        f"**Published: {accepted:,} of {counted(total, 'instruction')}** ({100 * accepted / total:.1f} %), "
        f"{counted(train, 'pair')} to train on and {test:,} to test with.",
        f"Rejected: {rejected:,}. Failed for good: {failed:,}. Each has its row and its reason in "
        "`ledger.jsonl`.",
        f"Tuning and judging included, this run sent {counted(cost['requests'], 'request')} "
        f"(cost: {in_usd(cost['cost_usd'])}); the same command again sends none.",
    ]
    return Markdown(bullets(lines))


def conclude_review(ledger: pd.DataFrame) -> Markdown:
    """Return how the rules' decisions, ``state``, agree with those of people, ``review``."""
    decided = ledger[ledger.review != ""]
    if decided.empty:
        pairs = counted(int(ledger.instruction.notna().sum()), "pair")
        return Markdown(
            f"**Nobody has decided yet** about any of {pairs}: open this notebook and use the desk."
        )
    counts = pd.crosstab(decided.state, decided.review)
    counts = counts.reindex(
        index=["accepted", "rejected"], columns=["accept", "edit", "reject"], fill_value=0
    )
    lines = [
        f"Seen by a person, of what the rules have {state}: {counted(int(row.sum()), 'pair')}. The person "
        f"accepts **{row.accept:,}** as written and {row.edit:,} in other words, and rejects "
        f"**{row.reject:,}**."
        for state, row in counts.iterrows()
    ]
    return Markdown(bullets(lines))


def bullets(lines: Iterable[str]) -> str:
    """Return Markdown with a bullet a line."""
    return "\n".join(f"- {line}" for line in lines)
