"""Where a row comes from, what changed between two datasets, and how something is forgotten."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from llmtwin_data.answers import AnswerStore, ForgetReport, Trace
from llmtwin_data.checks import certified
from llmtwin_data.contents import Chunk, LedgerRow, Place, Span, row_id
from llmtwin_data.datasets import (
    SIDES,
    Making,
    Manifest,
    Row,
    ledger_totals,
    place_of_row,
    publish_dataset,
    read_ledger,
    read_manifest,
    run_fields,
    sides_of,
    stored_sides,
)
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.folders import RunFolder, RunLock, disk_errors, resolve, told, write_atomically
from llmtwin_data.measures import Measures
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
    if dataset.is_dir():
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
    yield from (f"{name.name} {row[name.name]}" for name in fields(Measures))
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be forgotten; a content by its point id, and its collection where one is named."""

    author: str = ""
    link: str = ""
    content: str = ""
    collection: str = ""

    @property
    def as_origin(self) -> dict[str, str]:
        """Give the name as the store knows it."""
        return {
            "author": self.author,
            "link": self.link,
            "content_id": self.content,
            "collection": self.collection,
        }

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row is one of those."""
        here = self.collection in ("", row["collection"])
        return bool(
            (self.author and row.get("author") == self.author)
            or (self.link and row.get("link") == self.link)
            or (self.content and row["content_id"] == self.content and here)
        )


@dataclass(frozen=True, slots=True)
class Mention:
    """A known piece of a content; ``run`` is None in the store, ``text`` empty where only a ledger tells."""

    span: Span
    text: str
    run: Path | None = None
    source: str = ""

    @property
    def content(self) -> tuple[str, str]:
        """Give collection and content id."""
        return self.span[0], self.span[1]

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:FIRST_WORDS]
        place = told(self.run) if self.run else "the store"
        return f"{'/'.join(self.content)} in {place}: {words or '(text not kept)'}"


def find_wanted(
    answers: AnswerStore, run_dirs: Iterable[Path], wanted: Wanted, *, named: Iterable[Path] = ()
) -> tuple[list[Mention], Wanted]:
    """Find what would be forgotten, and the name to remember it by: none where others have the same id.

    Raises
    ------
    ParamsError
        Not one thing was named, nothing is known under it, or several contents are.
    """
    name = wanted.author or wanted.link or wanted.content
    if [wanted.author, wanted.link, wanted.content].count("") != 2:
        raise ParamsError("forget: expected --author, --link or --content, and one of them only")
    if wanted.collection and not wanted.content:
        raise ParamsError("--collection: expected --content beside it, found none")
    runs = [RunFolder(path) for path in run_dirs]
    mentions = _find(answers, runs, wanted)
    for trial in trial_stores(answers.path):
        with AnswerStore(trial) as store:
            mentions += _find(store, [], wanted)
    marks = forget_marks(**wanted.as_origin)
    if not mentions and marks.isdisjoint(answers.forgotten_hashes()):
        raise ParamsError(
            f"forget: nothing is known under {name!r} in {answers.path.name} and {len(runs)} run folders; "
            "a folder outside runs/ is looked at if --runs names it"
        )
    meant = _choose(mentions, named=set(named)) if wanted.content else mentions
    if meant and wanted.content:
        wanted = replace(wanted, collection=meant[0].span[0])
    return meant, wanted if len(meant) == len(mentions) else Wanted()


def _find(answers: AnswerStore, runs: Sequence[RunFolder], wanted: Wanted) -> list[Mention]:
    """Find every piece that is wanted; a ledger's rows get their text from the store where it is certain."""
    stored = [
        Mention((collection, content_id, start, end), text or "")
        for collection, content_id, start, end, text in answers.origins(**wanted.as_origin)
    ]
    texts: dict[Span, set[str]] = defaultdict(set)
    for item in stored:
        # A judge's question stands at the same place and is longer; of a masked text the length differs.
        fits = len(item.text) == item.span[3] - item.span[2] or item.span not in texts
        if item.text and fits:
            texts[item.span].add(item.text)
    found = [mention for run in runs for mention in _of_run(run, wanted)]
    certain = {span: min(held) for span, held in texts.items() if len(held) == 1}
    whole = [item if item.text else replace(item, text=certain.get(item.span, "")) for item in found]
    return list(dict.fromkeys(whole + stored))


