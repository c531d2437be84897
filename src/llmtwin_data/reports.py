"""Executed notebooks as one page that can do nothing; several runs compared."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import mistune
import nbformat
import nh3
import pandas as pd
from markupsafe import Markup

from llmtwin_data.datasets import read_ledger, stored_sides
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder, write_atomically
from llmtwin_data.lineage import count_changes, diff_datasets
from llmtwin_data.measures import measured_words
from llmtwin_data.tables import (
    SMALL_MODEL,
    Display,
    format_value,
    join_displays,
    reasons_of,
    render_page,
    show,
    show_instructions,
    show_note,
    show_pairs,
    small_model_words,
)
from llmtwin_data.texts import counted

TEXT_TAGS = "a b blockquote br code div em h3 h4 hr i li mark ol p pre s small span strong sub sup ul"
TABLE_TAGS = "table caption thead tbody tr th td"
TAGS = {*TEXT_TAGS.split(), *TABLE_TAGS.split(), "details", "summary"}
SPANS = {"colspan", "rowspan"}
ATTRIBUTES = {"*": {"class", "dir"}, "a": {"href"}, "td": SPANS, "th": SPANS}
OUR_CLASSES = re.compile(r"(?:lt-[a-z]+|dataframe)(?: (?:lt-[a-z]+|dataframe))*")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
# The richest form that is safe comes first; a widget lives only in JupyterLab.
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN_KINDS = [WIDGET, "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain"]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Characters of one stream that are shown; a progress bar written a thousand times is no reading.
STREAM_CHARS = 4000
# Pairs shown at the top, and wordings of two runs side by side: enough to judge by, few enough to read.
SHOWN_PAIRS, SHOWN_CHANGES = 3, 8
STATES = {
    "incomplete": "The run is incomplete: the same command goes on from here.",
    "gated": "An alarm stopped the run: nothing was published. See the alarms in the last notebook.",
    "failed": "The run failed: see the end of log.txt.",
    "running": "The run is still going on.",
}
# What the kinds of `lineage.diff_datasets` mean.
CHANGES = {
    "added": "of a chunk that only the later dataset knows",
    "removed": "of a chunk that only the earlier dataset knows",
    "changed": "another wording, or another text of the content",
    "moved": "the same words on the other side of the split, or published in one dataset only",
}
TOTALS = ("contents", "chunks", "accepted", "rejected", "failed", "skipped", "requests", "tokens", "cost_usd")
# Measures by the words that stand before their mean; a share is written in %.
MEANS = {
    "grounding": "grounding",
    "copied_instruction": "share of the instruction that is copied",
    "genericness": "share of other contents that it fits",
    "characters": "characters of the instruction",
    "judge_score": "judge score",
}
FILE_NAME = "comparison.html"
SHARED = (
    "Runs share their stored answers: requests, tokens and cost are what each run asked itself; "
    "what an earlier one had asked, it found stored and did not pay again."
)


@dataclass(slots=True)
class Page:
    """One notebook: its title, its headings for the contents list, and its cells as safe HTML."""

    title: str
    anchor: str
    html: Markup = field(default_factory=Markup)
    headings: list[tuple[str, str]] = field(default_factory=list)


def read_page(path: Path, *, anchor: str) -> Page:
    """Render an executed notebook; the first heading is its title."""
    page = Page(path.stem.replace("_", " "), anchor)
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds that are not shown
        html, resources = _exporter().from_notebook_node(notebook, resources={"page": page})
    page = cast(Page, resources["page"])  # nbconvert renders with a copy
    page.html = Markup(html)
    return page


@functools.cache
def _exporter() -> Any:
    """Return nbconvert with our template: every text of a notebook is escaped by it, or goes through nh3."""
    from nbconvert.exporters import TemplateExporter
    from traitlets.config import Config

    filters = {"clean": clean_html, "markdown": render_markdown}
    return TemplateExporter(
        config=Config(NbConvertBase={"display_data_priority": SHOWN_KINDS}),
        template_name="basic",
        template_file="notebook.html.j2",
        extra_template_paths=[str(Path(__file__).parent / "templates")],
        filters=filters | {"prose": _prose, "stream": _stream, "picture": _picture},
    )


def render_markdown(text: str) -> Markup:
    """Render Markdown with every tag in it escaped, and clean the result once more."""
    return clean_html(str(mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])(text)))


def clean_html(html: str) -> Markup:
    """Let through only tags and attributes that show text; links only to the web, classes only our own."""
    cleaned = nh3.clean(
        html,
        tags=TAGS,
        clean_content_tags={"script", "style", "iframe", "object", "svg", "math", "template", "title"},
        attributes=ATTRIBUTES,
        attribute_filter=_keep_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )
    return Markup(cleaned)


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "class":
        return value if OUR_CLASSES.fullmatch(value) else None
    # A link to a place in this page would let a text pretend to be part of the report.
    return None if attribute == "href" and value.startswith(("#", "/", ".")) else value


def _prose(text: str, page: Page) -> Markup:
    """Render a Markdown cell; its title becomes the page's, its headings get anchors of ours."""
    html = Markup("")
    for section in re.split(r"(?m)^(?=#{1,2} )", text):
        heading, _, body = section.partition("\n") if section.startswith("#") else ("", "", section)
        words = heading.lstrip("#").strip()
        if heading.startswith("# "):
            page.title = words
        elif heading:
            anchor = f"{page.anchor}-{len(page.headings) + 1}"
            page.headings.append((anchor, words))
            html += Markup('<h3 id="{}">{}</h3>').format(anchor, words)
        html += render_markdown(body)
    return html


