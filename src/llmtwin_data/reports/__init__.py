"""The report of a run: one file for people, made from run.json, dataset, ledger and executed notebooks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
from markupsafe import Markup

from llmtwin_data.contents import SKIPPED
from llmtwin_data.curation import REASONS
from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.folders import RunFolder, write_atomically
from llmtwin_data.reports.compare_reports import compare_report as compare_report
from llmtwin_data.reports.notebook_pages import Page, read_page, render_markdown
from llmtwin_data.reports.report_pages import (
    changes_frame,
    dataset_rows,
    format_seconds,
    grounded_first,
)
from llmtwin_data.summaries.conclusions import SMALL_MODEL
from llmtwin_data.summaries.displays import (
    Display,
    format_usd,
    format_value,
    join_displays,
    render_page,
    show_note,
    show_table,
)
from llmtwin_data.summaries.sidebyside import Row, show_rows

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
        yield show_note(f"{failed:,} instructions failed for good; --retry-failed asks for them again.")


def _alarms(notebooks: Sequence[Page]) -> Iterator[Display]:
    """Point at the alarms that a notebook shows, where `quality_gate` let the run go on."""
    if any('class="lt-note lt-bad"' in page.html for page in notebooks):
        yield show_note("An alarm was raised: read it in the last notebook before training on this.")


def _opening(fields: Mapping[str, Any], rows: Sequence[dict[str, Any]], run: RunFolder) -> Page:
    shown = show_rows([Row.of(row) for row in _typical(rows)], empty="Nothing was published.")
    table = show_table(_fates(run), "What became of everything read", empty="The ledger is empty.")
    counts = fields.get("changes") or {}
    changes = show_table(changes_frame(counts), "Against the dataset published before this one")
    parts = [table, *([changes] if counts else []), shown]
    return Page("What came out", "outcome", html=join_displays(parts).html)


def _typical(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose rows of the middle of the dataset by grounding: neither its best nor its worst."""
    ranked = sorted(rows, key=lambda row: (row.get("grounding_margin") or 0, row["id"]))
    parts = SHOWN_PAIRS + 1
    positions = sorted({len(ranked) * part // parts for part in range(1, parts)}, reverse=True)
    return [ranked[position] for position in positions] if ranked else []


def _fates(run: RunFolder) -> pandas.DataFrame:
    ledger = read_ledger(run.ledger_file) if run.ledger_file.exists() else []
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
