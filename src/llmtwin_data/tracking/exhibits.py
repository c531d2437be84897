"""What a finished run shows to Comet: parameters, metrics, distributions, figures, ledger and report."""

from __future__ import annotations

import base64
import csv
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

from llmtwin_data.datasets.rows import StoredRows, stored_sides
from llmtwin_data.folders import RunFolder
from llmtwin_data.measures import Measures

# A table is read in the browser; the whole ledger is among the files.
TABLE_ROWS = 10_000
LEDGER = "ledger.csv"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0")
_MEASURES = (*(field.name for field in fields(Measures)), "judge_score")


def log_run(experiment: Any, run: RunFolder, *, scratch: Path, again: bool) -> None:
    """Log a run on a started Comet experiment, all but artifacts; what is there already is replaced.

    Parameters
    ----------
    scratch
        Folder for the files made here; must stay until the experiment has ended.
    again
        The experiment holds this dataset already. Histograms cannot be replaced, so they are logged once.
    """
    recorded, values = run.read(), measured_values(run.dataset)
    experiment.log_parameters(parameters_of(recorded))
    experiment.log_metrics(totals_of(recorded) | judging_metrics(recorded) | measure_metrics(values))
    for name, found in values.items() if not again else ():
        experiment.log_histogram_3d(list(found), name=name, step=0)
    shown, total = write_ledger_table(run, scratch / LEDGER)
    experiment.log_asset(str(scratch / LEDGER), file_name=LEDGER, overwrite=True)
    experiment.log_other(LEDGER, f"{shown} of {total} rows; all are in the artifact of files")
    _log_pages(experiment, run, scratch)


def exhibit_names(run: RunFolder) -> list[str]:
    """Name the files that :func:`log_run` logs, distributions aside."""
    pages = [*sorted(run.notebooks.glob("*.ipynb")), *([run.report] if run.report.exists() else [])]
    return [LEDGER, *(path.name for path in pages), *(name for name, _ in figures_of(run.notebooks))]


def parameters_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Give the run's resolved params, lists and objects as JSON text."""
    params = run.get("params") or {}
    return {key: _plain(value) for key, value in params.items()}


def totals_of(run: Mapping[str, Any]) -> dict[str, float]:
    """Give the numbers of ``totals``, named after it."""
    totals = run.get("totals") or {}
    return {f"totals/{key}": value for key, value in totals.items() if _is_number(value)}


def judging_metrics(run: Mapping[str, Any]) -> dict[str, float]:
    """Give what judge, length and chance keep, and how each agrees with people where that is known."""
    choosers = {each["chooser"].split(",")[0]: each for each in run.get("judge") or ()}
    return {
        f"judging/{name}/{key}": value
        for name, each in choosers.items()
        for key, value in each.items()
        if _is_number(value)
    }


def measured_values(dataset: Path) -> dict[str, array[float]]:
    """Give all values of each measure over train and test; true is 1, what was not measured is left out."""
    values = {name: array("d") for name in _MEASURES}
    for rows in stored_sides(dataset).values():
        for row in rows:
            for name in _MEASURES:
                if isinstance(row.get(name), int | float):
                    values[name].append(row[name])
    return {name: found for name, found in values.items() if found}


def measure_metrics(values: Mapping[str, array[float]]) -> dict[str, float]:
    """Give mean and median of each measure, rounded as in the dataset."""
    means = {f"measures/{name}/mean": round(fmean(found), 4) for name, found in values.items()}
    return means | {f"measures/{name}/median": round(median(found), 4) for name, found in values.items()}


def figures_of(notebooks: Path) -> Iterator[tuple[str, bytes]]:
    """Give each PNG that the executed notebooks hold, named by notebook and place."""
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8")).get("cells", [])
        pictures = [
            output["data"]["image/png"] for output in _outputs(cells) if "image/png" in output.get("data", {})
        ]
        for number, picture in enumerate(pictures, start=1):
            yield f"{path.stem}-{number:02}.png", base64.b64decode("".join(picture))


def write_ledger_table(run: RunFolder, path: Path) -> tuple[int, int]:
    """Write the ledger's first rows as CSV; give rows written and rows there are.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    shown = total = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for total, row in enumerate(StoredRows(run.ledger_file), start=1):
            if total == 1:
                writer.writerow(row)
            if total <= TABLE_ROWS:
                writer.writerow(_harmless(value) for value in row.values())
                shown = total
    return shown, total


def dataset_files(run: RunFolder) -> dict[str, Path]:
    """Give every file of the dataset, and the ledger, by its path in the run folder."""
    found = [path for path in sorted(run.dataset.rglob("*")) if path.is_file()]
    return {
        path.relative_to(run.path).as_posix(): path for path in [*found, run.ledger_file] if path.exists()
    }


def _log_pages(experiment: Any, run: RunFolder, scratch: Path) -> None:
    for path in sorted(run.notebooks.glob("*.ipynb")):
        experiment.log_notebook(str(path), overwrite=True)
    for name, picture in figures_of(run.notebooks):
        (scratch / name).write_bytes(picture)
        experiment.log_image(str(scratch / name), name=name, overwrite=True)
    if run.report.exists():
        experiment.log_asset(str(run.report), file_name=run.report.name, overwrite=True)
        experiment.log_html(run.report.read_text("utf-8"), clear=True)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _outputs(cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        yield from cell.get("outputs", [])


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
