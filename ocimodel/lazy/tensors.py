"""Tensors of an artifact as arrays of numpy or torch, read when they are wanted."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final

from ocimodel.errors import InputError, UsageError
from ocimodel.lazy.file import LazyFile
from ocimodel.spec.tensor import BITS, Tensor

# of numpy or torch: neither need be there
Array = Any
FRAMEWORKS: Final = ("numpy", "torch")
_AREA_BYTES: Final = 2 << 20
_NUMPY: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "<i2", "U16": "<u2", "F16": "<f2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
    "C64": "<c8", "C128": "<c16",
}  # fmt: skip
# numpy has them by this package
_ML_DTYPES: Final = {
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_TORCH: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16",
    "F16": "float16", "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64",
    "U64": "uint64", "F64": "float64", "C64": "complex64", "C128": "complex128",
    "BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def new_buffer(n_bytes: int) -> memoryview:
    """Writable memory that nobody else has; a big one at a page's start, in huge pages if possible.

    The kernel copies into it up to four times as fast as to somewhere inside a page. Small ones are
    left to the heap: a model may have 90,000 of them, a process some 65,000 areas of memory.
    """
    if n_bytes < _AREA_BYTES:
        return memoryview(bytearray(n_bytes))
    # private, for shared memory has no huge pages on most machines
    area = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(area)


def framework_of(name: str) -> str:
    """The one that was asked for; torch where nothing was, and it is there; else numpy."""
    if name and name not in FRAMEWORKS:
        raise UsageError(f"{name!r} is no framework", hint=f"one of: {', '.join(FRAMEWORKS)}")
    if not name:
        from importlib.util import find_spec

        name = "torch" if find_spec("torch") else "numpy"
    return name


def as_array(tensor: Tensor, rows: range | None, data: memoryview, framework: str) -> Any:
    """`data` as an array over the same memory. `rows`: of the first dimension; None: all of it.

    What has no type in the framework (blocks of quantised weights, elements of less than a byte)
    comes as bytes: in rows, if each has whole bytes, else in one.
    """
    shape = tensor.shape if rows is None else (len(rows), *tensor.shape[1:])
    name = (_TORCH if framework == "torch" else _NUMPY | _ML_DTYPES).get(tensor.dtype)
    if name is None:
        n_rows = shape[0] if shape else 1
        shape = (
            (n_rows, len(data) // n_rows) if n_rows and len(data) % n_rows == 0 else (len(data),)
        )
        name = "uint8"
    return (_torch if framework == "torch" else _numpy)(data, name, shape)


def _numpy(data: memoryview, name: str, shape: tuple[int, ...]) -> Array:
    try:
        import numpy
    except ImportError as error:
        raise UsageError("numpy is not installed", hint="pip install 'ocimodel[lazy]'") from error
    dtype: Any = name
    if name in _ML_DTYPES.values():
        try:
            import ml_dtypes
        except ImportError as error:
            raise UsageError(
                f"numpy has no {name} by itself", hint="pip install 'ocimodel[lazy]'"
            ) from error
        dtype = getattr(ml_dtypes, name)
    return numpy.frombuffer(data, dtype).reshape(shape)


def _torch(data: memoryview, name: str, shape: tuple[int, ...]) -> Array:
    try:
        import torch
    except ImportError as error:
        raise UsageError("torch is not installed", hint="pip install torch") from error
    dtype = getattr(torch, name, None)
    if dtype is None:
        raise UsageError(f"this version of torch has no {name}", hint="pip install -U torch")
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor whose bytes are fetched when an array is asked for, and only those.

    `tensor[10:20]` fetches the rows of the first dimension that are asked for and no others; what
    it says of further dimensions is done in memory. Every call fetches again, or finds the bytes
    in the cache.
    """

    _tensor: Tensor
    _file: LazyFile
    _framework: str

    @property
    def name(self) -> str:
        return self._tensor.name

    @property
    def dtype(self) -> str:
        """As the file's format has it: "F32", "BF16", "Q4_K", …"""
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensor.shape

    @property
    def n_bytes(self) -> int:
        return self._tensor.length

    def numpy(self) -> Array:
        return self._read(None, "numpy")

    def torch(self) -> Array:
        return self._read(None, "torch")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """As numpy has it, with `...` and `[()]` for all of it."""
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        # to numpy, True is no number
        if not isinstance(first, Integral | slice) or isinstance(first, bool) or not self.shape:
            return self._read(None, self._framework)[key]
        n_rows = self.shape[0]
        if not isinstance(first, slice):
            row = int(first)
            if not -n_rows <= row < n_rows:
                raise IndexError(f"row {row} of {n_rows}")
            row %= n_rows
            found = self._read(range(row, row + 1), self._framework)[0]
            return found[tuple(rest)] if rest else found
        rows = range(*first.indices(n_rows))
        low, high = (min(rows), max(rows) + 1) if rows else (0, 0)
        found = self._read(range(low, high), self._framework)
        if rows.step < 0:
            found = self._reversed(found)
        step = slice(None, None, abs(rows.step))
        return found[(step, *rest)]

    def _reversed(self, found: Any) -> Any:
        # torch knows no negative steps
        return found.flip(0) if self._framework == "torch" else found[::-1]

    def _read(self, rows: range | None, framework: str) -> Any:
        tensor = self._tensor
        start, length = tensor.offset, tensor.length
        if rows is not None:
            row_bytes, odd = divmod(length, max(1, tensor.shape[0]))
            if odd or (tensor.dtype in BITS and row_bytes * 8 % BITS[tensor.dtype]):
                raise InputError(f"the rows of {tensor.name!r} do not end at whole bytes")
            start, length = start + rows.start * row_bytes, len(rows) * row_bytes
        data = new_buffer(length)
        self._file.fill(start, data)
        return as_array(tensor, rows, data, framework)
