"""The environment, read once at the edges: addresses and secrets, and how secrets are kept out of texts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmtwin_data.folders import PROJECT_ROOT

# Names another file than .env of the project's root; empty reads none, as the tests do.
ENV_FILE = "LLMTWIN_ENV_FILE"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
# Shorter values would blacken ordinary words of a text.
_SHORTEST_SECRET = 6


def read_environ() -> dict[str, str]:
    """Give the process's environment over what ``.env`` sets; an empty variable counts as not set."""
    from dotenv import dotenv_values

    place = os.environ.get(ENV_FILE, str(PROJECT_ROOT / ".env"))
    stored = dotenv_values(place) if place and Path(place).is_file() else {}
    merged = {key: value for key, value in stored.items() if value} | dict(os.environ)
    return {key: value for key, value in merged.items() if value}


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Give the values that must never appear in a file, longest first."""
    found = {value for key, value in environ.items() if _SECRET_NAME.search(key)}
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Give the text without these values; the mark shows nothing of them."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return text
