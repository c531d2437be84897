"""The manifest of a dataset: its files with their hashes, its sides and certificate; no time, cost, path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.rows import SIDES
from llmtwin_data.errors import DiskFailed, ParamsError


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dataset is made of; written last, so that its existence means that the rest is whole.

    ``screened`` holds how often which kind of secret and of personal data was found in the contents and what
    became of it; manifests from before it was counted have none. ``ledger_sha256`` is that of the ledger's
    fates: what the answers cost may differ after a retry, and nothing in a dataset may depend on that.
    """

    name: str
    counts: dict[str, int]
    files: dict[str, dict[str, Any]]
    sides: dict[str, list[str]]
    certificate: dict[str, Any]
    rules: dict[str, Any]
    ledger_sha256: str
    notes: list[str]
    screened: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def as_json(self) -> str:
        """Give the text of manifest.json."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """The hash of manifest.json, which names the dataset in all its bytes."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.json.

    Raises
    ------
    ParamsError
        No such file.
    DiskFailed
        It is not a manifest.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: expected a manifest.json, found no such file")
    try:
        return Manifest(**json.loads(path.read_bytes()))
    except (TypeError, ValueError) as error:
        raise DiskFailed(f"{path.name}: expected a manifest of this version, {error}") from error


def sides_of(manifest: Manifest) -> dict[str, str]:
    """Give the side of each content: what ``previous`` of the next split is."""
    return {content: side for side in SIDES for content in manifest.sides[side]}


def file_entry(path: Path) -> dict[str, Any]:
    """Give sha256 and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def hashed_write(path: Path, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Write a file piece by piece and give its entry; `folders.publish_folder` makes it durable later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            size += file.write(piece)
    return {"sha256": digest.hexdigest(), "bytes": size}
