"""Walking protobuf messages without their schema: field numbers, wire types, where payloads lie.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ocimodel.weights.cursor import Cursor, ReadAt

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

_MAX_FIELD: Final = 2**29 - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `value` of a varint (unsigned), else the payload's file range [start, end)."""

    number: int
    wire_type: int
    value: int
    start: int
    end: int


def fields(cursor: Cursor) -> Iterator[Field]:
    """The fields between the cursor's position and its end; payloads are skipped, not read.

    The caller may move the cursor while it handles a field: each step begins after the last one.
    InputError on a tag, wire type or length that no valid message has.
    """
    following = cursor.position
    while following < cursor.end:
        cursor.position = following
        tag = varint(cursor)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD:
            raise cursor.fail(f"field number {number}")
        value = 0
        start = cursor.position
        if wire_type == VARINT:
            value = varint(cursor)
        elif wire_type == LENGTH:
            length = varint(cursor)
            start = cursor.position
            cursor.skip(length, f"field {number}")
        elif wire_type in (FIXED64, FIXED32):
            cursor.skip(8 if wire_type == FIXED64 else 4, f"field {number}")
        else:
            raise cursor.fail(f"wire type {wire_type} of field {number}")
        following = cursor.position
        yield Field(number, wire_type, value, start, following)


def varint(cursor: Cursor) -> int:
    """The next varint, unsigned, below 2^64."""
    value = shift = 0
    while True:
        byte = cursor.byte("varint")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise cursor.fail("a varint longer than 10 bytes")
    if value >= 2**64:
        raise cursor.fail("a varint above 64 bits")
    return value


def varints(read_at: ReadAt, field: Field, what: str) -> list[int]:
    """The values of a repeated integer field, packed or not, as signed 64-bit numbers."""
    if field.wire_type == VARINT:
        return [signed(field.value)]
    inner = Cursor(read_at, field.start, field.end, what)
    found = []
    while inner.left:
        found.append(signed(varint(inner)))
    return found


def signed(value: int) -> int:
    """An int64 from its unsigned varint."""
    return value - 2**64 if value >= 2**63 else value


def text(read_at: ReadAt, field: Field, limit: int, what: str) -> str:
    """The string of a length-delimited field; InputError above `limit` bytes or when not UTF-8."""
    inner = Cursor(read_at, field.start, field.end, what)
    if field.wire_type != LENGTH or inner.left > limit:
        raise inner.fail(f"expected a string of at most {limit} bytes")
    try:
        return inner.take(inner.left, "string").decode("utf-8")
    except UnicodeDecodeError as error:
        raise inner.fail("a string is not UTF-8") from error
