"""Measures, alarms, duplicates, leaks and secrets over anyone's instruction dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmtwin_data.contents import Content


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Findings (one line each, beginning with the name), the table behind them, the report's path."""

    findings: list[str] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None


def audit(dataset: Path, *, contents: Iterable[Content] | None, out_dir: Path) -> AuditResult:
    """Audit a JSON, JSONL or Parquet dataset, or a folder with train.* and test.*."""
    raise NotImplementedError
