"""Sign and verify over a loopback registry, from the start of the process to its end.

    python -m bench.signing [--rounds N]

Beside cosign, in interleaved rounds, with one encrypted P-256 key; no public log is written to or
asked for. ocimodel signs in both of cosign's forms, cosign 2 and 3 in one each.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import registry as reg
from bench import run, table
from bench.cases import Case, Entry, Lab, Limit, median_wall
from bench.inputs import TAG, Model, make_model_apart
from bench.measure import Command, RunError
from bench.tools import OCIMODEL, Artifact, push_command
from tests.servers.cosign import NOWHERE, PASSPHRASE, Cosign

SIGN_S, VERIFY_S = 0.6, 0.4
TOOLS = ("ocimodel", "cosign3", "cosign2")


@dataclass(frozen=True, slots=True)
class Desk:
    """Where is signed: a registry, a model to push to it, and the folder of the key pair."""

    lab: Lab
    host: str
    model: Model
    keys: Path

    def pushed(self) -> Artifact:
        """An artifact that nobody has signed, in a repository of its own."""
        artifact = Artifact(self.host, self.lab.fresh("model").name, TAG)
        model = self.model
        self.lab.run(push_command("ocimodel", model.directory, model.layout, artifact))
        return artifact

    def sign(self, tool: str, artifact: Artifact) -> Command:
        how = ("sign", "--key", "release.key", artifact.reference)
        if tool == "ocimodel":
            return Command((*OCIMODEL, *how, "-q"), self.keys)
        quiet = Cosign(Path(tool), int(tool[-1]), self.keys).offline()
        return Command((tool, *how, *map(str, quiet)), self.keys)

    def verify(self, tool: str, artifact: Artifact) -> Command:
        how = ("verify", "--key", "release.pub", artifact.reference)
        if tool == "ocimodel":
            return Command((*OCIMODEL, *how, "-q"), self.keys)
        return Command((tool, *how, "--insecure-ignore-tlog=true"), self.keys)


def main() -> int:
    args = parse_args()
    with run.laboratory(None) as (lab, found, reason):
        if not lab.has("docker-registry"):
            print("absent: docker-registry")
            return 1
        lab.env |= {"COSIGN_PASSWORD": PASSPHRASE, "HTTPS_PROXY": NOWHERE}
        lab.present |= {tool for tool in TOOLS if shutil.which(tool, path=lab.env["PATH"])}
        run.print_environment(lab, found, reason)
        with opened(lab) as desk:
            cases = (sign_case(desk), verify_case(desk))
            results = [run.run_case(lab, case, args.rounds, reason) for case in cases]
        print(table.render(results))
        print(f"\n{table.misses(results)} target(s) missed")
    failed = any(note.startswith("FAILED") for r in results for note in r.notes.values())
    return 1 if failed else 0


def parse_args() -> argparse.Namespace:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="bench.signing", description=about)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds after the warm-up")
    return parser.parse_args()


@contextmanager
def opened(lab: Lab) -> Iterator[Desk]:
    keys = lab.fresh("keys")
    keys.mkdir()
    lab.run(Command((*OCIMODEL, "keygen", "release", "-q"), keys))
    model = make_model_apart(lab.fresh("input"), 1, 1)
    with reg.registry(lab.fresh("registry")) as host:
        yield Desk(lab, host, model, keys)


@contextmanager
def sign_trial(desk: Desk, tool: str, deep: bool) -> Iterator[Command]:
    """What was signed in the warm-up must be good enough for the same tool."""
    artifact = desk.pushed()
    yield desk.sign(tool, artifact)
    if deep:
        desk.lab.run(desk.verify(tool, artifact))


@contextmanager
def verify_trial(desk: Desk, artifact: Artifact, tool: str, deep: bool) -> Iterator[Command]:
    """In the warm-up also: that the tool does refuse what nobody signed."""
    if deep:
        command = desk.verify(tool, desk.pushed())
        argv, cwd, env = command.argv, command.cwd, desk.lab.env
        if not subprocess.run(argv, cwd=cwd, env=env, capture_output=True, check=False).returncode:
            raise RunError(f"{tool} accepts what nobody signed")
    yield desk.verify(tool, artifact)


def sign_case(desk: Desk) -> Case:
    entries = [Entry(tool, partial(sign_trial, desk, tool)) for tool in TOOLS]
    limits = [Limit("wall", SIGN_S, "s", median_wall)]
    return Case("sign", "sign by key, and store the signature", entries, limits=limits)


def verify_case(desk: Desk) -> Case:
    artifact = desk.pushed()
    desk.lab.run(desk.sign("ocimodel", artifact))
    entries = [Entry(tool, partial(verify_trial, desk, artifact, tool)) for tool in TOOLS]
    limits = [Limit("wall", VERIFY_S, "s", median_wall)]
    return Case("verify", "verify by key what ocimodel signed", entries, limits=limits)


if __name__ == "__main__":
    sys.exit(main())
