"""What is checked before a kernel starts: notebooks, templates and addresses that the params name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROJECT_ROOT, PROMPTS
from llmtwin_data.params import Params
from llmtwin_data.prompts.templates import load_template

NOTEBOOKS = PROJECT_ROOT / "notebooks"


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
        load_template(name, folder=PROMPTS)
    if settings.endpoint not in ("", "embedded"):
        from llmtwin_data.endpoints import normal_url

        normal_url(settings.endpoint)
    if settings.min_judge_score and not settings.judge_model:
        raise ParamsError(
            "min_judge_score: expected 0 without a judge_model, for there is no verdict to compare"
        )
