"""Generated models to test with, of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 16 * 1024 * 1024


def generated(path: Path, n_bytes: int, seed: int = 0) -> Path:
    """Write a file of `n_bytes` pseudo-random bytes, the same for the same seed.

    About 1 GB/s; no two blocks of it are equal, so nothing deduplicates by accident.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as out:
        left = n_bytes
        while left:
            size = min(left, BLOCK)
            words = generator.integers(0, 2**64, (size + 7) // 8, dtype=np.uint64)
            out.write(words.data.cast("B")[:size])
            left -= size
    return path


def tiny_safetensors(
    path: Path, tensors: Mapping[str, Sequence[int]], seed: int = 0, dtype: str = "F32"
) -> Path:
    """Write a real safetensors file: tensor name → shape, values drawn from `seed`.

    `tiny_safetensors(p, {"layer.0.weight": (256, 384)})` is 384 KiB of F32 (or F16).
    """
    kind: np.dtype[Any] = np.dtype({"F32": "<f4", "F16": "<f2"}[dtype])
    generator = np.random.Generator(np.random.SFC64(seed))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    bodies = []
    offset = 0
    for name, shape in tensors.items():
        body = generator.standard_normal(tuple(shape), dtype=np.float32).astype(kind).tobytes()
        end = offset + len(body)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        bodies.append(body)
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(bodies))
    return path
