"""Instruction datasets from your own texts, made by notebooks that call this package."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def load_ipython_extension(shell: Any) -> None:
    """Let a kernel say what to run first where a name is missing; those of make's ``.venv`` load this."""

    def hint(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
        error.add_note("Is it made in a cell above? Run that first: menu Run, Run All Above Selected Cell.")
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), hint)
