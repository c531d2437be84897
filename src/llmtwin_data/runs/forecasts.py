"""The dry run: read, count and price what a run would send, and send nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llmtwin_data.errors import ParamsError
from llmtwin_data.params import Params
from llmtwin_data.runs import Outcome
from llmtwin_data.runs.preflight import check_before, notebooks_of


def tell_forecast(settings: Params, *, environ: Mapping[str, str], say: Callable[[str], None]) -> Outcome:
    """Say what generating would take; a budget below the lowest estimate is an error.

    Raises
    ------
    ParamsError
        ``max_cost_usd`` is lower than the forecast, or cannot hold because the price is unknown.
    """
    from llmtwin_data.generator import DatasetGenerator

    check_before(settings, notebooks_of(0))
    with tempfile.TemporaryDirectory() as folder:
        with DatasetGenerator(replace(settings, run_dir=folder), environ=environ) as generator:
            forecast = generator.forecast()
            say(f"Endpoint {generator.endpoint().identity}, model {generator.endpoint().model}")
        say(forecast.to_string(index=False) if len(forecast) else "Nothing to ask.")
    lowest = forecast["cost_usd_low"].tolist() if len(forecast) else []
    _check_budget(settings.max_cost_usd, lowest)
    say("Dry run: nothing was sent")
    return Outcome(0, Path(folder))


def _check_budget(limit: float, lowest: list[float | None]) -> None:
    if not limit:
        return
    if any(cost is None or cost != cost for cost in lowest):
        prices = "usd_per_million_input and usd_per_million_output"
        raise ParamsError(f"max_cost_usd: the price is unknown, so no limit can hold; give {prices}")
    total = sum(cost for cost in lowest if cost)
    if total > limit:
        raise ParamsError(f"max_cost_usd: expected at least the forecast's {total:.4f} USD, found {limit:g}")
