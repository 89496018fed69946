"""One cold start: get a model's tensors into memory in some way, and print when what was there.

Seconds count from --since, a reading of the monotonic clock from before this process was started.

    python -m bench.loader lazy REFERENCE [--names A,B] [--drop] [--window MiB] [--cache DIR]
    python -m bench.loader eager FILE -- COMMAND THAT MAKES THE FILE
    python -m bench.loader mount REFERENCE --directory DIR
    python -m bench.loader several REFERENCE --processes 8 --cache DIR
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
READ_BYTES = 1 << 20
MOUNT_S = 60.0
Told = dict[str, float]


def main() -> None:
    args = parse_args()
    ways = {"lazy": lazy, "eager": eager, "mount": mount, "several": several}
    told = ways[args.way](args)
    print(json.dumps(told))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.loader")
    parser.add_argument("way", choices=("lazy", "eager", "mount", "several"))
    parser.add_argument("what", help="the reference; for eager, the weights when they are here")
    parser.add_argument("--since", type=float, default=time.monotonic())
    parser.add_argument("--names", default="", help="these tensors only")
    parser.add_argument("--drop", action="store_true", help="keep no tensor")
    parser.add_argument("--window", type=int, help="MiB ahead of who iterates")
    parser.add_argument("--cache", default="")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--directory", type=Path, help="to mount at")
    parser.add_argument("--expect", type=Path, help="compare all with this file, after all times")
    mark = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:mark])
    args.command = sys.argv[mark + 1 :]
    return args


def clock(args: argparse.Namespace) -> Callable[[], float]:
    """Seconds since the start."""
    return lambda: time.monotonic() - args.since


# --- ways ---------------------------------------------------------------------------


def lazy(args: argparse.Namespace) -> Told:
    import ocimodel
    from ocimodel.ops import open as opening

    now = clock(args)
    told: Told = {}

    class NotedIndex(opening.IndexOf):  # type: ignore[misc, name-defined]
        def __call__(self) -> Any:
            told["manifestS"] = now()
            found = super().__call__()
            told["indexS"] = now()
            return found

    opening.IndexOf = NotedIndex  # type: ignore[attr-defined]
    names = args.names.split(",") if args.names else None
    window = args.window << 20 if args.window else None
    kept: dict[str, Any] = {}
    n_bytes = 0
    with ocimodel.open(
        args.what, cache=args.cache or None, window=window, require_lazy=True
    ) as model:
        for name, array in model.load(names, framework="numpy"):
            told.setdefault("firstS", now())
            n_bytes += array.nbytes
            if not args.drop:
                kept[name] = array
            del array
        told["allS"] = now()
        told["fetchedBytes"] = model.traffic.n_fetched
        told["requests"] = model.traffic.n_requests
    check(kept, args.expect, is_all=names is None and not args.drop)
    return {**told, "tensorBytes": n_bytes}


def eager(args: argparse.Namespace) -> Told:
    """The whole file first, by some tool, then its tensors, as people do it."""
    now = clock(args)
    subprocess.run(args.command, check=True, stdout=subprocess.DEVNULL)
    told = {"pulledS": now()}
    import numpy as np
    from safetensors import safe_open

    kept = {}
    with safe_open(args.what, "np") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            kept[name] = np.array(file.get_tensor(name))
            told.setdefault("firstS", now())
    told["allS"] = now()
    check(kept, args.expect, is_all=True)
    return {**told, "tensorBytes": sum(array.nbytes for array in kept.values())}


def mount(args: argparse.Namespace) -> Told:
    """Read the weights front to back through the kernel, cold and again."""
    now = clock(args)
    ready = args.directory.with_suffix(".ready")
    argv = [sys.executable, "-m", "ocimodel", "mount", args.what, str(args.directory), "--json"]
    argv += ["--ready-file", str(ready), "--require-lazy"]
    argv += ["--cache", args.cache] if args.cache else []
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            while not ready.exists():
                if process.poll() is not None or now() > MOUNT_S:
                    raise SystemExit("the mount does not come")
                time.sleep(0.002)
            told = {"mountedS": now()}
            path = args.directory / WEIGHTS
            read(path)
            told["allS"] = now()
            warm = time.monotonic()
            n_bytes = read(path)
            told["warmS"] = time.monotonic() - warm
            if args.expect and path.read_bytes() != args.expect.read_bytes():
                raise SystemExit("the mount shows other bytes")
        finally:
            process.terminate()
            stats = json.loads(process.communicate()[0] or b"{}")
    return {
        **told,
        "fetchedBytes": stats["bytesFetched"],
        "requests": stats["requests"],
        "tensorBytes": n_bytes,
    }


def several(args: argparse.Namespace) -> Told:
    """Processes that begin at the same time and share a cache: the sum of what they fetched."""
    argv = [sys.executable, "-m", "bench.loader", "lazy", args.what, "--drop", "--window", "64"]
    argv += ["--cache", args.cache, "--since", str(args.since)]
    started = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(args.processes)]
    said = [json.loads(process.communicate()[0]) for process in started]
    keys = ("fetchedBytes", "requests", "tensorBytes")
    told = {key: sum(one[key] for one in said) for key in keys}
    return {**told, "allS": max(one["allS"] for one in said)}


# --- their work ---------------------------------------------------------------------


def read(path: Path) -> int:
    """As `cat` would, into one buffer; the number of bytes."""
    buffer = bytearray(READ_BYTES)
    n_bytes = 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while n := file.readinto(buffer):
            n_bytes += n
    return n_bytes


def check(kept: Mapping[str, Any], expected: Path | None, *, is_all: bool) -> None:
    if expected is None:
        return
    from safetensors import safe_open

    with safe_open(expected, "np") as file:
        if is_all and set(kept) != set(file.keys()):
            raise SystemExit("not all tensors are there")
        for name, array in kept.items():
            if array.tobytes() != file.get_tensor(name).tobytes():
                raise SystemExit(f"{name} has other bytes")


if __name__ == "__main__":
    main()
