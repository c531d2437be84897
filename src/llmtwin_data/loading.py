"""The files that people have, loaded into a collection whole or not at all."""

from __future__ import annotations

import codecs
import csv
import gzip
import html
import io
import json
import re
import shutil
import sys
import tempfile
import tomllib
import uuid
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NoReturn, cast
from urllib.parse import urljoin

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import Tag

from llmtwin_data.errors import SourceError
from llmtwin_data.folders import disk_errors
from llmtwin_data.sources import AUTHOR_FIELDS, TEXT_FIELDS, Point, PointId, Source
from llmtwin_data.texts import counted, with_escapes

# Under this key stands, escaped, a text that no engine can store: one with a lone surrogate.
NOT_ENCODABLE = "not_encodable"

# Lines with one id and different texts that an error names, and texts that are shown before they are loaded.
MOST_NAMED, SHOWN = 5, 3

# What columns, keys of front matter and meta tags are called, in small letters without blanks or signs.
NAMES = {
    "cleaned_content": "sharecommentary fulltext text body posttext post caption markdown plaintext html",
    "link": "link sharelink url permalink canonicalurl canonical posturl 連結",
    "title": "title headline 標題",
    "published": "published publishedat date datetime postdate pubdate publisheddate createdat created 日期",
    "author_id": "authorid author authors authorname authorfullname byline creator username from 作者",
    "platform": "platform network",
    "type": "type",
    "tags": "tags keywords categories 標籤",
}
_TEXT_NAMES = {*NAMES["cleaned_content"].split(), *(name.replace("_", "") for name in TEXT_FIELDS)}
# Tables that hold what others wrote, or lists of them: they are read only if their text is named.
_OF_OTHERS = ({"from", "to"}, {"firstname", "lastname"})
# A table beside the posts, whose texts are pages named by ``post_id``: Substack's.
_OF_POSTS = {"postid", "postdate", "title"}
_FIELDS_OF_POSTS = ("title", "published", "is_published")

_IDS = uuid.UUID("6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d")
_LONGEST = 64 * 1024 * 1024  # bytes of a line, or of a file that is one text
_LISTED = 12
_NO_FORMAT = "no format of texts that load reads"
_UNQUOTED = re.compile(r"(?m)^([\w -]+):[ \t]+([@`%].*?|[^\s\"'\[{|>&*!#].*?:(?:[ \t].*?)?)[ \t]*$")
_IS_HTML = re.compile(r"\s*<(!-- wp:|(p|div|h[1-6]|ul|ol|figure|section|article|blockquote)[\s>])")
_TWITTERS = re.compile(r"\A\s*window\.YTD\.\w+\.part\d+ = ")  # before the JSON of an archive's script
# Notion's properties between title and body of a page, and the name of its file.
_PROPERTIES = re.compile(r"\s*?\n\s*?\n((?:[^\W\d_][^:\n]{0,40}: .*\n?)+)(?:\n|\Z)")
_OF_PROPERTIES = ("published", "author_id", "tags", "link")
_PROPERTY_NAMES = {name: key for key in _OF_PROPERTIES for name in NAMES[key].split()}
_SURE = ("published", "link")  # whose values no sentence has
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_NOTIONS = re.compile(r"(?<![^ /])[0-9a-f]{32}\.\w+$")
_DEEPEST = 100  # the engine cannot read again what is nested 128 deep
_DEEPEST_ARCHIVE = 3  # Notion puts archives into an archive
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNREADABLE = (
    OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, pa.ArrowException
)  # fmt: skip

# Where a page has what it is about, first Medium's marks; and its text.
_MARKS = (
    ("title", "h1.p-name, title", ""),
    ("title", "meta[property='og:title']", "content"),
    ("published", "time.dt-published, article time[datetime], time[datetime]", "datetime"),
    ("author", "a.p-author, [rel=author]", ""),
    ("link", "a.p-canonical, link[rel=canonical], h1 > a[href*='/pulse/']", "href"),
)
_LINKEDIN_DATE = re.compile(r"^\s*(?:Created|Published) on \d{4}-\d\d-\d\d[\d:. ]*\s*$")
# Of a page with several articles: which are no comments or teasers, and what each says of itself.
_ARTICLES = "article:not(:is(article, aside, nav, footer, #comments, .related) article, .comment)"
_HEADINGS = "h1, h2, h3, h4, h5, h6"
_ARTICLE_MARKS = (
    ("title", _HEADINGS, ""),
    ("published", "time[datetime]", "datetime"),
    ("author", "[rel=author], .p-author", ""),
    ("link", "a[rel=bookmark], :is(h1, h2, h3) a", "href"),
)
_BODIES = (
    ".e-content", ".available-content", ".entry-content", ".gh-content", ".post-content",
    "article", "main", "[role=main]", "body",
)  # fmt: skip
_NO_TEXT = "script, style, noscript, template, nav, aside, form, button, svg, iframe, head, footer, "
# Substack's and WordPress'.
_NO_TEXT += "[class*=subscription-widget], .cta-caption, .button-wrapper, .sharedaddy, .jp-relatedposts"
_BLOCKS = "p, div, section, article, h1, h2, h3, h4, h5, h6, ul, ol, pre, blockquote, figure, figcaption, tr"

