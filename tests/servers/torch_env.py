"""A Python with the CPU build of torch and real transformers: `python -m tests.servers.torch_env`.

The package index has torch with CUDA only by default, which is gigabytes; Debian has it without.
So the system's Python lends its torch to an environment in the git-ignored cache, which has the
rest and what ocimodel needs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.servers.fetch_tools import UnavailableError
from tests.servers.loopback import cache_root

ROOT: Final = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
# Debian's torch was built with numpy 1, and is too old for newer transformers
REQUIREMENTS: Final = ("transformers==4.41.2", "numpy<2", "safetensors")
TIMEOUT_S: Final = 600
_CHECK: Final = "import sys, torch; sys.exit(sys.version_info < (3, 11))"


def main() -> int:
    """Make it if it is not there; say where it is, or why not. That is no failure."""
    try:
        print(f"{'torch':16} {torch_python()}")
    except UnavailableError as error:
        print(f"{'torch':16} absent: {error}")
    return 0


def torch_python() -> Path:
    """The interpreter, made once. Raises UnavailableError with the reason for a skip."""
    home = cache_root() / "tools" / "torch-venv"
    wanted = "\n".join(_requirements())
    stamp = home / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != wanted:
        _check_system()
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            made = _make(Path(scratch) / "venv", wanted)
            shutil.rmtree(home, ignore_errors=True)
            made.rename(home)
    return home / "bin" / "python"


def need_torch() -> Path:
    """The interpreter, or a skip with the reason."""
    try:
        return torch_python()
    except UnavailableError as error:
        pytest.skip(str(error))


def run_torch(python: Path, script: str, *arguments: object, path: Path | None = None) -> Any:
    """What `script` prints as JSON. It finds ocimodel, and `path`, and asks no hub for models."""
    places = [str(ROOT), *([str(path)] if path else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    argv = [str(python), "-c", script, *map(str, arguments)]
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _requirements() -> tuple[str, ...]:
    """With those of ocimodel itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return (*REQUIREMENTS, *project["dependencies"])


def _check_system() -> None:
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", _CHECK], capture_output=True, check=False)
    except OSError as error:
        raise UnavailableError(f"no {SYSTEM_PYTHON}") from error
    if done.returncode:
        raise UnavailableError(
            f"{SYSTEM_PYTHON} is no Python 3.11 or newer with torch (apt-get install python3-torch)"
        )


def _make(home: Path, wanted: str) -> Path:
    """It may be moved: only scripts know their place, and none is used."""
    _run([SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", home])
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, *wanted.splitlines()])
    _run([python, "-c", "import torch, transformers, safetensors.torch"])
    (home / "requirements.txt").write_text(wanted)
    return home


def _run(argv: list[str | Path]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise UnavailableError(f"{' '.join(map(str, argv[1:4]))} failed: {last}")


if __name__ == "__main__":
    sys.exit(main())
