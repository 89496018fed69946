"""What is measured. A case is a set of entries that do the same work, one for each tool.

An entry is a context manager: it prepares an untouched target, gives the command to time,
and afterwards checks that the work was done (`deep`: byte for byte) and cleans up. Only
the command is timed.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from bench import registry as reg
from bench.inputs import TAG, Model
from bench.measure import Command, RunError, Sample
from bench.shaper import Link, shaped
from bench.tools import (
    OCIMODEL,
    Artifact,
    as_json,
    hex_of,
    pull_command,
    pulled_blob,
    push_command,
)

MIB = 1 << 20
RSS_LIMIT_MIB = 120
REPOSITORY = "bench/model"
Samples = Mapping[str, Sequence[Sample]]
Trial = Callable[[bool], AbstractContextManager[Command]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool's way to do the case. `once`: too slow to repeat, one run for scale."""

    tool: str
    trial: Trial
    once: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """An absolute bound on something that the samples say; the value is None when unknown.

    `at_most`: None where a figure is only reported. `beside`: what else there is to say of it.
    """

    what: str
    at_most: float | None
    unit: str
    value: Callable[[Samples], float | None]
    beside: Callable[[Samples], str] = lambda samples: ""


@dataclass(frozen=True, slots=True)
class Case:
    """`goals`: the highest wall time of ocimodel as a multiple of another tool's.

    `timed`: whether the wall times of the entries are the result; else only the limits are.
    """

    name: str
    title: str
    entries: list[Entry]
    goals: Mapping[str, float] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    rounds: int | None = None
    warm_up: bool = True
    timed: bool = True


