"""The GGUF header, versions 2 and 3, either byte order: key-value metadata and tensor infos.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec.tensor import Tensor, TensorMap, count_elements
from ocimodel.weights.cursor import WINDOW, Cursor, ReadAt
from ocimodel.weights.ggml_types import BLOCKS
from ocimodel.weights.magic import format_of
from ocimodel.weights.metadata import MAX_VALUE_BYTES, stand_in
from ocimodel.weights.reader import Match

MAGIC: Final = b"GGUF"

# Bounds on what is held in memory. Vocabularies (long arrays) are hashed, never held.
_MAX_HEADER: Final = 256 * 1024 * 1024  # bytes walked; real headers reach tens of MiB
_MAX_KEYS: Final = 65_536
_MAX_TENSORS: Final = 1_000_000
_MAX_NAME: Final = 65_535  # the specification's bound on a key; tensor names are shorter still
_MAX_STRING: Final = 1_048_576  # chat templates are the longest, tens of KiB
_MAX_DIMENSIONS: Final = 8  # ggml's own is 4
_MAX_DEPTH: Final = 4  # arrays of arrays
_MIN_TENSOR_INFO: Final = 8 + 4 + 4 + 8  # an empty name, no dimensions, type, offset

_Update = Callable[[bytes], object]

_STRING: Final = 8
_ARRAY: Final = 9
# GGUF value type → struct code.
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """`tensors` in the header's order; `metadata`: JSON values, of arrays over 4 KiB the digest.

    `data_start`: the file offset that tensor offsets count from, aligned.
    """

    version: int
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, Any]
    data_start: int


def recognises(head: bytes, size: int, name: str) -> Match:
    found = format_of(head)
    is_gguf = found == "gguf" or (not found and name.lower().endswith(".gguf"))
    return Match.CERTAIN if is_gguf else Match.NO


def read(read_at: ReadAt, size: int) -> TensorMap:
    header = read_header(read_at, size)
    return TensorMap("gguf", header.metadata, header.tensors)


def read_header(read_at: ReadAt, size: int) -> Header:
    """The checked header of a file of `size` bytes; InputError when it is malformed or truncated.

    Reads the header once, in windows, and holds none of its long arrays.
    """
    reader, version = _open(read_at, size)
    n_tensors, n_keys = reader.number("Q", "tensor count"), reader.number("Q", "key count")
    if n_keys > _MAX_KEYS:
        raise reader.cursor.fail(f"{n_keys} metadata keys, at most {_MAX_KEYS} are accepted")
    if n_tensors > min(_MAX_TENSORS, reader.cursor.left // _MIN_TENSOR_INFO):
        raise reader.cursor.fail(f"{n_tensors} tensors cannot stand in what follows")
    metadata = reader.metadata(n_keys)
    infos = [reader.tensor_info() for _ in range(n_tensors)]
    if len({info.name for info in infos}) != len(infos):
        raise InputError("GGUF: two tensors have the same name")
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment % 8:
        raise InputError(f"GGUF: general.alignment must be a multiple of 8, got {alignment!r:.40}")
    data_start = -(-reader.cursor.position // alignment) * alignment
    found = _place(infos, alignment, data_start, size)
    return Header(version, found, metadata, data_start)


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    n_elements: int
    ggml_type: int
    offset: int


def _open(read_at: ReadAt, size: int) -> tuple[_Reader, int]:
    cursor = Cursor(read_at, 0, min(size, _MAX_HEADER), "GGUF")
    magic = cursor.take(4, "magic number")
    if magic != MAGIC:
        raise InputError(f"GGUF: expected the magic number {MAGIC!r}, got {magic!r}")
    raw = cursor.take(4, "version")
    # A version is a small number, so the byte order that makes it small is the file's.
    order = "<" if raw[:2] != b"\0\0" else ">"
    (version,) = struct.unpack(order + "I", raw)
    if version not in (2, 3):
        raise InputError(f"GGUF: version {version} is not supported, only 2 and 3 are")
    return _Reader(cursor, order), version


class _Reader:
    """The value types of GGUF over a cursor, in one byte order."""

    __slots__ = ("cursor", "order")

    def __init__(self, cursor: Cursor, order: str) -> None:
        self.cursor = cursor
        self.order = order

    def number(self, code: str, field: str) -> int:
        return int(self.scalar(code, field))

    def scalar(self, code: str, field: str) -> int | float | bool:
        code = self.order + code
        value: int | float | bool
        (value,) = struct.unpack(code, self.cursor.take(struct.calcsize(code), field))
        return value

    def string(self, limit: int, field: str) -> str:
        length = self.number("Q", field)
        self.cursor.need(length, field)
        if length > limit:
            raise self.cursor.fail(f"{field} of {length} bytes, at most {limit} are accepted")
        try:
            return self.cursor.take(length, field).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.cursor.fail(f"{field} is not UTF-8") from error

    def metadata(self, n_keys: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self.string(_MAX_NAME, "metadata key")
            if key in found:
                raise self.cursor.fail(f"metadata key {key[:200]!r} appears twice")
            value_type = self.number("I", "value type")
            if value_type == _ARRAY:
                found[key] = self.array()
            else:
                found[key] = self.value(value_type, f"value of {key[:200]!r}")
        return found

    def value(self, value_type: int, field: str) -> int | float | bool | str:
        if value_type == _STRING:
            return self.string(_MAX_STRING, field)
        value = self.scalar(self.code(value_type), field)
        # JSON has no other numbers
        return value if math.isfinite(value) else str(value)

    def code(self, value_type: int) -> str:
        if value_type not in _SCALARS:
            raise self.cursor.fail(f"unknown value type {value_type}")
        return _SCALARS[value_type]

    def array(self) -> Any:
        """The next array's items, or what stands for them; its bytes are hashed in passing."""
        start, hasher = self.cursor.position, hashlib.sha256()
        n = self.walk_array(hasher.update, 1)
        end = self.cursor.position
        if end - start <= MAX_VALUE_BYTES:
            self.cursor.position = start
            try:
                return self.items()
            except InputError:
                # tokenizers hold pieces of characters, which are no text
                self.cursor.position = end
        return stand_in(hasher.hexdigest(), n)

    def items(self) -> list[Any]:
        """The next array, which has been walked and found to be short."""
        item_type, n = self.number("I", "array type"), self.number("Q", "array length")
        if item_type == _ARRAY:
            return [self.items() for _ in range(n)]
        return [self.value(item_type, "array item") for _ in range(n)]

    def walk_array(self, update: _Update, depth: int) -> int:
        """Pass over the next array, all of its bytes to `update`; the number of its items."""
        head = self.cursor.take(12, "array")
        item_type, n = struct.unpack(self.order + "IQ", head)
        update(head)
        if item_type == _STRING:
            self.cursor.need(8 * n, "array of strings")
            self.walk_strings(n, update)
        elif item_type == _ARRAY:
            if depth == _MAX_DEPTH:
                raise self.cursor.fail(f"arrays nested deeper than {_MAX_DEPTH}")
            self.cursor.need(12 * n, "array of arrays")
            for _ in range(n):
                self.walk_array(update, depth + 1)
        else:
            self.walk_bytes(n * struct.calcsize("<" + self.code(item_type)), "array", update)
        return int(n)

    def walk_strings(self, n: int, update: _Update) -> None:
        """Vocabularies hold hundreds of thousands: no call more than needed in the inner loop."""
        unpack = struct.Struct(self.order + "Q").unpack_from
        while n:
            block = self.cursor.take(min(WINDOW, self.cursor.left), "array of strings")
            end, last = 0, len(block) - 8
            while n and end <= last:
                following = end + 8 + unpack(block, end)[0]
                if following > len(block):
                    break
                end = following
                n -= 1
            self.cursor.position -= len(block) - end
            update(block[:end])
            if not end:  # a string longer than a block, or than the file
                raw = self.cursor.take(8, "string length")
                update(raw)
                self.walk_bytes(unpack(raw)[0], "string", update)
                n -= 1

    def walk_bytes(self, length: int, field: str, update: _Update) -> None:
        self.cursor.need(length, field)
        while length:
            block = self.cursor.take(min(WINDOW, length), field)
            update(block)
            length -= len(block)

    def tensor_info(self) -> _Info:
        name = self.string(_MAX_NAME, "tensor name")
        n_dimensions = self.number("I", "dimension count")
        if n_dimensions > _MAX_DIMENSIONS:
            raise self.cursor.fail(f"tensor {name[:200]!r} has {n_dimensions} dimensions")
        # ggml lists the fastest dimension first; Tensor.shape is row-major.
        shape = tuple(reversed([self.number("Q", "dimension") for _ in range(n_dimensions)]))
        ggml_type, offset = self.number("I", "tensor type"), self.number("Q", "tensor offset")
        n_elements = count_elements(shape, f"GGUF: tensor {name[:200]!r}")
        return _Info(name, shape, n_elements, ggml_type, offset)


