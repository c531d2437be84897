"""Where a row comes from, what changed between two datasets, and how something is forgotten."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmtwin_data.answers import QUOTED_WORDS, AnswerStore, ForgetReport, Origin
from llmtwin_data.cluster import blocks
from llmtwin_data.contents import PLACE, Span, content_names, places_of, row_id, rows_of
from llmtwin_data.datasets import (
    Manifest,
    Row,
    file_entry,
    place_of_row,
    read_ledger,
    read_manifest,
    stored_sides,
)
from llmtwin_data.errors import DiskFailed, ParamsError
from llmtwin_data.folders import RunFolder, disk_errors, display_path, resolve, write_atomically
from llmtwin_data.measures import MEASURES
from llmtwin_data.params import Params
from llmtwin_data.texts import counted, forget_marks, windows, word_changes

# What may have become of an instruction, in the order in which it is printed, and what that means.
CHANGES = {
    "added": "of a chunk that only the later dataset knows",
    "removed": "of a chunk that only the earlier dataset knows",
    "changed": "another wording, or another text of the content",
    "moved": "the same words on the other side of the split, or published in one dataset only",
}
# Lines of each kind that a printed difference shows.
MOST = 20
# Characters of a row's id that name it; reports show no more of it.
SHORTEST_PREFIX = 6
FIRST_WORDS = 60  # characters
MOST_NAMED = 6  # pieces
# Instructions that one chunk may have: params allow no more.
MOST_INSTRUCTIONS = 20
# Files of a run folder that hold no text of a content.
WITHOUT_TEXTS = {"run.json", "ledger.jsonl", "comet.json", "upload_pending.json", "lock"}


def read_version(path: Path) -> pd.DataFrame:
    """Read what a comparison needs of a dataset, without its texts; do so before a run replaces it.

    Columns: `PLACE`, ``fate`` (the side, or state and reason of what has no row), and hashes of
    ``instruction`` and ``content``, empty for what has no row. ``attrs["manifest_sha256"]`` names the
    dataset.
    """
    dataset = dataset_folder(path)
    manifest = read_manifest(dataset / "manifest.json")
    if not (dataset / "train.jsonl").is_file():
        raise ParamsError(
            f"{dataset}: expected the dataset that its manifest.json names, found no train.jsonl"
        )
    rows = [
        [*place_of_row(row), side, *(_digest(row[text]) for text in ("instruction", "content"))]
        for side, row in _dataset_rows(dataset)
    ]
    if dataset.with_name("ledger.jsonl").is_file():
        ledger = read_ledger(dataset.with_name("ledger.jsonl"))
        fates = ledger.assign(fate=ledger.state + ": " + ledger.reason)[ledger.state != "accepted"]
        rows += fates[[*PLACE, "fate"]].to_numpy().tolist()
    return _version(manifest.sha256, rows)


def _version(manifest_sha256: str, rows: list[list[Any]]) -> pd.DataFrame:
    version = pd.DataFrame(rows, columns=[*PLACE, "fate", "instruction", "content"]).fillna("")
    version.attrs["manifest_sha256"] = manifest_sha256
    return version.astype({"start": int, "end": int, "k": int})


def version_of(ledger: pd.DataFrame, run: RunFolder) -> pd.DataFrame:
    """Return what `read_version` would read of the dataset that this ledger was just published as."""
    fates = ledger.side.where(ledger.side != "", ledger.state + ": " + ledger.reason)
    version = ledger[PLACE].assign(fate=fates)
    for name in ("instruction", "content"):
        texts = ledger.loc[ledger.side != "", name]
        version[name] = pd.Series(map(_digest, texts), texts.index, dtype="str")
    version = version.fillna("").iloc[np.argsort(fates.map({"train": 0, "test": 1}).fillna(2), kind="stable")]
    version.attrs = {"manifest_sha256": file_entry(run.dataset / "manifest.json")["sha256"]}
    return version.reset_index(drop=True)


def _version_text(version: pd.DataFrame) -> Iterator[bytes]:
    """Yield it as JSON, some thousand rows a piece."""
    yield json.dumps(version.attrs)[:-1].encode() + b', "rows": ['
    for number, rows in enumerate(blocks(version)):
        yield b", " * bool(number) + json.dumps(rows.to_numpy().tolist())[1:-1].encode()
    yield b'], "fates": []}'


def diff_versions(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Compare two versions: a row an instruction that they do not agree on.

    Columns: ``id``, `PLACE`, ``kind``, the fates ``before`` and ``after``, ``what`` of it changed, and
    ``earlier``, the id that an edited text had before. Added and removed are of chunks that only one dataset
    knows; changed has another text; moved the same text, but another side or state, because the rest of the
    collection changed.
    """
    both = before.merge(after, how="outer", on=PLACE, suffixes=("_before", "_after"), sort=True)
    both = both.fillna("")
    had, has = both.instruction_before != "", both.instruction_after != ""
    reworded = had & has & (both.instruction_before != both.instruction_after)
    edited = had & has & (both.content_before != both.content_after)
    known = (both.fate_before != "") & (both.fate_after != "")
    diff = both[PLACE].assign(
        kind=np.select([reworded | edited, known, has], ["changed", "moved", "added"], "removed"),
        before=both.fate_before,
        after=both.fate_after,
        what=np.select(
            [reworded & edited, reworded, edited], ["instruction, content", "instruction", "content"], ""
        ),
    )
    diff = diff[(had | has) & (reworded | edited | (both.fate_before != both.fate_after))]
    # An edited text has other offsets: one removed and one added of one content are one that changed.
    slot = ["collection", "content_id", "k", "nth"]
    diff = diff.assign(at=diff.index, nth=diff.groupby([*slot[:3], "kind"]).cumcount())
    removed = diff[diff.kind == "removed"]
    edits = diff[diff.kind == "added"].merge(removed, on=slot, suffixes=("", "_removed"))
    diff.loc[edits["at"], ["kind", "what"]] = "changed", "content"
    diff.loc[edits["at"], "before"] = edits.before_removed.to_numpy()
    diff.insert(0, "id", [row_id(place) for place in places_of(diff)])
    diff["earlier"] = diff.id
    diff.loc[edits["at"], "earlier"] = diff.id[edits.at_removed].to_numpy()
    diff = diff[~diff.index.isin(edits.at_removed)].drop(columns=["at", "nth"])
    return diff.reset_index(drop=True)


