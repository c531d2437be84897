"""What cells and reports show, all of it escaped."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from llmtwin_data.cluster import HERE, Workers, blocks, by_row, workers_of
from llmtwin_data.contents import KEY, SKIPPED, records_of
from llmtwin_data.curation import REASONS, Alarm, damage_of
from llmtwin_data.endpoints import is_packaged
from llmtwin_data.engine import GenerationReport
from llmtwin_data.folders import write_atomically
from llmtwin_data.overlaps import near_duplicates
from llmtwin_data.params import Params
from llmtwin_data.prices import add_up, format_usd, spent
from llmtwin_data.screening import find_secrets
from llmtwin_data.texts import counted, estimate_tokens, languages_of, prose_of, terms, with_escapes, words

if TYPE_CHECKING:
    from jinja2 import Environment

# A page in any other state says so in a colour that warns.
GOOD_STATES = ("complete", "nothing found")
UNCLEAR = "unclear"
# Characters: the classes of length that a sample is drawn from.
SHORT, LONG = 300, 1200
# What the states mean in which a reason says nothing more.
MEANINGS = {"skipped": SKIPPED, "rejected": REASONS, "accepted": {"": "published in train or test"}}
# The columns of a forecast that add up.
SUMS = ["requests", "prompt_tokens", "completion_tokens", "cost_usd_low", "cost_usd_high"]
# What to do about an alarm.
ADVICE = {
    "empty": "Read the rejected pairs, then set another model or prompt; --retry-failed asks what failed.",
    "ungrounded": "Ask with another prompt or a larger model; batch_size 1 mixes up no texts.",
    "unmeasured": "Leave embedding_model empty: the packaged model compares texts of two languages.",
    "collapsed": "Ask with another prompt, a higher temperature or a larger model.",
    "language": "Name the language in instruction_language, or ask a larger model.",
    "destroyed": "Mend the cleaner that filled the collection, then load the texts again.",
    "one_content": "Load more contents, so that a twin learns more than one text.",
}
# A model below about 1 B parameters writes instructions that a person should not train on unread.
SMALL_MODEL = (
    "A model of 135M parameters wrote these instructions, to show the way; for training, name a real one."
)

# Numbers that are written already stand below each other as well.
_NUMBER = re.compile(r"–|unknown|[<−+-]? ?\d[\d,.]*( ?(%|s|USD))?")
# A longer word, such as a hash, may be broken anywhere; shorter ones keep whole.
_LONGEST_WORD = 24
# Pairs of one fate on the page of all pairs: no browser opens a million.
MOST_PAIRS = 10_000
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
        return str(_render("style") + self.html)

    def __html__(self) -> str:
        return str(self.html)

    def __repr__(self) -> str:
        return with_escapes(self.text or self.html.striptags())


@dataclass(frozen=True, slots=True)
class Markdown:
    """Markdown whose numbers were computed; words from outside go in by :func:`code`."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def show(
    table: pd.DataFrame | pd.Series[Any],
    title: str = "",
    *,
    empty: str = "Nothing to show.",
    as_given: bool = False,
) -> Display:
    """Return a table for people; names of columns say what numbers are: ``share``, ``%`` and ``USD``.

    A named index is shown as columns. Blanks stand for the names' underscores, unless ``as_given``: prompts
    and params are called as they are.
    """
    frame = pd.DataFrame(table)
    frame = frame if frame.index.names == [None] else frame.reset_index()
    if frame.empty:
        return show_note(f"{title}: {empty}" if title else empty, level="nothing")
    plain, head, columns = frame.astype(object).where(frame.notna(), None), [], []
    for place, name in enumerate(map(str, frame.columns)):
        spoken = name if as_given else re.sub(r"\busd\b", "USD", name.replace("_", " "))
        values = plain.iloc[:, place].tolist()
        texts = [format_value(value, column=spoken) for value in values]
        numeric = all(not isinstance(value, str) or _NUMBER.fullmatch(value) for value in values)
        head.append((spoken, "lt-n" if numeric else ""))
        columns.append([(text, "lt-n" if numeric else _long(text)) for text in texts])
    rows = zip(*columns, strict=True)
    return Display(_render("table", title, head, rows), text=f"{title}\n{frame.to_string(index=False)}")


