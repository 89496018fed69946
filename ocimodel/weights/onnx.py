"""ONNX models: the tensors of the graph and its subgraphs, without reading their data.

A ModelProto is walked field by field; payloads are skipped by their length. Unlike the onnx
package this needs neither the whole file in memory nor protobuf.

Source: onnx.proto of ONNX 1.x (IR versions 3 and later).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from ocimodel.errors import InputError
from ocimodel.spec.tensor import BITS, Tensor, count_elements
from ocimodel.weights.cursor import Cursor, ReadAt, windowed
from ocimodel.weights.protobuf import (
    LENGTH,
    VARINT,
    Field,
    fields,
    text,
    varints,
)

# TensorProto.DataType → our names. 0 (undefined) and 8 (string) hold no numbers.
DTYPES: Final = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16",
    11: "F64", 12: "U32", 13: "U64", 14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3",
    18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 21: "U4", 22: "I4", 23: "F4",
    24: "F8_E8M0", 25: "U2", 26: "I2", 27: "F6_E2M3", 28: "F6_E3M2",
}  # fmt: skip
_STRING_DTYPE: Final = 8

_MAX_DEPTH: Final = 16  # subgraphs inside subgraphs
_MAX_TENSORS: Final = 1_000_000
_MAX_RANK: Final = 64
_MAX_NAME: Final = 65_536
_MAX_IR_VERSION: Final = 10_000


@dataclass(slots=True)
class _Walk:
    read_at: ReadAt
    found: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Header:
    """`tensors`: initializers and constants in file order, those of subgraphs included."""

    ir_version: int
    producer: str
    tensors: tuple[Tensor, ...]


def looks_like(head: bytes) -> bool:
    """Whether `head` may begin an ONNX model: ir_version first, as every writer puts it."""
    return len(head) >= 2 and head[0] == 0x08 and 1 <= head[1] < 0x80


def read_header(read_at: ReadAt, size: int) -> Header:
    """The tensors of an ONNX file of `size` bytes; InputError when it is not a valid ModelProto.

    Reads every field outside the tensors' data, in windows of 64 KiB. Tensors with external data
    name its file, and have no checked range in it.
    """
    read_at = windowed(read_at, size)
    walk = _Walk(read_at)
    ir_version, producer, has_graph, has_opset = 0, "", False, False
    for item in fields(Cursor(read_at, 0, size, "ONNX")):
        if (item.number, item.wire_type) == (1, VARINT):
            ir_version = item.value
        elif (item.number, item.wire_type) == (2, LENGTH):
            producer = text(read_at, item, _MAX_NAME, "ONNX producer_name")
        elif (item.number, item.wire_type) == (7, LENGTH):
            has_graph = True
            _graph(walk, item, 0)
        elif (item.number, item.wire_type) == (8, LENGTH):
            has_opset = True
    if not has_graph or not has_opset or not 1 <= ir_version <= _MAX_IR_VERSION:
        raise InputError(
            "ONNX: expected a model with an IR version, an operator set and a graph, "
            f"got IR version {ir_version}, operator set: {has_opset}, graph: {has_graph}"
        )
    return Header(ir_version, producer, tuple(walk.found))


def tensors(read_at: ReadAt, size: int) -> tuple[Tensor, ...]:
    """The tensors in file order. Raises InputError like `read_header`."""
    return read_header(read_at, size).tensors


def _graph(walk: _Walk, graph: Field, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"ONNX: graphs nested deeper than {_MAX_DEPTH}")
    for item in fields(_inside(walk, graph, "ONNX graph")):
        if item.wire_type != LENGTH:
            continue
        if item.number == 1:  # node
            _node(walk, item, depth)
        elif item.number == 5:  # initializer
            _tensor(walk, item)


def _node(walk: _Walk, node: Field, depth: int) -> None:
    """Constants and subgraphs (the branches of If, the body of Loop) carry weights too."""
    for item in fields(_inside(walk, node, "ONNX node")):
        if item.wire_type == LENGTH and item.number == 5:
            for part in fields(_inside(walk, item, "ONNX attribute")):
                if part.wire_type != LENGTH:
                    continue
                if part.number in (5, 10):  # t, tensors
                    _tensor(walk, part)
                elif part.number in (6, 11):  # g, graphs
                    _graph(walk, part, depth + 1)


def _inside(walk: _Walk, item: Field, what: str) -> Cursor:
    return Cursor(walk.read_at, item.start, item.end, what)


@dataclass(slots=True)
class _Parts:
    """What a TensorProto says, before it is checked."""

    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    name: str = ""
    raw: Field | None = None
    typed_start: int = 0
    typed_bytes: int = 0
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False


# TensorProto's typed data: float, int32, int64, double, uint64.
_TYPED_DATA: Final = frozenset({4, 5, 7, 10, 11})


def _tensor(walk: _Walk, item: Field) -> None:
    if len(walk.found) >= _MAX_TENSORS:
        raise InputError(f"ONNX: more than {_MAX_TENSORS} tensors")
    parts = _parts(walk, item)
    what = f"ONNX: tensor {parts.name[:200]!r}"
    if len(parts.dims) > _MAX_RANK:
        raise InputError(f"{what} has {len(parts.dims)} dimensions")
    if parts.data_type == _STRING_DTYPE:
        return
    dtype = DTYPES.get(parts.data_type)
    if dtype is None:
        raise InputError(f"{what}: unknown data type {parts.data_type}")
    n = count_elements(parts.dims, what)
    shape, length = tuple(parts.dims), -(-n * BITS[dtype] // 8)
    if parts.is_external:
        walk.found.append(_external(parts, dtype, shape, length, what))
        return
    if parts.raw is not None:
        start, got = parts.raw.start, parts.raw.end - parts.raw.start
        wrong = got != length
    else:
        # Values are widened (an int8 is a varint) or packed (four 2-bit values in one).
        start, got = parts.typed_start, parts.typed_bytes
        wrong, length = n > 4 * got, got
    if wrong:
        raise InputError(f"{what}: {n} elements of {dtype} cannot be {got} bytes of data")
    walk.found.append(Tensor(parts.name, dtype, shape, start, length))


def _parts(walk: _Walk, item: Field) -> _Parts:
    parts = _Parts()
    for part in fields(_inside(walk, item, "ONNX tensor")):
        if part.number == 1:
            parts.dims += varints(walk.read_at, _short(part), "ONNX tensor dims")
        elif part.number == 2 and part.wire_type == VARINT:
            parts.data_type = part.value
        elif part.number == 8:
            parts.name = text(walk.read_at, part, _MAX_NAME, "ONNX tensor name")
        elif part.number == 9 and part.wire_type == LENGTH:
            parts.raw = part
        elif part.number == 13 and part.wire_type == LENGTH:
            _external_entry(walk, part, parts.external)
        elif part.number == 14 and part.wire_type == VARINT:
            parts.is_external = part.value == 1
        elif part.number in _TYPED_DATA:
            parts.typed_start = parts.typed_start or part.start
            parts.typed_bytes += part.end - part.start
    return parts


def _short(dims: Field) -> Field:
    if dims.end - dims.start > 10 * _MAX_RANK:
        raise InputError(f"ONNX: {dims.end - dims.start} bytes of tensor dimensions")
    return dims


def _external_entry(walk: _Walk, item: Field, into: dict[str, str]) -> None:
    pair = {1: "", 2: ""}
    for part in fields(_inside(walk, item, "ONNX external data")):
        if part.number in pair:
            pair[part.number] = text(walk.read_at, part, _MAX_NAME, "ONNX external data")
    if len(into) < 64:  # location, offset, length, checksum: the rest is of no interest
        into[pair[1]] = pair[2]


def _external(parts: _Parts, dtype: str, shape: tuple[int, ...], length: int, what: str) -> Tensor:
    """A tensor in another file; only a path that stays below the model's directory is accepted."""
    location = PurePosixPath(parts.external.get("location", "").replace("\\", "/"))
    if not location.name or location.is_absolute() or ".." in location.parts:
        raise InputError(f"{what}: external data at {str(location)[:200]!r}, not a path below")
    offset = _decimal(parts.external.get("offset", "0"), what)
    given = _decimal(parts.external.get("length", str(length)), what)
    if given != length:
        raise InputError(f"{what}: its shape takes {length} bytes, external data gives {given}")
    return Tensor(parts.name, dtype, shape, offset, length, str(location))


def _decimal(value: str, what: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise InputError(f"{what}: external data offset or length is {value[:40]!r}")
    return int(value)