def _place(infos: list[_Info], alignment: int, data_start: int, size: int) -> tuple[Tensor, ...]:
    """Check that the tensors lie in the file, aligned and apart; give them in header order."""
    ordered = sorted(range(len(infos)), key=lambda i: (infos[i].offset, infos[i].n_elements))
    placed: list[Tensor | None] = [None] * len(infos)
    free = data_start
    for rank, index in enumerate(ordered):
        info = infos[index]
        start = data_start + info.offset
        following = ordered[rank + 1] if rank + 1 < len(ordered) else None
        limit = size if following is None else data_start + infos[following].offset
        tensor = _tensor(info, start, limit)
        if info.offset % alignment:
            raise InputError(f"GGUF: tensor {info.name[:200]!r} is not aligned to {alignment}")
        if start < free:
            raise InputError(f"GGUF: tensor {info.name[:200]!r} overlaps the one before")
        free = start + tensor.length
        if free > size:
            raise InputError(
                f"GGUF: tensor {info.name[:200]!r} ends at byte {free}, the file at byte {size}",
                hint="the file is truncated or damaged; fetch it again",
            )
        placed[index] = tensor
    return tuple(tensor for tensor in placed if tensor is not None)


def _tensor(info: _Info, start: int, limit: int) -> Tensor:
    known = BLOCKS.get(info.ggml_type)
    if known is None:
        # ggml gains types faster than we do: such a tensor spans the room up to the next one.
        return Tensor(info.name, f"GGML_{info.ggml_type}", info.shape, start, max(0, limit - start))
    dtype, block, n_bytes = known
    row = info.shape[-1] if info.shape else 1
    if row % block:
        raise InputError(
            f"GGUF: tensor {info.name[:200]!r}: rows of {row} are no multiple of {dtype}'s {block}"
        )
    length = info.n_elements // block * n_bytes
    return Tensor(info.name, dtype, info.shape, start, length)