def show_note(text: str, *, level: str = "warning") -> Display:
    """Return a statement, boxed as ``good``, ``warning``, ``bad``, or ``plain``, or of ``nothing``."""
    return Display(_render("note", text, level), text=text)


def join_displays(displays: Iterable[Display], *, empty: str = "") -> Display:
    """Return several things as one output; ``empty`` is said where there is none."""
    parts = list(displays) or [show_note(empty, level="nothing")]
    return Display(Markup("").join(part.html for part in parts), "\n".join(map(repr, parts)))


def render_page(*, state: str, **values: Any) -> str:
    """Return the page that reports and audits share, everything escaped that is not `Markup`."""
    page = _templates().get_template("report.html.j2")
    return page.render(style=_render("style"), state=state, good=state in GOOD_STATES, **values)


def code(word: object) -> str:
    """Return a word from outside as Markdown code, so that none of it is read as markup."""
    return "`" + re.sub(r"[`\r\n]+", " ", str(word)).strip() + "`"


def format_value(value: Any, *, column: str = "") -> str:
    """Return one value as people write it; the column's name tells shares and money."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "unknown" if "USD" in column else "–"
    if isinstance(value, bool | np.bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if "USD" in column:
        return format_usd(value)
    if "%" in column:
        return f"{value:.1f}"
    if "share" in column:
        return f"{100 * value:.1f} %" if not 0 < value < 0.0005 else "< 0.1 %"
    if isinstance(value, int) or abs(value) >= 100 or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.001 else f"{value:.5f}"


def in_usd(value: float | None) -> str:
    """Return money with its unit, and an unknown sum without."""
    return "unknown" if value is None or math.isnan(value) else f"{format_usd(value)} USD"


@cache
def _templates() -> Environment:
    import jinja2

    def finalize(value: Any) -> Any:
        kind = Markup if isinstance(value, Markup) else str
        return kind(with_escapes(value)) if isinstance(value, str) else value

    return jinja2.Environment(
        loader=jinja2.PackageLoader("llmtwin_data", "templates"),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _render(macro: str, *values: Any) -> Markup:
    return Markup(getattr(_templates().get_template("displays.html.j2").module, macro)(*values))


def _long(text: str) -> str:
    return "lt-long" if max(map(len, text.split()), default=0) > _LONGEST_WORD else ""


def show_texts(rows: pd.DataFrame, *, note: str = "", empty: str = "No content to show.") -> Display:
    """Return contents as they are, one card each; ``note`` names a column that stands in the head."""
    cards = [
        _card(row, {"content": _folded(row["content"])}, notes={note: row[note]} if note else {})
        for row in records_of(rows)
    ]
    return join_displays(cards, empty=empty)


def show_pairs(rows: pd.DataFrame, *, empty: str = "No pair to show.", most: int = _SHOWN_CHARS) -> Display:
    """Return pairs, rows of the ledger or of a dataset, side by side, what they share marked.

    In the head stand its measures, its verdict and why it was rejected, as far as the rows have such columns.
    Of a content about ``most`` characters are shown at once.
    """
    cards = []
    for row in records_of(rows):
        instruction, content = _shown_instruction(row), row["content"]
        left, right = mark_shared(instruction, content), _folded(content, instruction, most=most)
        kind = {"accepted": "", "rejected": " lt-bad"}.get(row.get("state", "accepted"), " lt-plain")
        cards.append(_card(row, {"instruction": left}, {"content": right}, notes=_notes(row), kind=kind))
    return join_displays(cards, empty=empty)


def write_pairs(path: Path, ledger: pd.DataFrame, *, workers: Workers = HERE) -> None:
    """Write a page of the pairs of a ledger that has its sides: train, test, then each reason of rejection.

    Of each the first `MOST_PAIRS`; the page says how many there are. No secret or personal datum for which an
    instruction was rejected is on it.
    """
    pairs = ledger.loc[ledger.instruction.notna(), ["side", "state", "reason"]]
    sides = pairs.side.astype("str")
    names = sides.where(
        sides != "", (pairs.state + ": " + pairs.reason.str.replace("_", " ")).str.strip(": ")
    )
    fates = [*dict.fromkeys(["train", "test", *sorted(set(names))])]
    reasons = {reason.replace("_", " "): meaning for reason, meaning in REASONS.items()}
    parts = []
    for fate in fates:
        rows = names.index[names == fate]
        shown = workers.map(_pair_lines, blocks(ledger.loc[rows[:MOST_PAIRS]]))
        meaning = reasons.get(fate.partition(": ")[2], "")
        parts.append((fate, meaning, len(rows), [*chain.from_iterable(shown)]))
    page = _templates().get_template("pairs.html.j2")
    write_atomically(path, page.render(title=f"{counted(len(pairs), 'pair')} to read", parts=parts))


def _pair_lines(pairs: pd.DataFrame) -> list[tuple[str, Markup, Markup]]:
    lines = []
    for row in records_of(pairs):
        instruction, content = _shown_instruction(row), row["content"]
        notes = [f"{name} {value}" for name, value in _notes(row).items()]
        language = "language unclear" if row["language"] == "und" else row["language"]
        head = " · ".join([*notes, language, _origin(row), f"row {row['id']}"])
        lines.append((head, mark_shared(instruction, content), mark_shared(content, instruction)))
    return lines


def _shown_instruction(row: Mapping[str, Any]) -> str:
    """Return the words of a pair; those that were rejected with a secret in them stay unseen."""
    words, reason = str(row["instruction"]), row.get("reason", "")
    if row.get("state") == "rejected" and (reason in ("secret", "personal_data") or find_secrets(words)):
        return f"(not shown: {REASONS.get(reason if reason == 'personal_data' else 'secret')})"
    return words


def show_alike(chunks: pd.DataFrame, copies: pd.DataFrame, *, empty: str = "No near-duplicates.") -> Display:
    """Return each copy, a row of `copies_of`, beside what it repeats, what both share marked."""
    cards = []
    for label, original in zip(copies.index, copies.get("copy_of", ()), strict=True):
        both = records_of(chunks.loc[[original, label]])
        texts = [
            {_origin(row): _folded(row["content"], other["content"], telling=0)}
            for row, other in zip(both, reversed(both), strict=True)
        ]
        cards.append(_card({}, *texts))
    return join_displays(cards, empty=empty)


def show_instructions(rows: pd.DataFrame, *, by: str = "trial") -> Display:
    """Return several instructions for the same contents, a card a content; the column ``by`` names each."""
    cards = []
    for _, group in rows.groupby(KEY, sort=False):
        first = records_of(group)[0]
        named = dict(zip(group[by], group.instruction.fillna("(no usable answer)"), strict=True))
        left = {name: mark_shared(instruction, first["content"]) for name, instruction in named.items()}
        right = {"content": _folded(first["content"], " ".join(named.values()))}
        cards.append(_card(first, left, right))
    return join_displays(cards, empty="No instruction to show.")


def mark_shared(text: str, other: str, *, telling: int = _TELLING_LETTERS) -> Markup:
    """Return a text escaped, with a mark on phrases of two or more telling words that the other holds too."""
    shared = set(pairwise(word.casefold() for word in _TOKEN.findall(other)))
    tokens = list(_TOKEN.finditer(text))
    pairs = pairwise(token.group().casefold() for token in tokens)
    marked, end = Markup(""), 0
    for is_shared, group in groupby(enumerate(pairs), key=lambda pair: pair[1] in shared):
        places = [place for place, _ in group]
        phrase = tokens[places[0] : places[-1] + 2]
        if is_shared and sum(map(_letters, phrase)) >= telling:
            marked += escape(text[end : phrase[0].start()])
            end = phrase[-1].end()
            marked += Markup("<mark>{}</mark>").format(text[phrase[0].start() : end])
    return marked + escape(text[end:])


def _letters(token: re.Match[str]) -> int:
    word = token.group()
    if _IDEOGRAPH.match(word) or (word.isupper() and len(word) > 1):
        return max(_LETTERS_A_SIGN, len(word))
    return len(word) if len(word) >= _FEWEST_LETTERS else 0


def _folded(
    text: str, other: str = "", *, telling: int = _TELLING_LETTERS, most: int = _SHOWN_CHARS
) -> Markup:
    """Return a text marked, its end folded away; one hardly longer than what is shown stays whole."""
    # A CJK character takes the room of two letters.
    limit = most // 2 if _IDEOGRAPH.search(text[:50]) else most
    lines = text.splitlines(keepends=True)
    if len(text) <= limit * 1.3 and len(lines) <= _SHOWN_LINES * 1.3:
        return mark_shared(text, other, telling=telling)
    cut = len("".join(lines[:_SHOWN_LINES]))
    cut = cut if cut < limit else text.rfind(" ", limit // 2, limit) + 1 or limit
    head, rest = (mark_shared(part, other, telling=telling) for part in (text[:cut], text[cut:]))
    fold = Markup("<details><summary>{:,} more characters</summary>{}</details>")
    return head + fold.format(len(text) - cut, rest)


def _card(
    row: Mapping[str, Any],
    *columns: Mapping[str, Markup],
    notes: Mapping[str, object] | None = None,
    kind: str = " lt-plain",
) -> Display:
    return Display(_render("card", kind, notes or {}, _origin(row), columns))


def _notes(row: Mapping[str, Any]) -> dict[str, object]:
    """Return what stands over a pair: why it was rejected, its measures, its verdict."""
    notes: dict[str, object] = {}
    shares: list[Any] = [row.get("copied_instruction"), row.get("copied_content")]
    copied = max(shares) if pd.notna(shares).all() else None
    if row.get("state") == "rejected":
        reason, value = row["reason"], row["value"]
        measures = {"ungrounded": row.get("grounding"), "vague": row.get("evidence"), "copied": copied}
        measure = measures.get(reason)
        # The very measure that stands over the pair anyway is left out, another pair's id is cut.
        value = "" if pd.notna(measure) and value == f"{measure:.4f}" else value
        value = f"of {value[:8]}" if "duplicate" in reason else value
        notes["rejected:"] = f"{reason.replace('_', ' ')} {value}".strip()
    if "grounding" in row:
        is_known = pd.notna(row["grounding"])
        notes["grounding"] = f"{row['grounding']:.2f}" if is_known else "cannot be measured"
    if pd.notna(row.get("evidence")):
        notes["evidence"] = f"{row['evidence']:.2f}"
    if copied is not None:
        notes["copied"] = f"{100 * copied:.0f} %"
    if pd.notna(row.get("judge_score")):
        notes["judge"] = f"{row['judge_score']} of 5"
        notes |= {"because": row["judge_reason"]} if row.get("judge_reason") else {}
    return notes


def _origin(row: Mapping[str, Any]) -> str:
    data_type, author, platform, content_id = (
        str(row.get(name) or "") for name in ("data_type", "author", "platform", "content_id")
    )
    return " · ".join(
        filter(
            None, [data_type, author and f"author {author}", platform, content_id and f"content {content_id}"]
        )
    )


def contents_of(chunks: pd.DataFrame) -> pd.DataFrame:
    """Return a row a content that is not skipped, labelled as its first chunk is in ``chunks``.

    Columns: ``collection``, ``content_id``, ``data_type``, ``author``, ``platform``, ``language`` (BCP 47, or
    unclear), ``characters``, ``tokens`` (estimate), ``chunks``, ``damage`` (the first sign of it, or empty).
    """
    rows, content = chunks[chunks.state != "skipped"], ["collection", "content_id"]
    workers = workers_of(len(rows))
    rows = rows.assign(label=rows.index, chunks=1).join(
        by_row(rows[["content"]], _described, workers=workers)
    )
    sums = dict.fromkeys(["characters", "tokens", "chunks"], "sum")
    firsts = dict.fromkeys(["label", "data_type", "author", "platform", "language", "damage"], "first")
    contents = rows.groupby(content, sort=False, as_index=False).agg(firsts | sums)
    parts = rows[rows.duplicated(content, keep=False)].groupby(content, sort=False)
    whole = parts.content.agg(" ".join).reset_index(drop=True).to_frame()
    contents.loc[contents.chunks > 1, "language"] = by_row(whole, _described, workers=workers).language.array
    languages = contents.language.replace("und", UNCLEAR)
    return contents.assign(language=languages, damage=contents.damage.fillna("")).set_index("label")


def _described(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `contents_of` that a text tells by itself."""
    languages = languages_of([*map(prose_of, rows.content)])
    signs = map(damage_of, rows.content, languages)
    return pd.DataFrame(
        {
            "language": pd.array(languages, dtype="str"),
            "characters": rows.content.str.len(),
            "tokens": np.array([*map(estimate_tokens, rows.content)], dtype=np.int64),
            "damage": pd.array([sign or None for sign in signs], dtype="str"),
        },
        index=rows.index,
    )