def _stream(text: str) -> str:
    # A carriage return overwrites the line, as a progress bar does: only its last state is kept.
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in ANSI.sub("", text).rstrip().split("\n")]
    printed = "\n".join(line for line in lines if line.strip())
    more = len(printed) - STREAM_CHARS
    return f"{printed[:STREAM_CHARS]}\n[{more:,} more characters in the notebook]" if more > 0 else printed


def _picture(data: str, kind: str, alt: str) -> Markup:
    if not BASE64.fullmatch(data):
        return Markup("")
    picture = Markup('<figure><img alt="{}" src="data:{};base64,{}"></figure>')
    return picture.format(alt, kind, re.sub(r"\s", "", data))


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` of a run folder, whatever state the run ended in.

    Notes
    -----
    Texts of contents, models and params are escaped, HTML of notebook outputs goes through an allow-list,
    and a Content-Security-Policy forbids everything but inline style and inline pictures.
    """
    run = RunFolder(run_dir)
    fields, rows = run.read(), _dataset_rows(run)
    paths = sorted(run.notebooks.glob("*.ipynb"))
    notebooks = [read_page(path, anchor=f"nb{number}") for number, path in enumerate(paths, start=1)]
    params = fields.get("params") or {}
    parts = [f"{name} {params[name]}" for name in ("model", "prompt") if params.get(name)]
    parts += [f"collections {', '.join(params['collections'])}"] if params.get("collections") else []
    html = render_page(
        title=str(fields.get("dataset_name") or run_dir.parent.name),
        state=str(fields.get("state", "unknown")),
        subtitle=" · ".join([*parts, f"run {run.path.parent.name}/{run.path.name}"]),
        tiles=_tiles(fields, rows),
        notices=_notices(fields, notebooks),
        pages=[_opening(fields, rows, run), *notebooks, _reproduction(fields, run)],
    )
    write_atomically(run.report, html)
    return run.report


def _dataset_rows(run: RunFolder) -> pd.DataFrame:
    """Read the published rows, each with its ``side``; none where nothing is published."""
    sides = stored_sides(run.dataset) if run.dataset.exists() else {}
    frame = pd.DataFrame(row | {"side": side} for side, rows in sides.items() for row in rows)
    return frame.reindex(columns=[*dict.fromkeys([*frame, "id", "side", "grounding_rank", *MEANS])])


def _grounded_first(rows: pd.DataFrame) -> float:
    """Return the share of rows whose own content is found first, of those where that can be measured."""
    return float((rows.grounding_rank.dropna() == 1).mean())


def _tiles(fields: Mapping[str, Any], rows: pd.DataFrame) -> list[tuple[str, str]]:
    totals = fields.get("totals") or {}
    train, test = ((rows.side == side).sum() for side in ("train", "test"))
    names = {"accepted": f"accepted: {train:,} train, {test:,} test"} if len(rows) else {}
    counts = ("contents", "chunks", "accepted", "rejected", "failed", "skipped", "requests")
    tiles = [(names.get(name, name), format_value(totals[name])) for name in counts if name in totals]
    if "cost_usd" in totals:
        tiles.append(("US dollars", format_value(totals["cost_usd"], column="USD")))
    if "generation_seconds" in totals:
        tiles.append(("asking the model", format_seconds(totals["generation_seconds"])))
    if ranked := int(rows.grounding_rank.notna().sum()):
        first = int((rows.grounding_rank == 1).sum())
        tiles.append(("find their own content first", f"{first:,} of {ranked:,}"))
    return tiles


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _notices(fields: Mapping[str, Any], notebooks: Sequence[Page]) -> Iterator[Display]:
    state, params = str(fields.get("state")), fields.get("params") or {}
    if state != "complete":
        level = "bad" if state != "running" else "warning"
        yield show_note(STATES.get(state, "The run left no state."), level=level)
    if params.get("endpoint") == "embedded" and not (fields.get("given") or {}).get("model"):
        words = f"{small_model_words(fields)}. {SMALL_MODEL}".removeprefix(". ")
        yield Display(Markup("<blockquote>{}</blockquote>").format(render_markdown(words)))
    # Forecasts have tables of their own.
    yield from (show_note(line) for line in fields.get("told") or () if not line.startswith("Forecast"))
    if failed := (fields.get("totals") or {}).get("failed"):
        yield show_note(f"{counted(failed, 'instruction')} failed for good; --retry-failed asks again.")
    # Where `quality_gate` let the run go on.
    if any('class="lt-note lt-bad"' in page.html for page in notebooks):
        yield show_note("An alarm was raised: read it in the last notebook before training on this.")


def _opening(fields: Mapping[str, Any], rows: pd.DataFrame, run: RunFolder) -> Page:
    ledger = read_ledger(run.ledger_file) if run.ledger_file.exists() else pd.DataFrame()
    reasons = pd.DataFrame() if ledger.empty else reasons_of(ledger)
    parts = [show(reasons, "What became of everything read", empty="The ledger is empty.")]
    if measured := (fields.get("totals") or {}).get("measured"):
        parts.append(show_note(measured_words(measured), level="plain"))
    if counts := fields.get("changes"):
        parts.append(show(_changes(counts), "Against the dataset published before this one"))
    # Of the middle of the dataset by grounding: neither its best nor its worst.
    middle = rows.sort_values(["grounding_margin", "id"]) if "grounding_margin" in rows else rows
    places = {len(rows) * part // (SHOWN_PAIRS + 1) for part in range(1, SHOWN_PAIRS + 1 if len(rows) else 1)}
    pairs = show_pairs(middle.iloc[sorted(places, reverse=True)], empty="Nothing was published.")
    return Page("What came out", "outcome", join_displays([*parts, pairs]).html)


def _changes(counts: Mapping[str, Any]) -> pd.DataFrame:
    rows = [(kind, counts.get(kind, 0), meaning) for kind, meaning in CHANGES.items()]
    return pd.DataFrame(rows, columns=["change", "instructions", "meaning"])


def _reproduction(fields: Mapping[str, Any], run: RunFolder) -> Page:
    manifest = run.dataset / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.exists() else {}
    known = {"manifest.json": "manifest_sha256", "ledger.jsonl": "ledger_sha256"}
    hashes = {name: fields[key] for name, key in known.items() if fields.get(key)}
    hashes |= {name: files[name]["sha256"] for name in ("train.jsonl", "test.jsonl") if name in files}
    blocks = {
        "The params file that makes this run again, defaults left out:": fields.get("given") or {},
        "All params as resolved:": fields.get("params") or {},
        "Versions:": fields.get("versions") or {},
        "Hashes (sha256); those of all other files stand in the manifest:": hashes,
    }
    html = Markup("")
    for title, values in blocks.items():
        lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        columns = Markup(' class="cols"' if len(lines) > 4 else "")
        html += Markup("<p>{}</p><pre{}>{}</pre>").format(title, columns, "\n".join(lines) or "# none")
    return Page("How to make it again", "again", html)


def compare_report(run_dirs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Write one report about several runs, beside them unless ``out`` says where.

    Raises
    ------
    ParamsError
        Fewer than two runs are given, or a folder holds no run.
    """
    if len(run_dirs) < 2:
        raise ParamsError(f"a comparison needs two run folders or more, found {len(run_dirs)}")
    paths = [path.absolute() for path in run_dirs]
    if len(set(paths)) < len(paths):
        raise ParamsError("a comparison needs different run folders, found the same one twice")
    for path in paths:
        if not RunFolder(path).run_file.exists():
            raise ParamsError(f"{path} holds no run.json; give the folder of a run, such as runs/demo/latest")
    beside = Path(os.path.commonpath(paths))
    target = (out or beside / FILE_NAME).absolute()
    runs = {f"run {number}": RunFolder(path) for number, path in enumerate(paths, start=1)}
    fields = {name: run.read() for name, run in runs.items()}
    rows = {name: _dataset_rows(run).set_index("id", drop=False) for name, run in runs.items()}
    folders = [os.path.relpath(path, beside) for path in paths]
    params = show(_params_that_differ(fields).assign(folder=folders), "Params that differ", as_given=True)
    outcome = [show(_outcomes(fields, rows), "Totals and mean measures"), show_note(SHARED, level="plain")]
    first, *others = runs
    changes = [_changes_page(first, other, runs, rows) for other in others]
    # The links hold wherever the folders are moved together.
    reports = {name: run.report for name, run in runs.items() if run.report.exists()}
    links = Markup(" · ").join(
        Markup('<a href="{}">Report of {}</a>').format(quote(os.path.relpath(path, target.parent)), name)
        for name, path in reports.items()
    )
    complete = all(values.get("state") == "complete" for values in fields.values())
    html = render_page(
        title=f"{counted(len(fields), 'run')} compared",
        state="complete" if complete else "not all complete",
        subtitle=" · ".join(dict.fromkeys(str(each.get("dataset_name", "")) for each in fields.values())),
        tiles=[],
        notices=[links] if links else [],
        pages=[
            Page("The runs", "params", params.html),
            Page("What came out", "outcome", join_displays(outcome).html),
            *changes,
        ],
    )
    write_atomically(target, html)
    return target


def _params_that_differ(fields: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    params = pd.DataFrame([values.get("params") or {} for values in fields.values()], dtype=object)
    texts = params.drop(columns="run_dir", errors="ignore").map(lambda value: json.dumps(value).strip('"'))
    return texts.loc[:, texts.nunique() > 1].assign(run=list(fields))


def _outcomes(fields: Mapping[str, Mapping[str, Any]], rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return totals and mean measures, one column a run."""
    table = {}
    for run, values in fields.items():
        totals = {name.replace("_usd", ", USD"): (values.get("totals") or {}).get(name) for name in TOTALS}
        means = {f"{words}, mean": rows[run][measure].mean() for measure, words in MEANS.items()}
        first = {"share that finds its own content first": _grounded_first(rows[run])}
        known = totals | means | first
        table[run] = {name: format_value(value, column=name) for name, value in known.items()}
    return pd.DataFrame(table).rename_axis("what")


def _changes_page(
    first: str, other: str, runs: Mapping[str, RunFolder], rows: Mapping[str, pd.DataFrame]
) -> Page:
    """Say what became of one run's dataset in another's, by the words of `llmtwin-data diff`."""
    title, anchor = f"From {first} to {other}", f"pairs-{other.replace(' ', '-')}"
    if empty := [name for name in (first, other) if not (runs[name].dataset / "manifest.json").exists()]:
        return Page(title, anchor, show_note(f"Nothing was published by {' and '.join(empty)}.").html)
    diff = diff_datasets(runs[first].path, runs[other].path)
    reworded = diff.id[(diff.kind == "changed") & diff.id.isin(rows[first].index)].tolist()
    spread = reworded[:: max(1, len(reworded) // SHOWN_CHANGES)][:SHOWN_CHANGES]
    parts = [show(_changes(count_changes(diff)), "Instructions of the two runs")]
    for row_id in spread:
        # The content is that of the later run, which may have changed with the wording.
        words = [rows[name].instruction[row_id] for name in (first, other)]
        both = rows[other].loc[[row_id, row_id]].assign(run=[first, other], instruction=words)
        parts.append(show_instructions(both, by="run"))
    return Page(title, anchor, join_displays(parts).html)
