"""A run as one page that can do nothing; several runs compared."""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mistune
import nbformat
import nh3
import pandas as pd
from markupsafe import Markup

from llmtwin_data import tables
from llmtwin_data.curation import Alarm
from llmtwin_data.datasets import SIDES, read_manifest
from llmtwin_data.endpoints import is_packaged
from llmtwin_data.errors import DiskFailed
from llmtwin_data.folders import RunFolder, read_json_lines, write_atomically
from llmtwin_data.lineage import CHANGES, count_changes, diff_datasets
from llmtwin_data.measures import measured_words
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
# Wordings of two runs side by side, and characters of a content on the first screen: few enough to read.
SHOWN_CHANGES, SHOWN_CHARS = 8, 320
# OpenAI's guide to fine-tuning saw clear improvements from 50 to 100 examples on.
FEWEST_TO_TRAIN = 50
# Fewer of a language, or to test with, say little of it.
FEWEST_OF_A_KIND = 10
# What each state that is not complete means, and what to do.
STATES = {
    "incomplete": (
        "the run is incomplete",
        "mend what is named above, if anything; the same command goes on.",
    ),
    "gated": ("an alarm stopped the run and nothing was published", "read the alarm, then run again."),
    "failed": ("the run failed", "mend what is named above, then run again; more is at the end of log.txt."),
    "running": ("the run is still going on, or was killed", "wait for its end, or run again."),
}
REVIEW = (
    "read `pairs.html`, decide on doubtful pairs in notebook 4, then train, in `dataset/`: "
    "`python training/trl_sft.py`, or as its README says."
)
TOTALS = ("contents", "chunks", "accepted", "rejected", "failed", "skipped", "requests", "tokens", "cost_usd")
# Measures by the words that stand before their mean; a share is written in %.
MEANS = {
    "grounding": "grounding",
    "copied_instruction": "share of the instruction that is copied",
    "genericness": "share of other contents that it fits",
    "characters": "characters of the instruction",
    "judge_score": "judge score",
}
# What the verdict is made of, and what puts pairs in order; texts are read of the pairs that are shown alone.
VERDICT = ("language", "author", "grounding_rank")
RANKED = (*VERDICT, "id", "grounding", "evidence", "copied_instruction", "copied_content")
LONGEST_LINE = 1 << 24  # bytes of a ledger's row
FILE_NAME = "comparison.html"
SHARED = (
    "Runs share their stored answers: requests, tokens and cost are what each run asked itself; "
    "what an earlier one had asked, it found stored and did not pay again."
)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a page: its title and its cells as safe HTML; ``folded``: one opens it by its title."""

    title: str
    html: Markup
    folded: bool = False


def read_page(path: Path) -> Page:
    """Render an executed notebook, folded; the heading that it begins with is its title."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
        problem = f"expected an executed notebook, {str(error)[:200]}; it is damaged, so move it away"
        raise DiskFailed(f"{path}: {problem}") from error
    # papermill puts what failed before the first cell.
    heading = next(filter(None, (re.match(r"# (.+)", cell.source) for cell in notebook.cells[:2])), None)
    notebook.cells = list(_filled_sections(notebook.cells))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds that are not shown
        html, _ = _exporter().from_notebook_node(notebook)
    return Page(heading[1] if heading else path.stem.replace("_", " "), Markup(html), folded=True)


def _filled_sections(cells: Sequence[Any]) -> Iterator[Any]:
    """Yield the cells; of a section in which no cell had anything to show there is one line left."""
    starts = [
        n for n, cell in enumerate(cells) if cell.cell_type == "markdown" and cell.source.startswith("## ")
    ]
    for start, end in pairwise([0, *starts, len(cells)]):
        section = cells[start:end]
        outputs = [it for cell in section for it in cell.get("outputs", ()) if not _is_progress(it)]
        if start not in starts or not outputs or not all(map(_is_nothing, outputs)):
            yield from section
            continue
        heading = section[0].source.partition("\n")[0].lstrip("# ")
        words = " ".join(str(output.data.get("text/plain", "")) for output in outputs)
        yield nbformat.v4.new_raw_cell(f"{heading}: {words}")


