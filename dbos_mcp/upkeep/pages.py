"""Reads events straight from the pages of a file, for one that SQLite can no longer read whole.

Each leaf of a table holds its rows by itself (https://sqlite.org/fileformat2.html), and an event
proves itself by its checksum. So what led to a page may be lost, the header too, and every event on
a page that is left is still found. Pages that the WAL holds newer are read from there.

The file is open()ed here: this process must have no connection to it, whose locks that would drop.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dbos_mcp.errors import UnknownEventError
from dbos_mcp.store import event_log
from dbos_mcp.store.event_log import RawEvent
from dbos_mcp.store.events import KINDS

PAGE_SIZE = 4096
"""As SQLite makes files, for one whose header is lost."""
_HEADER = b"SQLite format 3\0"
_HEADER_BYTES = 100
_TABLE_LEAF = 0x0D
_LARGEST_PAYLOAD = 256 * 1024 * 1024
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_COLUMNS = len(RawEvent._fields)
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
"""By the type of an integer in a row."""


class _Place(NamedTuple):
    """Where the newest version of a page is."""

    file: BinaryIO
    offset: int


def events_of(path: Path) -> Iterator[RawEvent]:
    """Every event that is as it was written, in no order; one may come several times."""
    with ExitStack() as stack:
        pages = _Pages(stack, path)
        for number in range(1, pages.count + 1):
            for event in _events_on(pages, number):
                if _is_whole(event):
                    yield event


def _is_whole(event: RawEvent) -> bool:
    if event.is_sound is not None:
        return event.is_sound
    try:  # an older version's, without a checksum: as far as can be seen
        event_log.from_raw(event)
    except UnknownEventError:
        return False
    return True


class _Pages:
    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._file = stack.enter_context(path.open("rb"))
        self.size = _page_size(self._file)
        self.count = -(-os.fstat(self._file.fileno()).st_size // self.size)
        self._newer: dict[int, _Place] = {}
        wal = path.with_name(f"{path.name}-wal")
        if wal.is_file():
            self._look_into(stack.enter_context(wal.open("rb")))

    def read(self, number: int) -> bytes:
        """Nothing, or less than a page, beyond the end."""
        file, offset = self._newer.get(number) or _Place(self._file, (number - 1) * self.size)
        return os.pread(file.fileno(), self.size, offset)

    def _look_into(self, wal: BinaryIO) -> None:
        """Of the frames those that were committed."""
        header = wal.read(_WAL_HEADER_BYTES)
        if _integer(header, 0, 4) not in _WAL_MAGIC or _integer(header, 8, 4) != self.size:
            return
        salts, offset, pending = header[16:24], _WAL_HEADER_BYTES, {}
        while frame := os.pread(wal.fileno(), _FRAME_HEADER_BYTES, offset):
            if frame[8:16] != salts:
                return
            pending[_integer(frame, 0, 4)] = _Place(wal, offset + _FRAME_HEADER_BYTES)
            offset += _FRAME_HEADER_BYTES + self.size
            if pages := _integer(frame, 4, 4):
                self._newer |= pending
                self.count = max(self.count, pages)
                pending = {}


def _page_size(file: BinaryIO) -> int:
    header = os.pread(file.fileno(), _HEADER_BYTES, 0)
    size = _integer(header, 16, 2) if header.startswith(_HEADER) else 0
    return size if size >= 512 and size & (size - 1) == 0 else PAGE_SIZE


def _events_on(pages: _Pages, number: int) -> Iterator[RawEvent]:
    page = pages.read(number)
    start = _HEADER_BYTES if number == 1 else 0
    if len(page) < pages.size or page[start] != _TABLE_LEAF:
        return
    for cell in range(_integer(page, start + 3, 2)):
        pointer = start + 8 + 2 * cell
        if pointer + 2 > pages.size:
            return
        try:
            event = _event(pages, page, _integer(page, pointer, 2))
        except (IndexError, ValueError):
            continue  # not a row, or not any more
        if event is not None:
            yield event


def _event(pages: _Pages, page: bytes, offset: int) -> RawEvent | None:
    """None: it is a row of another table."""
    length, offset = _varint(page, offset)
    position, offset = _varint(page, offset)
    header_end, types_at = _varint(page, offset)
    types: list[int] = []
    header_end += offset
    while types_at < header_end and len(types) <= _COLUMNS:
        kind, types_at = _varint(page, types_at)
        types.append(kind)
    if not _is_of_an_event(types) or length > _LARGEST_PAYLOAD:
        return None
    payload = _payload(pages, page, offset, length)
    values, place = [], header_end - offset
    for kind in types:
        value, place = _value(payload, place, kind)
        values.append(value)
    event = RawEvent(position, *values[1:])  # type: ignore[arg-type]  # of those types
    return event if event.kind in KINDS else None


def _is_of_an_event(types: list[int]) -> bool:
    """Of the types of its columns; those of older versions have one less."""

    def is_text(kind: int) -> bool:
        return kind >= 13 and kind % 2 == 1

    def is_integer(kind: int) -> bool:
        return 1 <= kind <= 6 or kind in (8, 9)

    if len(types) not in (_COLUMNS - 1, _COLUMNS):
        return False
    position, application, workflow, kind, occurred_at, recorded_at, data, *checksum = types
    return (
        position == 0
        and is_text(application)
        and (workflow == 0 or is_text(workflow))
        and is_text(kind)
        and (occurred_at == 0 or is_integer(occurred_at))
        and is_integer(recorded_at)
        and is_text(data)
        and all(each == 0 or is_integer(each) for each in checksum)
    )


def _payload(pages: _Pages, page: bytes, offset: int, length: int) -> bytes:
    """A row, with what of it is on pages of its own."""
    usable = pages.size
    most, least = usable - 35, (usable - 12) * 32 // 255 - 23
    if length <= most:
        return page[offset : offset + length]
    here = least + (length - least) % (usable - 4)
    here = here if here <= most else least
    parts, left = [page[offset : offset + here]], length - here
    following = _integer(page, offset + here, 4)
    while left > 0:
        if not 0 < following <= pages.count:
            raise ValueError(following)
        overflow = pages.read(following)
        parts.append(overflow[4 : 4 + left])
        if len(overflow) < usable:
            raise ValueError(following)
        left -= len(parts[-1])
        following = _integer(overflow, 0, 4)
    return b"".join(parts)


def _value(payload: bytes, place: int, kind: int) -> tuple[int | str | None, int]:
    if kind == 0:
        return None, place
    if kind in (8, 9):
        return kind - 8, place
    length = _INTEGER_BYTES[kind] if kind < 12 else (kind - 13) // 2
    content = payload[place : place + length]
    if len(content) < length:
        raise ValueError(length)
    if kind < 12:
        return int.from_bytes(content, "big", signed=True), place + length
    return content.decode(), place + length


def _integer(content: bytes, offset: int, length: int) -> int:
    return int.from_bytes(content[offset : offset + length], "big")


def _varint(content: bytes, offset: int) -> tuple[int, int]:
    """An integer of one to nine bytes, and where it ends."""
    value = 0
    for place in range(offset, offset + 8):
        byte = content[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | content[offset + 8], offset + 9