def _choose(mentions: Sequence[Mention], *, named: Collection[Path]) -> list[Mention]:
    """Give the mentions of the one content that is meant: ids are often numbers, which every source has.

    Raises
    ------
    ParamsError
        They are of several collections, or of several sources with different texts, and ``named`` runs do
        not say which source.
    """
    if len({item.span[0] for item in mentions}) > 1:
        raise _ambiguous(mentions, "name one with --collection NAME")
    texts: dict[str, set[str]] = defaultdict(set)
    for item in mentions:
        if item.run:
            texts[item.source] |= {item.text} - {""}
    if not any(one.isdisjoint(other) for one, other in combinations(texts.values(), 2)):
        return list(mentions)
    meant = {item.source for item in mentions if item.run in named}
    if len(meant) != 1:
        raise _ambiguous(mentions, "name a run of the one that is meant with --runs RUN_DIR")
    chosen = [item for item in mentions if item.run and item.source in meant]
    if not any(item.text for item in chosen):
        raise _ambiguous(mentions, "that run keeps no text to tell them apart by")
    return chosen


def _ambiguous(mentions: Sequence[Mention], how: str) -> ParamsError:
    lines = [f"  {item}" for item in mentions if item.run or len({m.span[0] for m in mentions}) > 1]
    more = [f"  and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    listed = "\n".join([*lines[:MOST_NAMED], *more])
    return ParamsError(
        f"--content: expected one content, found several:\n{listed}\n{how}; nothing was changed"
    )


def _of_run(run: RunFolder, wanted: Wanted) -> Iterator[Mention]:
    source = str(resolve(run.read().get("params", {}).get("qdrant") or ".llmtwin/qdrant"))
    shown = set()
    for row in _mentioning_rows(run):
        if wanted.matches(row):
            span = (row["collection"], row["content_id"], row["start"], row["end"])
            shown.add(span)
            yield Mention(span, row.get("content", row.get("text", "")), run.path, source)
    for kept in read_ledger(run.ledger_file) if run.ledger_file.exists() else ():
        fate = {"collection": kept.collection, "content_id": kept.content_id}
        if wanted.matches(fate) and kept.reason != "forgotten" and kept.span not in shown:
            yield Mention(kept.span, "", run.path, source)


def _mentioning_rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Give the dataset's rows, and the chunks that an unfinished run left."""
    if (run.dataset / "manifest.json").is_file():
        for rows in stored_sides(run.dataset).values():
            yield from rows
    spool = run.work / "chunks.jsonl"
    for line in spool.read_bytes().split(b"\n") if spool.is_file() else ():
        try:
            yield dict(zip(Chunk.__slots__, json.loads(line), strict=True))
        except (ValueError, TypeError):
            continue  # the last line, where writing it was cut off


# What shares this many words in a row with a forgotten text quotes it.
QUOTED_WORDS = 20
# Instructions that one chunk may have: params allow no more.
MOST_INSTRUCTIONS = 20
# Files of a run folder that hold no text of a content.
WITHOUT_TEXTS = {"run.json", "ledger.jsonl", "comet.json", "upload_pending.json", "lock"}


def trial_stores(path: Path) -> list[Path]:
    """Give the stores that notebook 2 keeps beside the main one for its trials of batch sizes."""
    shape = re.compile(rf"{re.escape(path.stem)}\.batch\d+{re.escape(path.suffix)}")
    return sorted(file for file in path.parent.iterdir() if shape.fullmatch(file.name))


def asked_about(run: RunFolder, report: ForgetReport) -> bool:
    """Say whether a run asked about what is forgotten, as far as is known: it may, where no ledger tells."""
    if not run.ledger_file.exists():
        return True
    rows = read_ledger(run.ledger_file)
    return any((row.collection, row.content_id) in report.contents for row in rows)


def forget_reviews(path: Path, report: ForgetReport) -> int:
    """Take out the decisions on forgotten pairs, and those whose words quote a forgotten text."""
    numbers = range(1, MOST_INSTRUCTIONS + 1)
    gone = {row_id((*place, k)) for place in report.places for k in numbers}
    quotes = {window for text in report.texts for window in windows(text, size=QUOTED_WORDS)}
    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if not _reviews_one(line, gone, quotes)]
    if len(kept) < len(lines):
        write_atomically(path, "\n".join(kept))
    return len(lines) - len(kept)


