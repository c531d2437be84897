"""Several runs in one report: params that differ, what came out, and the pairs that changed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas
from markupsafe import Markup

from llmtwin_data.datasets.versions import diff_datasets
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder, write_atomically
from llmtwin_data.reports.notebook_pages import Page
from llmtwin_data.reports.report_pages import changes_frame, dataset_rows, grounded_first
from llmtwin_data.summaries.displays import (
    Display,
    format_value,
    join_displays,
    render_page,
    show_note,
    show_table,
)
from llmtwin_data.summaries.sidebyside import show_wordings

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
    totals = show_table(outcome_frame(fields, rows), "Totals and mean measures")
    pages = [
        _page("The runs", "params", show_table(differ, "Params that differ", as_given=True)),
        _page("What came out", "outcome", join_displays([totals, show_note(SHARED, level="plain")])),
        *(_changes_page(first, other, runs, rows) for other in others),
    ]
    complete = all(values.get("state") == "complete" for values in fields.values())
    return {
        "title": f"{len(fields)} runs compared",
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
    reworded = [change.id for change in diff.changed if change.id in rows[first]]
    shown = [
        show_wordings(rows[other][i], {name: rows[name][i]["instruction"] for name in (first, other)})
        for i in reworded[:: max(1, len(reworded) // SHOWN_CHANGES)][:SHOWN_CHANGES]
    ]
    table = show_table(changes_frame(diff.counts), "Instructions of the two runs")
    return _page(title, anchor, join_displays([table, *shown]))


def _page(title: str, anchor: str, display: Display) -> Page:
    return Page(title, anchor, html=display.html)


def _fields(run: RunFolder) -> dict[str, Any]:
    if not run.run_file.exists():
        raise ParamsError(f"{run.path} holds no run.json; give the folder of a run, such as runs/demo/latest")
    return run.read()


def _mean(rows: Rows, measure: str) -> float | None:
    known = [float(row[measure]) for row in rows.values() if row.get(measure) is not None]
    return sum(known) / len(known) if known else None
