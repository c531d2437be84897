"""The dataset: ledger, rows, every format with card, and the manifest last; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from llmtwin_data.cluster import HERE, Workers, blocks, of_each, without_attrs
from llmtwin_data.contents import KEY, PLACE, Place, content_names, places_of, records_of
from llmtwin_data.errors import DiskFailed, ParamsError, QualityGate, RunIncomplete
from llmtwin_data.folders import (
    RunFolder,
    disk_errors,
    json_lines,
    numbered_lines,
    publish_folder,
    write_atomically,
)
from llmtwin_data.measures import MEASURES
from llmtwin_data.tables import code
from llmtwin_data.texts import counted, estimate_tokens, prose_language, text_sha256

Row = Mapping[str, Any]
Rows = Iterable[Row]
SIDES = ("train", "test")
GROUP_ROWS = 5_000  # of Parquet: about 10 MB of text
RENDERED_ROWS = 1_000  # at once: about 7 MB in all formats; a group has a multiple of them
STATES = ("accepted", "rejected", "failed", "skipped", "pending")
# What every row of a dataset has, in the order in which it is written. A measure that does not stand here
# comes after all, so that older readers go on: rows of before are beginnings of rows of now.
_ORDER = [
    "id", "instruction", "content", "content_id", "start", "end", "author", "platform", "link",
    "data_type", "prompt", "prompt_sha256", "model", "answer_key",
    "grounding", "grounding_rank", "grounding_margin", "copied_instruction", "copied_content",
    "genericness", "repeats", "language", "language_asked", "language_ok", "characters", "tokens",
    "self_contained", "judge_score", "judge_reason", "collection", "k", "masked",
    "evidence", "measured_by", "repeated_bigrams", "boilerplate", "title", "published",
]  # fmt: skip
_NUMBERS = dict.fromkeys(("start", "end", "k", "judge_score"), "Int64") | {"boilerplate": "float64"}
# The type of each column, as the table holds it.
COLUMNS = {it: (MEASURES | _NUMBERS).get(it, "str") for it in dict.fromkeys([*_ORDER, *MEASURES])}
# Rows of the first edition ended there.
_FEWEST = _ORDER.index("masked") + 1
# The columns that ledger.jsonl keeps of the table, in the order in which every line is written.
LEDGER = {
    "content_id": "str", "start": "int64", "end": "int64", "k": "int64", "state": "str", "reason": "str",
    "value": "str", "requests": "int64", "prompt_tokens": "int64", "completion_tokens": "int64",
    "cost_usd": "float64", "collection": "str", "instruction_sha256": "str",
}  # fmt: skip
# Ledgers of before have not the last column, which ties each instruction to its row.
_FIRST_LEDGER = list(LEDGER)[:-1]
_JSON_TYPES = {"str": (str,), "int64": (int,), "float64": (int, float, type(None))}
# What Arrow and the card call the types of `COLUMNS`.
_ARROW_TYPES = {"str": "string", "Int64": "int64", "float64": "float64", "boolean": "bool"}


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a file, read one by one as often as they are asked for: a million take some GB."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for _, row in numbered_lines(self.path))


def stored_sides(dataset: Path) -> dict[str, StoredRows]:
    """Return the rows of a dataset folder by side."""
    return {side: StoredRows(dataset / f"{side}.jsonl") for side in SIDES}


def lines_of(sides: Mapping[str, Rows]) -> Iterator[tuple[str, str, Row]]:
    """Yield the name of each line, its side and its row."""
    for side, rows in sides.items():
        for number, row in enumerate(rows, start=1):
            yield f"{side}.jsonl: line {number}", side, row


def place_of_row(row: Row) -> Place:
    """Return what no two rows share: the chunk and the number of the instruction."""
    return row["collection"], row["content_id"], row["start"], row["end"], row["k"]


def content_of_row(row: Row) -> str:
    """Return the content as the manifest's sides name it: ``collection/content_id``."""
    return f"{row['collection']}/{row['content_id']}"


