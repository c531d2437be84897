"""From collections to chunks on disk; every content ends as chunks or as a skipped row with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmtwin_data.answers import forget_marks
from llmtwin_data.chunks import Chunk, ChunkSpool, split_content, text_sha256
from llmtwin_data.contents import Content, Skipped, read_contents
from llmtwin_data.folders import disk_errors
from llmtwin_data.params import Params
from llmtwin_data.screening import Fates, screen_content
from llmtwin_data.sources import Source


@dataclass(slots=True)
class Fetched:
    """What was read; ``by_collection`` counts contents, ``fates`` what screening found in them."""

    chunks: ChunkSpool
    skipped: list[Skipped] = field(default_factory=list)
    fates: Fates = field(default_factory=Fates)
    by_collection: dict[str, int] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def contents(self) -> int:
        """How many contents were read, skipped ones included."""
        return sum(self.by_collection.values())

    @property
    def source_changed(self) -> bool:
        """Whether a collection held another number of contents after reading than before."""
        return any(before != after for before, after in self.counts.values())


class ChunkTexts(Sequence[str]):
    """The chunks' texts as a sequence that reads each from disk when it is asked for."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self._chunks[index].text

    def __iter__(self) -> Iterator[str]:
        return (chunk.text for chunk in self._chunks)


def fetch_chunks(source: Source, settings: Params, *, path: Path, forgotten: frozenset[str]) -> Fetched:
    """Read, cut and screen the contents of all collections into a spool at ``path``.

    Parameters
    ----------
    forgotten
        Hashes of what must not be used again, as the store of answers keeps them.
    """
    skipped: list[Skipped] = []
    fates = Fates()
    read: dict[str, int] = {}
    before = _counts(source, settings)

    def chunks() -> Iterator[Chunk]:
        for content in _contents(source, settings, counts=before, read=read):
            kept, left_out, found = _prepare(content, settings, forgotten=forgotten)
            skipped.extend(left_out)
            fates.update(found)
            yield from kept

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    spool = ChunkSpool.write(path, chunks())
    after = _counts(source, settings)
    return Fetched(spool, skipped, fates, read, {name: (before[name], after[name]) for name in before})


def _counts(source: Source, settings: Params) -> dict[str, int]:
    filters = {"authors": settings.authors, "platforms": settings.platforms}
    return {name: source.count(name, **filters) for name in settings.collections}


def _shares(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """Share a limit equally between collections; what a small one leaves goes to the larger ones."""
    shares, left = {}, limit
    for place, name in enumerate(sorted(counts, key=lambda name: counts[name])):
        shares[name] = min(counts[name], -(-left // (len(counts) - place)))
        left -= shares[name]
    return shares


def _contents(
    source: Source, settings: Params, *, counts: Mapping[str, int], read: dict[str, int]
) -> Iterator[Content | Skipped]:
    shares = _shares(counts, settings.limit)
    for name in settings.collections:
        read[name] = 0
        if settings.limit and not shares[name]:
            continue
        for content in read_contents(
            source,
            name,
            authors=settings.authors,
            platforms=settings.platforms,
            limit=shares[name],
            data_type=settings.data_type,
        ):
            read[name] += 1
            yield content


def _prepare(
    content: Content | Skipped, settings: Params, *, forgotten: frozenset[str]
) -> tuple[list[Chunk], list[Skipped], Fates]:
    if isinstance(content, Skipped):
        return [], [content], Fates()
    if forgotten and not forgotten.isdisjoint(_marks(content)):
        return [], [_forgotten(content, 0, len(content.text))], Fates()
    chunks = split_content(content, max_chars=settings.chunk_chars)
    kept, skipped, fates = screen_content(
        content, chunks, secrets=settings.secrets, personal_data=settings.personal_data
    )
    gone = [chunk for chunk in kept if forgotten and _is_forgotten(chunk, content, forgotten)]
    skipped += [_forgotten(content, chunk.start, chunk.end) for chunk in gone]
    return [chunk for chunk in kept if chunk not in gone], skipped, fates


def _marks(content: Content) -> frozenset[str]:
    origin = forget_marks(
        author=content.author, link=content.link, collection=content.collection, content_id=content.id
    )
    return origin | {text_sha256(content.text)}


def _is_forgotten(chunk: Chunk, content: Content, forgotten: frozenset[str]) -> bool:
    """Compare a piece as it would be sent and as it stands in its content: either may have been stored."""
    return any(text_sha256(text) in forgotten for text in (chunk.text, content.text[chunk.start : chunk.end]))


def _forgotten(content: Content, start: int, end: int) -> Skipped:
    # Neither author nor link: the row must not keep what someone wanted to be forgotten.
    return Skipped(content.id, content.collection, end - start, "forgotten", start=start, end=end)
