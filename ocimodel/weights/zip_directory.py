"""The central directory of a zip archive, read backwards from its end and bounded throughout.

The standard library's zipfile trusts the directory's own size; a ranged read of a remote file
must not. Nothing is decompressed here.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.12 to 4.3.16, and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ocimodel.errors import InputError
from ocimodel.weights.cursor import Cursor, ReadAt, read_exactly

MAGIC: Final = b"PK\x03\x04"
STORED: Final = 0

# 90,000 entries take 8 MiB
_MAX_DIRECTORY: Final = 16 * 1024 * 1024
_END: Final = struct.Struct("<4s4H2IH")  # end of central directory record
_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_MAX_COMMENT: Final = 65_535
_U32: Final = 2**32 - 1
_U16: Final = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """`size`: uncompressed bytes; `stored`: bytes in the archive; `header`: local header offset."""

    name: str
    raw_name: bytes
    method: int
    stored: int
    size: int
    header: int


def read_entries(read_at: ReadAt, size: int) -> tuple[Entry, ...]:
    """The entries of an archive of `size` bytes, in the directory's order.

    InputError when there is no directory, or it lies: out of the file, over 16 MiB, more entries
    than it has room for, two entries of one name.
    """
    n_entries, n_bytes, start = _locate(read_at, size)
    if n_bytes > _MAX_DIRECTORY or start + n_bytes > size:
        raise InputError(f"zip: a directory of {n_bytes} bytes at {start} in a file of {size}")
    if n_entries * _CENTRAL.size > n_bytes:
        raise InputError(f"zip: {n_entries} entries cannot stand in {n_bytes} bytes")
    cursor = Cursor(read_at, start, start + n_bytes, "zip directory")
    entries = tuple(_entry(cursor, start) for _ in range(n_entries))
    if len({entry.name for entry in entries}) != len(entries):
        raise InputError("zip: two entries have the same name")
    return entries


def data_offset(read_at: ReadAt, entry: Entry, size: int) -> int:
    """Where the entry's bytes begin in the archive of `size` bytes; reads its local header."""
    what = f"zip entry {entry.name[:200]!r}"
    length = _LOCAL.size + len(entry.raw_name)
    raw = read_exactly(read_at, entry.header, length, what)
    header = _LOCAL.unpack_from(raw)
    start = int(entry.header + _LOCAL.size + header[9] + header[10])
    if header[0] != MAGIC or header[9] != len(entry.raw_name) or not raw.endswith(entry.raw_name):
        raise InputError(f"{what}: its local header at {entry.header} is another one's, or none")
    if start + entry.stored > size:
        raise InputError(f"{what} ends after the file")
    return start


def _locate(read_at: ReadAt, size: int) -> tuple[int, int, int]:
    """(number of entries, directory bytes, directory offset) from the end record, zip64 or not."""
    tail_length = min(size, _END.size + _MAX_COMMENT)
    tail = read_exactly(read_at, size - tail_length, tail_length, "zip")
    found = tail.rfind(b"PK\x05\x06", 0, max(0, tail_length - _END.size) + 4)
    if found < 0 or found + _END.size > tail_length:
        raise InputError(
            "zip: no end of central directory",
            hint="the file is truncated or damaged; fetch it again",
        )
    end = _END.unpack_from(tail, found)
    n_entries, n_bytes, start = end[4], end[5], end[6]
    if n_entries != _U16 and n_bytes != _U32 and start != _U32:
        return n_entries, n_bytes, start
    end_offset = size - tail_length + found
    if end_offset < _LOCATOR.size:
        return n_entries, n_bytes, start
    locator = _LOCATOR.unpack(
        read_exactly(read_at, end_offset - _LOCATOR.size, _LOCATOR.size, "zip64 locator")
    )
    if locator[0] != b"PK\x06\x07":
        return n_entries, n_bytes, start
    if locator[2] + _END64.size > size:
        raise InputError(f"zip: the zip64 record at {locator[2]} lies outside the file")
    end64 = _END64.unpack(read_exactly(read_at, locator[2], _END64.size, "zip64 record"))
    if end64[0] != b"PK\x06\x06":
        raise InputError("zip: the zip64 record has no signature")
    return end64[7], end64[8], end64[9]


def _entry(cursor: Cursor, end: int) -> Entry:
    record = _CENTRAL.unpack(cursor.take(_CENTRAL.size, "entry"))
    if record[0] != b"PK\x01\x02":
        raise cursor.fail("an entry has no signature")
    method, stored, unpacked, header = record[4], record[8], record[9], record[16]
    raw_name = cursor.take(record[10], "entry name")
    extra = cursor.take(record[11], "entry extra field")
    cursor.skip(record[12], "entry comment")
    unpacked, stored, header = _zip64(extra, unpacked, stored, header)
    if header + _LOCAL.size + len(raw_name) + stored > end:
        raise cursor.fail(f"entry of {stored} bytes at {header} lies behind its directory")
    name = raw_name.decode("utf-8", "replace")
    return Entry(name, raw_name, method, stored, unpacked, header)


def _zip64(extra: bytes, unpacked: int, stored: int, header: int) -> tuple[int, int, int]:
    """The three numbers, with those that stand as 2^32 - 1 taken from the zip64 extra field."""
    values = [unpacked, stored, header]
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1:
            body = extra[position : position + length]
            for index, value in enumerate(values):
                if value == _U32 and len(body) >= 8:
                    values[index] = int.from_bytes(body[:8], "little")
                    body = body[8:]
            break
        position += length
    return values[0], values[1], values[2]
