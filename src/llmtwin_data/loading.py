"""The files that people have, loaded into a collection whole or not at all."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import sqlite3
import sys
import tempfile
import tomllib
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from llmtwin_data.errors import DiskFailed, SourceError
from llmtwin_data.sources import AUTHOR_FIELDS, TEXT_FIELDS, Point, PointId, Source
from llmtwin_data.texts import counted, with_escapes

# Under this key stands, escaped, a text that no engine can store: one with a lone surrogate.
NOT_ENCODABLE = "not_encodable"

# Lines with one id and different texts that an error names, and texts that are shown before they are loaded.
MOST_NAMED, SHOWN = 5, 3

# What columns, keys of front matter and meta tags are called, in small letters without blanks or signs.
NAMES = {
    "cleaned_content": "sharecommentary text fulltext body posttext post caption markdown",
    "link": "link sharelink url permalink canonicalurl canonical posturl",
    "title": "title headline",
    "published": "published publishedat date datetime postdate pubdate publisheddate createdat created",
    "author_id": "authorid author authors authorname authorfullname byline creator username",
    "platform": "platform network",
    "type": "type",
    "tags": "tags keywords categories",
}
# Tables that hold what others wrote, or lists of them: they are read only if their text is named.
_OF_OTHERS = ({"from", "to"}, {"firstname", "lastname"})
# A table beside the posts, whose texts are pages named by ``post_id``: Substack's.
_OF_POSTS = {"postid", "postdate", "title"}
_SAID_OF_POSTS = ("title", "published", "is_published")

_IDS = uuid.UUID("6f1c5a58-5d0b-5a0e-9d0c-1b8f4f3f6a0d")
_LONGEST = 64 * 1024 * 1024  # bytes of a line, or of a file that is one text
_LISTED = 12
_UNQUOTED = re.compile(r"(?m)^([\w -]+):[ \t]+([@`%].*?|[^\s\"'\[{|>&*!#].*?:(?:[ \t].*?)?)[ \t]*$")
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
    ("link", "a.p-canonical, link[rel=canonical]", "href"),
)
_BODIES = (".e-content", ".available-content", "article", "main", "[role=main]", "body")
_NO_TEXT = "script, style, noscript, template, nav, aside, form, button, svg, iframe, head, footer, "
_NO_TEXT += "[class*=subscription-widget], .cta-caption, .button-wrapper"  # Substack's
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
        return Path(self.name.lower().removesuffix(".gz")).suffix


def load_files(source: Source, paths: Sequence[Path], *, collection: str, text_field: str = "") -> int:
    """Load files into a collection whole or not at all; return how many contents."""
    with read_files(paths, text_field=text_field) as loading:
        return source.write(collection, loading.points())


@contextmanager
def read_files(
    paths: Sequence[Path], *, text_field: str = "", usual: Mapping[str, str] | None = None
) -> Iterator[Loading]:
    """Read files, folders, archives and pipes, so that all is checked before any of it is loaded.

    A line of JSONL is a payload, plus an optional ``id`` (UUID or integer); without one the id is the uuid5
    of the line: loading twice changes nothing, and equal lines are one content. In the other formats it comes
    from the link, else from file and row: a changed text replaces the old one. A file that was only found, in
    a folder or an archive, is left out where it holds no text; one that is named must hold some.
    Drafts are left out of all but JSONL.

    Parameters
    ----------
    text_field
        Field or column that holds the text, where no name of `NAMES` says it.
    usual
        Payload fields for texts that do not say them.

    Raises
    ------
    SourceError
        A file or a line of it cannot be read, lines with one id hold different texts, or there is no text;
        the lines are named by their numbers.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as store:
        store.execute("PRAGMA cache_size = -65536")  # KiB; what is beyond lies on the disk
        store.execute(
            "CREATE TABLE points (id TEXT UNIQUE, place, digest, payload, chars, day, author, platform)"
        )
        loading = Loading(store, text_field, usual or {})
        try:
            store.execute("BEGIN")
            for file in _files(paths):
                loading.take(file)
        except sqlite3.OperationalError as error:
            place = tempfile.gettempdir()
            raise DiskFailed(f"{place}: {error}; free that disk, or let TMPDIR name another") from error
        if text_field and text_field not in loading.columns:
            held = ", ".join(sorted(loading.columns))[:200] or "none"
            raise SourceError(f"--text-field {text_field}: no column or field is called so; there are {held}")
        if not len(loading):
            found = f"left out {_tally(loading.left_out, '; ')}" if loading.left_out else "found no line"
            raise SourceError(f"nothing to load; expected a text, {found}")
        yield loading


