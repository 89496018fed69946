"""One tensor inside a weight file: what it is and where its bytes lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ocimodel.errors import InputError

# Bits of one element, under the names of the safetensors format; other formats map onto these.
BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
    # Not in safetensors: ONNX only.
    "U2": 2, "I2": 2, "U4": 4, "I4": 4, "C128": 128,
}  # fmt: skip

# No file holds more elements than this; a shape whose product exceeds it is a lie.
MAX_ELEMENTS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """`length` bytes at `offset`, counted from the start of the file, hold the elements.

    `dtype`: safetensors' name ("F32", "BF16", …) or ggml's for block formats ("Q4_K", …).
    `shape`: row-major, slowest dimension first, whatever the file's own order; () is a scalar.
    `file`: empty when the bytes lie in the file that names the tensor, otherwise the relative
    POSIX path, from that file's directory, of the one that holds them (ONNX external data).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    file: str = ""

    @property
    def n_elements(self) -> int:
        n = 1
        for dimension in self.shape:
            n *= dimension
        return n


@dataclass(frozen=True, slots=True)
class TensorMap:
    """What a weights file holds. `format`: its reader's name for it, such as "safetensors".

    `metadata`: JSON values, at most 64 KiB of them; {"sha256": hex, "length": n} stands for a
    value too long to keep. `tensors`: in the order of their offsets, those in other files last.
    """

    format: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


def count_elements(shape: Iterable[int], what: str) -> int:
    """The product of `shape`; InputError when a dimension is negative or it passes 2^63 - 1."""
    n, empty = 1, False
    for dimension in shape:
        if dimension < 0:
            raise InputError(f"{what}: dimension {dimension} is negative")
        if dimension == 0:
            empty = True
        elif n <= MAX_ELEMENTS:  # so a long list of large dimensions never builds a huge number
            n *= dimension
    if empty:
        return 0
    if n > MAX_ELEMENTS:
        raise InputError(f"{what}: the shape holds more than 2^63 - 1 elements")
    return n


def count_by_dtype(tensors: Iterable[Tensor]) -> tuple[tuple[str, int], ...]:
    """Elements per dtype, the largest share first, then by name."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.n_elements
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
