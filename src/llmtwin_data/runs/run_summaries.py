"""What came out of a run, in the few lines that its command ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmtwin_data.folders import RunFolder, told
from llmtwin_data.prices import Forecast, add_up
from llmtwin_data.summaries.run_tables import REFINED, forecast_words, spent


def summary_lines(run: RunFolder, *, seconds: float) -> Iterator[str]:
    """Say where the report is, what was read, accepted and rejected, and what it took."""
    fields = run.read()
    yield f"Report: {told(run.report)}"
    if "totals" in fields:
        yield from _fates(run, fields["totals"])
    forecast = [Forecast(**row) for step, row in fields.get("forecast", {}).items() if step != REFINED]
    if any(row.requests for row in forecast):
        yield f"Forecast: {forecast_words(add_up(forecast))}"
    asked = fields.get("asked", {})
    yield (_requests(asked) if asked else "0 requests sent") + f", {_time(seconds)}"


def _fates(run: RunFolder, totals: dict[str, Any]) -> Iterator[str]:
    from llmtwin_data.datasets.ledgers import read_ledger

    reasons: dict[str, Counter[str]] = {state: Counter() for state in ("rejected", "failed", "skipped")}
    for row in read_ledger(run.ledger_file):
        if row.state in reasons:
            reasons[row.state][row.reason] += 1
    yield f"Read {totals['contents']} contents in {totals['chunks']} chunks"
    yield f"Accepted {totals['accepted']} pairs"
    for state, counts in reasons.items():
        told = ", ".join(f"{reason} {number}" for reason, number in counts.most_common())
        yield f"{state.capitalize()} {totals[state]}" + (f": {told}" if told else "")
    if totals.get("pending"):
        yield f"Pending {totals['pending']}"


def _requests(asked: dict[str, dict[str, Any]]) -> str:
    total = spent(asked.values())
    if not total["requests"]:
        return "0 requests sent: every answer was already stored"
    cost = "cost unknown" if total["cost_usd"] is None else f"{total['cost_usd']:.4f} USD"
    return f"{total['requests']} requests sent, {total['tokens']} tokens, {cost}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
