"""The dataset card: README.md with the metadata that Hugging Face reads, filled from the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import yaml

from llmtwin_data.datasets.rows import COLUMNS, SIDES, Rows, collections_of
from llmtwin_data.generation import LedgerRow
from llmtwin_data.languages import language_of

if TYPE_CHECKING:
    from llmtwin_data.datasets import Making

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
    sides: Mapping[str, Rows],
    making: Making,
    *,
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
    facts = _facts_of(sides)
    metadata = _metadata(facts, making.name, [_config(*config, files) for config in configs.items()])
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)
    parts = [f"---\n{head}# license: yours to choose before you share this dataset, see Licence below\n---\n"]
    parts += [f"# {making.name}\n\n{_opening(facts)}\n", *(f"> {note}\n" for note in making.notes)]
    parts += [_rows_section(facts), _making_section(facts, making.ledger)]
    # Manifests from before findings were counted have none.
    parts += [_screening_section(making.screened)] if making.screened else []
    parts += [_FILES, _LICENCE]
    return "\n".join(parts)


def size_category(rows: int) -> str:
    """Give Hugging Face's word for this many rows."""
    return next((word for limit, word in SIZES if rows < limit), "1M<n<10M")


def _facts_of(sides: Mapping[str, Rows]) -> _Facts:
    """Gather the facts of a card in one pass over each side."""
    counts = dict.fromkeys(SIDES, 0)
    tallies: dict[str, Counter[str]] = {name: Counter() for name in ("language", "model", "prompt", "author")}
    contents: set[tuple[str, str]] = set()
    for side in SIDES:
        for row in sides[side]:
            counts[side] += 1
            contents.add((row["collection"], row["content_id"]))
            for name, tally in tallies.items():
                tally[row[name]] += 1
    return _Facts(
        counts, collections_of(sides), len(contents), len(tallies["author"]),
        tallies["language"], _content_languages(sides), tallies["model"], tallies["prompt"],
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
    authors = _many(facts.authors, "author")
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
        f"\nFrom {_many(facts.contents, 'content')} of {_listed(facts.collections)}. "
        "No content, and no near-copy of one, is on both sides; `manifest.json` holds the certificate.",
        f"Language of the instructions: {_shares(facts.instruction_languages)}. "
        f"Language of the contents (of {facts.content_languages.total():,} looked at): "
        f"{_shares(facts.content_languages)}.\n",
    ]
    return "\n".join(lines)


def _making_section(facts: _Facts, ledger: Sequence[LedgerRow]) -> str:
    fates = Counter(f"{row.state}: {row.reason}" if row.reason else row.state for row in ledger)
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


def _content_languages(sides: Mapping[str, Rows]) -> Counter[str]:
    looked_at = (row["content"] for side in SIDES for row in islice(sides[side], LANGUAGE_SAMPLE // 2))
    return Counter(language_of(text) for text in looked_at)


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str] | Counter[str]) -> str:
    return ", ".join(f"`{' '.join(name.replace('`', '').split())}`" for name in sorted(names)) or "none"


def _shares(tally: Counter[str]) -> str:
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{tag} {number / tally.total():.0%}" for tag, number in ordered) or "none"
