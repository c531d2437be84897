"""What is done before a kernel starts: notebooks, templates and addresses checked, and the dry run."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmtwin_data.endpoints import (
    address_of,
    checked_address,
    shutdown_note,
    told_endpoint,
    unreachable_text,
)
from llmtwin_data.endpoints.connections import unreachable
from llmtwin_data.errors import BudgetReached, EndpointDown, LlmTwinError, ParamsError
from llmtwin_data.folders import PROJECT_ROOT, PROMPTS
from llmtwin_data.params import Params
from llmtwin_data.prices import Forecast, add_up
from llmtwin_data.prompts.templates import load_template
from llmtwin_data.sources import open_source, source_address
from llmtwin_data.summaries.displays import format_usd
from llmtwin_data.summaries.run_tables import with_total

NOTEBOOKS = PROJECT_ROOT / "notebooks"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def notebooks_of(only: int) -> list[Path]:
    """Give the notebooks to execute, in their order; one if its number is given."""
    # The fourth is for a person who reviews pairs.
    found = sorted(NOTEBOOKS.glob(f"{only or '[1-3]'}_*.ipynb"))
    if not found:
        raise ParamsError(f"--only: expected the number of a notebook in {NOTEBOOKS.name}/, found {only}")
    return found


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Give the names and defaults in a notebook's parameters cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    lines = ast.parse("".join(tagged[0]["source"])).body if tagged else []
    return {
        line.target.id: ast.literal_eval(line.value)
        for line in lines
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value
    }


def check_before(settings: Params, notebooks: list[Path], *, environ: Mapping[str, str]) -> None:
    """Raise for what would only show after the kernel has started, or after money is spent.

    Raises
    ------
    ParamsError
        A parameter, template, address, model or manifest is not what it must be.
    KeyRejected
        The endpoint needs a key that is not set.
    SourceError
        A collection is not there.
    """
    for notebook in notebooks:
        unknown = settings.given().keys() - parameters_of(notebook).keys()
        if unknown:
            raise ParamsError(
                f"{notebook.name}: its parameters cell does not have {', '.join(sorted(unknown))}"
            )
    for name in {settings.prompt, *settings.prompts}:
        load_template(name, folder=PROMPTS, kind="instructions")
    for model in {settings.model, settings.judge_model, *settings.models}:
        checked_address(settings.endpoint, model=model, environ=environ)
    if settings.previous:
        from llmtwin_data.generator.previous import previous_sides

        previous_sides(settings, "")
    if settings.min_judge_score and not settings.judge_model:
        raise ParamsError(
            "min_judge_score: expected 0 without a judge_model, for there is no verdict to compare"
        )
    address = source_address(settings.qdrant, environ=environ)
    with open_source(address, api_key=environ.get("QDRANT_API_KEY", "")) as source:
        for name in settings.collections:
            source.count(name)


def tell_forecast(
    settings: Params, *, only: int = 0, environ: Mapping[str, str], say: Callable[[str], None], name: str = ""
) -> Iterator[Forecast]:
    """Say what the run would ask, in all its notebooks or in the only one, and what that would cost.

    Give their sum once that is said, before the limit is looked at.

    Raises
    ------
    ParamsError
        ``max_cost_usd`` does not pay for the first request, or cannot hold because the price is unknown.
    BudgetReached
        It is lower than the forecast, so that the run would stop there.
    """
    from llmtwin_data.generator import DatasetGenerator

    check_before(settings, notebooks_of(only), environ=environ)
    with tempfile.TemporaryDirectory() as folder:
        # Without the limit, which is looked at once everything is shown.
        free = replace(settings, run_dir=folder, max_cost_usd=0.0)
        with DatasetGenerator(free, environ=environ) as generator:
            forecast = generator.forecast() if only == 3 else generator.forecast_run()
            say(name + told_endpoint(generator.endpoint().identity, generator.endpoint().model))
            if note := shutdown_words(settings, environ=environ):
                say(note)
            say(with_total(forecast).astype(object).fillna("unknown").to_string(index=False))
            known = forecast.drop(columns="what").astype(object).where(forecast.notna(), None)
            yield add_up(Forecast(*row) for row in known.itertuples(index=False))
            generator.check_limit(settings.max_cost_usd, generator.fetch().chunks)
    lowest = sum(cost or 0.0 for cost in forecast["cost_usd_low"].tolist())
    if settings.max_cost_usd and lowest > settings.max_cost_usd:
        found = f"expected at least the forecast's {format_usd(lowest)} USD, found {settings.max_cost_usd:g}"
        raise BudgetReached(f"max_cost_usd: {found}; the run would stop there, to go on with a higher limit")
    say("Dry run: nothing was sent")


def proxy_note(environ: Mapping[str, str]) -> str:
    """Say which proxy variables are set, since none is used; empty if none is."""
    found = [name for name in PROXY_VARIABLES if environ.get(name) or environ.get(name.lower())]
    return f"{', '.join(found)} set, but not used: requests go straight to the endpoint" if found else ""


def shutdown_words(settings: Params, *, environ: Mapping[str, str]) -> str:
    """Say which of the models that are asked are about to be shut down; empty if none is."""
    judges = {settings.judge_model} if settings.judge_model else set()
    return shutdown_note(settings.endpoint, {settings.model, *judges, *settings.models}, environ=environ)


def unreachable_endpoint(settings: Params, *, environ: Mapping[str, str]) -> str:
    """Say why the endpoint cannot be asked; empty if it can, or if every answer is stored already."""
    address = address_of(settings.endpoint, environ)
    fault = "" if address == "embedded" else unreachable(address)
    return unreachable_text(address, fault) if fault and _must_ask(settings, environ) else ""


def _must_ask(settings: Params, environ: Mapping[str, str]) -> bool:
    from llmtwin_data.generator import DatasetGenerator

    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            DatasetGenerator(replace(settings, run_dir=folder), environ=environ) as generator,
        ):
            return bool(generator.forecast()["requests"].sum())
    except LlmTwinError as error:  # what else is wrong, the notebooks say in its place
        return error.exit_code == EndpointDown.exit_code
