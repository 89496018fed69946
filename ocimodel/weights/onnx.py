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
from ocimodel.spec.paths import check_path
from ocimodel.spec.tensor import BITS, Tensor, TensorMap, count_elements
from ocimodel.weights.cursor import Cursor, ReadAt, windowed
from ocimodel.weights.magic import format_of
from ocimodel.weights.protobuf import (
    LENGTH,
    VARINT,
    Field,
    fields,
    text,
    varints,
)
from ocimodel.weights.reader import Match

# TensorProto.DataType → our names. 0 (undefined) and 8 (string) hold no numbers.
DTYPES: Final = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16",
    11: "F64", 12: "U32", 13: "U64", 14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3",
    18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 21: "U4", 22: "I4", 23: "F4",
    24: "F8_E8M0", 25: "U2", 26: "I2", 27: "F6_E2M3", 28: "F6_E3M2",
}  # fmt: skip
_STRING_DTYPE: Final = 8

# Most messages are small, and what follows a large one is far away.
_WINDOW: Final = 256
_MAX_DEPTH: Final = 16  # subgraphs inside subgraphs
_MAX_TENSORS: Final = 1_000_000
_MAX_RANK: Final = 64
_MAX_NAME: Final = 65_536
_MAX_IR_VERSION: Final = 10_000
_MAX_OPSETS: Final = 64


@dataclass(slots=True)
class _Walk:
    read_at: ReadAt
    found: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class Header:
    """`tensors`: initializers and constants in file order, those of subgraphs included.

    A constant of a node has the name of the node's output. `opsets`: versions by domain, "" being
    ONNX's own.
    """

    ir_version: int = 0
    producer: str = ""
    producer_version: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


def recognises(head: bytes, size: int, name: str) -> Match:
    if format_of(head):
        return Match.NO
    if name.lower().endswith(".onnx"):
        return Match.CERTAIN
    return Match.MAYBE if looks_like(head) else Match.NO


def read(read_at: ReadAt, size: int) -> TensorMap:
    header = read_header(read_at, size)
    metadata = {
        "ir_version": header.ir_version,
        "producer_name": header.producer,
        "producer_version": header.producer_version,
        "opset_import": header.opsets,
    }
    return TensorMap("onnx", {k: v for k, v in metadata.items() if v}, header.tensors)


def looks_like(head: bytes) -> bool:
    """Whether `head` may begin an ONNX model: ir_version first, as every writer puts it."""
    return len(head) >= 2 and head[0] == 0x08 and 1 <= head[1] < 0x80


def read_header(read_at: ReadAt, size: int) -> Header:
    """The tensors of an ONNX file of `size` bytes; InputError when it is not a valid ModelProto.

    Reads every field outside the tensors' data, in small windows. Tensors with external data name
    its file, and have no checked range in it.
    """
    read_at = windowed(read_at, size)
    walk = _Walk(read_at)
    header = Header()
    has_graph = False
    for item in fields(Cursor(read_at, 0, size, "ONNX", _WINDOW)):
        if (item.number, item.wire_type) == (1, VARINT):
            header.ir_version = item.value
        elif (item.number, item.wire_type) == (2, LENGTH):
            header.producer = text(read_at, item, _MAX_NAME, "ONNX producer_name")
        elif (item.number, item.wire_type) == (3, LENGTH):
            header.producer_version = text(read_at, item, _MAX_NAME, "ONNX producer_version")
        elif (item.number, item.wire_type) == (7, LENGTH):
            has_graph = True
            _graph(walk, item, 0)
        elif (item.number, item.wire_type) == (8, LENGTH):
            _opset(walk, item, header.opsets)
        elif (item.number, item.wire_type) == (25, LENGTH):
            _function(walk, item)
    if not has_graph or not header.opsets or not 1 <= header.ir_version <= _MAX_IR_VERSION:
        raise InputError(
            "ONNX: expected a model with an IR version, an operator set and a graph, got "
            f"IR version {header.ir_version}, {len(header.opsets)} operator sets, "
            f"{'a' if has_graph else 'no'} graph"
        )
    header.tensors = tuple(walk.found)
    return header


def _opset(walk: _Walk, item: Field, into: dict[str, int]) -> None:
    domain, version = "", 0
    for part in fields(_inside(walk, item, "ONNX operator set")):
        if part.number == 1:
            domain = text(walk.read_at, part, _MAX_NAME, "ONNX operator set")
        elif (part.number, part.wire_type) == (2, VARINT):
            version = part.value
    if len(into) < _MAX_OPSETS:
        into[domain] = version


def _function(walk: _Walk, function: Field) -> None:
    for item in fields(_inside(walk, function, "ONNX function")):
        if (item.number, item.wire_type) == (7, LENGTH):
            _node(walk, item, 0)