def reasons_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many of these rows have each state and reason, what that means, and an example's content."""
    groups = rows.groupby(["state", "reason"], sort=False)
    table = groups.content_id.agg(count="size", example="first").reset_index()
    places = zip(table.state, table.reason, strict=True)
    meanings = [MEANINGS.get(state, {}).get(reason, "") for state, reason in places]
    table.insert(2, "meaning", meanings)
    table.insert(4, "share", table["count"] / len(rows))
    table = table.sort_values(["state", "count", "reason"], ascending=[True, False, True])
    return table.assign(reason=table.reason.str.replace("_", " "))


def show_fates(rows: pd.DataFrame) -> Display:
    """Return a bar for each state and reason of a ledger's rows; of one alone a sentence."""
    fates = reasons_of(rows)
    names = (fates.state + ": " + fates.reason).str.removesuffix(": ")
    if fates.empty:
        return show_note("The ledger is empty.", level="plain")
    if len(fates) == 1:
        return show_note(f"All {len(rows):,} instructions: {names[0]}.", level="plain")
    # Twentieths of the longest bar, for which the page has classes; the smallest still shows.
    widths = np.ceil(20 * fates["count"] / fates["count"].max()).astype(int)
    kinds = fates.state.map({"accepted": "", "rejected": " lt-bad", "failed": " lt-bad"}).fillna(" lt-plain")
    counts = fates["count"].map("{:,}".format)
    bars = list(zip(names, counts, widths, kinds, fates.meaning, strict=True))
    return Display(_render("bars", "What became of everything read", bars), text=fates.to_string(index=False))