def write_ledger(path: Path, ledger: pd.DataFrame, *, workers: Workers = HERE) -> None:
    """Write the columns `LEDGER` as JSON lines, whole or not at all, with a hash of ``instruction``."""
    rows = blocks(ledger[[*_FIRST_LEDGER, "instruction"]])
    write_atomically(path, workers.map(_ledger_lines, rows))


def _ledger_lines(rows: pd.DataFrame) -> bytes:
    hashes = [text_sha256(words) if isinstance(words, str) else "" for words in rows.instruction]
    return json_lines(records_of(rows[_FIRST_LEDGER].assign(instruction_sha256=hashes)))


def read_ledger(path: Path) -> pd.DataFrame:
    """Read the columns `LEDGER` of every row, in order; ledgers of before have no hash, which is then empty.

    Raises DiskFailed: the file cannot be read, or a line is not a ledger row; the message names the line.
    """
    parts = [_ledger_part(path, lines) for lines in blocks(numbered_lines(path))]
    return pd.concat(parts, ignore_index=True)


def _ledger_part(path: Path, lines: Sequence[tuple[int, Row]]) -> pd.DataFrame:
    for number, row in lines:
        wrong = [name for name in row if type(row[name]) not in _JSON_TYPES[LEDGER.get(name, "str")]]
        if wrong or list(row) not in (list(LEDGER), _FIRST_LEDGER):
            raise DiskFailed(
                f"{path.name}, line {number}: expected a ledger row with the keys {tuple(LEDGER)}, "
                f"found {f'another type in {wrong}' if wrong else list(row)}"
            )
    rows = pd.DataFrame([row for _, row in lines], columns=list(LEDGER))
    return rows.fillna({"instruction_sha256": ""}).astype(LEDGER)


def ledger_totals(ledger: pd.DataFrame) -> dict[str, int]:
    """Count contents, chunks (skipped ones too) and the rows of each state: the ``totals`` of run.json."""
    names = {"contents": KEY[:2], "chunks": KEY}
    counts = {name: len(ledger[columns].drop_duplicates()) for name, columns in names.items()}
    return counts | {state: int((ledger.state == state).sum()) for state in STATES}


def fates_sha256(ledger: pd.DataFrame, *, workers: Workers = HERE) -> str:
    """Hash where every row ended, not what it cost: a retry after a fault changes the cost only."""
    digest = hashlib.sha256()
    for lines in workers.map(_fate_lines, blocks(ledger[[*PLACE, "state", "reason", "value"]])):
        digest.update(lines)
    return digest.hexdigest()


