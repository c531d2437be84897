"""What differs between two datasets: added, removed, changed and moved instructions."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmtwin_data.datasets.ledgers import read_ledger
from llmtwin_data.datasets.manifests import read_manifest
from llmtwin_data.datasets.rows import place_of_row, stored_sides
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.generation.pairs import Place, row_id

# Lines of each kind that a printed difference shows.
MOST = 20


@dataclass(frozen=True, slots=True)
class Version:
    """One dataset, reduced to what a comparison needs.

    ``rows`` holds side and the hashes of instruction and content; ``fates`` what the ledger beside it says
    of the instructions that have no row, empty where there is no ledger.
    """

    manifest_sha256: str
    rows: dict[Place, tuple[str, str, str]]
    fates: dict[Place, str]

    def as_json(self) -> str:
        """Give what `parse_version` reads: a run keeps it, since the dataset itself may be deleted."""
        rows = [[*place, *found] for place, found in self.rows.items()]
        fates = [[*place, fate] for place, fate in self.fates.items()]
        return json.dumps({"manifest_sha256": self.manifest_sha256, "rows": rows, "fates": fates})


@dataclass(frozen=True, slots=True)
class Change:
    """One instruction that two datasets do not agree on; ``what`` names what changed in it."""

    id: str
    place: Place
    before: str
    after: str
    what: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """How one dataset differs from an earlier one.

    Added and removed instructions belong to chunks that only one dataset knows; changed ones have another
    text; moved ones the same text, but another side or state, because the rest of the collection changed.
    """

    against: str
    added: list[Change] = field(default_factory=list)
    removed: list[Change] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    moved: list[Change] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(getattr(self, kind)) for kind in ("added", "removed", "changed", "moved")}

    def as_fields(self) -> dict[str, Any]:
        """Give what run.json says of it: the counts, and where moved rows went."""
        moved = [{"id": change.id, "before": change.before, "after": change.after} for change in self.moved]
        return {"against": self.against} | self.counts | {"moved_rows": moved}

    def __str__(self) -> str:
        return "\n".join(_diff_lines(self))


def diff_datasets(a: Path, b: Path) -> Diff:
    """Tell what became of ``a`` in ``b``, each given as run folder, dataset folder or manifest."""
    return diff_versions(read_version(a), read_version(b))


def read_version(path: Path) -> Version:
    """Read what a comparison needs; do so before a run replaces the dataset in the same folder."""
    dataset = dataset_folder(Path(path))
    manifest = read_manifest(dataset / "manifest.json")
    if not (dataset / "train.jsonl").is_file():
        raise ParamsError(
            f"{dataset}: expected the dataset that its manifest.json names, found no train.jsonl"
        )
    rows = {
        place_of_row(row): (side, _digest(row["instruction"]), _digest(row["content"]))
        for side, stored in stored_sides(dataset).items()
        for row in stored
    }
    ledger = dataset.with_name("ledger.jsonl")
    known = read_ledger(ledger) if ledger.is_file() else []
    fates = {row.place: f"{row.state}: {row.reason}" for row in known if row.state != "accepted"}
    return Version(manifest.sha256, rows, fates)


def parse_version(text: str) -> Version:
    """Read what `Version.as_json` gave; DiskFailed where it is something else."""
    try:
        found = json.loads(text)
        rows = {_place(row): (row[5], row[6], row[7]) for row in found["rows"]}
        return Version(found["manifest_sha256"], rows, {_place(row): row[5] for row in found["fates"]})
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise DiskFailed(f"expected the version of a dataset, found something else ({error})") from error


def diff_versions(before: Version, after: Version) -> Diff:
    """Compare two versions that were read before."""
    diff = Diff(before.manifest_sha256)
    for place in sorted(before.rows.keys() | after.rows.keys()):
        kind, change = _change(place, before, after)
        if change:
            getattr(diff, kind).append(change)
    _pair_up(diff)
    return diff


def dataset_folder(path: Path) -> Path:
    """Give the dataset that a run folder, a dataset folder or a manifest stands for."""
    if path.name == "manifest.json":
        return path.parent
    return path / "dataset" if (path / "dataset").is_dir() else path


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _place(row: list[Any]) -> Place:
    collection, content_id, start, end, k, *_ = row
    return collection, content_id, start, end, k


def _change(place: Place, before: Version, after: Version) -> tuple[str, Change | None]:
    old, new = before.rows.get(place), after.rows.get(place)
    if old and new:
        what = ", ".join(name for name, i in (("instruction", 1), ("content", 2)) if old[i] != new[i])
        kind = "changed" if what else "moved"
        return kind, Change(row_id(place), place, old[0], new[0], what) if old != new else None
    was = old[0] if old else before.fates.get(place, "")
    becomes = new[0] if new else after.fates.get(place, "")
    kind = "moved" if was and becomes else "added" if new else "removed"
    return kind, Change(row_id(place), place, was, becomes)


def _pair_up(diff: Diff) -> None:
    """Make a removed and an added one of one content a changed one: an edited text has other offsets."""
    waiting: dict[tuple[str, str, int], list[Change]] = defaultdict(list)
    for change in reversed(diff.removed):
        waiting[_slot(change)].append(change)
    added, paired = [], set()
    for change in diff.added:
        if olds := waiting[_slot(change)]:
            old = olds.pop()
            paired.add(old.id)
            diff.changed.append(Change(change.id, change.place, old.before, change.after, "content"))
        else:
            added.append(change)
    diff.added[:] = added
    diff.removed[:] = [change for change in diff.removed if change.id not in paired]


def _slot(change: Change) -> tuple[str, str, int]:
    collection, content_id, _, _, k = change.place
    return collection, content_id, k


def _diff_lines(diff: Diff) -> Iterator[str]:
    yield "  ".join(f"{kind} {number}" for kind, number in diff.counts.items())
    for kind in diff.counts:
        changes: Sequence[Change] = getattr(diff, kind)
        for change in changes[:MOST]:
            collection, content_id, start, end, k = change.place
            fate = " -> ".join(dict.fromkeys(filter(None, (change.before, change.after))))
            place = f"{collection}/{content_id} {start}-{end} #{k}"
            yield f"{kind:8} {change.id}  {place}  {fate} {change.what}".rstrip()
        if len(changes) > MOST:
            yield f"{kind:8} and {len(changes) - MOST} more"
