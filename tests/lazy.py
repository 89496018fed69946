"""Models to read lazily: tensors with known values, in a store that counts what it gives."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ocimodel.lazy.model import LazyModel
from ocimodel.ops.access import IndexOf
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Manifest
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Reader
from tests.artifacts import Recorder, random_bytes
from tests.indexed import Weights, put_indexed, safetensors

KIB, MIB = 1 << 10, 1 << 20
# each row is a chunk
BIG = (3, MAX_CHUNK_BYTES)
NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16",
    "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64",
    "F64": "float64", "C64": "complex64", "BF16": ml_dtypes.bfloat16,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3": ml_dtypes.float8_e4m3fn,
}  # fmt: skip
Arrays = Mapping[str, tuple[str, np.ndarray[Any, Any]]]


def array(shape: Sequence[int], dtype: str = "F32", seed: int = 0) -> np.ndarray[Any, Any]:
    """Values that differ from each other, of a type as safetensors names it."""
    n = int(np.prod(shape, dtype=int))
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "BOOL" else 100, n)
    return values.astype(NUMPY[dtype]).reshape(shape)


def file_of(arrays: Arrays) -> Weights:
    return safetensors({n: (dtype, a.shape, a.tobytes()) for n, (dtype, a) in arrays.items()})


def sample() -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """Big ones with small ones between: 23 MiB in 8 tensors, in several groups and many chunks."""
    shapes = {
        "a.big": BIG, "a.bias": (7,), "b.norm": (3, 5), "b.big": (5, 2 * MIB), "b.small": (100,),
        "c.scalar": (), "c.empty": (0, 4), "c.rows": (1000, 256),
    }  # fmt: skip
    return {
        name: ("U8" if "big" in name else "F32", array(shape, "U8" if "big" in name else "F32", i))
        for i, (name, shape) in enumerate(shapes.items())
    }


SAMPLE = sample()
SAMPLE_FILE = file_of(SAMPLE)
CONFIG = b'{"model_type": "bert"}'


@dataclass
class Opened:
    """A model, and the source that it reads from."""

    model: LazyModel
    source: Recorder
    manifest: Manifest

    def __enter__(self) -> Opened:
        # what was fetched to open it does not count
        self.source.asked.clear()
        self.source.n_bytes_read = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()


def opened(
    files: Mapping[str, bytes | Weights] | None = None,
    *,
    cache: Path | None = None,
    source: type[Recorder] = Recorder,
    layout: Mapping[str, Any] | None = None,
    **how: Any,
) -> Opened:
    """`layout`: for put_indexed. `how`: for LazyModel. By default the sample, in one file."""
    store = MemoryStore()
    chosen = {"model.safetensors": SAMPLE_FILE, "config.json": CONFIG} if files is None else files
    manifest = put_indexed(store, chosen, **(layout or {}))
    return reopened(source(store), manifest, cache=cache, **how)


def reopened(
    source: Recorder, manifest: Manifest, *, cache: Path | None = None, **how: Any
) -> Opened:
    """As another process would have it."""
    index = IndexOf(source, manifest)()
    kept = ChunkCache(cache, Memo(None)) if cache else None
    return Opened(LazyModel(source, manifest, index, cache=kept, **how), source, manifest)


@dataclass
class Gate(Recorder):
    """A source that opens no stream while `gate` is not set."""

    gate: threading.Event = field(default_factory=threading.Event)
    is_held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        reader = super().open(what, start, length)
        if not self.gate.is_set():
            self.is_held.set()
            assert self.gate.wait(30)
        return reader


def same(found: Any, expected: np.ndarray[Any, Any]) -> bool:
    """The same type, shape and bytes."""
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == expected.tobytes()
    )


def content(n_bytes: int, seed: int = 5) -> bytes:
    return random_bytes(n_bytes, seed)