@dataclass(slots=True)
class Lab:
    """The place to work in: scratch space, the tools that are there, the environment."""

    root: Path
    env: dict[str, str]
    present: frozenset[str]
    numbers: Iterator[int] = field(default_factory=count)

    def fresh(self, name: str) -> Path:
        """A path that does not exist yet."""
        return self.root / f"{name}-{next(self.numbers)}"

    def has(self, tool: str) -> bool:
        return tool.split()[0] in self.present

    def run(self, command: Command) -> None:
        """Run outside any timing."""
        done = subprocess.run(
            command.argv, cwd=command.cwd, env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = " ".join(done.stderr.split())[-400:]
            raise RunError(f"exit {done.returncode} in preparation: {why}")


# --- checks -------------------------------------------------------------------------


def check_tree(out: Path, model: Model, deep: bool) -> None:
    for path in model.directory.iterdir():
        mine = out / path.name
        if not mine.is_file() or mine.stat().st_size != path.stat().st_size:
            raise RunError(f"{path.name} did not arrive whole")
        if deep and not filecmp.cmp(path, mine, shallow=False):
            raise RunError(f"{path.name} arrived with other bytes")


def check_blob(path: Path, digest: str, size: int, deep: bool) -> None:
    if not path.is_file() or path.stat().st_size != size:
        raise RunError(f"blob {digest} did not arrive whole")
    if deep:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != hex_of(digest):
                raise RunError(f"blob {digest} arrived with other bytes")


def check_pushed(target: Artifact, model: Model) -> None:
    blobs = blobs_of(target.host, target.repository, target.tag)
    for digest, size in blobs:
        if reg.blob_size(target.host, target.repository, digest) != size:
            raise RunError(f"blob {digest} is not in the registry")
    if sum(size for _, size in blobs) < model.n_bytes:
        raise RunError("the pushed artifact is smaller than the model")


def blobs_of(host: str, repository: str, tag: str) -> tuple[tuple[str, int], ...]:
    manifest = reg.manifest_of(host, repository, tag)
    return tuple((d["digest"], d["size"]) for d in (manifest["config"], *manifest["layers"]))


# --- trials -------------------------------------------------------------------------


@contextmanager
def pull_trial(
    lab: Lab, model: Model, source: Artifact, tool: str, deep: bool
) -> Iterator[Command]:
    out = lab.fresh("out")
    out.mkdir()
    try:
        yield pull_command(tool, source, out)
        for digest, size in source.blobs:
            if path := pulled_blob(tool, out, digest):
                check_blob(path, digest, size, deep)
        if tool in ("ocimodel", "oras"):
            check_tree(out, model, deep)
    finally:
        shutil.rmtree(out, ignore_errors=True)


@contextmanager
def push_trial(lab: Lab, model: Model, tool: str, deep: bool) -> Iterator[Command]:
    """An empty registry of its own for each push: no tool can mount what another one left."""
    with reg.registry(lab.fresh("registry")) as host:
        target = Artifact(host, REPOSITORY, TAG)
        yield push_command(tool, model.directory, model.layout, target)
        check_pushed(target, model)


@contextmanager
def push_again_trial(lab: Lab, model: Model, tool: str, deep: bool) -> Iterator[Command]:
    with push_trial(lab, model, tool, deep) as command:
        lab.run(command)
        yield as_json(command) if tool == "ocimodel" else command


@contextmanager
def pull_again_trial(
    lab: Lab, model: Model, source: Artifact, tool: str, deep: bool
) -> Iterator[Command]:
    with pull_trial(lab, model, source, tool, deep) as command:
        lab.run(command)
        yield as_json(command) if tool == "ocimodel" else command


@contextmanager
def plain_trial(argv: tuple[str, ...], cwd: Path, deep: bool) -> Iterator[Command]:
    yield Command(argv, cwd)


# --- limits -------------------------------------------------------------------------


def peak_rss(samples: Samples, tool: str = "ocimodel") -> float | None:
    mine = samples.get(tool)
    return max(sample.rss_bytes for sample in mine) / MIB if mine else None


def median_wall(samples: Samples, tool: str = "ocimodel") -> float | None:
    mine = samples.get(tool)
    return statistics.median(sample.wall_s for sample in mine) if mine else None


def most_in_json(key: str, samples: Samples, tool: str = "ocimodel") -> float | None:
    """The highest value of `key` in the JSON objects that ocimodel printed; infinite if unsaid."""
    mine = samples.get(tool)
    if not mine:
        return None
    try:
        return max(float(json.loads(sample.stdout)[key]) for sample in mine)
    except (ValueError, KeyError, TypeError):
        return math.inf


def over_bare_python(tool: str, samples: Samples) -> float | None:
    mine, bare = median_wall(samples, tool), median_wall(samples, "python -c pass")
    return None if mine is None or bare is None else (mine - bare) * 1000


def over_link(limit_s: float, samples: Samples) -> float | None:
    mine = median_wall(samples)
    return None if mine is None else mine / limit_s


RSS_LIMIT = Limit("peak RSS", RSS_LIMIT_MIB, "MiB", peak_rss)


# --- cases --------------------------------------------------------------------------


def title(verb: str, model: Model) -> str:
    return f"{verb} {model.n_bytes / MIB:.0f} MiB in {model.n_files} file(s)"


@contextmanager
def filled_registry(lab: Lab, model: Model) -> Iterator[tuple[Artifact, Artifact]]:
    """A registry with the artifact as ocimodel writes it, and with the plain one.

    Until ocimodel can push, the first is the plain one as well.
    """
    with reg.registry(lab.fresh("source")) as host:
        reg.fill(host, "plain/model", TAG, model.layout)
        plain = Artifact(host, "plain/model", TAG, blobs_of(host, "plain/model", TAG))
        if not lab.has("ocimodel"):
            yield plain, plain
            return
        own = Artifact(host, REPOSITORY, TAG)
        lab.run(push_command("ocimodel", model.directory, model.layout, own))
        yield Artifact(host, REPOSITORY, TAG, blobs_of(host, REPOSITORY, TAG)), plain


@contextmanager
def pull_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    with filled_registry(lab, model) as (own, plain):
        tools = ("ocimodel", "skopeo", "oras", "crane", "curl", "curl --parallel")
        entries = [Entry(tool, partial(pull_trial, lab, model, own, tool)) for tool in tools]
        foreign = partial(pull_trial, lab, model, plain, "ocimodel")
        entries.append(Entry("ocimodel (plain artifact)", foreign))
        slow = partial(pull_trial, lab, model, own, "skopeo dir:")
        entries.append(Entry("skopeo dir:", slow, once=True))
        goals = {"skopeo": 0.5, "oras": 1.0, "crane": 1.0, "curl": 1.6}
        yield Case(name, title("pull", model), entries, goals, [RSS_LIMIT])


@contextmanager
def push_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    tools = ("ocimodel", "skopeo", "oras", "crane")
    entries = [Entry(tool, partial(push_trial, lab, model, tool)) for tool in tools]
    yield Case(name, title("push", model), entries, {"skopeo": 1.0, "oras": 1.0}, [RSS_LIMIT])


@contextmanager
def again_push_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    tools = ("ocimodel", "skopeo", "oras", "crane")
    entries = [Entry(tool, partial(push_again_trial, lab, model, tool)) for tool in tools]
    moved = Limit("blob bytes", 0, "B", partial(most_in_json, "bytesPushed"))
    limits = [Limit("wall", 0.5, "s", median_wall), moved]
    yield Case(name, title("second push of", model), entries, limits=limits, rounds=3)


@contextmanager
def again_pull_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    with filled_registry(lab, model) as (own, _):
        tools = ("ocimodel", "skopeo", "oras")
        entries = [Entry(tool, partial(pull_again_trial, lab, model, own, tool)) for tool in tools]
        moved = Limit("blob bytes", 0, "B", partial(most_in_json, "bytesFetched"))
        limits = [Limit("wall", 0.5, "s", median_wall), moved]
        yield Case(name, title("second pull of", model), entries, limits=limits, rounds=3)


@contextmanager
def shaped_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    """The slow link: 50 MB/s a connection, 250 MB/s in all, 20 ms a request."""
    link = Link()
    layout = lab.fresh("shaped")
    if lab.has("ocimodel"):
        argv = (*OCIMODEL, "pack", str(model.directory), f"oci:{layout}:{TAG}", "-q")
        lab.run(Command(argv, lab.root))
    with shaped(layout if layout.is_dir() else model.layout, link) as host:
        source = Artifact(host, REPOSITORY, TAG, blobs_of(host, REPOSITORY, TAG))
        limit_s = sum(size for _, size in source.blobs) / link.total
        others = ("skopeo", "oras", "crane", "curl --parallel")
        entries = [Entry("ocimodel", partial(pull_trial, lab, model, source, "ocimodel"))]
        entries += [Entry(t, partial(pull_trial, lab, model, source, t), once=True) for t in others]
        limits = [Limit("of the link's limit", 1.15, "x", partial(over_link, limit_s)), RSS_LIMIT]
        text = f"{title('shaped link, pull', model)}: at least {limit_s:.2f} s"
        yield Case(name, text, entries, limits=limits, rounds=3)
    shutil.rmtree(layout, ignore_errors=True)


@contextmanager
def startup_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    commands: dict[str, tuple[str, ...]] = {"python -c pass": (sys.executable, "-c", "pass")}
    commands |= {f"ocimodel {flag}": (*OCIMODEL, flag) for flag in ("--version", "--help")}
    entries = [Entry(t, partial(plain_trial, argv, lab.root)) for t, argv in commands.items()]
    limits = [
        Limit(f"{tool} over bare Python", 150, "ms", partial(over_bare_python, tool))
        for tool in commands
        if tool.startswith("ocimodel")
    ]
    yield Case(name, "start-up", entries, limits=limits, rounds=15)


@contextmanager
def large_push_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    entries = [Entry("ocimodel", partial(push_trial, lab, model, "ocimodel"))]
    yield Case(name, title("push", model), entries, limits=[RSS_LIMIT], rounds=1, warm_up=False)


@contextmanager
def large_pull_case(lab: Lab, model: Model, name: str) -> Iterator[Case]:
    with filled_registry(lab, model) as (own, _):
        entries = [Entry("ocimodel", partial(pull_trial, lab, model, own, "ocimodel"))]
        yield Case(name, title("pull", model), entries, limits=[RSS_LIMIT], rounds=1, warm_up=False)
