"""What is checked before a kernel starts: notebooks, templates and addresses that the params name."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmtwin_data.errors import EndpointDown, LlmTwinError, ParamsError
from llmtwin_data.folders import PROJECT_ROOT, PROMPTS
from llmtwin_data.params import Params
from llmtwin_data.prompts.templates import load_template

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


def check_before(settings: Params, notebooks: list[Path]) -> None:
    """Raise ParamsError for what would only show after the kernel has started, or after money is spent."""
    for notebook in notebooks:
        unknown = settings.given().keys() - parameters_of(notebook).keys()
        if unknown:
            raise ParamsError(
                f"{notebook.name}: its parameters cell does not have {', '.join(sorted(unknown))}"
            )
    for name in {settings.prompt, *settings.prompts}:
        load_template(name, folder=PROMPTS, kind="instructions")
    if settings.endpoint not in ("", "embedded"):
        from llmtwin_data.endpoints import normal_url

        normal_url(settings.endpoint)
    if settings.previous:
        from llmtwin_data.generator.previous import previous_sides

        previous_sides(settings, "")
    if settings.min_judge_score and not settings.judge_model:
        raise ParamsError(
            "min_judge_score: expected 0 without a judge_model, for there is no verdict to compare"
        )


def proxy_note(environ: Mapping[str, str]) -> str:
    """Say which proxy variables are set, since none is used; empty if none is."""
    found = [name for name in PROXY_VARIABLES if environ.get(name) or environ.get(name.lower())]
    return f"{', '.join(found)} set, but not used: requests go straight to the endpoint" if found else ""


def unreachable_endpoint(settings: Params, *, environ: Mapping[str, str]) -> str:
    """Say why the endpoint cannot be asked; empty if it can, or if every answer is stored already."""
    from llmtwin_data.endpoints import address_of, unreachable_text
    from llmtwin_data.endpoints.connections import unreachable

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