# Hidden files, a Mac's, those that an editor holds open, and packages.
_NOBODYS = re.compile(r"(^|/)(\.(?!\./)|~\$|(__MACOSX|node_modules|site-packages|__pycache__)/)")

# Where it stands in its file, its id if it says one, and the payload.
Row = tuple[str, PointId | None, dict[str, Any]]


class _LeftOut(Exception):
    """A file in which nothing is a text of the person's, with the reason."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str  # in messages
    key: str  # its path, and the one inside an archive: what rows without a link have their ids from
    file: BinaryIO
    is_named: bool  # by the person, not found in a folder or an archive
    left_out: str = ""  # why, where that is known before it is read
    columns: set[str] = field(default_factory=set)  # and fields, as far as it is read

    @property
    def suffix(self) -> str:
        name = self.name.lower().removesuffix(".gz")
        # Of the scripts of Twitter's archive only these hold what the person wrote.
        return ".json" if re.search(r"(^|/)tweets?(-part\d+)?\.js$", name) else Path(name).suffix


def load_files(source: Source, paths: Sequence[Path], *, collection: str) -> int:
    """Load files into a collection whole or not at all; return how many contents."""
    return source.write(collection, read_files(paths).points())


def read_files(
    paths: Sequence[Path], *, text_field: str = "", usual: Mapping[str, str] | None = None
) -> Loading:
    """Read files, folders, archives and pipes, so that all is checked before any of it is loaded.

    A line of JSONL is a payload, plus an optional ``id`` (UUID or integer); without one the id is the uuid5
    of the line: loading twice changes nothing, and equal lines are one content. In the other formats it comes
    from the link, else from file and row: a changed text replaces the old one. A file that was only found, in
    a folder or an archive, is left out where it holds no text; one that is named must hold some.
    Drafts are left out of all but JSONL.

    ``text_field``: field or column that holds the text, where no name of `NAMES` says it. ``usual``: payload
    fields for texts that do not say them.

    Raises SourceError: a file or a line of it cannot be read, lines with one id hold different texts, or
    there is no text; the lines are named by their numbers.
    """
    loading = Loading(text_field, usual or {})
    for file in _files(paths):
        loading.take(file)
    if text_field and text_field not in loading.columns:
        held = ", ".join(sorted(loading.columns))[:200] or "none"
        raise SourceError(f"--text-field {text_field}: no column or field is called so; there are {held}")
    if not len(loading):
        given = ", ".join(path.name for path in paths[:SHOWN])
        reasons = "\n".join(["expected a text, found none", *loading.left_out_lines()])
        raise SourceError(f"nothing to load from {given}; {reasons}")
    return loading


@dataclass
class Loading:
    """What was read of files, until it is written, and what is said of it before."""

    text_field: str
    usual: Mapping[str, str]
    files: Counter[str] = field(default_factory=Counter)  # by suffix
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by reason, file
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)  # what a table says of pages beside it
    columns: set[str] = field(default_factory=set)
    _places: dict[PointId, int] = field(default_factory=dict)  # in the spool, which keeps memory small
    _spool: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __len__(self) -> int:
        return len(self._places)

    def points(self) -> Iterator[Point]:
        """Return the points, each once."""
        offset = self._spool.seek(0)
        for line in self._spool:
            point_id, _, payload = json.loads(line)
            if self._places[point_id] == offset:
                yield point_id, payload
            offset += len(line)

    def changed(self, source: Source, collection: str) -> int:
        """Count the points that the collection holds with another text."""
        ids, count = iter(self._places), 0
        while batch := list(islice(ids, 256)):
            held = source.retrieve(collection, batch, fields=TEXT_FIELDS)
            count += sum(_texts_of(payload) != _texts_of(self._kept(it)[1]) for it, payload in held)
        return count

    def _kept(self, point_id: PointId) -> tuple[str, dict[str, Any]]:
        """Return where a point stood in its file, and its payload."""
        self._spool.seek(self._places[point_id])
        _, place, payload = json.loads(self._spool.readline())
        self._spool.seek(0, io.SEEK_END)
        return place, payload

    def lines(self) -> list[str]:
        """Return what was understood: files, three texts, dates, authors, what is left out and why."""
        sizes, days, counts = list[int](), list[str](), {"author": Counter[str](), "platform": Counter[str]()}
        texts = list[str]()
        for _, payload in self.points():
            text, day = _text_of(payload), str(payload.get("published", ""))[:10]
            texts += [text] if len(texts) < SHOWN else []
            sizes.append(len(text))
            days += [day] if re.fullmatch(r"[12]\d{3}-\d\d(-\d\d)?", day) else []
            counts["author"][str(payload.get("author_id") or "none")] += 1
            counts["platform"][str(payload.get("platform") or "none")] += 1
        files = ", ".join(f"{count} {suffix}".strip() for suffix, count in self.files.items())
        read, texts_read = counted(sum(self.files.values()), "file"), counted(len(self), "text")
        lines = [
            f"Read {read} ({files}): {texts_read}, {min(sizes):,} to {max(sizes):,} characters",
            *(f"  text: {' '.join(text[:400].split())[:72]}" for text in texts),
            f"  dates: {f'{min(days)} to {max(days)}' if days else 'none'}",
            *(
                f"  {name}s: {_tally(it)}{f'; --{name} names one' * ('none' in it)}"
                for name, it in counts.items()
            ),
        ]
        return [with_escapes(line) for line in [*lines, *self.left_out_lines()]]

    def left_out_lines(self) -> list[str]:
        """Return a line a reason."""
        return [f"  left out, {reason}: {_tally(names)}" for reason, names in self.left_out.items()]

    def take(self, file: _File) -> None:
        """Read a file, or note why it is left out."""
        reader, links, clashes = READERS.get(file.suffix), Counter[str](), Counter[str]()
        try:
            if file.left_out:
                raise _LeftOut(file.left_out)
            if reader is None and file.is_named and _may_be_json_lines(file):
                reader = _json_lines
            if reader is None:
                raise _LeftOut(f"{_NO_FORMAT}; it reads {_FORMATS}" if file.is_named else _NO_FORMAT)
            for where, given, payload in self._texts(file, reader):
                # Without an id the link gives one, else file and row; all comments on a post have its link.
                link = str(payload.get("link") or "")
                links[link] += 1
                again = f"\n{links[link]}" if links[link] > 1 else ""
                name = f"{link}{again}" if link else f"{file.key}\n{where}"
                clashes.update(self._put(given, name, f"{file.name} {where}", payload))
        except _LeftOut as left_out:
            reason, *held = left_out.args
            if file.is_named:
                raise SourceError(f"{file.name}: {'; it has '.join([reason, *held])}") from None
            name = " ".join([file.name, *(f"({it[:60]})" for it in held)])
            self.left_out[reason][name if reason != _NO_FORMAT else file.suffix or "no suffix"] += 1
        except ValueError as error:
            raise SourceError(f"{file.name} {error}") from error
        except _UNREADABLE as error:
            raise _unreadable(file.name, error) from error
        if clashes:
            named = _tally(clashes, "; ", most=MOST_NAMED).replace(f"{file.name} line", "line")
            advice = "One would replace the other: give each text an id of its own, or none"
            raise SourceError(f"{file.name}: {named}. {advice}")
        self.columns |= file.columns
        self.files.update([file.suffix] * bool(links))

    def _texts(self, file: _File, reader: Callable[[_File, str], Iterator[Row]]) -> Iterator[Row]:
        """Yield the rows of a file that are texts to load, and note the others."""
        for where, given, payload in reader(file, self.text_field):
            if reader is _html:
                payload = self.posts.get(Path(file.name).stem, {}) | payload
            if reader is _table and not file.columns and not _text_of(payload):  # Substack's, of pages beside
                about = {it: held for it, held in payload.items() if it in _FIELDS_OF_POSTS}
                self.posts[str(payload.get("post_id"))] = about
            elif reason := _reason_against(file, where, payload, reader):
                self.left_out[reason][file.name] += 1
            else:
                yield where, given, payload

    def _put(self, given: PointId | None, name: str, place: str, payload: dict[str, Any]) -> Iterator[str]:
        """Keep a payload under the id that it says, else under one made of ``name``; yield what clashes."""
        for each, value in self.usual.items():
            fields = AUTHOR_FIELDS if each == "author_id" else (each,)
            if value and not any(payload.get(field) for field in fields):
                payload[each] = value
        payload, point_id = _storable(payload), str(uuid.uuid5(_IDS, name)) if given is None else given
        if given is not None and point_id in self._places:
            first, held = self._kept(point_id)
            if _texts_of(held) != _texts_of(payload):
                yield f"{place} has the id of {first} but another text"
                return
        with disk_errors(Path(tempfile.gettempdir())):
            self._places[point_id] = self._spool.tell()
            self._spool.write(json.dumps([point_id, place, payload], ensure_ascii=False).encode() + b"\n")


def _reason_against(file: _File, where: str, payload: dict[str, Any], reader: Any) -> str:
    """Return why a row is no text to load, empty where it is one."""
    if reader is _json_lines:
        return ""
    if not _text_of(payload):
        return "no text in a row" if where else "empty"
    if (where or not file.is_named) and _is_draft(file, payload):
        return "draft, not published"
    if "retweeted" in payload and _text_of(payload).startswith("RT @"):
        return "repost of what another wrote"
    if reader is _html:
        payload.pop("is_published", None)
    return ""


def _texts_of(payload: Mapping[str, Any]) -> list[Any]:
    return [payload.get(field) for field in TEXT_FIELDS]


def _text_of(payload: Mapping[str, Any]) -> str:
    texts = (payload.get(name) for name in TEXT_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _is_draft(file: _File, payload: Mapping[str, Any]) -> bool:
    """Return whether Substack, Jekyll, Hugo, Ghost or, by its name, Medium says that it is a draft."""
    fields = {_folded(name): str(value).lower() for name, value in payload.items()}
    published = fields.get("ispublished", fields.get("published"))
    is_draft = fields.get("draft") == "true" or fields.get("status") == "draft"
    return published in ("false", "no") or is_draft or bool(re.search(r"(^|/)posts/draft_[^/]*$", file.name))


def _may_be_json_lines(file: _File) -> bool:
    """Return whether a file of no known suffix, as pipes have none, begins as JSON lines do."""
    begin = file.file.read(1024).lstrip(codecs.BOM_UTF8 + b" \t\r\n")
    file.file.seek(0)
    return not file.suffix or begin.startswith(b"{")


def _tally(counts: Counter[str], between: str = ", ", *, most: int = _LISTED) -> str:
    words = [f"{name} ({count:,})" if count > 1 else name for name, count in counts.most_common(most)]
    more = f" and {len(counts) - most} more" if len(counts) > most else ""
    return between.join(words) + more


def _files(paths: Iterable[Path]) -> Iterator[_File]:
    """Yield every file, also those in folders and archives, sorted, each only while it is open."""
    name = ""
    try:
        for path in paths:
            name = str(path)
            if not path.is_dir():
                with path.open("rb") as given, tempfile.TemporaryFile() as spool:
                    if not (whole := given.seekable()):  # a pipe has its bytes once, and some are read twice
                        shutil.copyfileobj(given, spool)
                        spool.seek(0)
                    file = given if whole else cast(BinaryIO, spool)
                    yield from _unpacked(_File(path.name, str(path.resolve()), file, is_named=True))
                continue
            names = {it.relative_to(path).as_posix(): it for it in path.rglob("*") if it.is_file()}
            for name, place, reason in _chosen(names, path.resolve().name):
                with names[name].open("rb") as held:
                    key = str(names[name].resolve())
                    yield from _unpacked(_File(place, key, held, is_named=False, left_out=reason))
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceError(f"cannot read {name}: {reason}; expected a file of {_FORMATS}")


def _unpacked(file: _File, depth: int = 0) -> Iterator[_File]:
    is_packed = file.name.lower().endswith(".gz")
    with gzip.open(file.file) if is_packed else nullcontext(file.file) as inner:
        file = replace(file, file=cast(BinaryIO, inner))
        if file.suffix != ".zip" or file.left_out or depth > _DEEPEST_ARCHIVE:
            yield file
            return
        with zipfile.ZipFile(file.file) as archive:
            if any(it.flag_bits & 1 for it in archive.infolist()):
                yield replace(file, left_out="encrypted, which load does not read; unpack it")
                return
            members = (it.filename for it in archive.infolist() if not it.is_dir())
            for name, place, reason in _chosen(members, file.name):
                with archive.open(name) as member:
                    key, inner = f"{file.key}/{name}", cast(BinaryIO, member)
                    member_file = _File(place, key, inner, is_named=False, left_out=reason)
                    yield from _unpacked(member_file, depth + 1)


def _chosen(names: Iterable[str], within: str) -> Iterator[tuple[str, str, str]]:
    """Yield names in order, without files of no person, each with its place and why it is left out, if so."""
    seen = sorted(name for name in names if not _NOBODYS.search(name))
    pages = {name for name in seen if name.lower().endswith((".html", ".htm"))}
    posts = {name: match[1] for name in pages if (match := re.match(r"((?:.*?/)?)posts/", name))}
    for name in seen:
        reason = ""
        if name.startswith("/") or ".." in name.split("/"):
            reason = "its path leads out of the archive"
        elif name in pages - posts.keys() and name.startswith(tuple(posts.values())):
            reason = "page beside the posts"  # Medium's claps, bookmarks and the like
        yield name, f"{within}/{name}", reason


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line; only a line feed ends a line, U+2028 does not."""
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        file.seek(0)
        file = io.BytesIO(file.read().decode("utf-16").encode())
    file.seek(0)
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), start=1):
        if len(line) > _LONGEST:
            raise ValueError(f"line {number}: longer than 64 MiB; split the text")
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _decoded(number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError(f'line {number}: not UTF-8; save it as UTF-8, in Excel as "CSV UTF-8"') from None


def _whole(file: BinaryIO) -> str:
    parts, size = [], 0
    for number, line in _lines(file):
        size += len(line)
        if size > _LONGEST:
            raise ValueError(f"line {number}: beyond 64 MiB in one file; split it")
        parts.append(_decoded(number, line))
    return "".join(parts).replace("\r\n", "\n")


def _json_lines(file: _File, text_field: str) -> Iterator[Row]:
    for number, line in _lines(file.file):
        if not line.strip():
            continue
        try:
            text = line.strip().decode()
            payload = json.loads(text, parse_constant=_no_constant)
            reason = f"found a JSON {type(payload).__name__}"
        except (ValueError, RecursionError) as error:
            payload, reason = None, "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
        try:
            if not isinstance(payload, dict):
                raise ValueError(f"{reason}; expected one JSON object a line")
            file.columns.update(payload)
            if text_field in payload:
                payload["cleaned_content"] = payload.pop(text_field)
            if payload.keys().isdisjoint(TEXT_FIELDS):
                fields = ", ".join(payload)[:200] or "no field"
                words = f"expected {' or '.join(TEXT_FIELDS[:2])}, found {fields}"
                raise ValueError(f"no text; {words}; --text-field names another")
            given = payload.pop("id", None)
            point_id = str(uuid.uuid5(_IDS, text)) if given is None else _point_id(given)
            payload = _storable(payload)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        yield f"line {number}", point_id, payload


def _json(file: _File, text_field: str) -> Iterator[Row]:
    text = _whole(file.file)
    try:
        held = json.loads(_TWITTERS.sub("", text, count=1), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSONL under another suffix
            yield from _json_lines(file, text_field)
            return
        raise ValueError(f"line {error.lineno}: {error.msg}; expected a JSON array of objects") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f": {str(error)[:200]}; expected a JSON array of objects") from error
    path, rows = _with_texts(file, held, text_field)
    for number, row in enumerate(rows, start=1):
        given = row.pop("id", None)
        point_id = None
        with suppress(ValueError):  # in such files an id may be of any kind
            point_id = _point_id(given) if path in (".", ".[]") else None
        payload = _payload(row, text_field)
        if "id_str" in payload:  # Twitter's
            payload.setdefault("link", f"https://x.com/i/status/{payload['id_str']}")
            payload["cleaned_content"] = html.unescape(_text_of(payload))
        # Each WordPress counts its posts from 1.
        is_counted = isinstance(row.get("content"), dict) and payload.get("link")
        yield f"item {number}", None if is_counted else point_id, payload


def _with_texts(file: _File, held: Any, text_field: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the one list of an export that holds texts, and its path."""
    for number, row in enumerate(held if isinstance(held, list) else [], start=1):
        if not isinstance(row, dict):
            raise ValueError(f"item {number}: found a JSON {type(row).__name__}; expected an object")
    places, with_text = defaultdict[str, list[dict[str, Any]]](list), list[str]()
    try:
        for path, rows, has_text in _objects(held, text_field):
            places[path] += rows
            with_text += [path] * (has_text and path not in with_text)
    except RecursionError as error:
        raise ValueError(f": nested more than {_DEEPEST} deep") from error
    if len(with_text) > 1:
        counts = Counter({path: len(places[path]) for path in with_text})
        advice = f"put one of them into a file of its own, as with jq '[{with_text[0]}]'"
        raise _LeftOut(f"texts in several places: {_tally(counts)}; {advice}")
    path = (with_text or list(places) or [""])[0]
    rows = places[path]
    names: Iterable[str] = dict.fromkeys(key for row in rows for key in row)
    if len(places) > 1 and not with_text:
        names = [f"{at} ({', '.join(objects[0])[:60]})" for at, objects in places.items()]
    people = {str(row["from"]) for row in rows if row.get("from")}
    if people and all(map(_is_date, people)):
        people, names = set(), [name for name in names if name != "from"]
    _require_text(file, names, text_field)
    if text_field not in file.columns and len(people) > 1:
        raise _LeftOut("messages of several people; name their texts with --text-field")
    return path, rows


def _objects(held: Any, text_field: str, path: str = ".") -> Iterator[tuple[str, list[dict[str, Any]], bool]]:
    """Yield the objects of each list in an export, their path as jq writes it, and whether they hold texts.

    What lies inside a list with texts is part of these.
    """
    rows = [it for it in (held if isinstance(held, list) else [held]) if isinstance(it, dict)]
    path += "[]" * isinstance(held, list)
    has_text = any(_text_of(_payload(row, text_field)) for row in rows)
    if rows:
        yield path, rows, has_text
    if has_text and "[]" in path:
        return
    for row in rows:
        for name, value in row.items():
            if not has_text or _folded(name) not in {text_field, *_TEXT_NAMES}:
                yield from _objects(value, text_field, f"{path.rstrip('.')}.{name}")


def _table(file: _File, text_field: str) -> Iterator[Row]:
    rows = read_table(read_lines(file.file), file.suffix)
    header = next(rows)
    if not set(map(_folded, header)) >= _OF_POSTS:
        _require_text(file, header, text_field)
    for number, values in enumerate(rows, start=1):
        if values:
            yield f"row {number}", None, _payload(dict(zip(header, values, strict=False)), text_field)


def read_lines(file: BinaryIO) -> list[str]:
    """Return the lines of a text, each with its end; ValueError names one that is no such text."""
    return [_decoded(*line).replace("\r\n", "\n") for line in _lines(file)]


def read_table(lines: list[str], suffix: str) -> Iterator[list[str]]:
    """Yield the names of a table's columns, then each row, which may be shorter; ValueError names a line."""
    csv.field_size_limit(_LONGEST)
    # In many countries a spreadsheet writes semicolons.
    between = max("\t" if suffix == ".tsv" else ",", *",;\t|", key="".join(lines[:1]).count)
    is_bare = between == "\t" and _has_bare_quotes(lines)
    reader = csv.reader(lines, delimiter=between, quotechar=None if is_bare else '"', strict=True)
    try:
        yield (header := [name.strip() for name in next(reader, [])])
        for values in reader:
            if len(values) > len(header):
                raise ValueError(f"found {len(values)} fields; expected the {len(header)} of the first line")
            yield values
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _has_bare_quotes(lines: list[str]) -> bool:
    """Return whether quotes are the person's alone, as in what Google Sheets writes with tabs."""
    try:
        return not [*csv.reader(lines, delimiter="\t", strict=True)]
    except csv.Error:
        return len({line.count("\t") for line in lines}) == 1


def _parquet(file: _File, text_field: str) -> Iterator[Row]:
    table = pq.ParquetFile(file.file)
    _require_text(file, table.schema_arrow.names, text_field)
    rows = (row for batch in table.iter_batches(1000) for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", None, _payload(row, text_field)


def _markdown(file: _File, text_field: str) -> Iterator[Row]:
    text = _whole(file.file)
    matter: Any = {}
    if match := re.match(r"(---|\+\+\+)[ \t]*\n(.*?)^\1[ \t]*(?:\n|\Z)", text, re.DOTALL | re.MULTILINE):
        try:
            matter = _yaml(match[2]) if match[1] == "---" else tomllib.loads(match[2])
        except yaml.MarkedYAMLError as error:
            line = (error.problem_mark.line if error.problem_mark else 0) + 2
            raise ValueError(f"line {line}: {error.problem} in its front matter; quote the value") from error
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"line 1: front matter cannot be read: {str(error)[:200]}") from error
        text = text[match.end() :] if isinstance(matter, dict) else text
    matter = matter if isinstance(matter, dict) else {}
    heading = re.match(r"\s*# +(.+)", text)
    if heading and (lines := _PROPERTIES.match(text, heading.end())):
        properties: dict[str, Any] = dict(line.split(": ", 1) for line in lines[1].splitlines())
        if _NOTIONS.search(file.name) or _are_properties(properties):
            properties |= {"Tags": properties["Tags"].split(", ")} if "Tags" in properties else {}
            matter, text = properties | matter, f"{heading[0]}\n\n{text[lines.end() :].strip()}"
    matter = _payload(matter, "")
    if heading:
        matter.setdefault("title", heading[1].strip())
    payload = {key: value for key, value in matter.items() if key not in TEXT_FIELDS}
    yield "", None, payload | {"cleaned_content": text.strip()}


def _are_properties(lines: Mapping[str, str]) -> bool:
    """Return whether lines are surely properties, and not words of the text."""
    values = [(_PROPERTY_NAMES.get(_folded(name), ""), value) for name, value in lines.items()]
    sure = [_is_date(it) if key == "published" else "://" in it for key, it in values if key in _SURE]
    return bool(sure) and all(sure) and all(key for key, _ in values)


def _yaml(text: str) -> Any:
    """Return front matter; what a plain value makes no YAML, as `title: Note 0: on it`, is read as text."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError:
        quoted = _UNQUOTED.sub(lambda it: f"{it[1]}: {json.dumps(it[2], ensure_ascii=False)}", text)
        if quoted == text:
            raise
        return yaml.safe_load(quoted)


def _html(file: _File, text_field: str) -> Iterator[Row]:
    held = file.file.read(_LONGEST + 1)
    if len(held) > _LONGEST:
        raise ValueError(": more than 64 MiB in one page; split it")
    if not held.strip():  # of which the parser says on stderr that it cannot be decoded
        yield "", None, {}
        return
    page = _parsed(held)
    matter: dict[str, str] = {}
    for tag in page.select("meta[content]"):
        name = str(tag.get("property") or tag.get("name") or tag.get("itemprop") or "").rpartition(":")[2]
        matter.setdefault(name.replace("_time", ""), str(tag["content"]).strip())
    for line in page.find_all("p", string=_LINKEDIN_DATE):
        matter["published"] = line.get_text(strip=True).partition(" on ")[2]  # below when it was created
        line.decompose()
    matter |= _marked(page, _MARKS)
    levels = [(getattr(it.select_one(_HEADINGS), "name", "h7"), it) for it in page.select(_ARTICLES)]
    top = min((level for level, _ in levels), default="")
    articles = [it for level, it in levels if level == top]
    if len(articles) < 2:
        yield "", None, _fields_of_page(matter) | {"cleaned_content": _prose_of(page)}
        return
    for number, article in enumerate(articles, start=1):
        about = {"author": matter.get("author", "")} | _marked(article, _ARTICLE_MARKS)
        link = urljoin(matter.get("link", ""), about["link"]) if "link" in about else ""
        about["link"] = link if "://" in link else ""  # any page may have an #intro
        yield f"article {number}", None, _fields_of_page(about) | {"cleaned_content": _prose_of(article)}


def _parsed(held: bytes | str) -> BeautifulSoup:
    from bs4 import BeautifulSoup

    return BeautifulSoup(held, "html.parser")


def _marked(tag: Tag, marks: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    tags = ((name, tag.select_one(chosen), attribute) for name, chosen, attribute in marks)
    return {
        name: str(mark.get(attribute) or "").strip() or mark.get_text(" ", strip=True)
        for name, mark, attribute in tags
        if mark
    }


def _fields_of_page(matter: Mapping[str, str]) -> dict[str, Any]:
    known = _payload(matter, "")
    return {name: known[name] for name in NAMES if name in known and name != "type"}  # all say article


def _prose_of(page: Tag) -> str:
    """Return the text of a page or an article, which it takes apart."""
    from bs4.element import NavigableString

    body = next(filter(None, map(page.select_one, _BODIES)), page)
    for tag in body.select(_NO_TEXT):
        tag.decompose()
    for string in body.find_all(string=True):
        if type(string) is not NavigableString:  # comments and the like
            string.extract()
        elif not string.find_parent("pre"):
            string.replace_with(re.sub(r"\s+", " ", string))
    for tag in body.select("br"):
        tag.replace_with("\n")
    for tag in body.select("li"):
        tag.insert(0, "\n- ")
    for tag in body.select(_BLOCKS):
        tag.insert(0, "\n\n")
        tag.append("\n\n")
    text = re.sub(r"[ \t]+\n|\n (?=\S)", "\n", body.get_text())
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^-\s+", "- ", text)).strip()


# The formats by the suffix of a file.
READERS: dict[str, Callable[[_File, str], Iterator[Row]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _table, ".tsv": _table,
    ".parquet": _parquet, ".md": _markdown, ".markdown": _markdown,
    ".txt": lambda file, _: iter([("", None, {"cleaned_content": _whole(file.file).strip()})]),
    ".html": _html,
    ".htm": _html,
}  # fmt: skip
_FORMATS = f"{' '.join(READERS)}, also .gz, and a .zip of them"


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", str(name)).lower()


def _require_text(file: _File, names: Iterable[str], text_field: str) -> None:
    """Leave out a table without a column of texts, or one of what others wrote."""
    names = list(names)
    file.columns.update(names)
    if text_field in names:
        return
    folded = {_folded(name) for name in names}
    if any(people <= folded for people in _OF_OTHERS):
        raise _LeftOut("a table about people, or of their messages; name its texts with --text-field")
    if folded.isdisjoint(_TEXT_NAMES):
        held = ", ".join(names)[:200] or "none"
        raise _LeftOut("no column of texts; name one with --text-field", held)


def _payload(row: Mapping[str, Any], text_field: str) -> dict[str, Any]:
    """Return a row with the names of a payload in place of its own; what it has besides, it keeps."""
    # What is not equal to itself is NaN, which tables have for nothing.
    held = {name: value for name, value in row.items() if value not in (None, "") and value == value}
    payload: dict[str, Any] = json.loads(json.dumps(held, default=str))
    folded = {_folded(name): name for name in reversed(payload)}
    if "from" in folded and _is_date(payload[folded["from"]]):
        del folded["from"]
    if text_field in payload:
        payload["cleaned_content"] = payload.pop(text_field)
    for name, aliases in NAMES.items():
        taken = TEXT_FIELDS if name == "cleaned_content" else (name,)
        alias = next((folded[alias] for alias in aliases.split() if folded.get(alias) in payload), None)
        if alias and payload.keys().isdisjoint(taken):
            payload[name] = payload.pop(alias)
    people = payload.get("author_id")
    if isinstance(people, list | dict):
        people = people if isinstance(people, list) else [people]
        payload["author_id"] = ", ".join(
            str(it["name"] if isinstance(it, dict) and "name" in it else it) for it in people
        )
    for name in {"title", *TEXT_FIELDS} & payload.keys():
        payload[name] = _joined(payload[name])
    if isinstance(payload.get("published"), str):
        payload["published"] = _dated(payload["published"])
    if isinstance(text := payload.get("cleaned_content"), str) and "ShareCommentary" in row:
        payload["cleaned_content"] = _unquoted(text)
    return payload


def _joined(value: Any) -> Any:
    """Return a text that an export has as HTML or in parts; anything else as it is."""
    if isinstance(value, str) and _IS_HTML.match(value) and value.rstrip().endswith(">"):
        return _prose_of(_parsed(value))
    if isinstance(value, dict):  # WordPress has it rendered, Telegram and Medium in parts
        parts = next((value[it] for it in ("rendered", "text", "bodyModel", "paragraphs") if it in value), "")
        between = "\n\n" if "paragraphs" in value else ""
        text = between.join(map(_joined, parts)) if isinstance(parts, list) else _joined(parts)
        return html.unescape(text) if "rendered" in value else text
    if isinstance(value, list) and all(isinstance(it, str | dict) for it in value):
        between = "" if any(isinstance(it, dict) for it in value) else "\n\n"
        return between.join(map(_joined, value))
    return value


def _dated(text: str) -> str:
    """Return a date as ISO writes it, where it names its month or parts it as in East Asia."""
    if match := re.match(r"([12]\d{3})[年/] ?(\d\d?)[月/] ?(\d\d?)", text):
        return f"{match[1]}-{match[2]:0>2}-{match[3]:0>2}"
    if not re.search(r"[A-Za-z]{3}", text) or re.match(r"[12]\d{3}-|\D*$", text):  # today is no date
        return text
    stamp = pd.to_datetime(text, errors="coerce")
    return text if pd.isna(stamp) else str(stamp)


def _is_date(value: Any) -> bool:
    text = _dated(str(value))
    return bool(_YEAR.search(text)) and not pd.isna(pd.to_datetime(text, errors="coerce"))


def _unquoted(text: str) -> str:
    """Return a text without the quotes that LinkedIn may put around each of its lines, blank ones too."""
    parts = [""]
    for part in re.split(r'("(?:\n")+)', text):
        # After an odd number it closes what the person quotes: `"a"`, and a line `"b"` below it.
        if part.startswith('"\n') and parts[-1].count('"') % 2 == 0:
            parts += [part.replace('"', ""), ""]
        else:
            parts[-1] += part
    return "".join(parts)


def _point_id(given: Any) -> PointId:
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,20}", given):
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**64:
        return given
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        wrong = f"id {str(given)[:60]!r} is no UUID and no whole number from 0"
        raise ValueError(f"{wrong}; leave it out, then the line itself gives one") from None


def _storable(value: Any, depth: int = 0) -> Any:
    """Escape texts with a lone surrogate, which no engine takes, so that reading can say what they are."""
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep; the engine could not read it again")
    if isinstance(value, str):
        return {NOT_ENCODABLE: json.dumps(value)} if _SURROGATE.search(value) else value
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _storable(held, depth + 1) for key, held in value.items()}
    if isinstance(value, list):
        return [_storable(held, depth + 1) for held in value]
    if isinstance(value, float | int) and abs(value) > sys.float_info.max:
        raise ValueError("a number is beyond what JSON readers hold")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
