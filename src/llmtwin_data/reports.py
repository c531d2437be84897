"""Executed notebooks as one page that can do nothing; several runs compared."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import mistune
import nbformat
import nh3
import pandas
from markupsafe import Markup

from llmtwin_data.contents import SKIPPED, rows_of
from llmtwin_data.curation import REASONS
from llmtwin_data.datasets import read_ledger, stored_sides
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder, write_atomically
from llmtwin_data.lineage import count_changes, diff_datasets
from llmtwin_data.prices import format_usd
from llmtwin_data.tables import (
    SMALL_MODEL,
    Display,
    format_value,
    join_displays,
    render_page,
    show,
    show_instructions,
    show_note,
    show_pairs,
)
from llmtwin_data.texts import counted

TEXT_TAGS = "a b blockquote br code div em h3 h4 hr i li mark ol p pre s small span strong sub sup ul"
TABLE_TAGS = "table caption thead tbody tr th td"
TAGS = {*TEXT_TAGS.split(), *TABLE_TAGS.split(), "details", "summary"}
ATTRIBUTES = {
    "*": {"class", "dir"},
    "a": {"href"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
}
OUR_CLASSES = re.compile(r"(?:lt-[a-z]+|dataframe)(?: (?:lt-[a-z]+|dataframe))*")
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
# The richest form that is safe comes first; a widget lives only in JupyterLab.
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN_KINDS = [WIDGET, "image/png", "image/jpeg", "text/html", "text/markdown", "text/plain"]
TEMPLATES = Path(__file__).parent / "templates"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Characters of one stream that are shown; a progress bar written a thousand times is no reading.
STREAM_CHARS = 4000


@dataclass(slots=True)
class Page:
    """One notebook: its title, its headings for the contents list, and its cells as safe HTML."""

    title: str
    anchor: str
    headings: list[tuple[str, str]] = field(default_factory=list)
    html: Markup = field(default_factory=Markup)


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

    return TemplateExporter(
        config=Config(NbConvertBase={"display_data_priority": SHOWN_KINDS}),
        template_name="basic",
        template_file="notebook.html.j2",
        extra_template_paths=[str(TEMPLATES)],
        filters={
            "prose": _prose,
            "clean": clean_html,
            "markdown": render_markdown,
            "stream": _stream,
            "picture": _picture,
        },
    )


def render_markdown(text: str) -> Markup:
    """Render Markdown with every tag in it escaped, and clean the result once more."""
    html = mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])(text)
    return clean_html(str(html))


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
    return None if tag == "a" and attribute == "href" and value.startswith(("#", "/", ".")) else value


def _prose(text: str, page: Page) -> Markup:
    pieces = Markup("")
    for heading, body in _sections(text):
        pieces += _heading(heading, page) + (render_markdown(body) if body.strip() else Markup(""))
    return pieces


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Split at headings, which get anchors of ours; what stands before the first has none."""
    parts = re.split(r"(?m)^(#{1,2} .+)$", text)
    yield "", parts[0]
    yield from zip(parts[1::2], parts[2::2], strict=True)


def _heading(line: str, page: Page) -> Markup:
    words = line.lstrip("# ").strip()
    if line.startswith("# "):
        page.title = words
        return Markup("")
    if not line:
        return Markup("")
    anchor = f"{page.anchor}-{len(page.headings) + 1}"
    page.headings.append((anchor, words))
    return Markup('<h3 id="{}">{}</h3>').format(anchor, words)


def _stream(text: str) -> str:
    # A carriage return overwrites the line, as a progress bar does: only its last state is kept.
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in ANSI.sub("", text).rstrip().split("\n")]
    shown = "\n".join(line for line in lines if line.strip())
    if len(shown) > STREAM_CHARS:
        shown = f"{shown[:STREAM_CHARS]}\n[{len(shown) - STREAM_CHARS:,} more characters in the notebook]"
    return shown


def _picture(data: str, kind: str, alt: str) -> Markup:
    if not BASE64.fullmatch(data):
        return Markup("")
    picture = Markup('<figure><img alt="{}" src="data:{};base64,{}"></figure>')
    return picture.format(alt, kind, re.sub(r"\s", "", data))


# What the kinds of `datasets.versions.Diff` mean.
CHANGES = {
    "added": "of a chunk that only the later dataset knows",
    "removed": "of a chunk that only the earlier dataset knows",
    "changed": "another wording, or another text of the content",
    "moved": "the same words on the other side of the split, or published in one dataset only",
}


