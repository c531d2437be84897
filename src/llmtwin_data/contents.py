"""Contents of a collection, in any payload shape the course and its book wrote, as a table of chunks."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any, cast

import pandas as pd
import regex

from llmtwin_data.cluster import BLOCK_ROWS, blocks, workers_of
from llmtwin_data.errors import SourceError
from llmtwin_data.loading import NOT_ENCODABLE
from llmtwin_data.overlaps import common_share, common_windows, without_edges
from llmtwin_data.params import Params
from llmtwin_data.screening import Finding, find_personal_data, find_secrets, without_overlaps
from llmtwin_data.sources import AUTHOR_FIELDS, TEXT_FIELDS, PointId, Source
from llmtwin_data.texts import Hashes, forget_marks, grapheme_boundary, prose_of, sentence_ends, text_sha256

LINK_FIELDS = ("link", "name")
FIELDS = (*TEXT_FIELDS[:2], *AUTHOR_FIELDS, *LINK_FIELDS, "platform", "type", "title", "published")
# Asked for as well where a point has no text in those: LangChain's texts, and all that is said of them.
LANGCHAIN_FIELDS = (TEXT_FIELDS[2], "metadata")

# Why a content, or a part of it, is skipped, and what that means to someone who did not write the reader.
SKIPPED = {
    "no_payload": "the point has no payload",
    "no_text": "the payload has no text field",
    "not_text": "the text field holds something else than text",
    "blank": "nothing but white space",
    "not_encodable": "holds a lone surrogate or NUL, which no file can carry",
    "markup_only": "nothing but markup, addresses or embedded pictures",
    "boilerplate": "stands at the beginning or end of five or more contents; the value is how it begins",
    "secret": "holds a key or password",
    "personal_data": "holds personal data",
    "forgotten": "was asked to be forgotten",
}
# Chunks that the candidates of each chunk are compared with: enough to tell a telling word from a common one.
REFERENCE_CHUNKS = 32
# What no two chunks share.
KEY = ["collection", "content_id", "start", "end"]
# What no two rows share: the chunk, and the number of the instruction.
PLACE = [*KEY, "k"]

# Collection, content id, start and end; and the number of the instruction.
Span = tuple[str, str, int, int]
Place = tuple[str, str, int, int, int]
# Start and end of a piece of a content, and the hash of its text as it was sent.
Piece = tuple[int, int, str]

_PAGE_CHARS = 8_000_000  # a page of longer texts makes the next one smaller

# What a text may hold without a word of its own: tags, comments, entities, images, rules; code has words.
_MARKUP = re.compile(r"<!--.*?-->|<[^<>]*>|&#?\w+;|!\[[^\]]*\]\([^)]*\)|\[URL\]|[`~]", re.DOTALL)
_LETTER = re.compile(r"[^\W_]|[\u2600-\U0010ffff]")
# An embedded picture, in Markdown, HTML or bare; a shorter one, such as a bullet, stays in its sentence.
_PICTURE = re.compile(
    r"(?:!?\[[^\[\]\n]*\](?:\(|:\s*)|<img\b[^<>]{0,300}?[\"'])?data:[\w/+.-]+(?:;[\w=.-]+)*,"
    r"(?:[A-Za-z0-9+/=%_-]|\s(?=[A-Za-z0-9+/=]{40})){200,}(?:[\"'][^<>\n]*>|[^()<>\n]{0,200}\))?\s*"
)
_PHRASE_CHARS = 90  # of what is left out, to tell one passage from another
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufeff]+"
)
_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")

_FENCE = re.compile(r"^[ \t>]*(```+|~~~+)[^`\n]*\n(?:.*?\n)?[ \t>]*\1", re.DOTALL | re.MULTILINE)
_BLANK_LINE = regex.compile(r"\n[ \t\r]*\n\s*\Z")
# Inside a sentence too long for a chunk: after blanks, or after a comma of a script without blanks.
_WORD_END = regex.compile(r"(?:\s++|[，、；：,;:]\s*+)(?![\p{M}\u200d\ufe0e\ufe0f\p{Emoji_Modifier}])")
# How far from the even length, as a share of the longest chunk, a cut may lie to avoid such a place.
_PARAGRAPH, _SENTENCE, _WORD, _CHARACTER = 0.0, 0.15, 0.5, 0.75


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of the table: a content, a piece of it short enough for one pair, or what of it is skipped."""

    content_id: str
    collection: str
    start: int  # code points of the payload's text
    end: int
    text: str = ""  # as it is sent; empty where it is skipped
    data_type: str = ""
    author: str = ""
    platform: str = ""
    link: str = ""
    masked: str = ""  # kinds masked, with commas
    findings: str = ""  # group:kind of each secret and personal datum that begins here, with commas
    state: str = "pending"  # or skipped, with reason and value
    reason: str = ""
    value: str = ""
    boilerplate: float = 0.0  # 0.0 to 1.0: share of its words in 8-word windows of five or more contents
    title: str = ""
    published: str = ""  # as the payload says it


