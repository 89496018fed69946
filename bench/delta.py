"""The delta cases: what of a model's next version is sent and fetched, given the one before."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import registry as reg
from bench.cases import MIB, Case, Entry, Lab, Limit, Samples, median_wall, most_in_json
from bench.inputs import Model
from bench.measure import Command, RunError
from bench.relatives import Relative, make_relatives_apart
from bench.tools import OCIMODEL, Artifact, push_command

LAYERINGS = ("tensor", "file")
OLD, NEW = "old", "new"
# bounded by a share of the model where headers alone are new, else by the changed tensors
HEADERS_ONLY = ("metadata", "resharded")
REPORTED = ("vocabulary", "silero")
AT_MOST_PERCENT = 0.5
AT_MOST_TIMES = 1.3
OTHERS = ("oras", "skopeo", "crane")
OTHERS_PUSH = "gguf"  # the one relative by which the others are measured
Stored = dict[str, int]


@contextmanager
def relatives(lab: Lab, model: Model) -> Iterator[list[Relative]]:
    """`model.n_bytes`: of the generated model and its fine-tune together."""
    root = lab.fresh("relatives")
    try:
        yield make_relatives_apart(root, model.n_bytes // (2 * MIB))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def goal_of(relative: Relative) -> tuple[float | None, str, float]:
    """What the new bytes are bounded by, in which unit, and how many bytes this has."""
    if relative.name in HEADERS_ONLY:
        return AT_MOST_PERCENT, "%", relative.n_bytes / 100
    if relative.name in REPORTED:
        return None, "%", relative.n_bytes / 100
    return AT_MOST_TIMES, "x", relative.changed_bytes


def label(relative: Relative, *words: str) -> str:
    return " ".join(("ocimodel", relative.name, *words))


# --- push ---------------------------------------------------------------------------


def push_layered(directory: Path, target: Artifact, layering: str) -> Command:
    argv = (*OCIMODEL, "push", str(directory), target.reference, "--layering", layering, "--json")
    return Command(argv, directory)


@contextmanager
def push_trial(
    lab: Lab, relative: Relative, layering: str, stored: Stored, deep: bool
) -> Iterator[Command]:
    """The new version beside the old one, in the same layering.

    `stored` gets the bytes by which the registry grew, the manifest included.
    """
    folder = lab.fresh("registry")
    with reg.registry(folder) as host:
        lab.run(push_layered(relative.old, Artifact(host, "delta/model", OLD), layering))
        before = n_stored(folder)
        yield push_layered(relative.new, Artifact(host, "delta/model", NEW), layering)
        stored[label(relative, layering)] = n_stored(folder) - before


@contextmanager
def other_push_trial(
    lab: Lab, relative: Relative, tool: str, stored: Stored, deep: bool
) -> Iterator[Command]:
    """The same by another tool: oras from the directories, the rest from layouts of them."""
    folder, layouts = lab.fresh("registry"), lab.fresh("layouts")
    try:
        with reg.registry(folder) as host:
            commands = []
            for directory, tag in ((relative.old, OLD), (relative.new, NEW)):
                layout = layouts / tag
                argv = (*OCIMODEL, "pack", str(directory), f"oci:{layout}:{tag}", "-q")
                lab.run(Command(argv, directory))
                target = Artifact(host, "delta/model", tag)
                commands.append(push_command(tool, directory, layout, target))
            lab.run(commands[0])
            before = n_stored(folder)
            yield commands[1]
            stored[tool] = n_stored(folder) - before
    finally:
        shutil.rmtree(layouts, ignore_errors=True)


def n_stored(folder: Path) -> int:
    """Bytes of all blobs and manifests that the registry has."""
    return sum(path.stat().st_size for path in (folder / "storage").rglob("blobs/**/data"))


def n_pushed(tool: str, stored: Stored, samples: Samples) -> float | None:
    """The larger of what ocimodel says that it sent and of what the registry grew by."""
    said = most_in_json("bytesPushed", samples, tool)
    return None if said is None else max(said, stored[tool])


def push_limit(relative: Relative, stored: Stored) -> Limit:
    at_most, unit, n_unit = goal_of(relative)
    tensor, file = (label(relative, layering) for layering in LAYERINGS)

    def value(samples: Samples) -> float | None:
        n_bytes = n_pushed(tensor, stored, samples)
        return None if n_bytes is None else n_bytes / n_unit

    def beside(samples: Samples) -> str:
        by_tensor, by_file = (n_pushed(tool, stored, samples) for tool in (tensor, file))
        return f"{percent(by_tensor, relative)} of the model; by file {percent(by_file, relative)}"

    return Limit(relative.name, at_most, unit, value, beside)


def other_limit(relative: Relative, tool: str, stored: Stored) -> Limit:
    def value(samples: Samples) -> float | None:
        return 100 * stored[tool] / relative.n_bytes if samples.get(tool) else None

    return Limit(f"{relative.name} by {tool}", None, "%", value)


def percent(n_bytes: float | None, relative: Relative) -> str:
    return "-" if n_bytes is None else f"{100 * n_bytes / relative.n_bytes:.3g} %"


@contextmanager
def push_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    stored: Stored = {}
    with relatives(lab, model) as found:
        entries = [
            Entry(label(r, layering), partial(push_trial, lab, r, layering, stored))
            for r in found
            for layering in LAYERINGS
        ]
        limits = [push_limit(r, stored) for r in found]
        measured = [(r, tool) for r in found if r.name == OTHERS_PUSH for tool in OTHERS]
        entries += [Entry(t, partial(other_push_trial, lab, r, t, stored)) for r, t in measured]
        limits += [other_limit(r, t, stored) for r, t in measured]
        text = "push of the next version by tensor: new bytes as % of the model or x of the changed"
        yield Case(name, text, entries, {}, limits, rounds=1, warm_up=False, timed=False)


# --- pull ---------------------------------------------------------------------------


@contextmanager
def pull_trial(
    lab: Lab, relative: Relative, host: str, layering: str, way: str, deep: bool
) -> Iterator[Command]:
    """`way`: "over", in the folder of the old version; "cache", which has it; or "full"."""
    out, cache = lab.fresh("out"), lab.fresh("cache")
    cached = ("--cache", str(cache)) if way == "cache" else ()

    def pull(tag: str) -> Command:
        reference = Artifact(host, repository_of(relative, layering), tag).reference
        return Command((*OCIMODEL, "pull", reference, "-o", str(out), *cached, "--json"), lab.root)

    try:
        if way != "full":
            lab.run(pull(OLD))
        if way == "cache":
            shutil.rmtree(out)
        yield pull(NEW)
        check_all(out, relative.new)
    finally:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


def check_all(out: Path, expected: Path) -> None:
    for path in expected.rglob("*"):
        mine = out / path.relative_to(expected)
        if path.is_file() and not (mine.is_file() and filecmp.cmp(path, mine, shallow=False)):
            raise RunError(f"{path.name} did not arrive, or with other bytes")


def repository_of(relative: Relative, layering: str) -> str:
    return f"delta/{relative.name}-{layering}"


def pull_limit(relative: Relative, way: str) -> Limit:
    """The worse of both layerings."""
    at_most, unit, n_unit = goal_of(relative)
    tools = [label(relative, layering, way) for layering in LAYERINGS]

    def value(samples: Samples) -> float | None:
        fetched = [most_in_json("bytesFetched", samples, tool) for tool in tools]
        known = [n for n in fetched if n is not None]
        return max(known) / n_unit if len(known) == len(tools) else None

    def beside(samples: Samples) -> str:
        fetched = (most_in_json("bytesFetched", samples, tool) for tool in tools)
        shares = " / ".join(percent(n, relative) for n in fetched)
        walls = " / ".join(seconds(tool, samples) for tool in tools)
        full = " / ".join(seconds(label(relative, x, "full"), samples) for x in LAYERINGS)
        return f"{shares}, {walls} s; full {full} s"

    words = {"over": "over the old one", "cache": "with --cache"}
    return Limit(f"{relative.name} {words[way]}", at_most, unit, value, beside)


def seconds(tool: str, samples: Samples) -> str:
    wall = median_wall(samples, tool)
    return "-" if wall is None else f"{wall:.2f}"


@contextmanager
def pull_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    with relatives(lab, model) as found, reg.registry(lab.fresh("source")) as host:
        entries = []
        for relative in found:
            for layering in LAYERINGS:
                repository = repository_of(relative, layering)
                for directory, tag in ((relative.old, OLD), (relative.new, NEW)):
                    lab.run(push_layered(directory, Artifact(host, repository, tag), layering))
                for way in ("full", "over", "cache"):
                    trial = partial(pull_trial, lab, relative, host, layering, way)
                    tool = label(relative, layering, way)
                    entries.append(Entry(tool, trial, once=relative.name != "generated"))
        limits = [pull_limit(r, way) for r in found for way in ("over", "cache")]
        text = "pull of the next version, by tensor / by file: new bytes as above, wall time"
        yield Case(name, text, entries, {}, limits, rounds=3, warm_up=False, timed=False)
