"""Tables about a run as a whole: what was asked, what it cost against the forecast, split and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data.generation import GenerationReport
from llmtwin_data.summaries.displays import format_usd

if TYPE_CHECKING:
    import pandas


def generation_frame(report: GenerationReport) -> pandas.DataFrame:
    """Say what one call of generation did."""
    import pandas

    rows = {
        "instructions asked for": report.questions,
        "answered before, not paid again": report.answered_before,
        "answered now": report.answered,
        "failed for good": report.failed,
        "still pending": report.pending,
        "requests sent": report.requests,
        "most requests in flight": report.max_in_flight,
        "prompt tokens": report.prompt_tokens,
        "completion tokens": report.completion_tokens,
        "cost": f"{format_usd(report.cost_usd)} USD",
        "time": f"{report.seconds:,.1f} s",
    }
    if report.too_long:
        rows["batches made smaller, for the endpoint refused"] = f"{report.too_long:,} characters"
    return pandas.DataFrame({"what": list(rows), "value": list(map(_comma, rows.values()))})


def forecast_check(forecast: pandas.DataFrame, report: GenerationReport) -> pandas.DataFrame:
    """Put what was forecast beside what was needed; answers stored before cost nothing in either."""
    import pandas

    names = ("requests", "prompt_tokens", "completion_tokens")
    rows = [
        (name.replace("_", " "), _total(forecast, name), getattr(report, name))
        for name in names
        if name in forecast
    ]
    costs = [str(name) for name in forecast.columns if "cost" in str(name)]
    rows += [(f"{name.replace('_', ' ')}, USD", _total(forecast, name), report.cost_usd) for name in costs]
    return pandas.DataFrame(rows, columns=["what", "forecast", "actual"])


def files_frame(dataset: Path) -> pandas.DataFrame:
    """List the published files as the manifest knows them."""
    import pandas

    manifest = dataset / "manifest.json"
    files = json.loads(manifest.read_text(encoding="utf-8"))["files"] if manifest.exists() else {}
    rows = [
        (name, file.get("rows"), file["bytes"], file["sha256"][:12]) for name, file in sorted(files.items())
    ]
    return pandas.DataFrame(rows, columns=["file", "rows", "bytes", "sha256 begins"])


def certificate_frame(certificate: Mapping[str, Any]) -> pandas.DataFrame:
    """Lay out what the split proves about itself."""
    import pandas

    rows = [(key.replace("_", " "), _comma(value)) for key, value in certificate.items() if value != ""]
    return pandas.DataFrame(rows, columns=["statement", "value"])


def _total(forecast: pandas.DataFrame, name: str) -> float | None:
    values = forecast[name].tolist()
    return None if any(value is None or value != value for value in values) else sum(values)


def _comma(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_comma(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_comma, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
