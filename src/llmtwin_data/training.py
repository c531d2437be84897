"""What LLaMA-Factory and TRL are started with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmtwin_data.texts import counted, estimate_tokens

FOLDER = "training"
# Fits one consumer GPU, writes 100 languages and is no thinker; LLaMA-Factory's word for its turns.
MODEL, TEMPLATE = "Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink"
# Rows up to which so many epochs and LoRA ranks are tried first; a small set is soon known by heart.
EPOCHS, RANKS = {300: 3, 3000: 2}, {300: 8, 3000: 16}
# A tokenizer may take more tokens than our estimate, and a template adds its own.
ROOM, FRAME = 1.3, 64
# Rows of one step of the optimizer, and a tenth of all steps to warm up.
ROWS_A_STEP, WARMUP = 8, 0.1


def system_words(row: Mapping[str, Any], template: str) -> str:
    """Return the system turn of a row, with its ``author``, ``platform`` and ``data_type`` filled in."""
    return re.sub(
        r"{(author|platform|data_type)}", lambda slot: str(row.get(slot[1]) or ""), template
    ).strip()


def training_files(
    sides: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str, system: str
) -> Iterator[tuple[str, bytes]]:
    """Yield every file of ``training/``: its path in the dataset and its bytes."""
    import jinja2

    values = _values(sides, name=name, system=system)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmtwin_data", f"templates/{FOLDER}"),
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    for template in environment.list_templates(filter_func=lambda name: not name.startswith("_")):
        text = environment.get_template(template).render(values)
        yield f"{FOLDER}/{template.removesuffix('.j2')}", text.encode()
    columns = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    info = {
        dataset: {"file_name": f"../formats/sharegpt/{side}.jsonl"} | columns
        for side, dataset in (("train", name), ("test", f"{name}-test"))
        if sides[side]
    }
    yield f"{FOLDER}/dataset_info.json", json.dumps(info, indent=2).encode() + b"\n"


def _values(sides: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str, system: str) -> dict[str, Any]:
    """Return what the templates are filled with."""
    rows = [row for each in sides.values() for row in each]
    train, longest = len(sides["train"]), max((row["tokens"] for row in rows), default=0)
    longest += max((estimate_tokens(system_words(row, system)) for row in rows[:100]), default=0)
    # Rounded up, so that one pair more makes no other file.
    cutoff = -(-int(ROOM * longest + FRAME) // 256) * 256
    epochs = next((epochs for most, epochs in EPOCHS.items() if train < most), 1)
    steps = epochs * -(-train // ROWS_A_STEP)
    figures = f"{counted(train, 'pair')} to train on, {len(sides['test']):,} to test with, the longest about "
    return {
        "name": name, "model": MODEL, "template": TEMPLATE, "cutoff": cutoff, "epochs": epochs,
        "rank": next((rank for most, rank in RANKS.items() if train < most), 32), "eval": bool(sides["test"]),
        "accumulation": ROWS_A_STEP, "warmup": int(WARMUP * steps), "seed": 42,
        "figures": f"{figures}{counted(longest, 'token')}; about {counted(steps, 'step')} in all.",
    }  # fmt: skip
