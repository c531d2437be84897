"""Tables about a run as a whole: what was asked, what it cost against the forecast, split and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtwin_data.generation import GenerationReport
from llmtwin_data.prices import Forecast
from llmtwin_data.summaries.displays import format_usd, in_usd

if TYPE_CHECKING:
    import pandas

ENDS = ("low", "high")
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
# The name under which run.json keeps what a pilot made of the forecast.
REFINED = "instructions, after the pilot"


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
    return pandas.DataFrame({"what": list(rows), "value": list(map(_comma, rows.values()))})


def forecast_words(row: Forecast) -> str:
    """Say in a line what is still to be asked, and what it will cost."""
    if not row.requests:
        return "nothing, every answer is stored"
    tokens = f"{row.prompt_tokens:,} tokens in, {row.completion_tokens:,} out"
    cost = f"{_range(row.cost_usd_low, row.cost_usd_high)} USD"
    return f"{row.requests:,} requests, {tokens}, {'cost unknown' if row.cost_usd_high is None else cost}"


def spent(asked: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up requests, tokens, cost and time of all that was asked in a run; an unknown cost is None."""
    parts = list(asked)
    costs = [part["cost_usd"] for part in parts]
    return {
        "requests": sum(part["requests"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "reasoning_tokens": sum(part.get("reasoning_tokens", 0) for part in parts),
        "cost_usd": None if None in costs else round(sum(costs), 6),
        "generation_seconds": round(sum(part.get("seconds", 0.0) for part in parts), 3),
    }


def with_total(forecast: pandas.DataFrame) -> pandas.DataFrame:
    """Give a forecast with a last row that adds up what is to be sent, a cost only where all are known."""
    import pandas

    if len(forecast) < 2:
        return forecast
    total: dict[str, Any] = dict.fromkeys(map(str, forecast.columns), "") | {"what": "total"}
    for name in ("requests", "prompt_tokens", "completion_tokens", "cost_usd_low", "cost_usd_high"):
        total[name] = None if forecast[name].isna().any() else sum(forecast[name].tolist())
    return pandas.DataFrame([*forecast.astype(object).to_dict("records"), total])


def by_step(forecast: pandas.DataFrame, *, total: bool = False) -> pandas.DataFrame:
    """Add a forecast up for people, one row a step, at wish with a last row for all of them."""
    import pandas

    rows = [_step(str(name), group) for name, group in forecast.groupby("what", sort=False)]
    return pandas.DataFrame([*rows, *([_step("all", forecast)] if total and len(rows) > 1 else [])])


def _step(name: str, rows: pandas.DataFrame) -> dict[str, Any]:
    totals = {key: int(rows[key].sum()) for key in ("requests", "prompt_tokens", "completion_tokens")}
    costs = [
        None if rows[f"cost_usd_{end}"].isna().any() else float(rows[f"cost_usd_{end}"].sum()) for end in ENDS
    ]
    return {"what": name} | totals | {"cost, USD": _range(*costs)}


def forecast_check(fields: Mapping[str, Any]) -> pandas.DataFrame:
    """Put what run.json holds as forecast beside what was asked; stored answers cost nothing in either."""
    import pandas

    steps = {name: Forecast(**row) for name, row in fields.get("forecast", {}).items()}
    pilot = steps.pop(REFINED, None)
    asked: dict[str, list[Mapping[str, Any]]] = {}
    for name, part in fields.get("asked", {}).items():
        asked.setdefault(name.split(":")[0], []).append(part)
    names = dict.fromkeys([*steps, *asked])
    rows = [_checked(name, steps.get(name), asked.get(name, [])) for name in names]
    if pilot is not None:
        rows.append(_checked(REFINED, pilot, asked.get("instructions", [])))
    return pandas.DataFrame(rows)


def _checked(
    step: str, forecast: Forecast | None, asked: Sequence[Mapping[str, Any]]
) -> dict[str, str | int | None]:
    total = spent(asked)
    tokens = forecast.prompt_tokens + forecast.completion_tokens if forecast else None
    return {
        "step": step,
        "requests forecast": forecast.requests if forecast else None,
        "requests sent": total["requests"],
        "tokens forecast": tokens,
        "tokens used": total["tokens"],
        "forecast, USD": _range(forecast.cost_usd_low, forecast.cost_usd_high) if forecast else "",
        "paid, USD": format_usd(total["cost_usd"]),
    }


def _range(low: float | None, high: float | None) -> str:
    return format_usd(low) if low == high else f"{format_usd(low)} to {format_usd(high)}"


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

    rows = [
        (STATEMENTS.get(key, key.replace("_", " ")), _comma(value))
        for key, value in certificate.items()
        if value != ""
    ]
    return pandas.DataFrame(rows, columns=["statement", "value"])


def _comma(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_comma(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_comma, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
