"""From the start of a process to a model's tensors in memory: in place, or pulled and then loaded.

python -m bench.coldstart [--only shaped,loopback,shared,mount] [--size MiB] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import registry as reg
from bench import run, table
from bench.cases import MIB, REPOSITORY, Case, Entry, Lab, Limit, Samples, blobs_of
from bench.inputs import TAG, Model, make_model_apart
from bench.layered import said
from bench.loader import WEIGHTS
from bench.measure import Command
from bench.shaper import Link, shaped
from bench.tools import OCIMODEL, Artifact, pull_command, pulled_blob

N_TENSORS = 24
SUBSET = (3, 11, 19)
N_PROCESSES = 8
WINDOW_MIB = 256
MINE = "ocimodel open"
STREAMED = "ocimodel open, kept nothing"
PARTLY = f"ocimodel open, {len(SUBSET)} of {N_TENSORS}"
SHARED = f"ocimodel open, {N_PROCESSES} processes"
MOUNTED = "ocimodel mount"
PEERS = ("oras", "crane", "skopeo")
EAGER = ("ocimodel", *PEERS)
CURL = "curl"
FIRST_S = 0.5
OF_LINK = 1.10
OF_PEERS = 0.35
OF_CURL = 1.3
OF_BYTES = 1.05
RSS_MIB = 100
WARM_GB_PER_S = 1.5
OF_OPEN = 1.2
UNSHAPED = Link(0, 0, 0)
Trial = Iterator[Command]
STAGES = {
    "manifestS": "verified manifest",
    "indexS": "index",
    "firstS": "first verified tensor",
    "allS": "all tensors in memory",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A model on a server. `moved`: by tool, the most bytes that the server sent in a run."""

    lab: Lab
    model: Model
    source: Artifact
    is_metered: bool = True
    moved: dict[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return self.model.directory / WEIGHTS

    @property
    def n_bytes(self) -> int:
        return self.model.n_bytes

    def n_sent(self) -> int:
        if not self.is_metered:
            return 0
        return int(json.loads(reg.get(self.source.host, "/_stats")[2])["body_bytes"])


# --- trials -------------------------------------------------------------------------


@contextmanager
def load_trial(place: Place, tool: str, way: str, options: tuple[str, ...], deep: bool) -> Trial:
    """In place; each run has an empty folder for a cache or a mount."""
    out = place.lab.fresh("coldstart")
    (out / "at").mkdir(parents=True)
    folders = {"--cache": str(out / "cache"), "--directory": str(out / "at")}
    given = [word for o in options for word in ((o, folders[o]) if o in folders else (o,))]
    before = place.n_sent()
    try:
        yield loader(place, way, place.source.reference, *given, *expectation(place, deep))
        place.moved[tool] = max(place.moved.get(tool, 0), place.n_sent() - before)
    finally:
        shutil.rmtree(out, ignore_errors=True)


@contextmanager
def eager_trial(place: Place, tool: str, deep: bool) -> Trial:
    """Pulled by a tool, then read by safetensors."""
    out = place.lab.fresh("pulled")
    out.mkdir()
    digest = max(place.source.blobs, key=lambda blob: blob[1])[0]
    weights = pulled_blob(tool, out, digest) or out / WEIGHTS
    pull = pull_command(tool, place.source, out).argv
    try:
        yield loader(place, "eager", str(weights), *expectation(place, deep), "--", *pull)
    finally:
        shutil.rmtree(out, ignore_errors=True)


@contextmanager
def curl_trial(place: Place, target: str, deep: bool) -> Trial:
    """The bytes of the weights alone, without a look at them."""
    out = place.lab.fresh("curled")
    digest = max(place.source.blobs, key=lambda blob: blob[1])[0]
    url = f"http://{place.source.host}/v2/{place.source.repository}/blobs/{digest}"
    try:
        yield Command(("curl", "-sSf", "-o", target or str(out), url), place.lab.root)
    finally:
        out.unlink(missing_ok=True)


def loader(place: Place, way: str, what: str, *options: str) -> Command:
    argv = (sys.executable, "-m", "bench.loader", way, what)
    return Command((*argv, "--since", str(time.monotonic()), *options), place.lab.root)


def expectation(place: Place, deep: bool) -> tuple[str, ...]:
    return ("--expect", str(place.weights)) if deep else ()


# --- limits -------------------------------------------------------------------------


def median(key: str, tool: str, samples: Samples) -> float | None:
    found = said(key, tool, samples)
    return statistics.median(found) if found else None


def wall(tool: str, samples: Samples) -> float | None:
    found = [sample.wall_s for sample in samples.get(tool, ())]
    return statistics.median(found) if found else None


def spread(key: str, tool: str, samples: Samples) -> str:
    found = sorted(said(key, tool, samples))
    p90 = found[min(len(found) - 1, round(0.9 * (len(found) - 1)))]
    return f"{found[0]:.3f}-{found[-1]:.3f}, p90 {p90:.3f}"


def stages(tools: tuple[str, ...]) -> list[Limit]:
    """The median of each stage that a tool has."""
    return [
        Limit(
            f"{tool}: {STAGES[key]}",
            FIRST_S if (tool, key) == (MINE, "firstS") else None,
            "s",
            partial(median, key, tool),
            partial(spread, key, tool),
        )
        for tool in tools
        for key in (STAGES if tool == MINE else ("firstS", "allS"))
    ]


def ratio(
    what: str,
    at_most: float,
    mine: Callable[[Samples], float | None],
    other: Callable[[Samples], float | None],
) -> Limit:
    def value(samples: Samples) -> float | None:
        a, b = mine(samples), other(samples)
        return a / b if a and b else None

    return Limit(what, at_most, "x", value)


def best_of(tools: tuple[str, ...], samples: Samples) -> float | None:
    return min((m for tool in tools if (m := median("allS", tool, samples))), default=None)


def eager_name(tool: str) -> str:
    return f"{tool} pull + load"


def window_rss() -> Limit:
    def value(samples: Samples) -> float | None:
        found = [sample.rss_bytes / MIB for sample in samples.get(STREAMED, ())]
        return max(found) - WINDOW_MIB if found else None

    return Limit("peak RSS above the window, nothing kept", RSS_MIB, "MiB", value)


def sent(place: Place, tool: str, what: str, n_bytes: Callable[[Samples], float | None]) -> Limit:
    """Bytes that the server sent, of those that were needed."""

    def moved(samples: Samples) -> float | None:
        return place.moved.get(tool)

    limit = ratio(what, OF_BYTES, moved, n_bytes)

    def requests(samples: Samples) -> str:
        return f"{median('requests', tool, samples):.0f} requests"

    return Limit(what, limit.at_most, limit.unit, limit.value, requests)


# --- cases --------------------------------------------------------------------------


def contenders(place: Place) -> list[Entry]:
    streamed = ("--drop", "--window", str(WINDOW_MIB))
    entries = [
        Entry(MINE, partial(load_trial, place, MINE, "lazy", ())),
        Entry(STREAMED, partial(load_trial, place, STREAMED, "lazy", streamed)),
    ]
    entries += [Entry(eager_name(tool), partial(eager_trial, place, tool)) for tool in EAGER]
    return entries


@contextmanager
def shaped_case(lab: Lab, model: Model) -> Iterator[Case]:
    link = Link()
    with served(lab, model, link) as place:
        limit_s = sum(size for _, size in place.source.blobs) / link.total
        names = ",".join(f"model.layers.{number}.weight" for number in SUBSET)
        entries = contenders(place)
        entries.append(
            Entry(PARTLY, partial(load_trial, place, PARTLY, "lazy", ("--names", names)))
        )
        mine = partial(median, "allS", MINE)
        peers = tuple(map(eager_name, PEERS))
        limits = [
            *stages((MINE, *map(eager_name, EAGER), PARTLY)),
            ratio("all tensors, of the link's limit", OF_LINK, mine, lambda samples: limit_s),
            ratio("all tensors, of the best peer + load", OF_PEERS, mine, partial(best_of, peers)),
            sent(place, MINE, "bytes sent, of the model's", lambda samples: place.n_bytes),
            sent(
                place, PARTLY, "bytes sent, of 3 tensors'", partial(median, "tensorBytes", PARTLY)
            ),
            window_rss(),
        ]
        text = f"{n_mib(model)} MiB over the slow link: at least {limit_s:.2f} s"
        yield Case("shaped", text, entries, limits=limits)


@contextmanager
def loopback_case(lab: Lab, model: Model) -> Iterator[Case]:
    with filled(lab, model) as place:
        entries = contenders(place)
        nowhere = f"{CURL} > /dev/null"
        entries.append(Entry(CURL, partial(curl_trial, place, "")))
        entries.append(Entry(nowhere, partial(curl_trial, place, os.devnull)))
        mine = partial(median, "allS", MINE)
        limits = [
            *stages((MINE, *map(eager_name, EAGER))),
            ratio("all tensors, of curl into a file", OF_CURL, mine, partial(wall, CURL)),
            window_rss(),
        ]
        text = f"{n_mib(model)} MiB from docker-registry on loopback"
        yield Case("loopback", text, entries, limits=limits)


@contextmanager
def shared_case(lab: Lab, model: Model) -> Iterator[Case]:
    with served(lab, model, UNSHAPED) as place:
        options = ("--cache", "--processes", str(N_PROCESSES))
        entries = [Entry(SHARED, partial(load_trial, place, SHARED, "several", options))]
        limits = [sent(place, SHARED, "bytes sent, of one copy", lambda samples: place.n_bytes)]
        text = f"{n_mib(model)} MiB, {N_PROCESSES} processes with one cache"
        yield Case("shared", text, entries, limits=limits)


@contextmanager
def mount_case(lab: Lab, model: Model) -> Iterator[Case]:
    """On both: LazyModel with a cache, since a mount always has one."""
    with filled(lab, model) as place:
        cached = f"{MINE}, cached"
        options = ("--cache", "--drop", "--window", str(WINDOW_MIB))
        entries = [
            Entry(
                MOUNTED, partial(load_trial, place, MOUNTED, "mount", ("--cache", "--directory"))
            ),
            Entry(cached, partial(load_trial, place, cached, "lazy", options)),
            Entry(STREAMED, partial(load_trial, place, STREAMED, "lazy", options[1:])),
        ]
        cold = partial(median, "allS", MOUNTED)

        def warm(samples: Samples) -> float | None:
            seconds = median("warmS", MOUNTED, samples)
            return seconds / (place.n_bytes / 1e9) if seconds else None

        limits = [
            Limit("warm: seconds a GB", round(1 / WARM_GB_PER_S, 3), "s", warm),
            ratio("cold, of open with a cache", OF_OPEN, cold, partial(median, "allS", cached)),
            ratio("cold, of open without", OF_OPEN, cold, partial(median, "allS", STREAMED)),
        ]
        text = f"{n_mib(model)} MiB read front to back from a mount, docker-registry on loopback"
        yield Case("mount", text, entries, limits=limits)


@contextmanager
def served(lab: Lab, model: Model, link: Link) -> Iterator[Place]:
    """The artifact as ocimodel writes it, behind the shaping server."""
    layout = lab.fresh("layout")
    argv = (*OCIMODEL, "pack", str(model.directory), f"oci:{layout}:{TAG}", "-q")
    lab.run(Command(argv, lab.root))
    try:
        with shaped(layout, link) as host:
            blobs = blobs_of(host, REPOSITORY, TAG)
            yield Place(lab, model, Artifact(host, REPOSITORY, TAG, blobs))
    finally:
        shutil.rmtree(layout, ignore_errors=True)


@contextmanager
def filled(lab: Lab, model: Model) -> Iterator[Place]:
    """The same in docker-registry."""
    with reg.registry(lab.fresh("registry")) as host:
        target = Artifact(host, REPOSITORY, TAG)
        argv = (*OCIMODEL, "push", str(model.directory), target.reference, "-q")
        lab.run(Command(argv, lab.root))
        blobs = blobs_of(host, REPOSITORY, TAG)
        yield Place(lab, model, Artifact(host, REPOSITORY, TAG, blobs), is_metered=False)


def n_mib(model: Model) -> int:
    return round(model.n_bytes / MIB)


CASES: dict[str, Callable[[Lab, Model], AbstractContextManager[Case]]] = {
    "shaped": shaped_case,
    "loopback": loopback_case,
    "shared": shared_case,
    "mount": mount_case,
}
NEED_REGISTRY = ("loopback", "mount")


def main() -> int:
    args = parse_args()
    with run.laboratory(args.scratch) as (lab, found, reason):
        run.print_environment(lab, found, reason)
        tensor_bytes = -(-args.size // N_TENSORS) * MIB
        model = make_model_apart(lab.fresh("input"), 1, args.size, tensor_bytes)
        results = []
        for name in args.only:
            if name in NEED_REGISTRY and not lab.has("docker-registry"):
                results.append(run.not_run(name, "absent: skipped", "docker-registry"))
                continue
            with CASES[name](lab, model) as case:
                results.append(run.run_case(lab, case, args.rounds, reason))
        print(table.render(results))
    run.print_footer(results)
    if args.json:
        args.json.write_text(json.dumps(table.as_document(results), indent=1, ensure_ascii=False))
    failed = any(note.startswith("FAILED") for r in results for note in r.notes.values())
    return 1 if failed else 0


def parse_args() -> argparse.Namespace:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="bench.coldstart", description=about)
    parser.add_argument("--only", type=chosen, default=list(CASES), help=",".join(CASES))
    parser.add_argument("--size", type=int, default=2048, help="MiB of weights (2048)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after the warm-up")
    parser.add_argument("--json", type=Path, help="write samples and rows to this file")
    parser.add_argument("--scratch", type=Path, help="where to work (/dev/shm)")
    return parser.parse_args()


def chosen(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