def diff_datasets(a: Path, b: Path) -> pd.DataFrame:
    """Compare ``a`` with a later ``b``, each a run folder, dataset folder or manifest, as `diff_versions`.

    Column ``words`` has what changed in the first `MOST` texts that did.
    """
    diff = diff_versions(read_version(a), read_version(b)).assign(words="")
    if (changed := diff[diff.kind == "changed"].head(MOST)).empty:
        return diff
    old, new = ({row["id"]: row for _, row in _dataset_rows(dataset_folder(path))} for path in (a, b))
    for at, earlier, later in changed[["earlier", "id"]].itertuples():
        texts = ((old[earlier][name], new[later][name]) for name in ("instruction", "content"))
        diff.loc[at, "words"] = "; ".join(word_changes(*both) for both in texts if both[0] != both[1])
    return diff


def count_changes(diff: pd.DataFrame) -> dict[str, int]:
    """Return how many instructions are added, removed, changed and moved."""
    return {kind: int((diff.kind == kind).sum()) for kind in CHANGES}


def describe_changes(diff: pd.DataFrame) -> str:
    """Return the lines that a command prints: the counts, then the first of each kind."""
    lines = ["  ".join(f"{kind} {number}" for kind, number in count_changes(diff).items())]
    for kind in CHANGES:
        changes = diff[diff.kind == kind]
        for change in rows_of(changes.head(MOST)):
            fates = " -> ".join(dict.fromkeys(filter(None, (change.before, change.after))))
            place = f"{change.collection}/{change.content_id} {change.start}-{change.end} #{change.k}"
            lines.append(f"{kind:8} {change.id}  {place}  {fates} {change.what}".rstrip())
            lines += [f"         {change.words}"] if change.words else []
        if len(changes) > MOST:
            lines.append(f"{kind:8} and {len(changes) - MOST} more")
    return "\n".join(lines)