def elsewhere(held: Mapping[Path, int], rewritten: Sequence[Path], answers: Path) -> Iterator[str]:
    """Say what a person has to delete; ``held`` are the runs that knew of it, with their published rows."""
    for path, rows in held.items():
        run = RunFolder(path)
        made_of = resolve(run.read().get("params", {}).get("answers", answers))
        if made_of.exists() and made_of != answers.resolve():
            yield f"{made_of}: the answers that {path} was made of; forget with --answers {made_of} as well"
        if rows and path not in rewritten:
            yield f"{told(run.dataset)}: an older dataset, {counted(rows, 'row')} of it"
        left = [
            file for file in sorted(path.rglob("*")) if file.is_file() and run.dataset not in file.parents
        ]
        names = [str(file.relative_to(path)) for file in left if file.name not in WITHOUT_TEXTS]
        if names:
            yield f"{told(path)}: {', '.join(names)} may show or hold the texts"
        if run.dataset.exists():
            name = read_manifest(run.dataset / "manifest.json").name
            yield f"Comet, if published: the experiment, and every version of {name} and {name}-files"
    yield "the source (Qdrant, JSONL files): later runs skip what is forgotten, but do not delete it there"


def _reviews_one(line: str, gone: AbstractSet[str], quotes: AbstractSet[int]) -> bool:
    try:
        review = json.loads(line)
    except ValueError:
        return False
    said = "\n".join(value for value in review.values() if isinstance(value, str))
    return review.get("pair_id") in gone or bool(quotes & windows(said, size=QUOTED_WORDS))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, and what a person has to delete elsewhere."""

    rows: int
    quoting_rows: int
    contained: dict[Path, int]
    rewritten: tuple[Path, ...]
    elsewhere: tuple[str, ...]
    store: ForgetReport
    reviews: int = 0

    looked_at: int = 0

    def __str__(self) -> str:
        taken = (
            f"{counted(len(self.store.keys), 'answer')} and {counted(len(self.store.text_sha256), 'text')}"
        )
        lines = [
            f"{counted(self.rows, 'row')} in {counted(len(self.contained), 'dataset')}; "
            f"{counted(self.quoting_rows, 'more row')} quoted them",
            f"taken out of the store: {taken}, {counted(self.reviews, 'review')}; "
            "later runs skip them as forgotten",
            *(f"rewritten without them: {told(path / 'dataset')}" for path in self.rewritten),
            "left for you to delete:",
            *(f"  {place}" for place in self.elsewhere),
            f"run folders looked at: {self.looked_at}; those outside runs/ only if --runs names them",
        ]
        return "\n".join(lines)


def forget(
    answers: AnswerStore,
    run_dirs: Iterable[Path],
    wanted: Wanted,
    *,
    named: Iterable[Path] = (),
    reviews: Path | None = None,
) -> Forgotten:
    """Take an author, a link or a content out of the store and out of the newest dataset of each params file.

    Parameters
    ----------
    answers
        The stores of trials beside it are treated as well.
    run_dirs
        Every run folder there is; older datasets stay as they are and are listed.
    named
        Those of them whose source is meant, where several sources have the content's id.
    reviews
        File of what people decided about pairs, one JSON object a line.

    Raises
    ------
    ParamsError
        Nothing was named, nothing is known under it, or several contents are.
    RunLocked
        A run works in one of the folders to rewrite.
    """
    folders = [RunFolder(Path(path)) for path in run_dirs]
    mentions, name = find_wanted(answers, [run.path for run in folders], wanted, named=named)
    runs = [run for run in folders if (run.dataset / "manifest.json").is_file()]
    newest = newest_of_each(runs)
    spans = {run.path: {item.span for item in mentions if item.run == run.path} for run in folders}
    found = {run.path: sum(_span(row) in spans[run.path] for row in _rows(run)) for run in runs}
    contained = {path: rows for path, rows in found.items() if rows}
    with ExitStack() as locks:
        for run in newest:
            locks.enter_context(RunLock(run))
        report = _forget_in_stores(answers, name, {item.text for item in mentions} - {""})
        hashes = answers.forgotten_hashes()
        quoting = {run.path: _quoting(run, spans[run.path], report.texts, hashes) for run in newest}
        rewritten = tuple(
            run.path for run in newest if _rewrite(run, spans[run.path], quoting[run.path], report)
        )
    held = contained | {
        run.path: 0
        for run in folders
        if run.path not in contained and (spans[run.path] or asked_about(run, report))
    }
    report = replace(report, places=report.places | {item.span for item in mentions})
    return Forgotten(
        sum(contained.values()),
        sum(map(len, quoting.values())),
        contained,
        rewritten,
        tuple(dict.fromkeys(elsewhere(held, rewritten, answers.path))),
        report,
        forget_reviews(reviews, report) if reviews and reviews.exists() else 0,
        len(folders),
    )


def newest_of_each(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Give the newest run of each params file (``runs/<stem>/<UTC time>``), and every other folder."""

    def stem(run: RunFolder) -> str:
        return str(run.path.parent if run.path.name[:4].isdecimal() else run.path)

    in_order = sorted(runs, key=lambda run: (stem(run), run.path.name))
    return [[*group][-1] for _, group in groupby(in_order, key=stem)]


