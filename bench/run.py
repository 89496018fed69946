"""Measure ocimodel beside the other tools, in interleaved rounds; print one table.

python -m bench.run [--quick] [--only pull,push] [--size MiB] [--rounds N] [--large]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import cases, delta, layered, table, tools
from bench.cases import MIB, Case, Entry, Lab
from bench.inputs import Model, make_model_apart
from bench.measure import RunError, own_peak_rss, run_timed
from bench.table import Result

LARGE_MIB = 4096
NEED_REGISTRY = ("pull", "push", "again", "large", "delta")
SETBACKS = (RunError, RuntimeError, OSError)  # of one tool or one case; the others go on
ROOM = 4  # an input of n bytes needs up to 4 n of scratch: itself, a layout, a registry, a pull
Maker = Callable[[Lab, Model, str], AbstractContextManager[Case]]
SUITE: tuple[tuple[str, int, Maker], ...] = (
    ("startup", 0, cases.startup_case),
    ("pull-4", 4, cases.pull_case),
    ("push-4", 4, cases.push_case),
    ("again-push", 4, cases.again_push_case),
    ("again-pull", 4, cases.again_pull_case),
    ("shaped-4", 4, cases.shaped_case),
    ("pull-1", 1, cases.pull_case),
    ("push-1", 1, cases.push_case),
    ("shaped-1", 1, cases.shaped_case),
)
# their makers make the input, of which the half is one model
LAYERED: tuple[tuple[str, int, Maker], ...] = (
    ("delta-push", 0, delta.push_case),
    ("delta-pull", 0, delta.pull_case),
    ("index-cost", 0, layered.cost_case),
    ("index-memory", 0, layered.memory_case),
    ("manifest", 0, layered.manifest_case),
)
LARGE: tuple[tuple[str, int, Maker], ...] = (
    ("large-push", 1, cases.large_push_case),
    ("large-pull", 1, cases.large_pull_case),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases that share one input of `mib` MiB in `n_files` files (0: they make their own)."""

    n_files: int
    mib: int
    makers: list[tuple[str, Maker]]


def main() -> int:
    args = parse_args()
    with laboratory(args.scratch) as (lab, found, reason):
        print_environment(lab, found, reason)
        results: list[Result] = []
        for plan in plans(args):
            results += run_plan(lab, plan, args.rounds, reason)
        print(table.render(results))
    print_footer(results)
    if args.json:
        cores = len(os.sched_getaffinity(0))
        document = {"cores": cores, "python": platform.python_version(), "tools": found}
        document["results"] = table.as_document(results)
        args.json.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    failed = any(note.startswith("FAILED") for r in results for note in r.notes.values())
    return 1 if failed else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="128 MiB and 3 rounds: for a glance")
    parser.add_argument("--only", default="", help="cases or groups: pull,push-1,again,startup,…")
    parser.add_argument("--size", type=int, help="MiB in all (1024)")
    parser.add_argument("--rounds", type=int, help="timed rounds after the warm-up (5)")
    parser.add_argument("--large", action="store_true", help="also one 4 GiB file, for memory")
    parser.add_argument("--json", type=Path, help="write samples and rows to this file")
    parser.add_argument("--scratch", type=Path, help="where to work (/dev/shm)")
    args = parser.parse_args()
    args.size = args.size or (128 if args.quick else 1024)
    args.rounds = args.rounds or (3 if args.quick else 5)
    return args


def plans(args: argparse.Namespace) -> Iterator[Plan]:
    wanted = [word for word in args.only.split(",") if word]

    def chosen(name: str) -> bool:
        return not wanted or name in wanted or name.split("-")[0] in wanted

    large = LARGE if args.large or "large" in wanted else ()
    inputs = (
        *((SUITE, 0, 0), (SUITE, 4, args.size), (SUITE, 1, args.size)),
        *((LAYERED, 0, 4 * args.size), (large, 1, LARGE_MIB)),
    )
    for suite, n_files, mib in inputs:
        makers = [(name, make) for name, n, make in suite if n == n_files and chosen(name)]
        if makers:
            yield Plan(n_files, mib, makers)