def _graph(walk: _Walk, graph: Field, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"ONNX: graphs nested deeper than {_MAX_DEPTH}")
    names: set[str] = set()
    for item in fields(_inside(walk, graph, "ONNX graph")):
        if item.wire_type != LENGTH:
            continue
        if item.number == 1:  # node
            _node(walk, item, depth)
        elif item.number == 5:  # initializer
            name = _tensor(walk, item)
            if name in names:
                raise InputError(f"ONNX: two initializers are called {name[:200]!r}")
            names.add(name)
        elif item.number == 15:  # sparse_initializer
            _sparse(walk, item)


def _node(walk: _Walk, node: Field, depth: int) -> None:
    """Constants and subgraphs (the branches of If, the body of Loop) carry weights too."""
    output = ""
    for item in fields(_inside(walk, node, "ONNX node")):
        if item.wire_type != LENGTH:
            continue
        if item.number == 2 and not output:  # writers put it before the attributes
            output = text(walk.read_at, item, _MAX_NAME, "ONNX node output")
        elif item.number == 5:
            _attribute(walk, item, output, depth)


def _attribute(walk: _Walk, attribute: Field, output: str, depth: int) -> None:
    for part in fields(_inside(walk, attribute, "ONNX attribute")):
        if part.wire_type != LENGTH:
            continue
        if part.number in (5, 10):  # t, tensors
            _tensor(walk, part, output)
        elif part.number in (6, 11):  # g, graphs
            _graph(walk, part, depth + 1)
        elif part.number in (22, 23):  # sparse_tensor, sparse_tensors
            _sparse(walk, part, output)


def _sparse(walk: _Walk, item: Field, name: str = "") -> None:
    for part in fields(_inside(walk, item, "ONNX sparse tensor")):
        if part.wire_type == LENGTH and part.number in (1, 2):  # values, indices
            _tensor(walk, part, name)


def _inside(walk: _Walk, item: Field, what: str) -> Cursor:
    return Cursor(walk.read_at, item.start, item.end, what, _WINDOW)


@dataclass(slots=True)
class _Parts:
    """What a TensorProto says, before it is checked."""

    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    name: str = ""
    raw: Field | None = None
    typed_start: int = 0
    typed_end: int = 0
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False


# TensorProto's typed data: float, int32, int64, double, uint64.
_TYPED_DATA: Final = frozenset({4, 5, 7, 10, 11})


def _tensor(walk: _Walk, item: Field, name: str = "") -> str:
    """Note the tensor, under `name` if that is given; its name."""
    if len(walk.found) >= _MAX_TENSORS:
        raise InputError(f"ONNX: more than {_MAX_TENSORS} tensors")
    parts = _parts(walk, item)
    parts.name = name or parts.name
    what = f"ONNX: tensor {parts.name[:200]!r}"
    if len(parts.dims) > _MAX_RANK:
        raise InputError(f"{what} has {len(parts.dims)} dimensions")
    if parts.data_type == _STRING_DTYPE:
        return parts.name
    dtype = DTYPES.get(parts.data_type)
    if dtype is None:
        raise InputError(f"{what}: unknown data type {parts.data_type}")
    n = count_elements(parts.dims, what)
    shape, length = tuple(parts.dims), -(-n * BITS[dtype] // 8)
    if parts.is_external:
        walk.found.append(_external(parts, dtype, shape, length, what))
        return parts.name
    if parts.raw is not None:
        start, got = parts.raw.start, parts.raw.end - parts.raw.start
        wrong = got != length
    else:
        # Values are widened (an int8 is a varint) or packed (four 2-bit values in one).
        start, got = parts.typed_start, parts.typed_end - parts.typed_start
        wrong, length = n > 4 * got, got
    if wrong:
        raise InputError(f"{what}: {n} elements of {dtype} cannot be {got} bytes of data")
    walk.found.append(Tensor(parts.name, dtype, shape, start, length))
    return parts.name


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
            parts.typed_end = part.end
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
    location = parts.external.get("location", "").replace("\\", "/")
    try:
        path = check_path(location and str(PurePosixPath(location)))
    except InputError as error:
        raise InputError(f"{what}: external data: {error}") from error
    if path.lower().endswith(".onnx"):
        raise InputError(f"{what}: external data in a model, {path[:200]!r}")
    offset = _decimal(parts.external.get("offset", "0"), what)
    given = _decimal(parts.external.get("length", str(length)), what)
    if given != length:
        raise InputError(f"{what}: its shape takes {length} bytes, external data gives {given}")
    return Tensor(parts.name, dtype, shape, offset, length, path)


def _decimal(value: str, what: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise InputError(f"{what}: external data offset or length is {value[:40]!r}")
    return int(value)
