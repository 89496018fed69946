"""The cases of the chunk index: what it costs to make, in time and memory, and how large it is."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.cases import (
    MIB,
    RSS_LIMIT_MIB,
    Case,
    Entry,
    Lab,
    Limit,
    Samples,
    peak_rss,
    plain_trial,
)
from bench.inputs import TAG, Model
from bench.measure import Command
from bench.relatives import make_generated_apart
from bench.tools import OCIMODEL

AT_MOST_PERCENT = 10
MANIFEST_KIB = 1024
BYTES_A_CHUNK = 60
WAYS = {"index": "--layering file", "segments": "--layering tensor"}
# tensors, bytes: a manifest depends on both
HEADERS = {"90,000 tensors, 100 GB": (90_000, 10**11), "300 tensors, 100 GB": (300, 10**11)}


# --- time ---------------------------------------------------------------------------


@contextmanager
def cost_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    """Passes over files in the page cache, each in a process of its own, start-up not counted."""
    mib = model.n_bytes // (2 * MIB)
    inputs = {n: lab.fresh("generated") for n in (1, 4)}
    entries, limits = [], []
    try:
        for n_files, root in inputs.items():
            make_generated_apart(root, n_files, mib)
            for way in ("hash", *WAYS):
                argv = (sys.executable, "-m", "bench.index_cost", "--way", way, str(root))
                trial = partial(plain_trial, argv, lab.root)
                entries.append(Entry(pass_label(n_files, way), trial))
            limits += [cost_limit(n_files, way, mib) for way in WAYS]
        text = f"packing pass with the index, over hashing alone, {mib} MiB in the page cache"
        yield Case(name, text, entries, {}, limits, timed=False)
    finally:
        for root in inputs.values():
            shutil.rmtree(root, ignore_errors=True)


def pass_label(n_files: int, way: str) -> str:
    return f"ocimodel {way} of {n_files} file(s)"


def cost_limit(n_files: int, way: str, mib: int) -> Limit:
    index, hashing = pass_label(n_files, way), pass_label(n_files, "hash")

    def value(samples: Samples) -> float | None:
        mine, bare = said("passS", index, samples), said("passS", hashing, samples)
        return (
            100 * (statistics.median(mine) / statistics.median(bare) - 1) if mine and bare else None
        )

    def beside(samples: Samples) -> str:
        return f"{passes(index, samples)}; hashing {passes(hashing, samples)}"

    what = f"{n_files} x {mib // n_files} MiB, {WAYS[way]}"
    return Limit(what, AT_MOST_PERCENT, "%", value, beside)


def said(key: str, tool: str, samples: Samples) -> list[float]:
    """A number in the JSON that the tool printed, of each run."""
    return [float(json.loads(sample.stdout)[key]) for sample in samples.get(tool, ())]


def passes(tool: str, samples: Samples) -> str:
    walls, cpu = said("passS", tool, samples), said("cpuS", tool, samples)
    wall = f"{statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f}) s"
    return f"{wall}, CPU {statistics.median(cpu):.2f}"


# --- memory -------------------------------------------------------------------------


@contextmanager
def pack_trial(lab: Lab, directory: Path, layering: str, deep: bool) -> Iterator[Command]:
    layout = lab.fresh("packed")
    argv = (*OCIMODEL, "pack", str(directory), f"oci:{layout}:{TAG}", "-q", "--rehash")
    try:
        yield Command((*argv, "--layering", layering), lab.root)
    finally:
        shutil.rmtree(layout, ignore_errors=True)


@contextmanager
def memory_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    mib = model.n_bytes // (2 * MIB)
    root = lab.fresh("generated")
    try:
        make_generated_apart(root, 1, mib)
        tools = {f"ocimodel --layering {x}": x for x in ("tensor", "file")}
        entries = [Entry(tool, partial(pack_trial, lab, root, x)) for tool, x in tools.items()]
        limits = [
            Limit(f"peak RSS, {x}", RSS_LIMIT_MIB, "MiB", partial(peak_rss, tool=tool))
            for tool, x in tools.items()
        ]
        text = f"pack {mib} MiB in 1 file"
        yield Case(name, text, entries, {}, limits, rounds=2, warm_up=False)
    finally:
        shutil.rmtree(root, ignore_errors=True)


# --- size ---------------------------------------------------------------------------


@contextmanager
def manifest_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    """From headers alone."""
    entries, limits = [], []
    for what, (n_tensors, n_bytes) in HEADERS.items():
        for layering in ("tensor", "file"):
            tool = f"ocimodel {layering} {what}"
            size = ("--tensors", str(n_tensors), "--bytes", str(n_bytes))
            argv = (sys.executable, "-m", "bench.manifest_size", "--layering", layering, *size)
            entries.append(Entry(tool, partial(plain_trial, argv, lab.root)))
            limits += size_limits(f"{what}, {layering}", tool)
    text = "manifest and index of a large model, from its header"
    yield Case(name, text, entries, {}, limits, rounds=1, warm_up=False, timed=False)


def size_limits(what: str, tool: str) -> list[Limit]:
    def number(key: str, samples: Samples) -> float | None:
        return next(iter(said(key, tool, samples)), None)

    def manifest(samples: Samples) -> float | None:
        n_bytes = number("manifestBytes", samples)
        return None if n_bytes is None else n_bytes / 1024

    def layers(samples: Samples) -> str:
        return f"{number('layers', samples):.0f} layers"

    def a_chunk(samples: Samples) -> float | None:
        n_bytes, n_chunks = number("chunkBytes", samples), number("chunks", samples)
        return n_bytes / n_chunks if n_bytes and n_chunks else None

    def whole(samples: Samples) -> str:
        index_mib = (number("indexBytes", samples) or 0) / MIB
        return f"{number('chunks', samples):.0f} chunks; index {index_mib:.1f} MiB"

    return [
        Limit(f"{what}: manifest", MANIFEST_KIB, "KiB", manifest, layers),
        Limit(f"{what}: a chunk", BYTES_A_CHUNK, "B", a_chunk, whole),
    ]