def _rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    for rows in stored_sides(run.dataset).values():
        yield from rows


def _forget_in_stores(answers: AnswerStore, name: Wanted, texts: AbstractSet[str]) -> ForgetReport:
    report = answers.forget(**name.as_origin, texts=sorted(texts))
    for trial in trial_stores(answers.path):
        with AnswerStore(trial) as store:
            store.forget(**name.as_origin, texts=sorted(report.texts))
    return report


def _quoting(
    run: RunFolder, spans: AbstractSet[Span], texts: AbstractSet[str], hashes: AbstractSet[str]
) -> list[dict[str, Any]]:
    """Find other rows that hold a run of words of the texts, or whose text the store forgot as well."""
    forgotten = {window for text in texts for window in windows(text, size=QUOTED_WORDS)}
    others = (row for row in _rows(run) if _span(row) not in spans)
    return [row for row in others if text_sha256(row["content"]) in hashes or forgotten & _row_windows(row)]


def _row_windows(row: Row) -> set[int]:
    return windows(row["content"], size=QUOTED_WORDS) | windows(row["instruction"], size=QUOTED_WORDS)


def _rewrite(run: RunFolder, spans: AbstractSet[Span], quoting: Sequence[Row], report: ForgetReport) -> bool:
    """Write the dataset of a run again without what is forgotten; False where it held nothing of it."""
    # Another source may have another content under an id that the store knew.
    others = {_span(row)[:2] for row in _rows(run)}
    contents = {span[:2] for span in spans} | (set(report.contents) - others)
    gone = {place_of_row(row) for row in quoting}
    before = read_ledger(run.ledger_file)
    ledger = [_forgotten(row, gone, contents) for row in before]
    if ledger == before:
        return False
    _publish_again(run, ledger, contents)
    return True


def _span(row: Row) -> Span:
    return row["collection"], row["content_id"], row["start"], row["end"]


def _forgotten(row: LedgerRow, gone: AbstractSet[Place], contents: AbstractSet[tuple[str, str]]) -> LedgerRow:
    if row.place in gone or (row.collection, row.content_id) in contents:
        return replace(row, state="skipped", reason="forgotten", value="")
    return row


def _publish_again(
    run: RunFolder, ledger: Sequence[LedgerRow], contents: AbstractSet[tuple[str, str]]
) -> None:
    manifest = read_manifest(run.dataset / "manifest.json")
    kept = {row.place for row in ledger if row.state == "accepted"}
    stored = stored_sides(run.dataset)
    train, test = ([row for row in stored[side] if place_of_row(row) in kept] for side in SIDES)
    names = {"/".join(content) for content in contents}
    sides = {content: side for content, side in sides_of(manifest).items() if content not in names}
    making = Making(
        name=manifest.name, ledger=ledger, rules=manifest.rules, previous_sides=sides, notes=manifest.notes,
        certificate=manifest.certificate | certified({"train": train, "test": test}),
        screened=manifest.screened,
    )  # fmt: skip
    published = publish_dataset(train, test, making, run=run)
    totals = run.read().get("totals", {}) | ledger_totals(ledger)
    run.update(totals=totals, **run_fields(run, published))


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