def dataset_rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Read the published rows, each with its ``side``; none where nothing is published."""
    for side, rows in stored_sides(run.dataset).items():
        if rows.path.exists():
            yield from (row | {"side": side} for row in rows)


def changes_frame(counts: Mapping[str, Any]) -> pandas.DataFrame:
    """Say how many instructions differ between two datasets, and what each kind of change means."""
    import pandas

    rows = [(kind, counts.get(kind, 0), meaning) for kind, meaning in CHANGES.items()]
    return pandas.DataFrame(rows, columns=["change", "instructions", "meaning"])


def grounded_first(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Give the share of rows whose own content is found first, of those where that can be measured."""
    ranks = [row["grounding_rank"] for row in rows if row.get("grounding_rank") is not None]
    return sum(rank == 1 for rank in ranks) / len(ranks) if ranks else None


def format_seconds(seconds: float) -> str:
    """Write a duration as people say it."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )


# Pairs shown at the top: enough to judge by, few enough to read.
SHOWN_PAIRS = 3
MEANINGS = {"skipped": SKIPPED, "rejected": REASONS, "accepted": {"": "published in train or test"}}
STATES = {
    "complete": "The run is complete.",
    "incomplete": "The run is incomplete: the same command goes on from here.",
    "gated": "An alarm stopped the run: nothing was published. See the alarms in the last notebook.",
    "failed": "The run failed: see the end of log.txt.",
    "running": "The run is still going on.",
}


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` of a run folder, whatever state the run ended in.

    Notes
    -----
    Texts of contents, models and params are escaped, HTML of notebook outputs goes through an allow-list,
    and a Content-Security-Policy forbids everything but inline style and inline pictures.
    """
    run = RunFolder(run_dir)
    fields, rows = run.read(), list(dataset_rows(run))
    notebooks = _notebooks(run)
    pages = [_opening(fields, rows, run), *notebooks, _reproduction(fields, run)]
    html = render_page(
        title=str(fields.get("dataset_name") or run_dir.parent.name),
        state=str(fields.get("state", "unknown")),
        subtitle=_subtitle(fields, run),
        tiles=_tiles(fields, rows),
        notices=[*_notices(fields), *_alarms(notebooks)],
        pages=pages,
    )
    write_atomically(run.report, html)
    return run.report


def _notebooks(run: RunFolder) -> list[Page]:
    paths = sorted(run.notebooks.glob("*.ipynb"))
    return [read_page(path, anchor=f"nb{number}") for number, path in enumerate(paths, start=1)]


