"""Tables about contents: what there is, of whom and in which language, what is double, skipped or damaged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmtwin_data.chunks import Chunk
from llmtwin_data.contents import SKIPPED, Skipped
from llmtwin_data.curation.damage import damage_of
from llmtwin_data.languages import estimate_tokens, language_of
from llmtwin_data.measures.near_duplicates import near_duplicates
from llmtwin_data.screening import find_personal_data, find_secrets

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "collection", "content_id", "data_type", "author", "platform", "language",
    "characters", "tokens", "chunks", "masked", "damage", "first",
)  # fmt: skip
# Characters that tell a content's language well enough to count; more would double the time of this table.
LANGUAGE_CHARS = 400
UNCLEAR = "unclear"
AS_IT_IS = "sent and published as it is"
# Rows of an overview, the smallest groups together in the last but one.
MOST_ROWS = 12


def content_frame(chunks: Sequence[Chunk]) -> pandas.DataFrame:
    """Give one row a content, made of its chunks; ``first`` is the place of its first chunk in ``chunks``."""
    import pandas

    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    rows: dict[tuple[str, str], list[object]] = {}
    for place, chunk in enumerate(chunks):
        name = (chunk.collection, chunk.content_id)
        places[name].append(place)
        rows[name] = _with_chunk(rows.get(name), chunk, place)
    frame = pandas.DataFrame(list(rows.values()), columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("characters", "tokens", "chunks", "first"), int))


def overview(contents: pandas.DataFrame, *, by: str = "data_type") -> pandas.DataFrame:
    """Count contents, authors, chunks and tokens for each value of a column, with a last row for all."""
    import pandas

    groups = [(str(name) or "(none)", group) for name, group in contents.groupby(by, sort=True)]
    groups.sort(key=lambda item: (-len(item[1]), item[0]))
    if len(groups) > MOST_ROWS:
        others = [group for _, group in groups[MOST_ROWS - 1 :]]
        groups[MOST_ROWS - 1 :] = [(f"{len(others):,} others", pandas.concat(others))]
    rows = [_overview_row(name, group) for name, group in [*groups, ("all", contents)]]
    frame = pandas.DataFrame(rows if len(contents) else [])
    return frame.drop(columns=[f"{by}s"], errors="ignore").rename(columns={"group": by})


def skipped_frame(skipped: Iterable[Skipped]) -> pandas.DataFrame:
    """Count what no pair is made of, by reason, with an example of each."""
    import pandas

    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for item in skipped:
        by_reason[item.reason].append(item)
    rows = [
        {
            "reason": reason.replace("_", " "),
            "meaning": SKIPPED.get(reason, ""),
            "count": len(items),
            "example": items[0].content_id,
        }
        for reason, items in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return pandas.DataFrame(rows)


def damaged_frame(contents: pandas.DataFrame) -> pandas.DataFrame:
    """Count the contents that look destroyed before they reached the database, by sign."""
    import pandas

    damaged = contents[contents["damage"] != ""]
    counts = Counter(damaged["damage"]).most_common()
    rows = [{"sign": sign, "contents": n, "share": n / len(contents)} for sign, n in counts]
    return pandas.DataFrame(rows)


def findings_frame(chunks: Sequence[Chunk]) -> pandas.DataFrame:
    """Count the kept chunks that hold something secret or personal, by kind, and say what happens to it."""
    import pandas

    counts: Counter[tuple[str, str]] = Counter()
    for chunk in chunks:
        found = [*find_secrets(chunk.text), *find_personal_data(chunk.text)]
        counts.update({(finding.group, finding.kind) for finding in found})
        counts.update(("masked", kind) for kind in chunk.masked.split(",") if kind)
    fates = {"masked": "replaced by a placeholder before anything is sent"}
    rows = [
        {"kind": kind, "chunks": n, "what happens to it": fates.get(group, AS_IT_IS)}
        for (group, kind), n in counts.most_common()
    ]
    return pandas.DataFrame(rows)


def told_language(tag: str) -> str:
    """Give a language's tag as tables and figures show it."""
    return UNCLEAR if tag == "und" else tag


def unmasked(findings: pandas.DataFrame) -> int:
    """Count the findings that are sent and published as they are."""
    return (
        0 if findings.empty else int(findings.loc[findings["what happens to it"] == AS_IT_IS, "chunks"].sum())
    )


def copies(
    chunks: Sequence[Chunk], *, threshold: float
) -> tuple[list[tuple[Chunk, Chunk]], list[tuple[Chunk, Chunk]]]:
    """Put each repeated chunk behind the one it repeats: equal ones (but for case and blanks), near ones."""
    texts = [chunk.text for chunk in chunks]
    equal, near = (near_duplicates(texts, threshold=least) for least in (1, threshold))
    found = list(zip(chunks, equal, near, strict=True))
    exact = [(chunks[first], chunk) for chunk, first, _ in found if first is not None]
    alike = [(chunks[first], chunk) for chunk, same, first in found if same is None and first is not None]
    return exact, alike


def _with_chunk(row: list[object] | None, chunk: Chunk, place: int) -> list[object]:
    size, tokens = len(chunk.text), estimate_tokens(chunk.text)
    if row is None:
        origin = [chunk.collection, chunk.content_id, chunk.data_type, chunk.author, chunk.platform]
        return [
            *origin,
            told_language(language_of(chunk.text[:LANGUAGE_CHARS])),
            size,
            tokens,
            1,
            chunk.masked,
            damage_of(chunk.text),
            place,
        ]
    row[6:9] = [int(str(value)) + more for value, more in zip(row[6:9], (size, tokens, 1), strict=True)]
    row[10] = row[10] or damage_of(chunk.text)
    return row


def _overview_row(name: str, group: pandas.DataFrame) -> dict[str, object]:
    lengths = group["characters"]
    return {
        "group": name,
        "contents": len(group),
        "authors": int(group["author"].nunique()),
        "languages": ", ".join(sorted(group["language"].unique())),
        "median characters": int(lengths.median()) if len(group) else 0,
        "longest": int(lengths.max()) if len(group) else 0,
        "chunks": int(group["chunks"].sum()),
        "tokens (estimate)": int(group["tokens"].sum()),
    }