@contextmanager
def laboratory(scratch: Path | None) -> Iterator[tuple[Lab, dict[str, str], str]]:
    """Scratch space, a clean environment, the tools found, and why ocimodel cannot run."""
    shm = Path("/dev/shm")
    base = scratch or (shm if os.access(shm, os.W_OK) else Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix="ocimodel-bench-", dir=base))
    try:
        home = root / "home"
        home.mkdir()
        env = {"PATH": tools.search_path(), "HOME": str(home), "LANG": "C.UTF-8"}
        env |= {"DOCKER_CONFIG": str(home), "XDG_RUNTIME_DIR": str(home)}
        env["PYTHONPATH"] = str(tools.REPO)
        found = tools.versions(env)
        reason = tools.why_not_runnable(env)
        present = frozenset(found) | {"python"} | (frozenset() if reason else {"ocimodel"})
        yield Lab(root, env, present), found, reason
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_plan(lab: Lab, plan: Plan, rounds: int, reason: str) -> Iterator[Result]:
    free = shutil.disk_usage(lab.root).free
    if free < ROOM * plan.mib * MIB:
        say(f"skipped: {plan.mib} MiB of input needs {ROOM}x that in {lab.root}")
        return
    root = lab.fresh("input")
    if plan.n_files:
        say(f"making {plan.mib} MiB in {plan.n_files} file(s)")
        model = make_model_apart(root, plan.n_files, plan.mib // plan.n_files)
    else:
        model = Model(root, root, 0, plan.mib * MIB)
    for name, make in plan.makers:
        if name.split("-")[0] in NEED_REGISTRY and not lab.has("docker-registry"):
            yield not_run(name, "absent: skipped", "docker-registry")
            continue
        try:
            with make(lab, model, name) as case:
                yield run_case(lab, case, case.rounds or rounds, reason)
        except SETBACKS as error:
            say(f"{name}: {error}")
            yield not_run(name, f"FAILED {' '.join(str(error).split())[:50]}", "set-up")
    shutil.rmtree(root, ignore_errors=True)


def not_run(name: str, note: str, tool: str) -> Result:
    """The result of a case that has no run."""
    entry = Entry(tool, partial(cases.plain_trial, (), Path()))
    return Result(Case(name, f"{name}: not run", [entry]), notes={tool: note})


def run_case(lab: Lab, case: Case, rounds: int, reason: str) -> Result:
    """A B C D, A B C D, …: what disturbs the machine for a while disturbs every tool."""
    result = Result(case)
    entries = []
    for entry in case.entries:
        if lab.has(entry.tool):
            entries.append(entry)
        elif entry.tool.startswith("ocimodel"):
            result.notes[entry.tool] = f"not runnable yet: {reason[:40]}"
        else:
            result.notes[entry.tool] = "absent: skipped"
    for number in range(0 if case.warm_up else 1, rounds + 1):
        say(f"{case.name}: {'warm-up' if number == 0 else f'round {number} of {rounds}'}")
        for entry in entries:
            if entry.tool not in result.notes and not (entry.once and number != 1):
                run_entry(lab, entry, number, result)
    return result


def run_entry(lab: Lab, entry: Entry, number: int, result: Result) -> None:
    """Round 0 is the warm-up: checked byte for byte, not counted."""
    try:
        with entry.trial(number == 0 or entry.once) as command:
            sample = run_timed(command, lab.env)
    except SETBACKS as error:
        say(f"{entry.tool}: {error}")
        result.notes[entry.tool] = "FAILED " + " ".join(str(error).split())[:50]
        result.samples.pop(entry.tool, None)
        return
    if number:
        result.samples.setdefault(entry.tool, []).append(sample)


def print_environment(lab: Lab, found: dict[str, str], reason: str) -> None:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(f"{cores} CPU cores, load {load:.1f}, Linux {platform.release()}, {lab.root.parent}")
    print(f"Python {platform.python_version()}; ocimodel {reason or 'runs'}")
    print("; ".join(f"{tool} {version}" for tool, version in found.items()))
    if absent := sorted(set(tools.VERSION_ARGS) - set(found)):
        print(f"absent, skipped: {', '.join(absent)}")
    print("pull: skopeo to oci:, crane to an OCI layout, oras to a directory, curl blob by blob")
    print("push: skopeo and crane from an OCI layout, oras from the directory\n", flush=True)


def print_footer(results: Sequence[Result]) -> None:
    floor = own_peak_rss() / MIB
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    print(f"an RSS of {floor:.0f} MiB or less is the benchmark's own, inherited by its children")
    print(f"{table.misses(results)} target(s) missed; targets are set for 1 GiB, not for --quick")


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
