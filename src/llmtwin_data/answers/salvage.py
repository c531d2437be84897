"""Read rows out of a damaged SQLite file page by page, whatever became of its header and its trees."""

from __future__ import annotations

import os
import struct
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Value = str | int | float | bytes | None
Pages = Mapping[int, bytes]
# Bytes; what SQLite has given new files since 2016. A header that can no longer be read is not asked.
PAGE_SIZE = 4096
WAL_HEADER, FRAME_HEADER = 32, 24
TABLE_LEAF = 0x0D
# The file format (https://sqlite.org/fileformat2.html) says how much of a long row stays in its own page.
LOCAL_MAX = PAGE_SIZE - 35
LOCAL_MIN = (PAGE_SIZE - 12) * 32 // 255 - 23
INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class FilePages(Mapping[int, bytes]):
    """The pages of a file by their number from 1, read when asked for."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb") if path.exists() else None
        self._count = -(-path.stat().st_size // PAGE_SIZE) if self._file else 0

    def __getitem__(self, number: int) -> bytes:
        if self._file is None or not 0 < number <= self._count:
            raise KeyError(number)
        return os.pread(self._file.fileno(), PAGE_SIZE, (number - 1) * PAGE_SIZE)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, self._count + 1))

    def __len__(self) -> int:
        return self._count


def read_rows(path: Path, wal: Path) -> Iterator[tuple[Value, ...]]:
    """Give every row that a leaf page of the file still spells out, then those that its WAL changes.

    Rows come in no order, old versions before new ones, and some that were deleted: the caller must
    know a good row by itself, for example by a checksum in it.
    """
    pages = FilePages(path)
    yield from _rows_of(pages, pages)
    newer = dict(_frames(wal))
    if newer:
        yield from _rows_of(newer, ChainMap(newer, pages))  # type: ignore[arg-type]


def lost_commits(wal: Path, *, valid_frames: int) -> bool:
    """Say whether a torn frame hides commits: some stand behind the last frame that SQLite takes for valid.

    One alone is what a kill in the middle of the last commit leaves, and that one never counted.
    """
    behind = list(_frame_heads(wal.read_bytes()))[valid_frames:]
    return sum(size_after_commit > 0 for _, size_after_commit, _ in behind) > 1


def _frames(wal: Path) -> Iterator[tuple[int, bytes]]:
    data = wal.read_bytes() if wal.exists() else b""
    for number, _, start in _frame_heads(data):
        yield number, data[start + FRAME_HEADER : start + FRAME_HEADER + PAGE_SIZE]


def _frame_heads(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give page number, commit size and place of the frames of the WAL's present generation."""
    starts = range(WAL_HEADER, len(data) - FRAME_HEADER, FRAME_HEADER + PAGE_SIZE)
    # A whole header before frames of other salts only is a WAL that had just begun anew.
    present = data[16:24] if _is_whole(data[:WAL_HEADER]) else data[WAL_HEADER + 8 : WAL_HEADER + 16]
    for start in starts:
        if data[start + 8 : start + 16] == present:
            number, size_after_commit = struct.unpack_from(">II", data, start)
            yield number, size_after_commit, start


def _is_whole(header: bytes) -> bool:
    """Say whether a WAL's header has the checksum that the file format asks for."""
    if len(header) < WAL_HEADER:
        return False
    words = struct.unpack(">6I" if header[3] & 1 else "<6I", header[:24])
    first = second = 0
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = first + one + second & 0xFFFFFFFF
        second = second + other + first & 0xFFFFFFFF
    return struct.unpack(">II", header[24:]) == (first, second)


def _rows_of(leaves: Pages, pages: Pages) -> Iterator[tuple[Value, ...]]:
    for number, page in leaves.items():
        start = 100 if number == 1 else 0
        if len(page) > start + 8 and page[start] == TABLE_LEAF:
            count = int.from_bytes(page[start + 3 : start + 5], "big")
            pointers = page[start + 8 : start + 8 + 2 * count]
            for cell in struct.iter_unpack(">H", pointers[: len(pointers) // 2 * 2]):
                row = _spelled_out(page, cell[0], pages)
                if row is not None:
                    yield row


def _spelled_out(page: bytes, at: int, pages: Pages) -> tuple[Value, ...] | None:
    try:
        return _row(page, at, pages)
    except (IndexError, ValueError, KeyError, struct.error):
        return None


def _row(page: bytes, at: int, pages: Pages) -> tuple[Value, ...]:
    size, at = _varint(page, at)
    _, at = _varint(page, at)
    payload = _payload(page, at, size, pages)
    header_size, at = _varint(payload, 0)
    kinds = []
    while at < header_size:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    return _values(payload, header_size, kinds)


def _payload(page: bytes, at: int, size: int, pages: Pages) -> bytes:
    if size <= LOCAL_MAX:
        return page[at : at + size]
    local = LOCAL_MIN + (size - LOCAL_MIN) % (PAGE_SIZE - 4)
    local = local if local <= LOCAL_MAX else LOCAL_MIN
    parts = [page[at : at + local]]
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    for _ in range(-(-(size - local) // (PAGE_SIZE - 4))):
        overflow = pages[following]
        parts.append(overflow[4:])
        following = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)[:size]


def _values(payload: bytes, at: int, kinds: Sequence[int]) -> tuple[Value, ...]:
    values: list[Value] = []
    for kind in kinds:
        size = INTEGER_SIZES.get(kind, 8 if kind == 7 else max(0, (kind - 12) // 2))
        raw = payload[at : at + size]
        if len(raw) < size:
            raise ValueError("the row ends before its last value")
        values.append(_value(kind, raw))
        at += size
    return tuple(values)


def _value(kind: int, raw: bytes) -> Value:
    if kind in (0, 8, 9):
        return (None, 0, 1)[max(0, kind - 7)]
    if kind in INTEGER_SIZES:
        return int.from_bytes(raw, "big", signed=True)
    if kind == 7:
        return float(struct.unpack(">d", raw)[0])
    return raw.decode() if kind % 2 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        value, at = value << 7 | byte & 0x7F, at + 1
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1