def _is_progress(output: Any) -> bool:
    return output.output_type == "stream" or WIDGET in output.get("data", {})


def _is_nothing(output: Any) -> bool:
    html = str(output.get("data", {}).get("text/html", ""))
    return 'class="lt-nothing"' in html and not re.search('class="lt-(table|card|note)', html)


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


def _prose(text: str) -> Markup:
    """Render a Markdown cell, a level lower: the notebook's title is that of its page."""
    return render_markdown(re.sub(r"(?m)^## ", "### ", re.sub(r"\A# .*", "", text)))


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

    Texts of contents, models and params are escaped, HTML of notebook outputs goes through an allow-list,
    and a Content-Security-Policy forbids everything but inline style and inline pictures.
    """
    run = RunFolder(run_dir)
    fields, rows = run.read(), dataset_rows(run, RANKED)
    notebooks = [read_page(path) for path in sorted(run.notebooks.glob("*.ipynb"))]
    params, totals = fields.get("params") or {}, fields.get("totals") or {}
    named = {name: params.get(name) for name in ("model", "prompt")}
    named["collections"] = ", ".join(params.get("collections") or ())
    named["cost"] = tables.in_usd(totals["cost_usd"]) if "cost_usd" in totals else ""
    parts = [f"{name} {value}" for name, value in named.items() if value]
    counts = ("contents", "chunks", "requests", "tokens")
    parts += [counted(totals[name], name.removesuffix("s")) for name in counts if totals.get(name)]
    if seconds := totals.get("generation_seconds"):
        parts.append(f"{timedelta(seconds=round(seconds))} h asking the model")
    before = "Against the dataset published before this one"
    changes = fields.get("changes")
    changed = [Page(before, tables.show(_changes(changes)).html, folded=True)] if changes else []
    html = tables.render_page(
        title=str(fields.get("dataset_name") or run_dir.parent.name),
        state=str(fields.get("state", "unknown")),
        subtitle=" · ".join([*parts, f"run {run.path.parent.name}/{run.path.name}"]),
        notices=_first_screen(fields, rows, run),
        pages=[*changed, *notebooks, _reproduction(fields, run)],
    )
    write_atomically(run.report, html)
    return run.report


def dataset_rows(run: RunFolder, columns: Sequence[str] = (), *, ids: Sequence[str] = ()) -> pd.DataFrame:
    """Read the published rows, each with its ``side``; none where nothing is published.

    Only these ``columns``, and the rows of these ``ids``, where any are named.
    """
    from pyarrow import parquet

    parts, filters = [], [("id", "in", ids)] if ids else None
    for side in SIDES if run.dataset.exists() else ():
        path = run.dataset / f"{side}.parquet"
        if not path.exists():  # a consumer may need but the lines
            frame = pd.DataFrame(read_json_lines(path.with_suffix(".jsonl")))
            frame = frame[frame.id.isin(ids)] if ids and len(frame) else frame
        else:
            with _readable(path):
                names = [name for name in parquet.read_schema(path).names if not columns or name in columns]
                frame = parquet.read_table(path, columns=names, filters=filters).to_pandas()
        parts.append(frame.assign(side=side))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return frame.reindex(columns=[*dict.fromkeys([*frame, "id", "side", *VERDICT, *MEANS])])


def read_fates(run: RunFolder) -> pd.DataFrame:
    """Read ``content_id``, ``state`` and ``reason`` of every row of the ledger."""
    import pyarrow
    from pyarrow.json import ParseOptions, ReadOptions, read_json

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("content_id", "state", "reason")])
    parsed = ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read, table = ReadOptions(block_size=LONGEST_LINE), schema.empty_table()
    with _readable(run.ledger_file):
        if run.ledger_file.stat().st_size:  # of an empty file pyarrow makes an error
            table = read_json(run.ledger_file, read_options=read, parse_options=parsed)
    fates: pd.DataFrame = table.to_pandas()
    return fates


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        words = f"cannot be read ({str(error)[:200]}); bring it back, then run the same command again"
        raise DiskFailed(f"{path}: {words}") from error


@dataclass(frozen=True, slots=True)
class Verdict:
    """Sentences, made of numbers, on whether a dataset is ready to train on, and the next step."""

    ready: bool
    sentences: tuple[str, ...]
    next_step: str


def verdict_of(fields: Mapping[str, Any], rows: pd.DataFrame) -> Verdict:
    """Return the verdict on a run in any state by its run.json and its `dataset_rows`."""
    train, test = (rows[rows.side == side] for side in SIDES)
    why, next_step = _hindrance(fields, len(train))
    sizes = f"{counted(len(train), 'pair')} to train on {_made_of(train)} and "
    sizes += f"{len(test):,} to test with {_made_of(test)}" if len(test) else "none to test with"
    first = f"Not ready to train: {why}." if why else "Ready to train: no alarm, and nothing is pending."
    others = [f"{sizes}.", _weak_words(fields, train, test)] if len(rows) else []
    return Verdict(not why, (first, *others), next_step)


def _hindrance(fields: Mapping[str, Any], train: int) -> tuple[str, str]:
    """Return what keeps one from training, empty if nothing does, and the next step."""
    params, state = fields.get("params") or {}, str(fields.get("state"))
    alarms = [it["name"] for it in fields.get("alarms") or () if it["level"] == "alarm"]
    if state not in ("complete", "gated"):
        return STATES.get(state, ("the run left no state", "run the study again"))
    if alarms:
        became = "raised" if state == "complete" else "stopped the run"
        again = "Then run again: what is stored is not paid twice."
        words = f"{counted(len(alarms), 'alarm')} ({', '.join(alarms)}) {became}"
        return words, f"{tables.ADVICE.get(alarms[0], '')} {again}"
    if state == "gated":
        return STATES[state]
    if is_packaged(params.get("endpoint", ""), params.get("model", "")):
        real = "set `OPENAI_API_KEY`, or `endpoint` and `model` in the params file, and run again."
        accepted, rejected = ((fields.get("totals") or {}).get(it, 0) for it in ("accepted", "rejected"))
        wrote = f"of {counted(accepted + rejected, 'instruction')} that the small model wrote"
        return f"{wrote}, {accepted:,} are about their text", f"for training, {real}"
    if train < FEWEST_TO_TRAIN:
        command = f"llmtwin-data load PATH... --collection {(params.get('collections') or ['NAME'])[0]}"
        more = f"load more texts, {tables.code(command)}, and run again."
        return f"fewer than {FEWEST_TO_TRAIN} pairs to train on", more
    return "", REVIEW


def _made_of(rows: pd.DataFrame) -> str:
    counts = rows.language.replace("und", "language unclear").value_counts()
    words = [f"{language} {count:,}" for language, count in counts.head(4).items()]
    words += [f"{len(counts) - 4} more languages"] if len(counts) > 4 else []
    return f"({', '.join(words)}; {counted(rows.author.nunique(), 'author')})"


def _weak_words(fields: Mapping[str, Any], train: pd.DataFrame, test: pd.DataFrame) -> str:
    """Return what is thin, and what could not be measured."""
    ranks = pd.concat([train, test]).grounding_rank.dropna()
    first = f"{int((ranks == 1).sum()):,} of {len(ranks):,} find their own content first"
    words, rare = [first] if len(ranks) else [], train.language.replace("und", "unclear").value_counts()
    thin = [f"{language} with {count:,}" for language, count in rare.items() if count < FEWEST_OF_A_KIND]
    thin += [f"the test side with {len(test):,}"] if 0 < len(test) < FEWEST_OF_A_KIND else []
    words += [f"thin: {', '.join(thin)}"] if thin and len(train) >= FEWEST_OF_A_KIND else []
    unmeasured = (fields.get("totals") or {}).get("measured", {}).get("nothing", 0)
    words += [f"not measured: {counted(unmeasured, 'pair')}"] if unmeasured else ["all were measured"]
    return f"{words[0][0].upper()}{'; '.join(words)[1:]}."


def _first_screen(fields: Mapping[str, Any], rows: pd.DataFrame, run: RunFolder) -> Iterator[tables.Display]:
    """Yield what one decides by: the verdict, alarms, the next step, a typical and a weak pair, the fates."""
    verdict = verdict_of(fields, rows)
    words = Markup("<p><b>{}</b></p>").format(verdict.sentences[0])
    words += Markup("").join(Markup("<p>{}</p>").format(sentence) for sentence in verdict.sentences[1:])
    yield tables.show_note(words, level="good" if verdict.ready else "bad")
    if alarms := fields.get("alarms"):
        yield tables.show_alarms([Alarm(**it) for it in alarms])
    elif problem := fields.get("problem"):
        yield tables.Display(Markup("<pre>{}</pre>").format(problem))
    links = [Markup('<a href="{}">{}</a>').format(*link) for link in _links(run)]
    words = render_markdown(f"**Next:** {verdict.next_step}")
    yield tables.Display(words + (Markup("<p>{}</p>").format(Markup(" · ").join(links)) if links else ""))
    ranked, weakness = _from_the_weakest(rows, fields.get("params") or {})
    # Of one pair the weakest is the typical one.
    places = {"A typical pair": len(rows) // 2, f"The weakest{weakness}": 0}
    for title, place in list(places.items())[: len(rows)]:
        yield tables.Display(Markup("<h3>{}</h3>").format(title))
        yield tables.show_pairs(dataset_rows(run, ids=[ranked.id.iloc[place]]), most=SHOWN_CHARS)
    # Before anything was decided there may be none; what is published came out of one.
    is_there = len(rows) or run.ledger_file.exists()
    ledger = read_fates(run) if is_there else pd.DataFrame(columns=["state"])
    # Where nothing was decided yet, an answer says no more than that it came.
    if len(rows) or (ledger.state == "rejected").any():
        yield tables.show_fates(ledger)
    if measured := (fields.get("totals") or {}).get("measured"):
        yield tables.show_note(measured_words(measured), level="plain")
    # Forecasts have tables of their own.
    notes = fields.get("notes", fields.get("told")) or ()
    yield from (tables.show_note(line) for line in notes if not line.startswith("Forecast"))
    if failed := (fields.get("totals") or {}).get("failed"):
        lost = counted(failed, "instruction")
        yield tables.show_note(f"{lost} failed for good; --retry-failed asks again.")


def _from_the_weakest(rows: pd.DataFrame, params: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """Return pairs from the one that is closest to a limit of the rules on, and in words how close it is."""
    copied = tables.copied_of(rows.reindex(columns=["copied_instruction", "copied_content"]))
    rows = rows.assign(copied=copied)
    measures = {"grounding": "min_grounding", "evidence": "min_evidence", "copied": "max_copied"}
    limits = {name: float(params.get(rule) or 0) for name, rule in measures.items() if name in rows}
    limits = {name: limit for name, limit in limits.items() if 0 < limit < 1}
    room = pd.DataFrame({
        name: (limit - rows[name]) / limit if name == "copied" else (rows[name] - limit) / (1 - limit)
        for name, limit in limits.items()
    }).astype(float)  # fmt: skip
    if room.dropna(how="all").empty:
        return rows, ""
    ranked = rows.assign(room=room.min(axis=1)).sort_values(["room", "id"])
    name = str(room.loc[ranked.index[0]].idxmin())
    bound = "most" if name == "copied" else "least"
    closest = f"{name} {ranked[name].iloc[0]:.2f}"
    return ranked, f": {closest}, where the rules ask for at {bound} {limits[name]:.2f}"


def _links(run: RunFolder) -> Iterator[tuple[str, str]]:
    if run.pairs.exists():
        yield run.pairs.name, "every pair, to read"
    with suppress(OSError, ValueError, AttributeError):
        url = str(json.loads((run.path / "comet.json").read_bytes()).get("url", ""))
        if url.startswith(("https://", "http://")):
            yield url, "experiment on Comet"


def _changes(counts: Mapping[str, Any]) -> pd.DataFrame:
    rows = [(kind, counts.get(kind, 0), meaning) for kind, meaning in CHANGES.items()]
    return pd.DataFrame(rows, columns=["change", "instructions", "meaning"])


def _reproduction(fields: Mapping[str, Any], run: RunFolder) -> Page:
    manifest = run.dataset / "manifest.json"
    files = read_manifest(manifest).files if manifest.exists() else {}
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
    return Page("How to make it again", html, folded=True)


def compare_report(run_dirs: Sequence[Path]) -> Path:
    """Write one report about several runs, into the folder that they have in common."""
    paths = [path.absolute() for path in run_dirs]
    beside = Path(os.path.commonpath(paths))
    runs = {f"run {number}": RunFolder(path) for number, path in enumerate(paths, start=1)}
    fields = {name: run.read() for name, run in runs.items()}
    rows = {name: dataset_rows(run).set_index("id", drop=False) for name, run in runs.items()}
    known = pd.DataFrame([values.get("params") or {} for values in fields.values()], dtype=object)
    texts = known.drop(columns="run_dir", errors="ignore").map(lambda value: json.dumps(value).strip('"'))
    differing = texts.loc[:, texts.nunique() > 1]
    differing = differing.assign(run=list(fields), folder=[os.path.relpath(path, beside) for path in paths])
    params = tables.show(differing, "Params that differ", as_given=True)
    outcomes = tables.show(_outcomes(fields, rows), "Totals and mean measures")
    outcomes = tables.join_displays([outcomes, tables.show_note(SHARED, level="plain")])
    first, *others = runs
    changes = [_changes_page(first, other, runs, rows) for other in others]
    # The links hold wherever the folders are moved together.
    links = Markup(" · ").join(
        Markup('<a href="{}">Report of {}</a>').format(quote(os.path.relpath(run.report, beside)), name)
        for name, run in runs.items()
        if run.report.exists()
    )
    complete = all(values.get("state") == "complete" for values in fields.values())
    html = tables.render_page(
        title=f"{counted(len(fields), 'run')} compared",
        state="complete" if complete else "not all complete",
        subtitle=" · ".join(dict.fromkeys(str(each.get("dataset_name", "")) for each in fields.values())),
        notices=[links] if links else [],
        pages=[Page("The runs", params.html), Page("What came out", outcomes.html), *changes],
    )
    write_atomically(beside / FILE_NAME, html)
    return beside / FILE_NAME


def _outcomes(fields: Mapping[str, Mapping[str, Any]], rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return totals and mean measures, one column a run."""
    table = {}
    for run, values in fields.items():
        totals = {name.replace("_usd", ", USD"): (values.get("totals") or {}).get(name) for name in TOTALS}
        means = {f"{words}, mean": rows[run][measure].mean() for measure, words in MEANS.items()}
        ranks = rows[run].grounding_rank.dropna()
        first = {"share that finds its own content first": float((ranks == 1).mean())}
        known = totals | means | first
        table[run] = {name: tables.format_value(value, column=name) for name, value in known.items()}
    return pd.DataFrame(table).rename_axis("what")


def _changes_page(
    first: str, other: str, runs: Mapping[str, RunFolder], rows: Mapping[str, pd.DataFrame]
) -> Page:
    """Return what became of one run's dataset in another's, by the words of `llmtwin-data diff`."""
    title = f"From {first} to {other}"
    if empty := [name for name in (first, other) if not (runs[name].dataset / "manifest.json").exists()]:
        return Page(title, tables.show_note(f"Nothing was published by {' and '.join(empty)}.").html)
    diff = diff_datasets(runs[first].path, runs[other].path)
    reworded = diff.id[(diff.kind == "changed") & diff.id.isin(rows[first].index)].tolist()
    spread = reworded[:: max(1, len(reworded) // SHOWN_CHANGES)][:SHOWN_CHANGES]
    parts = [tables.show(_changes(count_changes(diff)), "Instructions of the two runs")]
    for row_id in spread:
        # The content is that of the later run, which may have changed with the wording.
        words = [rows[name].instruction[row_id] for name in (first, other)]
        both = rows[other].loc[[row_id, row_id]].assign(run=[first, other], instruction=words)
        parts.append(tables.show_instructions(both, by="run"))
    return Page(title, tables.join_displays(parts).html)