_DTYPES = {it.name.replace("text", "content"): str(it.type) for it in fields(Chunk)}


def read_chunks(
    source: Source,
    settings: Params,
    *,
    forgotten: frozenset[str] = frozenset(),
    answered: Callable[[Chunk], Sequence[Piece]] = lambda content: [],
) -> pd.DataFrame:
    """Read, cut and screen the contents of all collections: a row a chunk, those that are skipped last.

    ``forgotten``: hashes of what must not be used again, as the store of answers keeps them. ``answered``:
    returns start, end and `text_sha256` of each piece of a content that is answered already: such a piece
    keeps its cut when a new content makes a passage common.

    Columns: the fields of `Chunk`, its text as ``content``. ``attrs``: ``source_counts``, the points of each
    collection before and after reading, and ``reference``, texts that candidates are compared with.

    Raises SourceError: a collection cannot be read, or there is nothing to ask about: no content, or all are
    skipped.

    Of the whole: what is boilerplate is known when all are read. A scroll is no snapshot: a point added
    behind the cursor is not seen.
    """
    filters = {"authors": settings.authors, "platforms": settings.platforms}
    with source:
        before = {name: source.count(name, **filters) for name in settings.collections}
        # A limit is shared equally; what a small collection leaves goes to the larger ones.
        shares, left = dict[str, int](), settings.limit
        for place, name in enumerate(sorted(before, key=lambda name: before[name])):
            shares[name] = min(before[name], -(-left // (len(before) - place)))
            left -= shares[name]
        contents = _in_parts(
            content
            for name in settings.collections
            if shares[name] or not settings.limit
            for content in read_contents(source, name, settings, limit=shares[name])
        )
        texts = cast("Sequence[str]", pd.concat(part.content for part in [_table([]), *contents]).array)
        common = common_windows(texts, workers=workers_of(len(texts), settings.cluster))
        table = _cut_all(contents, settings, forgotten, common, answered)
        waiting = table[table.state == "pending"]
        if waiting.empty:
            raise _nothing_to_ask(source, table, settings)
        table.attrs["source_counts"] = {
            name: [count, source.count(name, **filters)] for name, count in before.items()
        }
    # A sample of the texts, the same whatever was asked before.
    chosen = random.Random(settings.seed).sample(range(len(waiting)), min(REFERENCE_CHUNKS, len(waiting)))
    table.attrs["reference"] = waiting.content.iloc[sorted(chosen)].tolist()
    return table


def _in_parts(chunks: Iterable[Chunk]) -> list[pd.DataFrame]:
    """Lay rows out in tables of some thousand: as objects they take three times the memory."""
    rows = iter(chunks)
    return [_table(part) for part in iter(lambda: [*islice(rows, BLOCK_ROWS)], [])]


def _table(chunks: Iterable[Chunk]) -> pd.DataFrame:
    values = attrgetter(*(it.name for it in fields(Chunk)))
    return pd.DataFrame(map(values, chunks), columns=[*_DTYPES]).astype(_DTYPES)


def _cut_all(
    contents: list[pd.DataFrame],
    settings: Params,
    forgotten: frozenset[str],
    common: Hashes,
    answered: Callable[[Chunk], Sequence[Piece]],
) -> pd.DataFrame:
    """Return the chunks of all contents, those that are skipped last; the parts given are used up."""
    workers = workers_of(sum(map(len, contents)), settings.cluster)
    contents.reverse()  # so that each part goes once it is cut
    parts = ((part := contents.pop(), [*map(answered, rows_of(part))]) for _ in range(len(contents)))
    tables = [*workers.map(_chunks_in, parts, given=(settings, forgotten, common))]
    skipped = [table.state == "skipped" for table in tables]
    pending = [table[~rows] for table, rows in zip(tables, skipped, strict=True)]
    pending += [table[rows] for table, rows in zip(tables, skipped, strict=True)]
    return pd.concat([_table([]), *pending], ignore_index=True)


def _chunks_in(
    part: tuple[pd.DataFrame, list[Sequence[Piece]]],
    settings: Params,
    forgotten: frozenset[str],
    common: Hashes,
) -> pd.DataFrame:
    contents = (Chunk(*row) for row in rows_of(part[0]))
    return _table(
        chunk
        for content, answered in zip(contents, part[1], strict=True)
        for chunk in _chunks_of(content, settings, forgotten, common, answered)
    )


def _nothing_to_ask(source: Source, table: pd.DataFrame, settings: Params) -> SourceError:
    names = {name: getattr(settings, name) for name in ("collections", "authors", "platforms")}
    where = ", ".join(f"{name} {', '.join(values)}" for name, values in names.items() if values)
    reasons = table.reason.str.replace("_", " ").value_counts()
    skipped = ", ".join(f"skipped {reason} {count}" for reason, count in reasons.items())
    words = f"{where}: expected a content to ask about, found none{': ' * bool(skipped)}{skipped}"
    for name in table.collection[table.reason.isin(["no_text", "no_payload"])][:1]:
        page, _ = source.scroll(name, authors=settings.authors, platforms=settings.platforms, fields=None)
        if held := sorted({field for _, payload in page for field in payload}):
            words += f"; {name} has {', '.join(held)[:200]}; expected {' or '.join(TEXT_FIELDS)}"
    return SourceError(words)


def _chunks_of(
    content: Chunk, settings: Params, forgotten: frozenset[str], common: Hashes, answered: Sequence[Piece]
) -> list[Chunk]:
    """Cut and screen a content; of what is forgotten neither text nor author nor link is kept."""
    if content.state == "skipped":
        return [content]
    place = {"collection": content.collection, "content_id": content.content_id}
    gone = Chunk(content.content_id, content.collection, 0, content.end, state="skipped", reason="forgotten")
    marks = forget_marks(author=content.author, link=content.link, **place)
    if not forgotten.isdisjoint(marks | {text_sha256(content.text)}):
        return [gone]
    chunks = _cut(content, *without_edges(content.text, common), settings)
    stored = {digest for _, _, digest in answered}

    def kept(cut: Iterable[Chunk]) -> int:
        return sum(chunk.state == "pending" and text_sha256(chunk.text) in stored for chunk in cut)

    if stored and kept(chunks) < sum(chunk.state == "pending" for chunk in chunks):
        # Cuts as they may have been when more or less was common; the one that keeps most answers stays.
        starts, ends = zip(*((start, end) for start, end, _ in answered), strict=True)
        edges = {(start, end) for start in (0, min(starts)) for end in (max(ends), content.end)}
        earlier = (_cut(content, start, min(end, content.end), settings) for start, end in sorted(edges))
        chunks = max(chunks, *earlier, key=kept)

    def is_forgotten(chunk: Chunk) -> bool:
        # A piece as it would be sent and as it stands in its content: either may have been stored.
        hashes = {text_sha256(text) for text in (chunk.text, content.text[chunk.start : chunk.end])}
        return chunk.state != "skipped" and not forgotten.isdisjoint(hashes)

    return [
        replace(gone, start=chunk.start, end=chunk.end)
        if forgotten and is_forgotten(chunk)
        else replace(chunk, boilerplate=common_share(chunk.text, common))
        for chunk in chunks
    ]


def _cut(content: Chunk, start: int, end: int, settings: Params) -> list[Chunk]:
    """Cut and screen what stands between start and end, without embedded pictures; the rest is skipped."""
    left_out = [(0, start, "boilerplate"), (end, content.end, "boilerplate")]
    left_out += [(*match.span(), "markup_only") for match in _PICTURE.finditer(content.text, start, end)]
    chunks: list[Chunk] = []
    done = 0
    left_out = sorted(it for it in left_out if it[0] < it[1])
    for first, last, reason in [*left_out, (content.end, content.end, "")]:
        if done < first:
            piece = replace(content, start=done, end=first, text=content.text[done:first])
            chunks += split_content(piece, max_chars=settings.chunk_chars)
        if reason:
            text = content.text[first:last] if reason == "boilerplate" else ""
            chunks.append(replace(content, start=first, end=last, text=text, state="skipped", reason=reason))
        done = last
    return screen_chunks(content, chunks, secrets=settings.secrets, personal_data=settings.personal_data)


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Return the rows one by one, with the columns as attributes."""
    # An array of Arrow makes objects one by one, in three times the time.
    return (row for block in blocks(table) for row in block.astype(object).itertuples(index=False))


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain values, what is missing as None."""
    plain: Any = table.astype(object).where(table.notna(), None)
    return list(plain.to_dict("records"))


def with_columns(table: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """Return the table with these columns, given for some of its rows; its other values stay."""
    spread = columns.reindex(table.index)
    for name in spread.columns.intersection(table.columns):
        spread[name] = spread[name].where(table.index.isin(columns.index), table[name])
    joined = table.drop(columns=spread.columns, errors="ignore").join(spread)
    joined.attrs = dict(table.attrs)
    return joined


def places_of(table: pd.DataFrame) -> list[Place]:
    """Return the values of `PLACE` of each row."""
    return list(table[PLACE].itertuples(index=False, name=None))


def content_names(table: pd.DataFrame) -> pd.Series[str]:
    """Return the content of each row as a manifest names it: ``collection/content_id``."""
    return table.collection + "/" + table.content_id


def read_contents(
    source: Source, collection: str, settings: Params | None = None, *, limit: int = 0, page_size: int = 256
) -> Iterator[Chunk]:
    """Read every content of a collection whole, in the engine's order of ids, ``limit`` points at most.

    The settings say which authors and platforms the engine gives, and the word for the kind of text.
    A payload without usable text is a skipped row; its reason is one of the first six of `SKIPPED`.

    Raises SourceError: the source cannot be read, or gives the same page again and again.
    """
    settings = settings or Params()
    filters = {"authors": settings.authors, "platforms": settings.platforms}
    ids, offset, size = set[PointId](), None, page_size
    while True:
        wanted = min(size, limit - len(ids)) if limit else size
        scroll = partial(source.scroll, collection, offset=offset, page_size=wanted, **filters)
        page, following = scroll(fields=FIELDS)
        new = {point_id: payload for point_id, payload in page if point_id not in ids}
        read = {it: _content_of(str(it), new[it], collection, settings.data_type) for it in new}
        if any(content.reason for content in read.values()):
            more = dict(scroll(fields=LANGCHAIN_FIELDS)[0])
            for point_id in (it for it in new if read[it].reason):
                new[point_id] |= more.get(point_id, {})
                read[point_id] = _content_of(str(point_id), new[point_id], collection, settings.data_type)
        yield from read.values()
        ids |= new.keys()
        if following is None or (limit and len(ids) >= limit):
            return
        if not new:
            raise SourceError(
                f"{collection} at {source.address}: the server gave page offset {offset} twice, so reading "
                "would not end; restart the server, or export the collection and load the file"
            )
        offset = following
        # A page of long texts makes the next one smaller, so that it stays small in memory.
        chars = sum(len(it) for payload in new.values() for it in payload.values() if isinstance(it, str))
        size = max(1, min(page_size, size * 2, size * _PAGE_CHARS // max(chars, 1)))


def _content_of(content_id: str, payload: Mapping[str, Any], collection: str, data_type: str) -> Chunk:
    """Make a content of the first usable text field, else of the first one that is there, with a reason."""
    judged = []
    for text in (payload[field] for field in TEXT_FIELDS if payload.get(field) is not None):
        if isinstance(text, Mapping) and isinstance(text.get(NOT_ENCODABLE), str):
            text = json.loads(text[NOT_ENCODABLE])  # loading had to escape what no engine stores
        judged.append((text, *_unusable(text)))
    judged = judged or [("", "no_text" if payload else "no_payload", "")]
    text, reason, value = min(judged, key=lambda it: bool(it[1]))
    if isinstance(payload.get("metadata"), Mapping):
        payload = {**payload["metadata"], **payload}
    content = Chunk(
        content_id,
        collection,
        start=0,
        end=len(text) if isinstance(text, str) else 0,
        author=_label(payload, *AUTHOR_FIELDS, "author"),
        link=_label(payload, *LINK_FIELDS, "url", "source"),
    )
    if reason:
        return replace(content, state="skipped", reason=reason, value=value)
    kind = payload.get("type")
    data_type = data_type or (kind.strip() if isinstance(kind, str) else "")
    labels = [_label(payload, name) for name in ("title", "published")]
    # They are published beside the text, so none that holds a secret or personal data.
    title, day = ("" if it and (find_secrets(it) or find_personal_data(it)) else it for it in labels)
    return replace(
        content,
        text=text,
        data_type=data_type or re.sub(r"^(cleaned|vector|raw)_(?=.)", "", collection),
        platform=_label(payload, "platform"),
        title=title,
        published=day,
    )


def _unusable(value: Any) -> tuple[str, str]:
    if not isinstance(value, str):
        return "not_text", type(value).__name__
    if match := _UNENCODABLE.search(value):
        return "not_encodable", "NUL" if match[0] == "\0" else "surrogate"
    if not value or _INVISIBLE.fullmatch(value):
        return "blank", ""
    return ("", "") if _has_words(value) else ("markup_only", "")


def _has_words(text: str) -> bool:
    return bool(_LETTER.search(prose_of(_MARKUP.sub(" ", text))))


def _label(payload: Mapping[str, Any], *names: str) -> str:
    """Return the first present field as text; ids are strings in some collections and integers in others."""
    for value in map(payload.get, names):
        if isinstance(value, str) and value.strip():
            return _UNENCODABLE.sub("\ufffd", value)
        # A column with a gap has its integers as floats.
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(int(value) if value == int(value) else value)
    return ""


def split_content(content: Chunk, *, max_chars: int) -> list[Chunk]:
    """Cut a content into as few chunks of ``max_chars`` as can be, each near to an even share; none is lost.

    Cuts are at sentence ends; a sentence that is itself too long is cut at words, and a word that is too long
    between graphemes.
    """
    text = content.text
    if len(text) <= max_chars:
        return [content]
    ends, costs = zip(*_possible_ends(text, max_chars=max_chars), strict=True)
    # How few chunks hold the rest of the text, for a rest that begins at each possible end.
    begins = [0, *ends]
    needed = [0] * len(begins)
    for at in range(len(ends) - 1, -1, -1):
        needed[at] = 1 + needed[bisect_right(begins, begins[at] + max_chars) - 1]
    chunks: list[Chunk] = []
    start = 0
    for left in range(needed[0], 0, -1):
        share = (len(text) - start) / left
        first, last = bisect_right(ends, start), bisect_right(ends, start + max_chars)
        allowed = (at for at in range(first, last) if needed[at + 1] <= left - 1)
        best = min(allowed, key=lambda at: (abs(ends[at] - start - share) + costs[at] * max_chars, ends[at]))
        end, begin = ends[best], content.start
        chunks.append(replace(content, start=begin + start, end=begin + end, text=text[start:end]))
        start = end
    return chunks


def _possible_ends(text: str, *, max_chars: int) -> Iterator[tuple[int, float]]:
    """Yield where a chunk may end, in order, and the cost of it; no two are too far apart."""
    sentences = sentence_ends(text)
    for fence in _FENCE.finditer(text):
        # A fence that fits is one sentence, if need be without the blanks behind it.
        first, last = bisect_right(sentences, fence.start(1)), bisect_left(sentences, fence.end())
        before = sentences[first - 1] if first else 0
        if sentences[last] - before <= max_chars:
            del sentences[first:last]
        elif fence.end() - before <= max_chars:
            sentences[first:last] = [fence.end()]
    for start, end in pairwise([0, *sentences]):
        if end - start > max_chars:
            yield from _ends_inside(text, start, end, max_chars=max_chars)
        yield end, _PARAGRAPH if _BLANK_LINE.search(text, max(start, end - 40), end) else _SENTENCE


def _ends_inside(text: str, start: int, end: int, *, max_chars: int) -> Iterator[tuple[int, float]]:
    """Yield the ends inside a sentence that is too long: of its words, or of pieces of a word too long."""
    words = [match.end() for match in _WORD_END.finditer(text, start, end) if start < match.end() < end]
    for word_end in [*words, end]:
        while word_end - start > max_chars:
            pieces = -(-(word_end - start) // max_chars)
            boundary = grapheme_boundary(text, start + -(-(word_end - start) // pieces), since=start)
            # One grapheme longer than a chunk has to be cut somewhere.
            start = boundary if boundary > start else start + max_chars
            yield start, _CHARACTER
        if word_end < end:
            yield word_end, _WORD
        start = word_end


def screen_chunks(
    content: Chunk, chunks: Sequence[Chunk], *, secrets: str, personal_data: str
) -> list[Chunk]:
    """Search a whole content, so that no cut hides a key, and skip or mask the chunks that a finding touches.

    ``secrets``, ``personal_data``: what to do with a chunk: ``drop``, ``mask`` or ``keep``. Dropping wins
    where both are found.
    """
    findings = [*find_secrets(content.text), *find_personal_data(content.text)]
    actions = {"secret": secrets, "personal": personal_data}
    screened = []
    for chunk in chunks:
        inside = [it for it in findings if it.start < chunk.end and it.end > chunk.start]
        begin = sorted((it for it in inside if it.start >= chunk.start), key=lambda it: it.start)
        chunk = replace(chunk, findings=",".join(f"{it.group}:{it.kind}" for it in begin))
        drop, mask = ([it for it in inside if actions[it.group] == each] for each in ("drop", "mask"))
        if drop:
            reason = "secret" if drop[0].group == "secret" else "personal_data"
            chunk = replace(chunk, text="", state="skipped", reason=reason, value=_kinds(drop))
        elif chunk.state == "skipped":
            chunk = replace(chunk, text="", value=" ".join(_masked(chunk, mask).split())[:_PHRASE_CHARS])
        elif not chunk.text.strip():
            chunk = replace(chunk, text="", state="skipped", reason="blank")
        elif not _has_words(chunk.text):
            chunk = replace(chunk, text="", state="skipped", reason="markup_only")
        elif mask:
            chunk = replace(chunk, text=_masked(chunk, mask), masked=_kinds(mask))
        screened.append(chunk)
    return screened


def _masked(chunk: Chunk, findings: Iterable[Finding]) -> str:
    """Replace what was found by its kind; a finding that a cut parted is masked on both sides."""
    text = chunk.text
    for finding in reversed(without_overlaps(findings)):
        start, end = max(finding.start - chunk.start, 0), finding.end - chunk.start
        text = f"{text[:start]}[masked: {finding.kind}]{text[end:]}"
    return text


def _kinds(findings: Iterable[Finding]) -> str:
    return ",".join(sorted({finding.kind for finding in findings}))


def screened_counts(chunks: pd.DataFrame, settings: Params) -> dict[str, dict[str, dict[str, int]]]:
    """Return for secrets and personal data the kinds with how many were found, kept, masked and dropped."""
    fates = {"drop": "dropped", "mask": "masked", "keep": "kept"}
    counts: dict[str, dict[str, dict[str, int]]] = {"secrets": {}, "personal_data": {}}
    each = chunks.findings[chunks.findings != ""].str.split(",").explode()
    sizes: dict[Any, int] = each.groupby([each, chunks.state == "skipped"]).size().to_dict()
    for (finding, skipped), count in sizes.items():
        group, _, kind = finding.partition(":")
        name = "secrets" if group == "secret" else "personal_data"
        numbers = counts[name].setdefault(kind, {"found": 0, "kept": 0, "masked": 0, "dropped": 0})
        numbers["found"] += count
        numbers["dropped" if skipped else fates[getattr(settings, name)]] += count
    return counts


def row_id(place: Place) -> str:
    """Return the id that pairs and dataset rows of this place have."""
    return hashlib.sha256("\0".join(map(str, place)).encode()).hexdigest()[:20]
