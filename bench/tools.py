"""The tools under comparison: where they are, and how each is told to do the same work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Command

REPO = Path(__file__).resolve().parent.parent
OWN_BIN = REPO / ".cache" / "tools" / "bin"
VERSION_ARGS = {
    "skopeo": ("--version",),
    "oras": ("version",),
    "crane": ("version",),
    "curl": ("--version",),
    "docker-registry": ("--version",),
}
OCIMODEL = (sys.executable, "-m", "ocimodel")


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact in a registry: the reference, and the blobs behind it (digest, bytes)."""

    host: str
    repository: str
    tag: str
    blobs: tuple[tuple[str, int], ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.host}/{self.repository}:{self.tag}"


def search_path() -> str:
    return f"{OWN_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def versions(env: dict[str, str]) -> dict[str, str]:
    """The version of each tool that is present; absent tools are not in it."""
    found = {}
    for tool, args in VERSION_ARGS.items():
        path = shutil.which(tool, path=env["PATH"])
        if not path:
            continue
        done = subprocess.run([path, *args], env=env, capture_output=True, text=True, check=False)
        match = re.search(r"v?\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
        found[tool] = match[0] if match else "unknown version"
    return found


def why_not_runnable(env: dict[str, str]) -> str:
    """Empty when `ocimodel pull` is there, else the reason."""
    argv = [*OCIMODEL, "pull", "--help"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
    return lines[-1].rpartition(": ")[2].strip() if done.returncode else ""


def hex_of(digest: str) -> str:
    return digest.rpartition(":")[2]


# --- pull ---------------------------------------------------------------------------


def pull_command(tool: str, source: Artifact, out: Path) -> Command:
    """Everything behind the reference into the empty folder `out`."""
    reference = source.reference
    skopeo = ("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false")
    argv = {
        "ocimodel": (*OCIMODEL, "pull", reference, "-o", str(out), "-q"),
        "skopeo": (*skopeo, f"docker://{reference}", f"oci:{out}:{source.tag}"),
        "skopeo dir:": (*skopeo, f"docker://{reference}", f"dir:{out}"),
        "oras": ("oras", "pull", "--plain-http", "-o", str(out), reference),
        "crane": ("crane", "pull", "--insecure", "--format=oci", reference, str(out)),
        "curl": ("curl", "-sSf", *curl_urls(source, out)),
        "curl --parallel": ("curl", "-sSf", "--parallel", *curl_urls(source, out)),
    }
    return Command(argv[tool], out.parent)


def curl_urls(source: Artifact, out: Path) -> tuple[str, ...]:
    base = f"http://{source.host}/v2/{source.repository}/blobs"
    pairs = (("-o", str(out / hex_of(d)), f"{base}/{d}") for d, _ in source.blobs)
    return tuple(word for pair in pairs for word in pair)


def pulled_blob(tool: str, out: Path, digest: str) -> Path | None:
    """Where the tool leaves a blob; None for tools that write the model's own file names."""
    if tool in ("ocimodel", "oras"):
        return None
    if tool in ("skopeo", "crane"):
        return out / "blobs" / "sha256" / hex_of(digest)
    return out / hex_of(digest)


# --- push ---------------------------------------------------------------------------


def push_command(tool: str, directory: Path, layout: Path, target: Artifact) -> Command:
    """The model into the registry: from its directory, or from a layout with the same files."""
    reference = target.reference
    skopeo = ("skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests")
    argv = {
        "ocimodel": (*OCIMODEL, "push", str(directory), reference, "-q"),
        "skopeo": (
            *(*skopeo, "--dest-tls-verify=false"),
            *(f"oci:{layout}:{target.tag}", f"docker://{reference}"),
        ),
        "oras": (
            *("oras", "push", "--plain-http", reference),
            *("--artifact-type", "application/vnd.cncf.model.manifest.v1+json"),
            *(f"{path.name}:{file_type(path)}" for path in sorted(directory.iterdir())),
        ),
        "crane": ("crane", "push", "--insecure", str(layout), reference),
    }
    return Command(argv[tool], directory if tool == "oras" else layout.parent)


def file_type(path: Path) -> str:
    kind = "weight" if path.suffix == ".safetensors" else "weight.config"
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def as_json(command: Command) -> Command:
    """The same ocimodel command, printing its JSON object."""
    return Command((*(word for word in command.argv if word != "-q"), "--json"), command.cwd)
