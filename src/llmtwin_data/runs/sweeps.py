"""Several studies in one command: params files, and sweep files that vary the values of one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import PROJECT_ROOT
from llmtwin_data.params import Params, make_params, with_overrides
from llmtwin_data.strict_yaml import read_mapping

# Runs of one sweep; each is a whole run, so more is rather a mistake.
MOST_RUNS = 64


@dataclass(frozen=True, slots=True)
class Study:
    """One run to be made: its params and what it varies, and how the command line wants it done."""

    stem: str
    settings: Params
    varied: str = ""
    only: int = 0  # the number of the one notebook to execute
    out: Path | None = None  # a new folder under runs/<stem> where none is given
    retry_failed: bool = False

    @property
    def name(self) -> str:
        """Name it among others: its file's stem, and what it varies."""
        return f"{self.stem} {self.varied}".strip()


def studies_of(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> list[Study]:
    """Give the one study of a params file, or those of a sweep file, every combination one.

    A sweep file holds ``params``, the path of a params file beside it or from the project's root, and
    ``vary``, lists of values by key.

    Raises
    ------
    ParamsError
        As for params; every combination is checked before the first run.
    """
    values = read_mapping(path)
    if "vary" not in values:
        settings = make_params(with_overrides(values, overrides), place=str(path))
        return [Study(path.stem, settings)]
    base = read_mapping(_base_of(path, values))
    given = list(overrides)
    return [
        Study(path.stem, make_params(with_overrides(base | choice, given), place=str(path)), _words(choice))
        for choice in _choices(path, values["vary"])
    ]


def _base_of(path: Path, values: dict[str, Any]) -> Path:
    if set(values) != {"params", "vary"} or not isinstance(values["params"], str):
        raise ParamsError(
            f"{path}: a sweep file has the keys params (a path) and vary, found {sorted(values)}"
        )
    beside = path.parent / values["params"]
    return beside if beside.is_file() else PROJECT_ROOT / values["params"]


def _choices(path: Path, vary: Any) -> Iterator[dict[str, Any]]:
    lists = vary if isinstance(vary, dict) else {}
    if not lists or not all(isinstance(items, list) and items for items in lists.values()):
        raise ParamsError(f"{path}: vary must hold lists of values by key, such as temperature: [0.0, 0.7]")
    combinations = list(itertools.product(*lists.values()))
    if len(combinations) > MOST_RUNS:
        raise ParamsError(f"{path}: expected at most {MOST_RUNS} combinations, found {len(combinations)}")
    for combination in combinations:
        yield dict(zip(lists, combination, strict=True))


def _words(choice: dict[str, Any]) -> str:
    """Say what a study varies, in characters that any file system takes."""
    words = "_".join(f"{key}-{value}" for key, value in choice.items())
    return re.sub(r"[^A-Za-z0-9._-]+", "-", words)[:80].strip("-")