@dataclass
class Loading:
    """What was read of files, on the disk until it is written, and what is said of it before."""

    store: sqlite3.Connection
    text_field: str
    usual: Mapping[str, str]
    files: Counter[str] = field(default_factory=Counter)  # by suffix
    left_out: Counter[str] = field(default_factory=Counter)  # by file and reason
    posts: dict[str, dict[str, Any]] = field(default_factory=dict)  # what a table says of pages beside it
    columns: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return int(self.store.execute("SELECT count(*) FROM points").fetchone()[0])

    def points(self) -> Iterator[Point]:
        """Return the points, each once."""
        for point_id, payload in self.store.execute("SELECT id, payload FROM points ORDER BY rowid"):
            yield int(point_id) if point_id.isdecimal() else point_id, json.loads(payload)

    def changed(self, source: Source, collection: str) -> int:
        """Count the points that the collection holds with another text."""
        held, count = self.store.execute("SELECT id FROM points ORDER BY rowid"), 0
        ids = (int(point_id) if point_id.isdecimal() else point_id for (point_id,) in held)
        while batch := list(islice(ids, 256)):
            for point_id, payload in source.retrieve(collection, batch, fields=TEXT_FIELDS):
                same = "SELECT 1 FROM points WHERE id = ? AND digest = ?"
                count += not self.store.execute(same, (str(point_id), _digest(payload))).fetchone()
        return count

    def lines(self) -> list[str]:
        """Return what was understood: files, three texts, dates, authors, what is left out and why."""
        ask = self.store.execute
        few, many, first, last = ask(
            "SELECT min(chars), max(chars), min(day), max(day) FROM points"
        ).fetchone()
        texts = [
            _text_of(json.loads(held)) for (held,) in ask("SELECT payload FROM points LIMIT ?", (SHOWN,))
        ]
        files = ", ".join(f"{count} {suffix}".strip() for suffix, count in self.files.items())
        read = counted(sum(self.files.values()), "file")
        lines = [
            f"Read {read} ({files}): {counted(len(self), 'text')}, {few:,} to {many:,} characters",
            *(f"  text: {' '.join(text[:400].split())[:80]}" for text in texts),
            f"  dates: {f'{first} to {last}' if first else 'none'}",
        ]
        for name in ("author", "platform"):
            held = ask(f"SELECT {name}, count(*) FROM points WHERE {name} != '' GROUP BY 1")
            lines.append(f"  {name}s: {_tally(Counter(dict(held))) or f'none; --{name} names one'}")
        lines += [f"  left out: {_tally(self.left_out, '; ')}"] if self.left_out else []
        return [with_escapes(line) for line in lines]

    def take(self, file: _File) -> None:
        """Read a file, or note why it is left out."""
        if file.left_out and file.is_named:
            raise SourceError(file.left_out)
        if file.left_out:
            self.left_out[file.left_out] += 1
            return
        reader = READERS.get(file.suffix)
        links, clashes = Counter[str](), Counter[str]()
        try:
            if reader is None and file.is_named and _may_be_json_lines(file):
                reader = _json_lines
            if reader is None:
                raise _LeftOut("no format of texts that load reads")
            for where, given, payload in reader(file, self.text_field):
                if reader is _html:
                    payload = self.posts.get(Path(file.name).stem, {}) | payload
                if reason := self._reason_against(file, where, payload, reader):
                    self.left_out[reason] += 1
                    continue
                # Without an id the link gives one, else file and row; all comments on a post have its link.
                link = str(payload.get("link") or "")
                links[link] += 1
                again = f"\n{links[link]}" if links[link] > 1 else ""
                name = f"{link}{again}" if link else f"{file.key}\n{where}"
                clashes.update(self._put(given, name, f"{file.name} {where}", payload))
        except _LeftOut as reason:
            if file.is_named:
                formats = "" if reader else f"; it reads {_FORMATS}"
                raise SourceError(f"{file.name}: {reason}{formats}") from None
            kind = file.name if reader else file.suffix or "no suffix"
            self.left_out[f"{kind}: {reason}"] += 1
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

    def _reason_against(self, file: _File, where: str, payload: dict[str, Any], reader: Any) -> str:
        """Return why a row is no text to load, empty where it is one; what it says of a post is kept."""
        if reader is _json_lines:
            return ""
        if not _text_of(payload):
            if "post_id" in payload:
                said = {it: held for it, held in payload.items() if it in _SAID_OF_POSTS}
                self.posts[str(payload["post_id"])] = said
            return f"{file.name}: {'no text in a row' if where else 'empty'}"
        if (where or not file.is_named) and _is_draft(file, payload):
            return "draft, not published"
        if reader is _html:
            payload.pop("is_published", None)
        return ""

    def _put(self, given: PointId | None, name: str, place: str, payload: dict[str, Any]) -> Iterator[str]:
        """Keep a payload under the id that it says, else under one made of ``name``; yield what clashes."""
        for each, value in self.usual.items():
            said = AUTHOR_FIELDS if each == "author_id" else (each,)
            if value and not any(payload.get(field) for field in said):
                payload[each] = value
        payload, point_id = _storable(payload), str(uuid.uuid5(_IDS, name) if given is None else given)
        digest, day = _digest(payload), str(payload.get("published", ""))[:10]
        known = "SELECT place FROM points WHERE id = ? AND digest != ?"
        if given is not None and (first := self.store.execute(known, (point_id, digest)).fetchone()):
            yield f"{place} has the id of {first[0]} but another text"
            return
        values = [point_id, place, digest, json.dumps(payload, ensure_ascii=False), len(_text_of(payload))]
        values += [day if re.fullmatch(r"[12]\d{3}-\d\d(-\d\d)?", day) else None]
        values += [str(payload.get(field) or "") for field in ("author_id", "platform")]
        self.store.execute("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _digest(payload: Mapping[str, Any]) -> bytes:
    texts = json.dumps([payload.get(field) for field in TEXT_FIELDS], sort_keys=True)
    return hashlib.sha256(texts.encode()).digest()


def _text_of(payload: Mapping[str, Any]) -> str:
    texts = (payload.get(name) for name in TEXT_FIELDS)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _is_draft(file: _File, payload: Mapping[str, Any]) -> bool:
    """Whether Substack, Jekyll, Hugo, Ghost or, by its name, Medium says that a text is not published."""
    said = {_folded(name): str(value).lower() for name, value in payload.items()}
    published = said.get("ispublished", said.get("published"))
    is_draft = said.get("draft") == "true" or said.get("status") == "draft"
    return published == "false" or is_draft or bool(re.search(r"(^|/)posts/draft_[^/]*$", file.name))


def _may_be_json_lines(file: _File) -> bool:
    """Whether a file of no known suffix, as pipes have none, begins as JSON lines do."""
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
            for name, reason in _chosen(names):
                with names[name].open("rb") as held:
                    place, key = f"{path.resolve().name}/{name}", str(names[name].resolve())
                    yield from _unpacked(_File(place, key, held, is_named=False, left_out=reason))
    except _UNREADABLE as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> SourceError:
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SourceError(f"cannot read {name}: {said}; expected a file of {_FORMATS}")


def _unpacked(file: _File, depth: int = 0) -> Iterator[_File]:
    is_packed = file.name.lower().endswith(".gz")
    with gzip.open(file.file) if is_packed else nullcontext(file.file) as inner:
        file = replace(file, file=cast(BinaryIO, inner))
        if file.suffix != ".zip" or file.left_out or depth > _DEEPEST_ARCHIVE:
            yield file
            return
        with zipfile.ZipFile(file.file) as archive:
            if any(it.flag_bits & 1 for it in archive.infolist()):
                yield replace(file, left_out=f"{file.name}: encrypted, which load does not read; unpack it")
                return
            for name, reason in _chosen(it.filename for it in archive.infolist() if not it.is_dir()):
                with archive.open(name) as member:
                    place, key = f"{file.name}/{name}", f"{file.key}/{name}"
                    inner = cast(BinaryIO, member)
                    found = _File(place, key, inner, is_named=False, left_out=reason)
                    yield from _unpacked(found, depth + 1)


def _chosen(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield names in order, without files of no person, each with why it is left out, if it is."""
    seen = sorted(name for name in names if not _NOBODYS.search(name))
    pages = {name for name in seen if name.lower().endswith((".html", ".htm"))}
    posts = {name for name in pages if re.search(r"(^|/)posts/", name)}
    for name in seen:
        if name.startswith("/") or ".." in name.split("/"):
            yield name, f"{name}: its path leads out of the archive"
        elif posts and name in pages - posts:  # Medium's claps, bookmarks and the like
            yield name, f"{name.rpartition('/')[0] or name}: pages beside the posts"
        else:
            yield name, ""


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
        raise ValueError(f"line {number}: not UTF-8; save the file as UTF-8") from None


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
        held = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSONL under another suffix
            yield from _json_lines(file, text_field)
            return
        raise ValueError(f"line {error.lineno}: {error.msg}; expected a JSON array of objects") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f": {str(error)[:200]}; expected a JSON array of objects") from error
    rows = held if isinstance(held, list) else [held]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"item {number}: found a JSON {type(row).__name__}; expected an object")
    _require_text(file, dict.fromkeys(key for row in rows for key in row), text_field)
    for number, row in enumerate(rows, start=1):
        point_id = None
        with suppress(ValueError):  # in such files an id may be of any kind
            point_id = _point_id(row.pop("id", None))
        yield f"item {number}", point_id, _payload(row, text_field)


def _table(file: _File, text_field: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST)
    lines = (_decoded(*line).replace("\r\n", "\n") for line in _lines(file.file))
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), delimiter=delimiter_of(first, file.suffix), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(map(_folded, header)) >= _OF_POSTS:
            _require_text(file, header, text_field)
        for number, values in enumerate(reader, start=1):
            if len(values) > len(header):
                raise ValueError(f"found {len(values)} fields; expected the {len(header)} of the first line")
            if values:
                row = {name: value for name, value in zip(header, values, strict=False) if value}
                yield f"row {number}", None, _payload(row, text_field)
    except (ValueError, csv.Error) as error:
        said = str(error)
        raise ValueError(said if said.startswith("line ") else f"line {reader.line_num}: {said}") from error


def delimiter_of(header: str, suffix: str) -> str:
    """Return what parts the columns of a table: in many countries a spreadsheet writes semicolons."""
    usual = "\t" if suffix == ".tsv" else ","
    return str(max(usual, *",;\t|", key=header.count))


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
    matter = _payload(matter, "") if isinstance(matter, dict) else {}
    if heading := re.match(r"\s*# +(.+)", text):
        matter.setdefault("title", heading[1].strip())
    payload = {key: value for key, value in matter.items() if key not in TEXT_FIELDS}
    yield "", None, payload | {"cleaned_content": text.strip()}


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
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString

    held = file.file.read(_LONGEST + 1)
    if len(held) > _LONGEST:
        raise ValueError(": more than 64 MiB in one page; split it")
    if not held.strip():  # of which the parser says on stderr that it cannot be decoded
        yield "", None, {}
        return
    page = BeautifulSoup(held, "html.parser")
    matter: dict[str, str] = {}
    for tag in page.select("meta[content]"):
        name = str(tag.get("property") or tag.get("name") or tag.get("itemprop") or "").rpartition(":")[2]
        matter.setdefault(name.replace("_time", ""), str(tag["content"]).strip())
    for name, chosen, attribute in _MARKS:
        if mark := page.select_one(chosen):
            matter[name] = str(mark.get(attribute) or "").strip() or mark.get_text(" ", strip=True)
    known = _payload(matter, "")
    known.pop("type", None)  # every page says article
    payload = {name: known[name] for name in NAMES if name in known}
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
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^-\s+", "- ", text))
    yield "", None, payload | {"cleaned_content": text.strip()}


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
    texts = {*NAMES["cleaned_content"].split(), *map(_folded, TEXT_FIELDS)}
    if folded.isdisjoint(texts):
        held = ", ".join(names)[:200] or "none"
        raise _LeftOut(f"no column of texts; name one with --text-field; it has {held}")


def _payload(row: Mapping[str, Any], text_field: str) -> dict[str, Any]:
    """Return a row with the names of a payload in place of its own; what it has besides, it keeps."""
    # What is not equal to itself is NaN, which tables have for nothing.
    held = {name: value for name, value in row.items() if value not in (None, "") and value == value}
    payload: dict[str, Any] = json.loads(json.dumps(held, default=str))
    folded = {_folded(name): name for name in reversed(payload)}
    if text_field in payload:
        payload["cleaned_content"] = payload.pop(text_field)
    for name, aliases in NAMES.items():
        taken = TEXT_FIELDS if name == "cleaned_content" else (name,)
        alias = next((folded[alias] for alias in aliases.split() if folded.get(alias) in payload), None)
        if alias and payload.keys().isdisjoint(taken):
            payload[name] = payload.pop(alias)
    if isinstance(payload.get("author_id"), list):
        payload["author_id"] = ", ".join(map(str, payload["author_id"]))
    text = payload.get("cleaned_content")
    # LinkedIn quotes each line of a text once more.
    if "ShareCommentary" in row and isinstance(text, str) and text.count("\n") == text.count('"\n"'):
        payload["cleaned_content"] = text.replace('"\n"', "\n")
    return payload


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
