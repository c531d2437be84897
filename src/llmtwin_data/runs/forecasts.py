"""The dry run: read, count and price what a run would send, and send nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llmtwin_data.errors import BudgetReached
from llmtwin_data.params import Params
from llmtwin_data.runs import Outcome
from llmtwin_data.runs.preflight import check_before, notebooks_of
from llmtwin_data.summaries.displays import format_usd
from llmtwin_data.summaries.run_tables import with_total


def tell_forecast(
    settings: Params, *, only: int = 0, environ: Mapping[str, str], say: Callable[[str], None]
) -> Outcome:
    """Say what the run would ask, in all its notebooks or in the only one, and what that would cost.

    Raises
    ------
    ParamsError
        ``max_cost_usd`` does not pay for the first request, or cannot hold because the price is unknown.
    BudgetReached
        It is lower than the forecast, so that the run would stop there.
    """
    from llmtwin_data.generator import DatasetGenerator

    check_before(settings, notebooks_of(only))
    with tempfile.TemporaryDirectory() as folder:
        # Without the limit, which is looked at once everything is shown.
        free = replace(settings, run_dir=folder, max_cost_usd=0.0)
        with DatasetGenerator(free, environ=environ) as generator:
            forecast = generator.forecast() if only == 3 else generator.forecast_run()
            say(f"Endpoint {generator.endpoint().identity}, model {generator.endpoint().model}")
            say(with_total(forecast).to_string(index=False, na_rep="unknown"))
            generator.check_limit(settings.max_cost_usd, generator.fetch().chunks)
    lowest = sum(cost or 0.0 for cost in forecast["cost_usd_low"].tolist())
    if settings.max_cost_usd and lowest > settings.max_cost_usd:
        found = f"expected at least the forecast's {format_usd(lowest)} USD, found {settings.max_cost_usd:g}"
        raise BudgetReached(f"max_cost_usd: {found}; the run would stop there, to go on with a higher limit")
    say("Dry run: nothing was sent")
    return Outcome(0, Path(folder))
