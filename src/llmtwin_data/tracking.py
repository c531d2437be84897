"""Publish a finished run to Comet, once per dataset, and never at the cost of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing one run; ``line`` is for people."""

    state: Literal["published", "unchanged", "offline", "off", "pending", "refused"]
    line: str
    url: str = ""


def publish_run(run_dir: Path, *, environ: Mapping[str, str], mode: str = "auto") -> Publication:
    """Attach the finished run in ``run_dir`` to Comet; see DESIGN.md, *Comet*."""
    return Publication("off", f"not uploaded: comet is {mode}")
