"""Where a row comes from: its origin, the exact prompt, the request, the raw answer, its measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from llmtwin_data.answers import AnswerStore, Trace
from llmtwin_data.datasets.rows import Row, stored_sides
from llmtwin_data.errors import ParamsError
from llmtwin_data.folders import RunFolder
from llmtwin_data.measures import Measures

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
    here = f"several: {', '.join(sorted(found)[:3])}" if found else f"none of {len(folders)} datasets"
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
    yield f"tokens {request.prompt_tokens} in, {request.completion_tokens} out; {len(traced.texts)} texts"
    yield from (f"this row's is content number {n}" for n, it in enumerate(traced.texts, 1) if it == content)
    if forgotten := sum(text is None for text in traced.texts):
        yield f"{forgotten} of them forgotten since, marked in the prompt by their sha256"
    for message in traced.messages:
        yield f"\n== prompt, {message['role']}\n{message['content']}"
    yield f"\n== raw answer\n{request.raw}"
