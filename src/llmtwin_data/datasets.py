"""The dataset: ledger, rows, every format with card, and the manifest last; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from llmtwin_data.contents import KEY, PLACE, Place, content_names, places_of, records_of
from llmtwin_data.errors import DiskFailed, ParamsError, QualityGate, RunIncomplete
from llmtwin_data.folders import RunFolder, disk_errors, publish_folder, write_atomically
from llmtwin_data.measures import MEASURES
from llmtwin_data.texts import counted, language_of

Row = Mapping[str, Any]
Rows = Iterable[Row]
SIDES = ("train", "test")

_ORIGIN = {
    "content_id": "str",
    "start": "int",
    "end": "int",
    "author": "str",
    "platform": "str",
    "link": "str",
}
_MAKING = {"data_type": "str", "prompt": "str", "prompt_sha256": "str", "model": "str", "answer_key": "str"}
# How the table holds each type where some rows have none.
_DTYPES = {"str": "str", "int": "Int64", "float": "float64", "bool": "boolean"}
_MEASURES = {name: kind for name, dtype in MEASURES.items() for kind, its in _DTYPES.items() if its == dtype}
_VERDICT = {"judge_score": "int", "judge_reason": "str", "collection": "str", "k": "int", "masked": "str"}
# Column and type, in the order in which every row is written.
COLUMNS = {"id": "str", "instruction": "str", "content": "str"} | _ORIGIN | _MAKING | _MEASURES | _VERDICT


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a JSON-lines file, read anew at each iteration, so that none need stay in memory."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Bytes are split at \n only; str.splitlines would also split at U+2028 inside a text.
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _parsed(line, f"{self.path.name}, line {number}")


def stored_sides(dataset: Path) -> dict[str, StoredRows]:
    """Give the rows of a dataset folder by side."""
    return {side: StoredRows(dataset / f"{side}.jsonl") for side in SIDES}


def json_lines(rows: Rows, *, render: Callable[[Row], Row] = dict) -> Iterator[bytes]:
    """Render one object a line, UTF-8, characters as they are."""
    for row in rows:
        yield json.dumps(render(row), ensure_ascii=False).encode() + b"\n"


def collections_of(sides: Mapping[str, Rows]) -> list[str]:
    """Name the collections that the rows come from, sorted."""
    return sorted({str(row["collection"]) for side in SIDES for row in sides[side]})


def place_of_row(row: Row) -> Place:
    """Give what no two rows share: the chunk and the number of the instruction."""
    return row["collection"], row["content_id"], row["start"], row["end"], row["k"]


def content_of_row(row: Row) -> str:
    """Name the content as the manifest's sides do: ``collection/content_id``."""
    return f"{row['collection']}/{row['content_id']}"


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DiskFailed(f"{place}: expected a JSON object, {error}") from error
    if not isinstance(row, dict):
        raise DiskFailed(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row


STATES = ("accepted", "rejected", "failed", "skipped", "pending")
# The columns that ledger.jsonl keeps of the table, in the order in which every line is written.
LEDGER = {
    "content_id": "str", "start": "int64", "end": "int64", "k": "int64", "state": "str", "reason": "str",
    "value": "str", "requests": "int64", "prompt_tokens": "int64", "completion_tokens": "int64",
    "cost_usd": "float64", "collection": "str",
}  # fmt: skip
# How the table holds what a published row has.
DTYPES = {name: _DTYPES[kind] for name, kind in COLUMNS.items()} | LEDGER | {"side": "str"}
_JSON_TYPES = {"str": (str,), "int64": (int,), "float64": (int, float, type(None))}


def write_ledger(path: Path, ledger: pd.DataFrame) -> None:
    """Write the columns `LEDGER` as JSON lines, whole or not at all."""
    write_atomically(path, b"".join(json_lines(records_of(ledger[list(LEDGER)]))))


def read_ledger(path: Path) -> pd.DataFrame:
    """Read the columns `LEDGER` of every row, in order.

    Raises
    ------
    DiskFailed
        The file cannot be read, or a line is not a ledger row; the message names the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            rows.extend(map(_ledger_row, file))
    except (OSError, TypeError, ValueError) as error:
        raise DiskFailed(
            f"{path.name}, line {len(rows) + 1}: expected a ledger row with the keys {tuple(LEDGER)}, {error}"
        ) from error
    return pd.DataFrame(rows, columns=list(LEDGER)).astype(LEDGER)


def ledger_totals(ledger: pd.DataFrame) -> dict[str, int]:
    """Count contents, chunks (skipped ones too) and the rows of each state: the ``totals`` of run.json."""
    counts = {
        "contents": len(ledger[KEY[:2]].drop_duplicates()),
        "chunks": len(ledger[KEY].drop_duplicates()),
    }
    return counts | {state: int((ledger.state == state).sum()) for state in STATES}


def fates_sha256(ledger: pd.DataFrame) -> str:
    """Hash where every row ended, not what it cost: a retry after a fault changes the cost only."""
    digest = hashlib.sha256()
    for fate in ledger[[*PLACE, "state", "reason", "value"]].itertuples(index=False, name=None):
        digest.update(json.dumps(fate, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _ledger_row(line: bytes) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict) or list(values) != list(LEDGER):
        raise ValueError(f"found {list(values) if isinstance(values, dict) else type(values).__name__}")
    wrong = [name for name, dtype in LEDGER.items() if type(values[name]) not in _JSON_TYPES[dtype]]
    if wrong:
        raise ValueError(f"found another type in {wrong}")
    return values


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


# Rows in one row group: about 10 MB of text.
GROUP_ROWS = 5_000
# What stands in the footer as the file's writer; pyarrow would name its version there.
WRITER = b"llmtwin_data"


def write_parquet(path: Path, rows: Rows) -> None:
    """Write the rows with the columns of `rows.COLUMNS`; no version and no time stands in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    options: dict[str, Any] = {"compression": "zstd", "write_statistics": False, "store_schema": False}
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, **options) as writer:
        while group := list(islice(remaining, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    _name_writer(path, created_by=pq.read_metadata(path).created_by)


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows, a row group's worth at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=GROUP_ROWS):
            yield from batch.to_pylist()


def _name_writer(path: Path, *, created_by: str) -> None:
    """Put our name in place of pyarrow's in the footer, whose length stands in its last eight bytes.

    The footer is Thrift's compact protocol: a string is its length in one byte (below 128), then its bytes.
    """
    with path.open("r+b") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        start = file.seek(-8 - length, 2)
        before, found, after = file.read(length).rpartition(bytes([len(created_by)]) + created_by.encode())
        footer = before + bytes([len(WRITER)]) + WRITER + after if found else after
        file.seek(start)
        file.write(footer + len(footer).to_bytes(4, "little") + b"PAR1")
        file.truncate()


# The course's words for the two sides.
COURSE_SIDES = {"train": "training", "test": "testing"}


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of row that some trainer reads, written under ``formats/<name>/``."""

    name: str
    render: Callable[[Row], dict[str, Any]]

    def path(self, side: str) -> str:
        """Give the file of this side, relative to the dataset."""
        return f"formats/{self.name}/{side}.jsonl"


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """A text file of the dataset that holds rows: how many, and what renders its bytes piece by piece."""

    rows: int
    render: Callable[[], Iterator[bytes]]


def rendered_files(sides: Mapping[str, Rows]) -> dict[str, RenderedFile]:
    """Give every text file that holds rows by its path in the dataset; each goes through its side once."""
    files: dict[str, RenderedFile] = {}
    counts = Counter((row["collection"], side) for side in SIDES for row in sides[side])
    collections = sorted({collection for collection, _ in counts})
    for side in SIDES:
        total = sum(counts[collection, side] for collection in collections)
        files[f"{side}.jsonl"] = RenderedFile(total, partial(json_lines, sides[side]))
        for shape in FORMATS:
            files[shape.path(side)] = RenderedFile(
                total, partial(json_lines, sides[side], render=shape.render)
            )
        for collection in collections:
            render = partial(_course_list, sides[side], collection)
            files[course_path(collection, side)] = RenderedFile(counts[collection, side], render)
    return files


def json_list(rows: Rows) -> Iterator[bytes]:
    """Render one JSON list, an object a line."""
    mark = b"[\n"
    for row in rows:
        yield mark + json.dumps(row, ensure_ascii=False).encode()
        mark = b",\n"
    yield b"\n]\n" if mark == b",\n" else b"[]\n"


def course_path(collection: str, side: str) -> str:
    """Give the course's file of this collection and side, relative to the dataset."""
    return f"formats/course/{course_name(collection)}_{COURSE_SIDES[side]}.json"


def course_name(collection: str) -> str:
    """Give the collection's name without the words by which the course's client tells the two files apart.

    It takes the first file whose name contains ``train`` or ``test``, so ``cleaned_training_notes`` becomes
    ``cleaned_tr-aining_notes``, and ``latest_posts`` becomes ``late-st_posts``.
    """
    return re.sub("(tr)(ain)|(te)(st)", _hyphenated, collection, flags=re.IGNORECASE)


def write_course_pair(dataset: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two files of the Comet artifact, training first; named after the one collection, or ``twin``.

    Raises
    ------
    QualityGate
        The train set is empty: the course's client reads the keys of its first row.
    """
    sides = stored_sides(dataset)
    if next(iter(sides["train"]), None) is None:
        raise QualityGate(
            "publish: expected rows in train.jsonl, found none; the course's client cannot load that. "
            "See the waterfall in the report for what rejected them"
        )
    collections = collections_of(sides)
    name = course_name(collections[0]) if len(collections) == 1 else "twin"
    written = tuple(folder / f"{name}_{word}.json" for word in COURSE_SIDES.values())
    for path, rows in zip(written, sides.values(), strict=True):
        with path.open("wb") as file:
            file.writelines(json_list(map(_course_row, rows)))
    return written[0], written[1]


def find_breaks(sides: Mapping[str, Rows]) -> list[str]:
    """Name what a consumer would refuse or misread: blank texts, lone surrogates, repeated ids, clashes."""
    breaks: list[str] = []
    seen: set[str] = set()
    for side in SIDES:
        for number, row in enumerate(sides[side], start=1):
            breaks += [f"{side}.jsonl, line {number}: {found}" for found in _row_breaks(row, seen)]
    names = [] if breaks else [course_name(collection) for collection in collections_of(sides)]
    if len(set(names)) < len(names):
        breaks.append(f"formats/course: expected a file name for each collection, found {names}")
    return breaks


def _row_breaks(row: Row, seen: set[str]) -> Iterator[str]:
    if tuple(row) != tuple(COLUMNS):
        yield f"expected the keys {list(COLUMNS)} in this order, found {list(row)}"
        return
    if row["id"] in seen:
        yield f"expected an id of its own, found {row['id']} again"
    seen.add(row["id"])
    for key in ("instruction", "content"):
        if not isinstance(row[key], str) or not row[key].strip():
            yield f"expected text in {key}, found {type(row[key]).__name__} without any"
        elif "\0" in row[key] or not _encodable(row[key]):
            yield f"expected {key} that UTF-8 can hold, found a lone surrogate or NUL"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hyphenated(word: re.Match[str]) -> str:
    return "-".join(part for part in word.groups() if part)


def _course_list(rows: Rows, collection: str) -> Iterator[bytes]:
    return json_list(_course_row(row) for row in rows if row["collection"] == collection)


def _course_row(row: Row) -> dict[str, Any]:
    return {"instruction": row["instruction"], "content": row["content"]}


def _alpaca(row: Row) -> dict[str, Any]:
    return {"instruction": row["instruction"], "input": "", "output": row["content"]}


def _sharegpt(row: Row) -> dict[str, Any]:
    turns = (("human", row["instruction"]), ("gpt", row["content"]))
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns]}


def _chat(row: Row) -> dict[str, Any]:
    return {"messages": [turn for turns in _trl(row).values() for turn in turns]}


def _trl(row: Row) -> dict[str, Any]:
    # Conversational: TRL puts the model's chat template around it, while it glues plain strings together.
    prompt = [{"role": "user", "content": row["instruction"]}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": row["content"]}]}


FORMATS = (
    Format("alpaca", _alpaca),  # LLaMA-Factory, Axolotl, Unsloth: instruction, input, output
    Format("sharegpt", _sharegpt),  # LLaMA-Factory, Axolotl, FastChat: conversations
    Format("openai", _chat),  # OpenAI chat fine-tuning and TRL: messages
    Format("trl", _trl),  # TRL's SFTTrainer: prompt, completion
)


# Contents whose language is looked at; a card needs the languages, not their exact shares.
LANGUAGE_SAMPLE = 500
# A language of fewer texts is rather one that was mistaken for another.
LANGUAGE_SHARE = 0.02
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the rows say about themselves."""

    counts: dict[str, int]
    collections: list[str]
    contents: int
    authors: int
    instruction_languages: Counter[str]
    content_languages: Counter[str]
    models: Counter[str]
    prompts: Counter[str]


def card_text(
    ledger: pd.DataFrame,
    *,
    name: str,
    notes: Sequence[str],
    screened: Mapping[str, Mapping[str, Mapping[str, int]]],
    configs: Mapping[str, Mapping[str, str]],
    files: Mapping[str, Mapping[str, Any]],
) -> str:
    """Write the card.

    Parameters
    ----------
    configs
        Name of a config to its files by side; the first is the default. A side without rows stands in none,
        because ``datasets`` cannot load an empty file.
    files
        The manifest's entries of these files.
    """
    facts = _facts_of(ledger)
    metadata = _metadata(facts, name, [_config(*config, files) for config in configs.items()])
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)
    parts = [f"---\n{head}# license: yours to choose before you share this dataset, see Licence below\n---\n"]
    parts += [f"# {name}\n\n{_opening(facts)}\n", *(f"> {note}\n" for note in notes)]
    parts += [_rows_section(facts), _making_section(facts, ledger)]
    # Manifests from before findings were counted have none.
    parts += [_screening_section(screened)] if screened else []
    parts += [_FILES, _LICENCE]
    return "\n".join(parts)


def size_category(rows: int) -> str:
    """Give Hugging Face's word for this many rows."""
    return next((word for limit, word in SIZES if rows < limit), "1M<n<10M")


def _facts_of(ledger: pd.DataFrame) -> _Facts:
    sides = {side: ledger[ledger.side == side] for side in SIDES}
    rows = pd.concat(sides.values())
    looked_at = (text for side in sides.values() for text in side.content.head(LANGUAGE_SAMPLE // 2))
    return _Facts(
        {side: len(each) for side, each in sides.items()}, sorted(set(rows.collection)),
        len(rows[KEY[:2]].drop_duplicates()), rows.author.nunique(), Counter(rows.language),
        Counter(map(language_of, looked_at)), Counter(rows.model), Counter(rows.prompt),
    )  # fmt: skip


def _metadata(facts: _Facts, name: str, configs: Sequence[dict[str, object]]) -> dict[str, object]:
    tags = sorted(_common(facts.instruction_languages) | _common(facts.content_languages))
    metadata: dict[str, object] = {
        "pretty_name": name,
        "language": sorted({tag.split("-")[0] for tag in tags}),
    }
    metadata |= {"language_bcp47": [tag for tag in tags if "-" in tag]}
    metadata |= {
        "task_categories": ["text-generation"],
        "size_categories": [size_category(sum(facts.counts.values()))],
    }
    metadata |= {"tags": ["instruction-backtranslation", "llm-twin"]}
    metadata["configs"] = [config for config in configs if config["data_files"]]
    metadata["dataset_info"] = _typed_columns() if metadata["configs"] else None
    return {key: value for key, value in metadata.items() if value}


def _common(tally: Counter[str]) -> set[str]:
    least = LANGUAGE_SHARE * tally.total()
    return {tag for tag, number in tally.items() if number >= least} - {"und", ""}


def _config(name: str, paths: Mapping[str, str], files: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    default: dict[str, object] = {"default": True} if name == "default" else {}
    # `datasets` keeps what it read under the folder's name and the configs, and all folders have one name:
    # what the files hold must stand in a config, or it gives out the rows of another run.
    hashes = ", ".join(f"{side} sha256 {files[path]['sha256'][:16]}" for side, path in paths.items())
    data_files = [{"split": side, "path": path} for side, path in paths.items()]
    return {"config_name": name, "description": hashes} | default | {"data_files": data_files}


def _typed_columns() -> dict[str, object]:
    """Give the types that `datasets` would guess otherwise, and wrongly for a column without a value."""
    types = {"str": "string", "int": "int64", "float": "float64", "bool": "bool"}
    features = [{"name": name, "dtype": types[kind]} for name, kind in COLUMNS.items()]
    return {"config_name": "default", "features": features}


def _opening(facts: _Facts) -> str:
    authors = counted(facts.authors, "author")
    return (
        f"Pairs of an instruction and the content that answers it. The contents are texts of {authors}, "
        "unchanged but for what `masked` names; the instructions were written by a language model that read "
        "them (instruction backtranslation, Li et al. 2023, arXiv 2308.06259)."
    )


def _rows_section(facts: _Facts) -> str:
    lines = [
        "## Rows\n",
        "| side | rows |\n|---|---|",
        *(f"| {side} | {facts.counts[side]:,} |" for side in SIDES),
        f"\nFrom {counted(facts.contents, 'content')} of {_listed(facts.collections)}. "
        "No content, and no near-copy of one, is on both sides; `manifest.json` holds the certificate.",
        f"Language of the instructions: {_shares(facts.instruction_languages)}. "
        f"Language of the contents (of {facts.content_languages.total():,} looked at): "
        f"{_shares(facts.content_languages)}.\n",
    ]
    return "\n".join(lines)


def _making_section(facts: _Facts, ledger: pd.DataFrame) -> str:
    fates = Counter((ledger.state + (": " + ledger.reason).where(ledger.reason != "", "")).tolist())
    lines = [
        "## How it was made\n",
        f"Model: {_listed(facts.models)}. Prompt: {_listed(facts.prompts)}.\n",
        "| what became of an instruction | how many |\n|---|---|",
        *(f"| {fate} | {number:,} |" for fate, number in sorted(fates.items())),
        "",
    ]
    return "\n".join(lines)


def _screening_section(screened: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    rows = [
        f"| {group.replace('_', ' ')} | {kind} | {' | '.join(f'{number:,}' for number in counts.values())} |"
        for group, kinds in screened.items()
        for kind, counts in kinds.items()
    ]
    table = ["| what | kind | found | kept | masked | dropped |\n|---|---|---|---|---|---|", *rows]
    lines = [
        "## Secrets and personal data\n",
        "All contents were searched before anything was sent to a model; shapes are found, names are not.\n",
        *(table if rows else ["None was found."]),
        "",
    ]
    return "\n".join(lines)


_FILES = """## Files

`train.jsonl` and `test.jsonl` (and the same rows as Parquet) hold every column: the pair, where it
comes from, how it was made, its measures and its verdict. Under `formats/` stand the same pairs for Alpaca,
ShareGPT, OpenAI chat fine-tuning (which asks for at least 10 rows), TRL, and the LLM Twin course.
`manifest.json` holds the sha256 of each file.
"""

_LICENCE = """## Licence

**Not chosen yet.** The contents belong to their authors: choose a licence that they agree to, and put it in
this card's metadata as `license`, before you share this dataset.
"""


def _listed(names: Sequence[str] | Counter[str]) -> str:
    return ", ".join(f"`{' '.join(name.replace('`', '').split())}`" for name in sorted(names)) or "none"


def _shares(tally: Counter[str]) -> str:
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{tag} {number / tally.total():.0%}" for tag, number in ordered) or "none"


def publish_dataset(
    ledger: pd.DataFrame,
    run: RunFolder,
    *,
    name: str,
    rules: Mapping[str, Any],
    screened: Mapping[str, dict[str, dict[str, int]]],
    notes: Sequence[str] = (),
) -> Manifest:
    """Write the dataset of a written ledger into the run folder; the one before goes when the new is whole.

    Record ``run_fields`` of the manifest in run.json afterwards.

    Parameters
    ----------
    ledger
        The whole table: the rows of a ``side`` are published with the columns `COLUMNS`. Its ``attrs`` hold
        the ``certificate`` and ``sides``, the side of each ``collection/content_id``: those without a row now
        stay known, so that a content which comes back comes back to its side.

    Raises
    ------
    RunIncomplete
        Some ledger rows are pending.
    QualityGate
        A consumer could not read the rows, or what is accepted has no side.
    DiskFailed
        Disk full or read-only; the dataset that was there is untouched.
    """
    staged = run.dataset.with_name(".dataset.staged")
    _check_ledger(ledger)
    try:
        with disk_errors(run.dataset):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            files = _write_rows(staged, ledger)
            counts = {side: files[f"{side}.jsonl"]["rows"] for side in SIDES}
            configs = _configs(counts)
            card = card_text(ledger, name=name, notes=notes, screened=screened, configs=configs, files=files)
            files["README.md"] = hashed_write(staged / "README.md", [card.encode()]) | {"rows": None}
            manifest = Manifest(
                name, counts, dict(sorted(files.items())), _contents_by_side(ledger),
                dict(ledger.attrs["certificate"]), dict(rules), fates_sha256(ledger), list(notes),
                dict(screened),
            )  # fmt: skip
            write_atomically(staged / "manifest.json", manifest.as_json())
            publish_folder(staged, run.dataset)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def run_fields(run: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Give what run.json must hold, so that `checks.check_run` sees any change of manifest or ledger."""
    ledger = file_entry(run.ledger_file)["sha256"]
    return {"dataset_name": manifest.name, "manifest_sha256": manifest.sha256, "ledger_sha256": ledger}


def _check_ledger(ledger: pd.DataFrame) -> None:
    if pending := int((ledger.state == "pending").sum()):
        raise RunIncomplete(
            f"dataset not written: {pending} of {len(ledger)} instructions are pending; run again"
        )
    accepted, written = ledger.state == "accepted", ledger.side.isin(SIDES)
    if (accepted != written).any():
        raise QualityGate(
            f"dataset not written: the ledger accepts {counted(int(accepted.sum()), 'instruction')}, "
            f"found {counted(int(written.sum()), 'row')}; "
            f"in only one of the two, for example: {sorted(places_of(ledger[accepted != written]))[:3]}"
        )


def _write_rows(folder: Path, ledger: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Write every file that holds rows, and return their entries."""
    sides = {side: records_of(ledger.loc[ledger.side == side, list(COLUMNS)]) for side in SIDES}
    if breaks := find_breaks(sides):
        raise QualityGate("dataset not written, its consumers would break:\n" + "\n".join(breaks[:8]))
    files = {}
    for name, rendered in rendered_files(sides).items():
        files[name] = hashed_write(folder / name, rendered.render()) | {"rows": rendered.rows}
    for side in SIDES:
        path = folder / f"{side}.parquet"
        write_parquet(path, sides[side])
        files[path.name] = file_entry(path) | {"rows": len(sides[side])}
    return files


def _configs(counts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    filled = [side for side in SIDES if counts[side]]
    # One kind of file in all configs: `datasets` reads every config with the loader of the first.
    default = {"default": {side: f"{side}.jsonl" for side in filled}}
    return default | {shape.name: {side: shape.path(side) for side in filled} for shape in FORMATS}


def _contents_by_side(ledger: pd.DataFrame) -> dict[str, list[str]]:
    rows = ledger[ledger.side.isin(SIDES)]
    known = ledger.attrs["sides"] | dict(zip(content_names(rows), rows.side, strict=True))
    return {side: sorted(content for content, its in known.items() if its == side) for side in SIDES}