def _fate_lines(fates: pd.DataFrame) -> bytes:
    return json_lines(fates.itertuples(index=False, name=None))


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
        """Return the text of manifest.json."""
        values = {it.name: getattr(self, it.name) for it in fields(self)}
        return json.dumps(values, ensure_ascii=False, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """The hash of manifest.json, which names the dataset in all its bytes."""
        return text_sha256(self.as_json())


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.json.

    Raises ParamsError: no such file; DiskFailed: it is not a manifest.
    """
    if not path.is_file():
        raise ParamsError(f"{path}: expected a manifest.json, found no such file")
    try:
        manifest = Manifest(**json.loads(path.read_bytes()))
        if not all(isinstance(manifest.sides.get(side), list) for side in SIDES):
            raise TypeError(f"found {str(manifest.sides)[:60]} for sides")
        if not all(isinstance(entry["sha256"], str) for entry in manifest.files.values()):
            raise TypeError(f"found {str(manifest.files)[:60]} for files")
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DiskFailed(
            f"{path}: expected a manifest of this version, {str(error)[:200]}; it is damaged or of another, "
            "so move it away"
        ) from error
    return manifest


def file_entry(path: Path) -> dict[str, Any]:
    """Return sha256 and size of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
# Shapes of row that some trainer reads, each written to ``formats/<name>/<side>.jsonl``; the second argument
# are the turns of a chat, with that of the system, for which alpaca and the course's files have no place.
FORMATS: dict[str, Callable[[Row, list[dict[str, str]]], Row]] = {
    # LLaMA-Factory, Axolotl, Unsloth
    "alpaca": lambda row, _: {"instruction": row["instruction"], "input": "", "output": row["content"]},
    # LLaMA-Factory, Axolotl, FastChat
    "sharegpt": lambda _, turns: {
        "conversations": [{"from": _SPEAKERS[it["role"]], "value": it["content"]} for it in turns]
    },
    # OpenAI chat fine-tuning and TRL
    "openai": lambda _, turns: {"messages": turns},
    # TRL's SFTTrainer, which glues plain strings together, but puts the model's chat template around these
    "trl": lambda _, turns: {"prompt": turns[:-1], "completion": turns[-1:]},
}
# The course's words for the two sides.
COURSE_SIDES = {"train": "training", "test": "testing"}


# What stands around and between the rows of a JSON list, a row a line.
_LIST, _AND, _END = b"[", b",\n", b"\n]\n"


def rendered_files(sides: Mapping[str, Rows], *, system: str = "") -> Iterator[tuple[str, int, bytes]]:
    """Yield every text file that holds rows in pieces: its path in the dataset, how many, their bytes."""
    collections = _collections(sides)
    for side in SIDES:
        yield from framed(
            render_rows(it, side, collections, system=system) for it in blocks(iter(sides[side]))
        )


def render_rows(
    rows: Sequence[Row], side: str, collections: Iterable[str], *, system: str = ""
) -> dict[str, tuple[int, bytes]]:
    """Return by the path of each text file of a side how many of these rows it holds, and as which bytes."""
    files = {f"{side}.jsonl": (len(rows), json_lines(rows))}
    turns = [_turns(row, system) for row in rows]
    for name, render in FORMATS.items():
        files[f"formats/{name}/{side}.jsonl"] = len(rows), json_lines(map(render, rows, turns))
    for collection in collections:
        own = [row for row in rows if row["collection"] == collection]
        path = f"formats/course/{course_name(collection)}_{COURSE_SIDES[side]}.json"
        files[path] = len(own), _course_rows(own)
    return files


def framed(parts: Iterable[Mapping[str, tuple[int, bytes]]]) -> Iterator[tuple[str, int, bytes]]:
    """Yield what `render_rows` made of the parts of a side, and what makes lists of the course's files."""
    counts = Counter[str]()
    for part in parts:
        for path, (count, piece) in part.items():
            is_first = path.endswith(".json") and not counts[path] and count
            counts[path] += count
            yield path, count, _LIST + piece.removeprefix(_AND[:1]) if is_first else piece
    for path in filter(re.compile(r"\.json$").search, counts):
        yield path, 0, _END if counts[path] else _LIST + _END[1:]


def _turns(row: Row, system: str) -> list[dict[str, str]]:
    texts = {"system": _system_turn(row, system), "user": row["instruction"], "assistant": row["content"]}
    return [{"role": role, "content": text} for role, text in texts.items() if role != "system" or text]


def _system_turn(row: Row, template: str) -> str:
    names = "{(author|platform|data_type)}"
    return re.sub(names, lambda slot: str(row.get(slot[1]) or ""), template).strip()


def _collections(sides: Mapping[str, Rows]) -> list[str]:
    return sorted({row["collection"] for side in SIDES for row in sides[side]})


def _course_rows(rows: Rows) -> bytes:
    pairs = ({"instruction": row["instruction"], "content": row["content"]} for row in rows)
    return b"".join(_AND + json.dumps(pair, ensure_ascii=False).encode() for pair in pairs)


def course_name(collection: str) -> str:
    """Return the collection's name without the words by which the course's client tells the two files apart.

    It takes the first file whose name contains ``train`` or ``test``, so ``cleaned_training_notes`` becomes
    ``cleaned_tr-aining_notes``, and ``latest_posts`` becomes ``late-st_posts``.
    """
    return re.sub("(?i)(?<=tr)(?=ain)|(?<=te)(?=st)", "-", collection)


def write_course_pair(dataset: Path, folder: Path) -> tuple[Path, Path]:
    """Write the two files of the Comet artifact, training first; named after the one collection, or ``twin``.

    Raises QualityGate: the train set is empty: the course's client reads the keys of its first row.
    """
    sides = stored_sides(dataset)
    if not any(sides["train"]):
        raise QualityGate(
            "publish: expected rows in train.jsonl, found none; the course's client cannot load that. "
            "See the waterfall in the report for what rejected them"
        )
    collections = _collections(sides)
    name = course_name(collections[0]) if len(collections) == 1 else "twin"
    training, testing = (folder / f"{name}_{word}.json" for word in COURSE_SIDES.values())
    for path, side in ((training, "train"), (testing, "test")):
        parts = ({path.name: (len(rows), _course_rows(rows))} for rows in blocks(iter(sides[side])))
        with path.open("wb") as file:
            file.writelines(piece for _, _, piece in framed(parts))
    return training, testing


def find_breaks(sides: Mapping[str, Rows]) -> list[str]:
    """Return what a consumer would refuse or misread: blank texts, lone surrogates, repeated ids, clashes."""
    breaks, ids, collections = list[str](), list[tuple[str, str]](), set[Any]()
    for line, _, row in lines_of(sides):
        breaks += _breaks_of(line, row)
        ids.append((line, str(row.get("id"))))
        collections.add(row.get("collection"))
    breaks += _repeated_ids(ids)
    return breaks or _clashes(sorted(collections))


def _breaks_of(line: str, row: Row) -> Iterator[str]:
    if len(row) < _FEWEST or list(row) != list(COLUMNS)[: len(row)]:
        yield f"{line}: expected the keys {list(COLUMNS)} in this order, found {list(row)}"
        return
    for key in ("instruction", "content"):
        if not isinstance(row[key], str) or not row[key].strip():
            kind = type(row[key]).__name__
            yield f"{line}: expected text in {key}, found {kind} without any"
        elif re.search("[\0\ud800-\udfff]", row[key]):
            yield f"{line}: expected {key} that UTF-8 can hold, found a lone surrogate or NUL"


def _repeated_ids(ids: Iterable[tuple[str, str]]) -> Iterator[str]:
    seen = set[str]()
    for line, row_id in ids:
        if row_id in seen:
            yield f"{line}: expected an id of its own, found {row_id} again"
        seen.add(row_id)


def _clashes(collections: Iterable[str]) -> list[str]:
    names = [*map(course_name, collections)]
    is_clear = len(set(names)) == len(names)
    return [] if is_clear else [f"formats/course: expected a file name for each collection, found {names}"]


# Fits one consumer GPU, writes 100 languages and is no thinker; LLaMA-Factory's word for its turns.
MODEL, TEMPLATE = "Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink"
# What `training_files` needs.
_TRAINED = ["tokens", "author", "platform", "data_type"]
# Rows up to which so many epochs and LoRA ranks are tried first; a small set is soon known by heart.
EPOCHS, RANKS = {300: 3, 3000: 2}, {300: 8, 3000: 16}
# A tokenizer may take more tokens than our estimate, and a template adds its own.
ROOM, FRAME = 1.3, 64
# Rows of one step of the optimizer, and a tenth of all steps to warm up.
ROWS_A_STEP, WARMUP = 8, 0.1


def training_files(rows: pd.DataFrame, *, name: str, system: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the paths and bytes of what LLaMA-Factory and TRL are started with; no row is in it.

    ``rows``: those with a ``side``; needs ``tokens``, and what a system turn names.
    """
    counts = {side: int((rows.side == side).sum()) for side in SIDES}
    first = pd.concat([rows[rows.side == side].head(100) for side in SIDES]).head(100)
    train, longest = counts["train"], int(rows.tokens.max()) if len(rows) else 0
    longest += max((estimate_tokens(_system_turn(row, system)) for row in records_of(first)), default=0)
    epochs = next((epochs for most, epochs in EPOCHS.items() if train < most), 1)
    steps = epochs * -(-train // ROWS_A_STEP)
    figures = f"{counted(train, 'pair')} to train on, {counts['test']:,} to test with, the longest about "
    values = {
        "name": name, "model": MODEL, "template": TEMPLATE, "epochs": epochs,
        # Rounded up, so that one pair more makes no other file.
        "cutoff": -(-int(ROOM * longest + FRAME) // 256) * 256,
        "rank": next((rank for most, rank in RANKS.items() if train < most), 32),
        "eval": bool(counts["test"]),
        "accumulation": ROWS_A_STEP, "warmup": int(WARMUP * steps), "seed": 42,
        "figures": f"{figures}{counted(longest, 'token')}; about {counted(steps, 'step')} in all.",
    }  # fmt: skip
    for file in ("llamafactory.yaml", "trl.yaml", "trl_sft.py"):
        yield f"training/{file}", _render(f"training/{file}.j2", values).encode()
    columns = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    info = {
        dataset: {"file_name": f"../formats/sharegpt/{side}.jsonl"} | columns
        for side, dataset in (("train", name), ("test", f"{name}-test"))
        if counts[side]
    }
    yield "training/dataset_info.json", json.dumps(info, indent=2).encode() + b"\n"


def _render(template: str, values: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmtwin_data", "templates"),
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)


# Contents whose language is looked at; a card needs the languages, not their exact shares.
LANGUAGE_SAMPLE = 500
# A language of fewer texts is rather one that was mistaken for another.
LANGUAGE_SHARE = 0.02
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def _card(
    ledger: pd.DataFrame,
    files: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    notes: Sequence[str],
    screened: Mapping[str, Mapping[str, Mapping[str, int]]],
    workers: Workers,
) -> str:
    """Return the card; ``files`` are the manifest's entries."""
    rows = ledger.loc[ledger.side.isin(SIDES), ["side", "author", "language", "model", "prompt", *KEY]]
    looked_at = rows.groupby("side").head(LANGUAGE_SAMPLE // 2).index
    texts = ledger.content[looked_at]
    # A process that has not the model of languages needs 64 MB less.
    tags_of = workers.map(of_each, blocks(texts.tolist()), given=[prose_language])
    sample = pd.Series([*chain.from_iterable(tags_of)], texts.index, dtype="str")
    # Shares of languages: of all instructions, and of the contents that are looked at.
    shares = [tags.value_counts(normalize=True).sort_index() for tags in (rows.language, sample)]
    tags = sorted({tag for each in shares for tag in each.index[each >= LANGUAGE_SHARE]} - {"und", ""})
    spoken, written = (
        ", ".join(
            f"{tag} {share:.0%}" for tag, share in each.sort_values(ascending=False, kind="stable").items()
        )
        for each in shares
    )
    collections, models, prompts = (
        ", ".join(map(code, sorted(set(rows[column])))) or "none"
        for column in ("collection", "model", "prompt")
    )
    fates = (ledger.state + (": " + ledger.reason).where(ledger.reason != "", "")).value_counts().sort_index()
    values = {
        "metadata": _metadata(files, name=name, tags=tags), "name": name, "notes": notes,
        "counts": {side: files[f"{side}.jsonl"]["rows"] for side in SIDES}, "fates": fates.items(),
        "screened": screened, "authors": counted(rows.author.nunique(), "author"),
        "contents": counted(len(rows[KEY[:2]].drop_duplicates()), "content"),
        "collections": collections, "models": models, "prompts": prompts,
        "spoken": spoken or "none", "written": written or "none", "looked_at": len(sample),
    }  # fmt: skip
    return _render("card.md.j2", values)


def _metadata(files: Mapping[str, Mapping[str, Any]], *, name: str, tags: Sequence[str]) -> str:
    """Return what the Hub and `datasets` read of a card, as YAML."""
    counts = {side: files[f"{side}.jsonl"]["rows"] for side in SIDES}
    configs = []
    # One kind of file in all configs: `datasets` reads every config with the loader of the first.
    for config, folder in {"default": "", **{each: f"formats/{each}/" for each in FORMATS}}.items():
        # A side without rows is in none, since it cannot be loaded.
        paths = {side: f"{folder}{side}.jsonl" for side in SIDES if counts[side]}
        # `datasets` keeps what it read under the folder's name and the configs, and all folders have one
        # name: what the files hold must stand in a config, or it gives out the rows of another run.
        hashes = ", ".join(f"{side} sha256 {files[path]['sha256'][:16]}" for side, path in paths.items())
        default = {"default": True} if config == "default" else {}
        data_files = [{"split": side, "path": path} for side, path in paths.items()]
        configs += [{"config_name": config, "description": hashes} | default | {"data_files": data_files}]
    configs, total = configs if any(counts.values()) else [], sum(counts.values())
    metadata = {
        "pretty_name": name,
        "language": sorted({tag.split("-")[0] for tag in tags}),
        "language_bcp47": [tag for tag in tags if "-" in tag],
        "task_categories": ["text-generation"],
        "size_categories": [next((word for most, word in SIZES if total < most), "1M<n<10M")],
        "tags": ["instruction-backtranslation", "llm-twin"],
        "configs": configs,
        # `datasets` would guess the types otherwise, and wrongly for a column without a value.
        "dataset_info": configs and {
            "config_name": "default",
            "features": [{"name": each, "dtype": _ARROW_TYPES[dtype]} for each, dtype in COLUMNS.items()],
        },
    }  # fmt: skip
    metadata = {key: value for key, value in metadata.items() if value}
    return str(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000))


def publish_dataset(
    ledger: pd.DataFrame,
    run: RunFolder,
    *,
    name: str,
    rules: Mapping[str, Any],
    screened: Mapping[str, dict[str, dict[str, int]]],
    notes: Sequence[str] = (),
    workers: Workers = HERE,
) -> Manifest:
    """Write the dataset of a written ledger into the run folder; the one before goes when the new is whole.

    Record ``run_fields`` of the manifest in run.json afterwards.

    ``ledger``: the whole table: the rows of a ``side`` are published with the columns `COLUMNS`. Its
    ``attrs`` hold the ``certificate`` and ``sides``, the side of each ``collection/content_id``: those
    without a row now stay known, so that a content which comes back comes back to its side.

    Raises RunIncomplete: some ledger rows are pending; QualityGate: a consumer could not read the rows, or
    what is accepted has no side; DiskFailed: disk full or read-only; the dataset that was there is untouched.
    """
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
    staged = run.dataset.with_name(".dataset.staged")
    try:
        with disk_errors(run.dataset):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            system = str(rules.get("system", ""))
            files = _write_rows(staged, ledger, name=name, system=system, workers=workers)
            card = _card(ledger, files, name=name, notes=notes, screened=screened, workers=workers)
            files["README.md"] = _write(staged / "README.md", card.encode())
            rows = ledger.loc[written, ["collection", "content_id", "side"]]
            contents = ledger.attrs["sides"] | dict(zip(content_names(rows), rows.side, strict=True))
            manifest = Manifest(
                name=name,
                counts={side: files[f"{side}.jsonl"]["rows"] for side in SIDES},
                files=dict(sorted(files.items())),
                sides={side: sorted(it for it in contents if contents[it] == side) for side in SIDES},
                certificate=dict(ledger.attrs["certificate"]),
                rules=dict(rules),
                ledger_sha256=fates_sha256(ledger, workers=workers),
                notes=list(notes),
                screened=dict(screened),
            )
            write_atomically(staged / "manifest.json", manifest.as_json())
            publish_folder(staged, run.dataset)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def run_fields(run: RunFolder, manifest: Manifest) -> dict[str, Any]:
    """Return what run.json must hold, so that `checks.check_run` sees any change of manifest or ledger."""
    paths = {"manifest": run.dataset / "manifest.json", "ledger": run.ledger_file}
    hashes = {f"{name}_sha256": file_entry(path)["sha256"] for name, path in paths.items()}
    return {"dataset_name": manifest.name} | hashes


def seal_run(run: RunFolder, **values: Any) -> None:
    """Write the last values of a run into run.json, and with them the seal over all that it wrote."""
    run.update(**values, seal=seal_of(run, run.read() | values))


def seal_of(run: RunFolder, fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the sha256 of each field of run.json, of manifest, ledger and verdicts, all of which stay.

    The hashes of report and notebooks are no part of it, since a report may be written again.
    """
    paths = {"dataset/manifest.json", "ledger.jsonl", "verdicts.jsonl"}
    hashes = {
        f"run.json: {name}": text_sha256(json.dumps(value, ensure_ascii=False, sort_keys=True))
        for name, value in fields.items()
        if name not in ("files", "seal")
    }
    present = {path for path in paths if (run.path / path).is_file()}
    return dict(sorted((hashes | {path: file_entry(run.path / path)["sha256"] for path in present}).items()))


def _write_rows(
    folder: Path, ledger: pd.DataFrame, *, name: str, system: str, workers: Workers
) -> dict[str, dict[str, Any]]:
    """Write every file that holds rows, and those for trainers, and return their entries."""
    import pyarrow.parquet as pq

    rows = ledger.loc[ledger.side.isin(SIDES), ["side", "id", "collection", *_TRAINED]]
    collections = sorted(rows.collection.unique())
    lines = rows.side + ".jsonl: line " + (rows.groupby("side").cumcount() + 1).astype("str")
    breaks = [*_clashes(collections), *_repeated_ids(zip(lines, rows.id, strict=True))]
    _check_breaks(breaks)
    counts = Counter[str]()
    for side in SIDES:
        groups = workers.map(_render_group, _groups(ledger, side), given=(side, collections, system))
        path = folder / f"{side}.parquet"
        # Without pandas' own schema, which names its version.
        with pq.ParquetWriter(
            path, _schema(), compression="zstd", store_schema=False, write_statistics=False
        ) as writer:
            for file, count, piece in framed(_text_of(groups, writer, breaks)):
                _append(folder / file, piece)
                counts[file] += count
        counts[path.name] = counts[f"{side}.jsonl"]
    _check_breaks(breaks)
    files = {file: file_entry(folder / file) | {"rows": count} for file, count in counts.items()}
    for file, text in training_files(rows, name=name, system=system):
        files[file] = _write(folder / file, text)
    return files


def _check_breaks(breaks: Sequence[str]) -> None:
    if breaks:
        first = "\n".join(breaks[:8])
        raise QualityGate(f"dataset not written, its consumers would break:\n{first}")


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(_ARROW_TYPES[dtype])) for name, dtype in COLUMNS.items()])


def _groups(ledger: pd.DataFrame, side: str) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield the rows of a side, some at a time, each with the number of their first line."""
    places, rows = np.flatnonzero(ledger.side == side), without_attrs(ledger[[*COLUMNS, "side"]])
    for at in range(0, len(places) or 1, RENDERED_ROWS):
        group = places[at : at + RENDERED_ROWS]
        window = rows.iloc[slice(group[0], group[-1] + 1) if len(group) else slice(0)]
        yield at + 1, window.loc[window.side == side, [*COLUMNS]]


# Rows as a table of Arrow and as `render_rows` does, or what of them would break their consumers.
_Group = tuple[Any, dict[str, tuple[int, bytes]], list[str]]


def _render_group(
    part: tuple[int, pd.DataFrame], side: str, collections: Sequence[str], system: str
) -> _Group:
    import pyarrow as pa

    first, rows = part[0], records_of(part[1])
    lines = ((f"{side}.jsonl: line {number}", row) for number, row in enumerate(rows, start=first))
    if breaks := [it for line, row in lines for it in _breaks_of(line, row)]:
        return None, {}, breaks
    table = pa.Table.from_pylist(rows, schema=_schema())
    return table, render_rows(rows, side, collections, system=system), []


def _text_of(
    groups: Iterable[_Group], writer: Any, breaks: list[str]
) -> Iterator[dict[str, tuple[int, bytes]]]:
    """Yield the text of the rows, and write their tables; collect what would break."""
    import pyarrow as pa

    tables = list[Any]()
    for table, files, found in groups:
        breaks += found
        tables += [] if breaks else [table]
        if len(tables) * RENDERED_ROWS == GROUP_ROWS:
            writer.write_table(pa.concat_tables(tables).combine_chunks(), row_group_size=GROUP_ROWS)
            tables = []
        yield files
    if tables:
        writer.write_table(pa.concat_tables(tables).combine_chunks(), row_group_size=GROUP_ROWS)


def _append(path: Path, piece: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(piece)


def _write(path: Path, text: bytes) -> dict[str, Any]:
    """Write a file and return its entry; `folders.publish_folder` makes it durable later."""
    _append(path, text)
    return file_entry(path) | {"rows": None}