def copies_of(chunks: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """Return the chunks that repeat an earlier one, labelled as in ``chunks``.

    Columns: ``copy_of``, the label of the one before, and ``exact``: equal but for case and white space.
    """
    rows = chunks[chunks.state != "skipped"]
    texts, workers = cast("Sequence[str]", rows.content.array), workers_of(len(rows))
    equal, near = (
        pd.Series(near_duplicates(texts, threshold=least, workers=workers), rows.index, "Int64")
        for least in (1, threshold)
    )
    places = equal.fillna(near).dropna().astype(int)
    originals = rows.index[places.to_numpy()]
    return pd.DataFrame({"copy_of": originals, "exact": equal[places.index].notna()}, places.index)


def telling_words(rows: pd.DataFrame, *, top: int = 8) -> pd.DataFrame:
    """Return the words that tell authors apart, the surest first; ``rows`` are one a content.

    Columns: ``author``, ``word``, ``z`` (log-odds over its standard error), ``contents`` that hold the word.
    Log-odds with an informative Dirichlet prior: Monroe, Colaresi and Quinn 2008, *Fightin' Words*.
    """
    counts = Counter[tuple[str, str]]()
    for part in workers_of(len(rows)).map(_held, blocks(rows[["author", "content"]])):
        counts.update(part)
    held = pd.DataFrame([*counts], columns=["author", "word"]).assign(contents=[*counts.values()])
    size = held.contents.sum()
    own, total = (held.groupby(name).contents.transform("sum") for name in ("author", "word"))
    prior = _PRIOR_WORDS * total / size
    mine, theirs = held.contents + prior, total - held.contents + prior
    odds = np.log(mine / (own + _PRIOR_WORDS - mine)) - np.log(theirs / (size - own + _PRIOR_WORDS - theirs))
    held = held.assign(z=(odds / np.sqrt(1 / mine + 1 / theirs)).round(2), own=own)
    held = held[(held.contents >= _FEWEST_CONTENTS) & (held.z > 0)]
    held = held.sort_values(["own", "author", "z", "word"], ascending=[False, True, False, True])
    return held.groupby("author", sort=False).head(top)[["author", "word", "z", "contents"]]


def _held(rows: pd.DataFrame) -> Counter[tuple[str, str]]:
    """Return in how many of these contents an author has a word."""
    pairs = zip(rows.author, map(_telling, rows.content), strict=True)
    return Counter((author, word) for author, held in pairs for word in held)


def _telling(text: str) -> list[str]:
    """Return whole words, or pairs of characters of scripts without spaces; terms would lack a plural's s."""
    whole = {*words(text), *(term for term in terms(text) if term[0] >= "\u1100")}
    long = (word for word in whole if len(word) >= (_FEWEST_LETTERS if word[0] < "\u1100" else 2))
    return sorted(word for word in long if not word.isdigit())


def sample_of(chunks: pd.DataFrame, *, most: int, seed: int) -> pd.DataFrame:
    """Return one chunk of each of at most ``most`` contents, spread over kind, author and length.

    Every stratum gives its part in proportion. Same chunks and seed give the same rows, in their order.
    """
    rows, draw = chunks[chunks.state != "skipped"], random.Random(seed)
    ids = [rows.collection.tolist(), rows.content_id.tolist()]
    contents = pd.Series(range(len(rows))).groupby(ids, sort=False).agg(list)
    places = pd.Series([draw.choice(of_content) for of_content in contents], dtype=int)
    lengths = pd.cut(
        rows.content.str.len(), [-1, SHORT - 1, LONG - 1, np.inf], labels=["short", "middle", "long"]
    )
    kinds = [names.iloc[places].astype(str).tolist() for names in (rows.data_type, rows.author, lengths)]
    strata = places.groupby(kinds).agg(list)
    # Largest remainder, of equal ones the first by name.
    exact = strata.map(len) * min(1.0, most / max(1, len(places)))
    shares = exact.astype(int)
    shares[(exact - shares).nlargest(round(exact.sum()) - int(shares.sum())).index] += 1
    drawn = [draw.sample(of_stratum, share) for of_stratum, share in zip(strata, shares, strict=True)]
    return rows.iloc[sorted(chain.from_iterable(drawn))]


def by_step(forecast: pd.DataFrame, *, total: bool = True) -> pd.DataFrame:
    """Return a forecast added up by step, and a last row for all; a cost is missing where one is unknown."""
    steps = {step: add_up(rows) for step, rows in forecast.groupby("what", sort=False)}
    if total and len(steps) > 1:
        steps["all"] = add_up(forecast)
    frame = pd.DataFrame(steps.values(), pd.Index(steps, name="what"), SUMS)
    return frame.astype(dict.fromkeys(SUMS[:3], int) | dict.fromkeys(SUMS[3:], float))


def model_notice(settings: Params, forecast: pd.DataFrame) -> Markdown:
    """Return who is asked and how much, and plainly what the packaged model is."""
    who = f"Endpoint {code(settings.endpoint)}, model {code(settings.model)}"
    is_small = is_packaged(settings.endpoint, settings.model)
    notice = f"{who}: {counted(int(forecast.requests.sum()), 'request')} to send."
    return Markdown(notice + (f"\n\n> {SMALL_MODEL}" if is_small else ""))


def asked(report: GenerationReport) -> pd.DataFrame:
    """Return what one call of asking did; what did not happen has no row but requests and pending."""
    left_out = {"spent_usd", "models", "paid_requests", "mode"}
    values = {
        name.replace("_usd", ", USD").replace("_", " "): value
        for name, value in asdict(report).items()
        if name not in left_out and (value or value is None or name in ("requests", "pending"))
    }
    texts = [format_value(value, column=name) for name, value in values.items()]
    return pd.DataFrame({"what": list(values), "value": texts})


def copied_of(pairs: pd.DataFrame) -> pd.Series[float]:
    """Return what ``max_copied`` limits: the larger share of words that one has from the other."""
    return pairs[["copied_instruction", "copied_content"]].astype(float).max(axis=1)


def show_alarms(alarms: Sequence[Alarm]) -> Display:
    """Return each alarm as a box: what was seen and expected, what to do, its examples."""
    if not alarms:
        return show_note("No alarm: nothing about these pairs as a whole looks wrong.", level="good")
    return join_displays(
        Display(_render("alarm", alarm, ADVICE.get(alarm.name, "")), text=f"{alarm.name}: {alarm.seen}")
        for alarm in alarms
    )


def forecast_and_actual(fields: Mapping[str, Any]) -> pd.DataFrame:
    """Return what run.json holds as forecast beside what was asked; stored answers cost nothing in either."""
    forecast = pd.DataFrame(fields["forecast"]).T[SUMS]
    sent = pd.DataFrame(fields["asked"]).T[["requests", "tokens", "cost_usd"]]
    steps = sent.groupby(sent.index.str.split(":").str[0], sort=False).sum(skipna=False)
    return forecast.join(steps.rename(columns="{}_sent".format), how="outer", sort=False).rename_axis("step")


def conclude_exploration(
    chunks: pd.DataFrame,
    contents: pd.DataFrame,
    copies: pd.DataFrame,
    forecast: pd.DataFrame,
    settings: Params,
) -> Markdown:
    """Return in numbers what there is, what will be lost, what it will cost, and the params for it."""
    usable, cost = chunks[chunks.state != "skipped"], float(forecast.cost_usd_high.sum(skipna=False))
    unknown = ", ".join(map(code, forecast.what[forecast.cost_usd_high.isna()].unique()))
    cut = int((contents.characters > settings.chunk_chars).sum())
    damaged, exact = int((contents.damage != "").sum()), int(copies.exact.sum())
    lines = [
        f"**{counted(len(contents), 'content')}** by {counted(contents.author.nunique(), 'author')} in "
        f"{counted(len({*contents.language} - {UNCLEAR}), 'language')}, in "
        f"**{counted(len(usable), 'chunk')}**. Longer than {settings.chunk_chars:,} characters, and so "
        f"cut at sentence ends: {counted(cut, 'content')}.",
        f"Skipped, with their reasons above: {len(chunks) - len(usable):,}. Destroyed upstream, to be "
        f"fetched again: {counted(damaged, 'content')}.",
        f"Repeating another exactly: {counted(exact, 'chunk')}; nearly: "
        f"{counted(len(copies) - exact, 'chunk')}. Curation drops their pairs.",
        f"All that is still to be asked costs at most about **{in_usd(cost)}**.",
    ]
    params = [
        f"collections: [{', '.join(settings.collections)}]  # {counted(len(contents), 'content')}",
        f"chunk_chars: {settings.chunk_chars}  # 95 % of the contents have at most "
        f"{contents.characters.quantile(0.95):,.0f} characters",
    ]
    if unknown:
        prices = "`usd_per_million_input` and `usd_per_million_output` give that of `model`"
        lines[-1] = f"The price is unknown of {unknown}; {prices}."
    elif cost:
        params.append(f"max_cost_usd: {format_usd(1.2 * cost)}  # the forecast's upper end and a fifth")
    else:
        lines[-1] = "What this run asks costs nothing with this endpoint, or is answered already."
    kept = int(usable.findings.str.count("personal:").sum())
    if kept and settings.personal_data == "keep":
        params.append(f"personal_data: mask  # sent and published as they are: {counted(kept, 'finding')}")
    yaml = "\n".join(params)
    return Markdown(f"{bullets(lines)}\n\nParams that follow from it:\n\n```yaml\n{yaml}\n```")


def conclude_generation(ledger: pd.DataFrame, fields: Mapping[str, Any]) -> Markdown:
    """Return in numbers what was published, and what the run cost by ``fields``, its run.json."""
    states, cost = ledger.state.value_counts(), spent(fields.get("asked", {}).values())
    total, accepted = len(ledger) - states.get("skipped", 0), states.get("accepted", 0)
    train, test = ((ledger.side == side).sum() for side in ("train", "test"))
    return Markdown(
        f"- **Published: {accepted:,} of {counted(total, 'instruction')}** ({100 * accepted / total:.1f} %), "
        f"{counted(train, 'pair')} to train on and {test:,} to test with. Rejected: "
        f"{states.get('rejected', 0):,}. Failed for good: {states.get('failed', 0):,}.\n"
        f"- Tuning and judging included, this run sent {counted(cost['requests'], 'request')} "
        f"(cost: {in_usd(cost['cost_usd'])}); the same command again sends none."
    )


def bullets(lines: Iterable[str]) -> str:
    """Return Markdown with a bullet a line."""
    return "\n".join(f"- {line}" for line in lines)