def _tiles(fields: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    totals = fields.get("totals") or {}
    names = ("contents", "chunks", "accepted", "rejected", "failed", "skipped", "requests")
    sides = Counter(row["side"] for row in rows)
    spoken = {"accepted": f"accepted: {sides['train']:,} train, {sides['test']:,} test"} if rows else {}
    tiles = [(spoken.get(name, name), format_value(totals[name])) for name in names if name in totals]
    if "cost_usd" in totals:
        tiles.append(("US dollars", format_usd(totals["cost_usd"])))
    if "generation_seconds" in totals:
        tiles.append(("asking the model", format_seconds(totals["generation_seconds"])))
    found = grounded_first(rows)
    return tiles + ([("find their own content first", f"{100 * found:.0f} %")] if found is not None else [])


def _subtitle(fields: Mapping[str, Any], run: RunFolder) -> str:
    params = fields.get("params") or {}
    parts = [
        f"model {params['model']}" if params.get("model") else "",
        f"prompt {params['prompt']}" if params.get("prompt") else "",
        f"collections {', '.join(params['collections'])}" if params.get("collections") else "",
        f"run {run.path.parent.name}/{run.path.name}",
    ]
    return " · ".join(part for part in parts if part)


def _notices(fields: Mapping[str, Any]) -> Iterator[Display]:
    state, params = str(fields.get("state")), fields.get("params") or {}
    if state != "complete":
        yield show_note(
            STATES.get(state, "The run left no state."), level="bad" if state != "running" else "warning"
        )
    if params.get("endpoint") == "embedded" and not (fields.get("given") or {}).get("model"):
        yield Display(Markup("<blockquote>{}</blockquote>").format(render_markdown(SMALL_MODEL)))
    # Forecasts have tables of their own.
    yield from (show_note(line) for line in fields.get("told") or () if not line.startswith("Forecast"))
    failed = (fields.get("totals") or {}).get("failed")
    if failed:
        yield show_note(f"{counted(failed, 'instruction')} failed for good; --retry-failed asks again.")


def _alarms(notebooks: Sequence[Page]) -> Iterator[Display]:
    """Point at the alarms that a notebook shows, where `quality_gate` let the run go on."""
    if any('class="lt-note lt-bad"' in page.html for page in notebooks):
        yield show_note("An alarm was raised: read it in the last notebook before training on this.")


def _opening(fields: Mapping[str, Any], rows: Sequence[dict[str, Any]], run: RunFolder) -> Page:
    pairs = show_pairs(pandas.DataFrame(_typical(rows)), empty="Nothing was published.")
    table = show(_fates(run), "What became of everything read", empty="The ledger is empty.")
    counts = fields.get("changes") or {}
    changes = show(changes_frame(counts), "Against the dataset published before this one")
    parts = [table, *([changes] if counts else []), pairs]
    return Page("What came out", "outcome", html=join_displays(parts).html)


def _typical(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose rows of the middle of the dataset by grounding: neither its best nor its worst."""
    ranked = sorted(rows, key=lambda row: (row.get("grounding_margin") or 0, row["id"]))
    parts = SHOWN_PAIRS + 1
    positions = sorted({len(ranked) * part // parts for part in range(1, parts)}, reverse=True)
    return [ranked[position] for position in positions] if ranked else []


def _fates(run: RunFolder) -> pandas.DataFrame:
    ledger = list(rows_of(read_ledger(run.ledger_file))) if run.ledger_file.exists() else []
    counts = Counter((row.state, row.reason) for row in ledger)
    rows = [
        {
            "state": state,
            "reason": reason.replace("_", " "),
            "count": n,
            "share": n / len(ledger),
            "meaning": MEANINGS.get(state, {}).get(reason, ""),
        }
        for (state, reason), n in sorted(counts.items(), key=lambda item: (item[0][0], -item[1]))
    ]
    return pandas.DataFrame(rows)


def _reproduction(fields: Mapping[str, Any], run: RunFolder) -> Page:
    blocks = {
        "The params file that makes this run again, defaults left out:": fields.get("given") or {},
        "All params as resolved:": fields.get("params") or {},
        "Versions:": fields.get("versions") or {},
        "Hashes (sha256); those of all other files stand in the manifest:": _hashes(fields, run),
    }
    block = Markup("<p>{}</p><pre{}>{}</pre>")
    columns = Markup(' class="cols"')
    html = Markup("").join(
        block.format(title, columns if len(values) > 4 else "", _lines(values))
        for title, values in blocks.items()
    )
    return Page("How to make it again", "again", html=html)


def _lines(values: Mapping[str, Any]) -> str:
    """Write values as lines of YAML."""
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "\n".join(lines) or "# none"


def _hashes(fields: Mapping[str, Any], run: RunFolder) -> dict[str, str]:
    manifest = run.dataset / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.exists() else {}
    known = {"manifest.json": fields.get("manifest_sha256"), "ledger.jsonl": fields.get("ledger_sha256")}
    known |= {name: files[name]["sha256"] for name in ("train.jsonl", "test.jsonl") if name in files}
    return {name: str(sha256) for name, sha256 in known.items() if sha256}


FILE_NAME = "comparison.html"
TOTALS = ("contents", "chunks", "accepted", "rejected", "failed", "skipped", "requests", "tokens", "cost_usd")
# Measures by the words that stand before their mean; a share is written in %.
MEANS = {
    "grounding": "grounding",
    "copied_instruction": "share of the instruction that is copied",
    "genericness": "share of other contents that it fits",
    "characters": "characters of the instruction",
    "judge_score": "judge score",
}
SHOWN_CHANGES = 8
SHARED = (
    "Runs share their stored answers: requests, tokens and cost are what each run asked itself; "
    "what an earlier one had asked, it found stored and did not pay again."
)
Rows = Mapping[str, Mapping[str, Any]]


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
    beside = Path(os.path.commonpath(paths))
    if len(set(paths)) < len(paths):
        raise ParamsError("a comparison needs different run folders, found the same one twice")
    runs = {f"run {number}": RunFolder(path) for number, path in enumerate(paths, start=1)}
    folders = {name: os.path.relpath(run.path, beside) for name, run in runs.items()}
    fields = {name: _fields(run) for name, run in runs.items()}
    rows = {name: {row["id"]: row for row in dataset_rows(run)} for name, run in runs.items()}
    target = out or beside / FILE_NAME
    values = _page_values(runs, fields, rows, folders)
    links = _links(runs, beside=target.absolute().parent)
    write_atomically(target, render_page(**values | {"notices": [links] if links.html else []}))
    return target


def params_frame(fields: Mapping[str, Mapping[str, Any]], folders: Mapping[str, str]) -> pandas.DataFrame:
    """Give one row a run: its folder and the params that differ."""
    params = [values.get("params") or {} for values in fields.values()]
    texts = {
        key: [json.dumps(values.get(key), ensure_ascii=False).strip('"') for values in params]
        for key in dict.fromkeys(key for values in params for key in values)
    }
    differ = {key: found for key, found in texts.items() if key != "run_dir" and len(set(found)) > 1}
    return pandas.DataFrame({"run": list(fields), **differ, "folder": [folders[name] for name in fields]})


def outcome_frame(fields: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Rows]) -> pandas.DataFrame:
    """Give totals and mean measures, one column a run."""
    table: dict[str, list[str]] = {}
    for total in TOTALS:
        values = [(values.get("totals") or {}).get(total) for values in fields.values()]
        name = total.replace("_usd", ", USD")
        table[name] = [format_value(value, column=name) for value in values]
    for measure, words in MEANS.items():
        means = [_mean(of_run, measure) for of_run in rows.values()]
        table[f"{words}, mean"] = [format_value(value, column=words) for value in means]
    found = [grounded_first(list(of_run.values())) for of_run in rows.values()]
    table["share that finds its own content first"] = [format_value(value, column="share") for value in found]
    return pandas.DataFrame([(name, *texts) for name, texts in table.items()], columns=["what", *fields])


def _page_values(
    runs: Mapping[str, RunFolder],
    fields: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Rows],
    folders: Mapping[str, str],
) -> dict[str, Any]:
    first, *others = rows
    differ = params_frame(fields, folders)
    totals = show(outcome_frame(fields, rows), "Totals and mean measures")
    pages = [
        _page("The runs", "params", show(differ, "Params that differ", as_given=True)),
        _page("What came out", "outcome", join_displays([totals, show_note(SHARED, level="plain")])),
        *(_changes_page(first, other, runs, rows) for other in others),
    ]
    complete = all(values.get("state") == "complete" for values in fields.values())
    return {
        "title": f"{counted(len(fields), 'run')} compared",
        "state": "complete" if complete else "not all complete",
        "subtitle": " · ".join(
            dict.fromkeys(str(values.get("dataset_name", "")) for values in fields.values())
        ),
        "tiles": [],
        "notices": [],
        "pages": pages,
    }


def _links(runs: Mapping[str, RunFolder], *, beside: Path) -> Display:
    """Point at the report of each run that has one, wherever the folders are moved together."""
    found = {
        name: os.path.relpath(run.report.absolute(), beside)
        for name, run in runs.items()
        if run.report.exists()
    }
    link = Markup('<a href="{}">Report of {}</a>')
    return Display(Markup(" · ").join(link.format(quote(path), name) for name, path in found.items()))


def _changes_page(first: str, other: str, runs: Mapping[str, RunFolder], rows: Mapping[str, Rows]) -> Page:
    """Say what became of one run's dataset in another's, by the words of `llmtwin-data diff`."""
    title, anchor = f"From {first} to {other}", f"pairs-{other.replace(' ', '-')}"
    if empty := [name for name in (first, other) if not (runs[name].dataset / "manifest.json").exists()]:
        return _page(title, anchor, show_note(f"Nothing was published by {' and '.join(empty)}."))
    diff = diff_datasets(runs[first].path, runs[other].path)
    reworded = [i for i in diff.id[diff.kind == "changed"] if i in rows[first]]
    spread = reworded[:: max(1, len(reworded) // SHOWN_CHANGES)][:SHOWN_CHANGES]
    parts = [show(changes_frame(count_changes(diff)), "Instructions of the two runs")]
    for i in spread:
        # The content is that of the later run, which may have changed with the wording.
        both = [
            {**rows[other][i], "run": run, "instruction": rows[run][i]["instruction"]}
            for run in (first, other)
        ]
        parts.append(show_instructions(pandas.DataFrame(both), by="run"))
    return _page(title, anchor, join_displays(parts))


def _page(title: str, anchor: str, display: Display) -> Page:
    return Page(title, anchor, html=display.html)


def _fields(run: RunFolder) -> dict[str, Any]:
    if not run.run_file.exists():
        raise ParamsError(f"{run.path} holds no run.json; give the folder of a run, such as runs/demo/latest")
    return run.read()


def _mean(rows: Rows, measure: str) -> float | None:
    known = [float(row[measure]) for row in rows.values() if row.get(measure) is not None]
    return sum(known) / len(known) if known else None
