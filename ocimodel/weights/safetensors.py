"""The safetensors header: 8 bytes of length, one JSON object, then the tensors' bytes, gapless.

Source: https://github.com/huggingface/safetensors, README "Format" (0.4 to 0.8 read the same).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ocimodel.errors import InputError
from ocimodel.spec.tensor import BITS, Tensor, TensorMap, count_elements
from ocimodel.weights.cursor import ReadAt, read_exactly
from ocimodel.weights.magic import format_of
from ocimodel.weights.reader import Match

# The reference implementation refuses longer headers, so nobody can have written one.
MAX_HEADER: Final = 100_000_000
_PREFIX: Final = 8
_TRUNCATED: Final = "the file is truncated or damaged; fetch it again"
_NOT_OURS: Final = frozenset({"U2", "I2", "U4", "I4", "C128"})
_ENTRY_KEYS: Final = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True, slots=True)
class Header:
    """`tensors` in the order of their bytes; `metadata`: `__metadata__` as it stands.

    `data_start`: the file offset of the first tensor byte.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    data_start: int


def recognises(head: bytes, size: int, name: str) -> Match:
    named = name.lower().endswith(".safetensors")
    # before magic numbers: the length may begin as a pickle does
    if looks_like(head, size):
        return Match.CERTAIN if named else Match.MAYBE
    return Match.CERTAIN if named and not format_of(head) else Match.NO


def read(read_at: ReadAt, size: int) -> TensorMap:
    header = read_header(read_at, size)
    return TensorMap("safetensors", header.metadata, header.tensors)


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (≥ 10 bytes) may be safetensors.

    The format has no magic number: a plausible length and the start of a JSON object must do.
    """
    if len(head) < _PREFIX + 2:
        return False
    length = int.from_bytes(head[:_PREFIX], "little")
    return 2 <= length <= min(MAX_HEADER, size - _PREFIX) and head[8:10] in (b'{"', b"{}", b"{ ")


def read_header(read_at: ReadAt, size: int) -> Header:
    """The checked header of a file of `size` bytes, from two reads of header length.

    InputError when the file is truncated, over-long, or breaks a rule of the format: duplicate
    names, unknown dtypes, lengths that contradict the shape, gaps, overlaps, bytes left over.
    """
    length = _header_length(read_at, size)
    document = _load(_text(read_at, length))
    metadata = _metadata(document.pop("__metadata__", None))
    data_start = _PREFIX + length
    # each entry goes as its tensor comes, or a header of 90,000 would be there twice
    found = [_tensor(name, document.pop(name), data_start) for name in list(document)]
    found.sort(key=lambda tensor: (tensor.offset, tensor.length, tensor.name))
    _check_coverage(found, data_start, size)
    return Header(tuple(found), metadata, data_start)


def _header_length(read_at: ReadAt, size: int) -> int:
    if size < _PREFIX:
        raise InputError(
            f"safetensors: expected at least {_PREFIX} bytes, got {size}", hint=_TRUNCATED
        )
    prefix = read_exactly(read_at, 0, _PREFIX, "safetensors header length")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise InputError(
            f"safetensors: the header claims {length} bytes, the format allows {MAX_HEADER}"
        )
    if length > size - _PREFIX:
        raise InputError(
            f"safetensors: the header claims {length} bytes, the file has {size - _PREFIX} after "
            "its length",
            hint=_TRUNCATED,
        )
    return length


class _NoJsonError(ValueError):
    """Python would take it, JSON does not."""


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """JSON objects, duplicates refused; a tensor's entry at once as a tuple, to hold 90,000."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _NoJsonError(f"{key[:200]!r} appears twice")
            seen.add(key)
    if (
        len(found) == 3
        and isinstance(shape := found.get("shape"), list)
        and isinstance(dtype := found.get("dtype"), str)
        and "data_offsets" in found
    ):
        return sys.intern(dtype), tuple(shape), found["data_offsets"]
    return found


def _constant(name: str) -> NoReturn:
    raise _NoJsonError(f"{name} is no JSON")


def _text(read_at: ReadAt, length: int) -> str:
    """The header. Decoded by hand: json would also take UTF-16 and a byte order mark."""
    raw = read_exactly(read_at, _PREFIX, length, "safetensors header")
    if not raw.startswith(b"{"):
        raise InputError(f"safetensors: the header must begin with '{{', got {raw[:1]!r}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"safetensors: the header is not UTF-8: {error}") from error


def _load(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if "\\ud" in text or "\\uD" in text:
            _refuse_half_characters(document)
    except (ValueError, RecursionError) as error:
        raise InputError(f"safetensors: the header is not valid JSON: {error}") from error
    # A file whose one tuple stands at the top names no tensors: {"dtype": …} is no header.
    if not isinstance(document, dict):
        raise InputError("safetensors: the header is not an object of tensors")
    return document


def _refuse_half_characters(document: Any) -> None:
    """Half a surrogate pair is no text: no file could be written with such a name again."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _NoJsonError("half of a surrogate pair") from error


def _metadata(value: object) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise InputError("safetensors: __metadata__ must map names to strings")
    return value


def _tensor(name: str, entry: Any, data_start: int) -> Tensor:
    what = f"safetensors: tensor {name[:200]!r}"
    if isinstance(entry, dict):
        entry = tuple(entry.get(key) for key in _ENTRY_KEYS)
    if not isinstance(entry, tuple):
        raise InputError(f"{what}: expected an object with dtype, shape and data_offsets")
    dtype, shape, offsets = entry
    if not isinstance(dtype, str) or dtype not in BITS or dtype in _NOT_OURS:
        raise InputError(f"{what}: unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape):
        raise InputError(f"{what}: shape must be a list of whole numbers ≥ 0")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{what}: data_offsets must be [begin, end] with 0 ≤ begin ≤ end")
    length = offsets[1] - offsets[0]
    n_bits = count_elements(shape, what) * BITS[dtype]
    if n_bits != 8 * length:
        raise InputError(
            f"{what}: {dtype} of its shape takes {n_bits / 8:g} bytes, data_offsets give {length}"
        )
    return Tensor(name, dtype, tuple(shape), data_start + offsets[0], length)


def _are_sizes(value: object) -> bool:
    # `type is int`: JSON's true is an int to isinstance. The bound: 64-bit, as in the format.
    return isinstance(value, list | tuple) and all(type(v) is int and 0 <= v < 2**64 for v in value)


def _check_coverage(ordered: list[Tensor], data_start: int, size: int) -> None:
    """The tensors must cover [data_start, size) with neither hole nor overlap."""
    expected = data_start
    for tensor in ordered:
        if tensor.offset != expected:
            problem = "overlaps the one before" if tensor.offset < expected else "leaves a hole"
            raise InputError(
                f"safetensors: tensor {tensor.name[:200]!r} {problem}: expected data offset "
                f"{expected - data_start}, got {tensor.offset - data_start}"
            )
        expected += tensor.length
    if expected > size:
        raise InputError(
            f"safetensors: the tensors end at byte {expected}, the file at byte {size}",
            hint=_TRUNCATED,
        )
    if expected < size:
        raise InputError(
            f"safetensors: the tensors end at byte {expected}, {size - expected} bytes follow"
        )
