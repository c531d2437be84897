"""Where a row comes from, what changed between two datasets, and how something is forgotten."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from llmtwin_data.answers import QUOTED_WORDS, AnswerStore, ForgetReport, Trace, backup_of
from llmtwin_data.contents import Place, Span, places_of, row_id, rows_of
from llmtwin_data.datasets import (
    Manifest,
    Row,
    place_of_row,
    read_ledger,
    read_manifest,
    sides_of,
    stored_sides,
)
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.folders import RunFolder, disk_errors, display_path, resolve, write_atomically
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import Params
from llmtwin_data.texts import counted, forget_marks, text_sha256, windows

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
    fates: dict[Place, str] = {}
    if ledger.is_file():
        known = read_ledger(ledger)
        known = known[known.state != "accepted"]
        fates = dict(zip(places_of(known), known.state + ": " + known.reason, strict=True))
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


# Characters of a row's id that name it; reports show no more of it.
SHORTEST_PREFIX = 6


def trace(row_id: str, run_dirs: Iterable[Path], answers: AnswerStore) -> str:
    """Tell everything about a row: its origin, the exact prompt, the request, the raw answer, its measures.

    Parameters
    ----------
    row_id
        Whole, or the beginning that reports show.
    run_dirs
        Run folders, searched from the last to the first.

    Raises
    ------
    ParamsError
        No dataset among them holds the row, or several rows begin so.
    """
    folders = [Path(folder) for folder in run_dirs]
    found: dict[str, tuple[Row, str]] = {}
    for folder in reversed(folders):
        for side, row in _rows_of(RunFolder(folder).dataset):
            if row["id"] == row_id:
                return _told(row, f"{folder.name}, {side}", answers)
            if len(row_id) >= SHORTEST_PREFIX and row["id"].startswith(row_id):
                found.setdefault(row["id"], (row, f"{folder.name}, {side}"))
    if len(found) == 1:
        return _told(*found.popitem()[1], answers)
    here = (
        f"several: {', '.join(sorted(found)[:3])}" if found else f"none of {counted(len(folders), 'dataset')}"
    )
    raise ParamsError(f"trace: expected the id of a row, or how one begins, found {row_id!r} in {here}")


def _told(row: Row, place: str, answers: AnswerStore) -> str:
    return "\n".join(_trace_lines(row, place, answers.trace(row["answer_key"])))


def _rows_of(dataset: Path) -> Iterator[tuple[str, Row]]:
    if (dataset / "manifest.json").is_file():
        for side, rows in stored_sides(dataset).items():
            yield from ((side, row) for row in rows)


def _trace_lines(row: Row, found_in: str, traced: Trace | None) -> Iterator[str]:
    yield f"row {row['id']} ({found_in})"
    yield f"content {row['collection']}/{row['content_id']}, characters {row['start']} to {row['end']}"
    yield from (f"{key} {row[key] or '-'}" for key in ("author", "platform", "link", "data_type", "masked"))
    yield f"instruction {row['k']}: {row['instruction']}"
    yield f"model {row['model']}"
    yield f"prompt {row['prompt']} ({row['prompt_sha256']})"
    yield f"answer {row['answer_key']}"
    yield from _request_lines(traced, row["content"])
    yield "\n== measures"
    yield from (f"{name} {row[name]}" for name in MEASURES)
    yield f"verdict {row['judge_score'] or '-'} {row['judge_reason'] or ''}"


def _request_lines(traced: Trace | None, content: str) -> Iterator[str]:
    if traced is None:
        yield "\nrequest: not in this store of answers (another `answers` file, or forgotten)"
        return
    request = traced.request
    cost = "unknown" if request.cost_usd is None else f"{request.cost_usd:.6f} USD"
    yield f"\nrequest {request.id} {request.at}"
    yield f"attempt {request.attempt}, status {request.status}, {request.outcome}"
    yield f"answered by {request.model} {request.system_fingerprint}, {request.seconds:.1f} s, {cost}"
    texts = counted(len(traced.texts), "text")
    yield f"tokens {request.prompt_tokens} in, {request.completion_tokens} out; {texts}"
    yield from (f"this row's is content number {n}" for n, it in enumerate(traced.texts, 1) if it == content)
    if forgotten := sum(text is None for text in traced.texts):
        yield f"{forgotten} of them forgotten since, marked in the prompt by their sha256"
    for message in traced.messages:
        yield f"\n== prompt, {message['role']}\n{message['content']}"
    yield f"\n== raw answer\n{request.raw}"


FIRST_WORDS = 60  # characters
MOST_NAMED = 6
# Instructions that one chunk may have: params allow no more.
MOST_INSTRUCTIONS = 20
# Files of a run folder that hold no text of a content.
WITHOUT_TEXTS = {"run.json", "ledger.jsonl", "comet.json", "upload_pending.json", "lock"}


@dataclass(frozen=True, slots=True)
class Origin:
    """What is to be forgotten; a content by its point id, and its collection where one is named."""

    author: str = ""
    link: str = ""
    content_id: str = ""
    collection: str = ""

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is of this origin."""
        here = self.collection in ("", row["collection"])
        return bool(
            (self.author and row.get("author") == self.author)
            or (self.link and row.get("link") == self.link)
            or (self.content_id and row["content_id"] == self.content_id and here)
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A known piece of a content; ``run`` is None in the store, ``text`` empty where only a ledger tells."""

    span: Span
    text: str
    run: Path | None = None
    source: str = ""

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:FIRST_WORDS]
        place = display_path(self.run) if self.run else "the store"
        return f"{'/'.join(self.span[:2])} in {place}: {words or '(text not kept)'}"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was taken out of the store, and what a person has to do elsewhere, a line each."""

    store: ForgetReport
    reviews: int
    rows: dict[Path, int]
    elsewhere: tuple[str, ...]
    looked_at: int

    def __str__(self) -> str:
        answers, texts = counted(len(self.store.keys), "answer"), counted(len(self.store.text_sha256), "text")
        lines = [
            f"taken out of the store: {answers} and {texts}, {counted(self.reviews, 'review')}; "
            "later runs skip them as forgotten",
            f"{counted(sum(self.rows.values()), 'row')} in {counted(len(self.rows), 'dataset')} are of it or "
            "quote it: run the same study again (nothing is asked), and its new dataset holds none of them",
            "left for you to delete:",
            *(f"  {line}" for line in self.elsewhere),
            f"run folders looked at: {self.looked_at}; those outside runs/ only if --runs names them",
        ]
        return "\n".join(lines)


def forget(
    answers: AnswerStore,
    run_dirs: Iterable[Path],
    origin: Origin,
    *,
    named: Iterable[Path] = (),
    reviews: Path | None = None,
) -> Forgotten:
    """Take an author, a link or a content out of the store, so that the same study again is free of it.

    Parameters
    ----------
    run_dirs
        Every run folder there is; they stay as they are, and those that hold something of it are listed.
    named
        Those of them whose source is meant, where several sources have the content's id.
    reviews
        File of what people decided about pairs, one JSON object a line; those on it or quoting it go.

    Raises
    ------
    ParamsError
        Nothing was named, nothing is known under it, or several contents are.
    RunLocked
        A run has the store open.
    """
    runs = [RunFolder(Path(path)) for path in run_dirs]
    pieces, name = find_pieces(answers, [run.path for run in runs], origin, named=named)
    report = answers.forget(**asdict(name), texts=sorted({piece.text for piece in pieces} - {""}))
    report = replace(report, places=report.places | {piece.span for piece in pieces})
    quotes = {window for text in report.texts for window in windows(text, size=QUOTED_WORDS)}
    rows: dict[Path, int] = {}
    elsewhere: list[str] = []
    for run in runs:
        spans = {piece.span for piece in pieces if piece.run == run.path}
        count = sum(_holds(row, spans, report, quotes) for _, row in _rows_of(run.dataset))
        if count:
            rows[run.path] = count
        if count or spans or _may_have_asked(run, report):
            elsewhere += _left_in(run, count, answers.path)
    stem, suffix = answers.path.stem, answers.path.suffix
    for other in sorted({*answers.path.parent.glob(f"{stem}.*{suffix}")} - {backup_of(answers.path)}):
        path = display_path(other)
        elsewhere.append(f"{path}: another store; forget with --answers {path} as well")
    elsewhere.append("the source (Qdrant, JSONL files): later runs skip it, but do not delete it there")
    forgotten_reviews = _forget_reviews(reviews, report, quotes) if reviews and reviews.exists() else 0
    return Forgotten(report, forgotten_reviews, rows, tuple(dict.fromkeys(elsewhere)), len(runs))


def find_pieces(
    answers: AnswerStore, run_dirs: Iterable[Path], origin: Origin, *, named: Iterable[Path] = ()
) -> tuple[list[Piece], Origin]:
    """Find what would be forgotten, and the name to remember it by: none where others have the same id.

    Raises
    ------
    ParamsError
        Not one thing was named, nothing is known under it, or several contents are.
    """
    if [origin.author, origin.link, origin.content_id].count("") != 2:
        raise ParamsError("forget: expected --author, --link or --content, and one of them only")
    if origin.collection and not origin.content_id:
        raise ParamsError("--collection: expected --content beside it, found none")
    runs = [RunFolder(path) for path in run_dirs]
    stored = [Piece(row[:4], row[4] or "") for row in answers.origins(**asdict(origin))]
    texts: dict[Span, set[str]] = defaultdict(set)
    for piece in stored:
        # A judge's question stands at the same place and is longer; of a masked text the length differs.
        if piece.text and (len(piece.text) == piece.span[3] - piece.span[2] or piece.span not in texts):
            texts[piece.span].add(piece.text)
    # A ledger's rows get their text from the store where it is certain.
    certain = {span: min(held) for span, held in texts.items() if len(held) == 1}
    in_runs = [piece for run in runs for piece in _pieces_of(run, origin)]
    whole = [piece if piece.text else replace(piece, text=certain.get(piece.span, "")) for piece in in_runs]
    pieces = list(dict.fromkeys(whole + stored))
    if not pieces and forget_marks(**asdict(origin)).isdisjoint(answers.forgotten_hashes()):
        name = origin.author or origin.link or origin.content_id
        raise ParamsError(
            f"forget: nothing is known under {name!r} in {answers.path.name} and {len(runs)} run folders; "
            "a folder outside runs/ is looked at if --runs names it"
        )
    if not origin.content_id or not pieces:
        return pieces, origin
    meant = _choose(pieces, named=set(named))
    here = replace(origin, collection=meant[0].span[0])
    return meant, here if len(meant) == len(pieces) else Origin()


def _pieces_of(run: RunFolder, origin: Origin) -> Iterator[Piece]:
    source = str(resolve(run.read().get("params", {}).get("qdrant") or ".llmtwin/qdrant"))
    published = set()
    for _, row in _rows_of(run.dataset):
        if origin.matches(row):
            published.add(_span(row))
            yield Piece(_span(row), row["content"], run.path, source)
    for kept in rows_of(read_ledger(run.ledger_file)) if run.ledger_file.exists() else ():
        place = {"collection": kept.collection, "content_id": kept.content_id}
        if (
            origin.matches(place)
            and kept.reason != "forgotten"
            and (kept.collection, kept.content_id, kept.start, kept.end) not in published
        ):
            yield Piece((kept.collection, kept.content_id, kept.start, kept.end), "", run.path, source)


def _choose(pieces: Sequence[Piece], *, named: Collection[Path]) -> list[Piece]:
    """Return the pieces of the one content that is meant: ids are often numbers, which every source has.

    Raises
    ------
    ParamsError
        They are of several collections, or of several sources with different texts, and ``named`` runs do
        not say which source.
    """
    if len({piece.span[0] for piece in pieces}) > 1:
        raise _ambiguous(pieces, "name one with --collection NAME")
    texts: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        if piece.run:
            texts[piece.source] |= {piece.text} - {""}
    if not any(one.isdisjoint(other) for one, other in combinations(texts.values(), 2)):
        return list(pieces)
    meant = {piece.source for piece in pieces if piece.run in named}
    if len(meant) != 1:
        raise _ambiguous(pieces, "name a run of the one that is meant with --runs RUN_DIR")
    chosen = [piece for piece in pieces if piece.run and piece.source in meant]
    if not any(piece.text for piece in chosen):
        raise _ambiguous(pieces, "that run keeps no text to tell them apart by")
    return chosen


def _ambiguous(pieces: Sequence[Piece], how: str) -> ParamsError:
    several = len({piece.span[0] for piece in pieces}) > 1
    lines = [f"  {piece}" for piece in pieces if piece.run or several]
    more = [f"  and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    listed = "\n".join([*lines[:MOST_NAMED], *more])
    return ParamsError(
        f"--content: expected one content, found several:\n{listed}\n{how}; nothing was changed"
    )


def _span(row: Mapping[str, Any]) -> Span:
    return row["collection"], row["content_id"], row["start"], row["end"]


def _holds(row: Row, spans: AbstractSet[Span], report: ForgetReport, quotes: AbstractSet[int]) -> bool:
    """Return whether a published row is of what is forgotten, or holds a run of its words."""
    text = f"{row['content']}\n{row['instruction']}"
    return (
        _span(row) in spans
        or text_sha256(row["content"]) in report.text_sha256
        or not quotes.isdisjoint(windows(text, size=QUOTED_WORDS))
    )


def _may_have_asked(run: RunFolder, report: ForgetReport) -> bool:
    """Return whether a run asked about what is forgotten; where no ledger tells it may have."""
    if not run.ledger_file.exists():
        return True
    rows = rows_of(read_ledger(run.ledger_file))
    return any((row.collection, row.content_id) in report.contents for row in rows)


def _left_in(run: RunFolder, rows: int, answers: Path) -> Iterator[str]:
    """Say what a run folder may still hold, and where else it went."""
    made_of = resolve(run.read().get("params", {}).get("answers", answers))
    if made_of.exists() and made_of != answers.resolve():
        yield f"{made_of}: the answers that {run.path} was made of; forget with --answers {made_of} as well"
    inside = [file for file in sorted(run.path.rglob("*")) if file.is_file()]
    others = [file for file in inside if run.dataset not in file.parents and file.name not in WITHOUT_TEXTS]
    names = [f"dataset ({counted(rows, 'row')})"] if rows else []
    names += [str(file.relative_to(run.path)) for file in others]
    if names:
        yield f"{display_path(run.path)}: {', '.join(names)} may show or hold the texts"
    if (run.dataset / "manifest.json").is_file():
        name = read_manifest(run.dataset / "manifest.json").name
        yield f"Comet, if published: the experiment, and every version of {name} and {name}-files"


def _forget_reviews(path: Path, report: ForgetReport, quotes: AbstractSet[int]) -> int:
    """Take out the decisions on forgotten pairs, and those whose words quote a forgotten text."""
    numbers = range(1, MOST_INSTRUCTIONS + 1)
    gone = {row_id((*place, k)) for place in report.places for k in numbers}

    def stays(line: str) -> bool:
        try:
            review = json.loads(line)
        except ValueError:
            return True
        words = "\n".join(value for value in review.values() if isinstance(value, str))
        return review.get("pair_id") not in gone and quotes.isdisjoint(windows(words, size=QUOTED_WORDS))

    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if stays(line)]
    if len(kept) < len(lines):
        write_atomically(path, "\n".join(kept))
    return len(lines) - len(kept)


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
    store = resolve(settings.answers)
    if store.exists():  # a notebook's kernel ends without closing it
        with AnswerStore(store) as answers:
            answers.back_up()
    if before == after and (told := run.read().get("changes")):
        return dict(told)
    return diff_versions(before, after).as_fields() if before else {}


def _remembered(settings: Params, name: str) -> Path:
    return resolve(settings.answers).parent / "published" / f"{name}.json"