def dataset_folder(path: Path) -> Path:
    """Return the dataset that a run folder, a dataset folder or a manifest stands for."""
    if path.name == "manifest.json":
        return path.parent
    return path / "dataset" if (path / "dataset").is_dir() else path


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def trace(row_id: str, run_dirs: Iterable[Path], answers: AnswerStore) -> str:
    """Return everything about a row: its origin, the exact prompt, the request, the raw answer, its measures.

    ``row_id``: whole, or the beginning that reports show. ``run_dirs``: run folders, searched from the last
    to the first.

    Raises ParamsError: no dataset among them holds the row, several rows begin so, or datasets word it
    differently.
    """
    row, place = _find_row(row_id, [Path(folder) for folder in run_dirs])
    lines = [
        f"row {row['id']} ({place})",
        f"content {row['collection']}/{row['content_id']}, characters {row['start']} to {row['end']}",
        *(f"{key} {row[key] or '-'}" for key in ("author", "platform", "link", "data_type", "masked")),
        f"instruction {row['k']}: {row['instruction']}",
        f"model {row['model']}",
        f"prompt {row['prompt']} ({row['prompt_sha256']})",
        f"answer {row['answer_key']}",
    ]
    if traced := answers.trace(row["answer_key"]):
        request, texts = traced.request, traced.texts
        cost = "unknown" if request.cost_usd is None else f"{request.cost_usd:.6f} USD"
        tokens = f"tokens {request.prompt_tokens} in, {request.completion_tokens} out"
        forgotten = texts.count(None)
        lines += [
            f"\nrequest {request.id} {request.at}",
            f"attempt {request.attempt}, status {request.status}, {request.outcome}",
            f"answered by {request.model} {request.system_fingerprint}, {request.seconds:.1f} s, {cost}",
            f"{tokens}; {counted(len(texts), 'text')}",
            *(f"this row's is content number {n}" for n, it in enumerate(texts, 1) if it == row["content"]),
            *[f"{forgotten} of them forgotten since, marked in the prompt by their sha256"][:forgotten],
            *(f"\n== prompt, {message['role']}\n{message['content']}" for message in traced.messages),
            f"\n== raw answer\n{request.raw}",
        ]
    else:
        lines.append("\nrequest: not in this store of answers (another `answers` file, or forgotten)")
    lines += ["\n== measures", *(f"{name} {row[name]}" for name in MEASURES if name in row)]
    return "\n".join([*lines, f"verdict {row['judge_score'] or '-'} {row['judge_reason'] or ''}"])


def _find_row(row_id: str, folders: list[Path]) -> tuple[Row, str]:
    alike: dict[tuple[str, str], tuple[Row, str]] = {}  # by id and wording, of the last run that has it
    for folder in reversed(folders):
        for side, row in _dataset_rows(folder / "dataset"):
            is_beginning = len(row_id) >= SHORTEST_PREFIX and row["id"].startswith(row_id)
            if row["id"] == row_id or is_beginning:
                place = f"{display_path(folder)}, {side}"
                alike.setdefault((row["id"], row["instruction"]), (row, place))
    versions = {key: its for key, its in alike.items() if key[0] == row_id} or alike
    ids = sorted({key[0] for key in versions})
    if len(ids) != 1:
        several = f"several: {', '.join(ids[:3])}"
        where = several if ids else f"none of {counted(len(folders), 'dataset')}"
        raise ParamsError(f"trace: expected the id of a row, or how one begins, found {row_id!r} in {where}")
    if len(versions) > 1:
        places = "\n".join(place for _, place in list(versions.values())[:5])
        raise ParamsError(f"trace: each of these words {row_id} otherwise; name one by --runs\n{places}")
    return next(iter(versions.values()))


def _dataset_rows(dataset: Path) -> Iterator[tuple[str, Row]]:
    sides = stored_sides(dataset) if (dataset / "manifest.json").is_file() else {}
    return ((side, row) for side, rows in sides.items() for row in rows)


