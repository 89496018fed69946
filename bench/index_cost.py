"""What the chunk index costs: the packing pass beside one that only hashes, start-up left out.

    python -m bench.index_cost --way index|hash DIR      # {"passS": seconds} on stdout
    python -m bench.index_cost --profile DIR             # where each thread spends its time

Both read every byte of the directory's files, with as many files at a time as packing takes.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ocimodel.ops.packing import pack_view
from ocimodel.store.memo import Memo
from ocimodel.store.streams import hash_file
from ocimodel.store.workers import Workers
from tests.servers.models import tiny_safetensors

HASH_THREADS = 4  # as packing has, where there are as many processors


def index_pass(directory: Path, layering: str = "file") -> None:
    pack_view(directory, memo=Memo(None), environ={}, layering=layering, rehash=True)


def hash_pass(directory: Path) -> None:
    """Whole-file digests as packing made them before there was an index."""
    files = sorted(directory.iterdir(), key=lambda path: -path.stat().st_size)
    n_threads = min(HASH_THREADS, os.cpu_count() or 1)
    Workers((partial(hash_one, path) for path in files), n_threads).run()


def hash_one(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        hash_file(file.fileno(), path.stat().st_size, lambda n: None)


WAYS: dict[str, Callable[[Path], None]] = {
    "hash": hash_pass,
    "index": index_pass,
    "segments": partial(index_pass, layering="tensor"),
}


def timed(way: str, directory: Path) -> dict[str, float]:
    """Wall and CPU seconds of one pass, after a tiny one that does all imports."""
    with tempfile.TemporaryDirectory() as tiny:
        tiny_safetensors(Path(tiny) / "model.safetensors", {"weight": (8, 8)})
        WAYS[way](Path(tiny))
    before, cpu = time.perf_counter(), time.process_time()
    WAYS[way](directory)
    return {"passS": time.perf_counter() - before, "cpuS": time.process_time() - cpu}


def profile(way: str, directory: Path) -> str:
    """The twelve functions that take most time of their own, thread by thread."""
    found: list[tuple[str, cProfile.Profile]] = []
    run = threading.Thread.run

    def profiled(thread: threading.Thread) -> None:
        # CPU time of this thread alone: waiting for a lock or a core does not count
        mine = cProfile.Profile(time.thread_time)
        found.append((thread.name, mine))
        mine.runcall(run, thread)

    setattr(threading.Thread, "run", profiled)  # noqa: B010 - mypy refuses the assignment
    try:
        mine = cProfile.Profile(time.thread_time)
        found.append(("main", mine))
        mine.runcall(WAYS[way], directory)
    finally:
        setattr(threading.Thread, "run", run)  # noqa: B010
    out = io.StringIO()
    for name, of_thread in found:
        out.write(f"--- {name}\n")
        pstats.Stats(of_thread, stream=out).strip_dirs().sort_stats("tottime").print_stats(12)
    return "\n".join(line for line in out.getvalue().splitlines() if line.strip())


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.index_cost")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--way", choices=sorted(WAYS), default="index")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.profile:
        print(profile(args.way, args.directory))
    else:
        json.dump(timed(args.way, args.directory), sys.stdout)


if __name__ == "__main__":
    main()
