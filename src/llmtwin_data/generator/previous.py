"""The dataset before this one: its manifest, whose sides the next split keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmtwin_data.datasets.manifests import Manifest, read_manifest, sides_of
from llmtwin_data.datasets.versions import dataset_folder, diff_versions, parse_version, read_version
from llmtwin_data.folders import RunFolder, resolve, write_atomically
from llmtwin_data.params import Params


def dataset_name_of(settings: Params, data_types: set[str]) -> str:
    """Name the dataset: as the params say, by its one data type, or as a twin's."""
    if settings.dataset_name:
        return settings.dataset_name
    return f"{min(data_types)}-instruct-dataset" if len(data_types) == 1 else "twin-instruct-dataset"


def previous_sides(settings: Params, name: str) -> dict[str, str]:
    """Give the side of each content in the dataset before; empty where there is none.

    Raises
    ------
    ParamsError
        ``previous`` names a file that is not there.
    DiskFailed
        What is there is not a manifest.
    """
    if settings.previous == "none":
        return {}
    path = resolve(settings.previous) if settings.previous else _remembered(settings, name)
    path = dataset_folder(path) / "manifest.json" if path.is_dir() else path
    known = bool(settings.previous) or path.exists()
    return sides_of(read_manifest(path)) if known else {}


def remember(settings: Params, manifest: Manifest, run: RunFolder) -> dict[str, Any]:
    """Keep beside the answers what was published last under this name; give what has changed since.

    Only hashes of its texts are kept, so that nothing of them is left when they are forgotten. A run that
    goes on after it had published says again what it had said, not that nothing differs from itself.
    """
    path = _remembered(settings, manifest.name)
    rows = path.with_suffix(".rows")
    after = read_version(run.dataset)
    before = parse_version(rows.read_text(encoding="utf-8")) if rows.exists() else None
    write_atomically(rows, after.as_json())
    write_atomically(path, manifest.as_json())
    if before == after and (told := run.read().get("changes")):
        return dict(told)
    return diff_versions(before, after).as_fields() if before else {}


def _remembered(settings: Params, name: str) -> Path:
    return resolve(settings.answers).parent / "published" / f"{name}.json"