@dataclass(frozen=True, slots=True)
class Piece:
    """A known piece of a content; ``run`` is None in the store, ``text`` empty where only a ledger has it."""

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
    runs: int

    def __str__(self) -> str:
        answers, texts = counted(len(self.store.keys), "answer"), counted(len(self.store.text_sha256), "text")
        lines = [
            f"taken out of the store: {answers} and {texts}, {counted(self.reviews, 'review')}; "
            "later runs skip them as forgotten",
            f"{counted(sum(self.rows.values()), 'row')} in {counted(len(self.rows), 'dataset')} are of it or "
            "quote it: run the same study again (nothing is asked), and its new dataset holds none of them",
            "left for you to delete:",
            *(f"  {line}" for line in self.elsewhere),
            f"run folders looked at: {self.runs}; those outside runs/ only if --runs names them",
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
    report = answers.forget(name, texts={piece.text for piece in pieces} - {""})
    spans = report.places | {piece.span for piece in pieces}
    names = {"/".join(span[:2]) for span in spans}
    quotes = {window for text in report.texts for window in windows(text, size=QUOTED_WORDS)}

    def holds_it(text: str) -> bool:
        return not quotes.isdisjoint(windows(text, size=QUOTED_WORDS))

    rows: dict[Path, int] = {}
    elsewhere: list[str] = []
    for run in runs:
        in_run = {piece.span for piece in pieces if piece.run == run.path}
        count = sum(
            place_of_row(row)[:4] in in_run or holds_it(row["content"]) or holds_it(row["instruction"])
            for _, row in _dataset_rows(run.dataset)
        )
        rows |= {run.path: count} if count else {}
        # Where no ledger says what a run asked about, it may have asked about it.
        if count or not run.ledger_file.exists() or {*content_names(read_ledger(run.ledger_file))} & names:
            elsewhere += _left_in(run, count, answers.path)
    elsewhere.append("the source (Qdrant, JSONL files): later runs skip it, but do not delete it there")
    forgotten_reviews = _forget_reviews(reviews, spans, holds_it) if reviews and reviews.exists() else 0
    return Forgotten(report, forgotten_reviews, rows, tuple(dict.fromkeys(elsewhere)), len(runs))


def find_pieces(
    answers: AnswerStore, run_dirs: Iterable[Path], origin: Origin, *, named: Iterable[Path] = ()
) -> tuple[list[Piece], Origin]:
    """Find what would be forgotten, and the name to remember it by: none where others have the same id.

    Raises ParamsError: not one thing was named, nothing is known under it, or several contents are.
    """
    if [origin.author, origin.link, origin.content_id].count("") != 2:
        raise ParamsError("forget: expected --author, --link or --content, and one of them only")
    if origin.collection and not origin.content_id:
        raise ParamsError("--collection: expected --content beside it, found none")
    stored = [Piece(row[:4], row[4] or "") for row in answers.origins(origin)]
    runs = [RunFolder(path) for path in run_dirs]
    pieces = list(dict.fromkeys([*(it for run in runs for it in _pieces_in(run, origin, stored)), *stored]))
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


def _pieces_in(run: RunFolder, origin: Origin, stored: Sequence[Piece]) -> list[Piece]:
    """Return what a run's dataset holds of it, and the rest of a content, which only its ledger names."""
    named = {key: value for key, value in asdict(origin).items() if value}
    texts = {
        place_of_row(row)[:4]: row["content"]
        for _, row in _dataset_rows(run.dataset)
        if named.items() <= row.items()
    }
    if origin.content_id and run.ledger_file.exists():
        # A judge's question stands at the same place and is longer.
        known = {it for it in stored if len(it.text) == it.span[3] - it.span[2]}
        times = Counter(piece.span for piece in known)
        certain = {piece.span: piece.text for piece in known if times[piece.span] == 1}
        ledger = read_ledger(run.ledger_file)
        of_it = (ledger.content_id == origin.content_id) & (ledger.reason != "forgotten")
        of_it &= ledger.collection.isin([origin.collection] if origin.collection else ledger.collection)
        spans = [place[:4] for place in places_of(ledger[of_it])]
        texts = {span: certain.get(span, "") for span in spans} | texts
    source = str(resolve(run.read().get("params", {}).get("qdrant") or ".llmtwin/qdrant"))
    return [Piece(span, text, run.path, source) for span, text in texts.items()]


def _choose(pieces: Sequence[Piece], *, named: Collection[Path]) -> list[Piece]:
    """Return the pieces of the one content that is meant: ids are often numbers, which every source has.

    They may be of several collections, or of several sources with different texts; then the ``named`` runs
    must say which source.
    """
    several = len({piece.span[0] for piece in pieces}) > 1
    in_runs = [piece for piece in pieces if piece.run]
    texts: dict[str, set[str]] = defaultdict(set)
    for piece in in_runs:
        texts[piece.source] |= {piece.text} - {""}
    meant = {piece.source for piece in in_runs if piece.run in named}
    chosen = [piece for piece in in_runs if piece.source in meant]
    if several:
        how = "name one with --collection NAME"
    elif not any(one.isdisjoint(other) for one, other in combinations(texts.values(), 2)):
        return list(pieces)
    elif len(meant) != 1:
        how = "name a run of the one that is meant with --runs RUN_DIR"
    elif any(piece.text for piece in chosen):
        return chosen
    else:
        how = "that run keeps no text to tell them apart by"
    lines = [f"  {piece}" for piece in (pieces if several else in_runs)]
    more = [f"  and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    listed = "\n".join([*lines[:MOST_NAMED], *more])
    raise ParamsError(
        f"--content: expected one content, found several:\n{listed}\n{how}; nothing was changed"
    )


def _left_in(run: RunFolder, rows: int, answers: Path) -> Iterator[str]:
    """Yield what a run folder may still hold, and where else it went."""
    made_of = resolve(run.read().get("params", {}).get("answers", answers))
    if made_of.exists() and made_of != answers.resolve():
        yield f"{made_of}: the answers that {run.path} was made of; forget with --answers {made_of} as well"
    names = [f"dataset ({counted(rows, 'row')})"] if rows else []
    names += [
        str(file.relative_to(run.path))
        for file in sorted(run.path.rglob("*"))
        if file.is_file() and run.dataset not in file.parents and file.name not in WITHOUT_TEXTS
    ]
    if names:
        yield f"{display_path(run.path)}: {', '.join(names)} may show or hold the texts"
    if (run.dataset / "manifest.json").is_file():
        name = read_manifest(run.dataset / "manifest.json").name
        yield f"Comet, if published: the experiment, and every version of {name} and {name}-files"


def _forget_reviews(path: Path, spans: Iterable[Span], holds_it: Callable[[str], bool]) -> int:
    """Take out the decisions on forgotten pairs, and those whose words quote a forgotten text."""
    gone = {row_id((*span, k)) for span in spans for k in range(1, MOST_INSTRUCTIONS + 1)}
    with disk_errors(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    kept = []
    for line in lines:
        try:
            review = dict(json.loads(line))
        except (ValueError, TypeError):
            review = {}
        words = "\n".join(value for value in review.values() if isinstance(value, str))
        if review.get("pair_id") not in gone and not holds_it(words):
            kept.append(line)
    if len(kept) < len(lines):
        write_atomically(path, "\n".join(kept))
    return len(lines) - len(kept)


def previous_sides(settings: Params, name: str) -> dict[str, str]:
    """Return the side of each content in the dataset before; empty where there is none.

    Raises ParamsError: ``previous`` names a file that is not there; DiskFailed: what is there is not a
    manifest.
    """
    if settings.previous == "none":
        return {}
    path = resolve(settings.previous) if settings.previous else _remembered(settings, name)
    path = dataset_folder(path) / "manifest.json" if path.is_dir() else path
    if not settings.previous and not path.exists():
        return {}
    return {content: side for side, contents in read_manifest(path).sides.items() for content in contents}


def remember(settings: Params, manifest: Manifest, run: RunFolder, version: pd.DataFrame) -> dict[str, Any]:
    """Keep beside the answers what was published last under this name; return what has changed since.

    ``version``: that of the run's dataset, as `read_version` and `version_of` return it.

    Only hashes of its texts are kept, so that nothing of them is left when they are forgotten. A run that
    goes on after it had published says again what it had said, not that nothing differs from itself.
    """
    path = _remembered(settings, manifest.name)
    rows = path.with_suffix(".rows")
    before = None
    try:
        if rows.exists():
            fields = json.loads(rows.read_bytes())
            # Files of before have what has no row, without its empty hashes, among the fates.
            before = _version(fields["manifest_sha256"], [*fields["rows"], *fields["fates"]])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        expected = f"expected the version of a dataset, found something else ({error})"
        raise DiskFailed(f"{rows}: {expected}; move it away and run again, nothing is asked again") from error
    write_atomically(rows, _version_text(version))
    write_atomically(path, (run.dataset / "manifest.json").read_bytes())
    store = resolve(settings.answers)
    if store.exists():  # a notebook's kernel ends without closing it
        with AnswerStore(store) as answers:
            answers.back_up()
    if before is None:
        return {}
    if before.attrs == version.attrs and (changes := run.read().get("changes")):
        return dict(changes)
    diff = diff_versions(before, version)
    moved = diff.loc[diff.kind == "moved", ["id", "before", "after"]].to_dict("records")
    return {"against": before.attrs["manifest_sha256"]} | count_changes(diff) | {"moved_rows": moved}


def _remembered(settings: Params, name: str) -> Path:
    return resolve(settings.answers).parent / "published" / f"{name}.json"
