"""Fill the git-ignored tool cache: `python -m tests.servers.fetch_tools`.

oras, crane, notation, cosign and a newer skopeo come from newer Debian suites through an apt
configuration of our own (sources, lists and cache in the cache folder; the system is not
touched), ggcr is built with Go. What cannot be had is named with its reason; that is no failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers.loopback import cache_root
from tests.servers.tools import tool, tools_bin

SUITES = ("sid", "trixie")  # the newest first; the older when its libc is too new for us
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package with one program of its name, and the suites to take it from.

    `libraries`: packages of the same suite to run it with, where ours may be too old.
    `version`: the argument with which it says its version, to see whether it runs.
    """

    name: str
    suites: tuple[str, ...] = SUITES
    libraries: tuple[str, ...] = ()
    version: str = "version"


# by their names in the cache
PACKAGES = {
    "oras": Package("oras"),
    "crane": Package("crane"),
    "notation": Package("notation"),
    # two of its major versions, which write and read different forms
    "cosign2": Package("cosign", ("trixie",)),
    "cosign3": Package("cosign", ("sid",)),
    # Debian built the one of bookworm without Sigstore's signatures
    "skopeo-newer": Package(
        "skopeo",
        ("trixie",),
        ("libc6", "libgpgme11t64", "libassuan9", "libgpg-error0", "libsqlite3-0"),
        "--version",
    ),
}
LISTED = ("docker-registry", "skopeo", *PACKAGES, "ggcr", "zot")


class UnavailableError(RuntimeError):
    """Why a tool cannot be had here."""


def main() -> int:
    """Fetch what is missing, then print one line for each tool."""
    reasons: dict[str, str] = {}
    _attempt(reasons, [name for name in PACKAGES if tool(name) is None], fetch_packages)
    if _stale("ggcr"):
        _attempt(reasons, ["ggcr"], build_ggcr)
    for name in LISTED:
        found = tool(name)
        print(f"{name:16} {found or 'absent: ' + reasons.get(name, 'not on PATH')}")
    return 0


def fetch_packages(names: list[str]) -> None:
    """Download the Debian packages of `names` and put their programs into the cache.

    Raises UnavailableError, naming those that no suite has in a form that runs here.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UnavailableError("no apt-get here")
    apt = _private_apt(cache_root() / "tools" / "apt")
    _run([*apt, "update"])
    missing = [problem for name in names if (problem := _why_not_installed(apt, name))]
    if missing:
        raise UnavailableError("; ".join(missing))


def build_ggcr(_names: list[str]) -> None:
    """Build the registry of tests/servers/ggcr. Raises UnavailableError."""
    go = tool("go")
    if go is None:
        raise UnavailableError("no Go here")
    out = tools_bin() / f"ggcr.{os.getpid()}"
    out.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    _run([str(go), "build", "-trimpath", "-o", str(out), "."], cwd=_source("ggcr"), env=env)
    out.rename(tools_bin() / "ggcr")


def debian_mirror() -> str:
    """The Debian mirror that this machine's apt already uses. Raises UnavailableError."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for path in files:
        text = path.read_text(errors="replace") if path.is_file() else ""
        for uri in re.findall(r"^(?:URIs:|deb\s+(?:\[.*?\])?)\s*(\S+)", text, re.MULTILINE):
            if re.search(r"/debian/?$", uri):
                return str(uri)
    raise UnavailableError("this machine's apt uses no Debian mirror")


def _attempt(reasons: dict[str, str], names: list[str], get: Callable[[list[str]], None]) -> None:
    """Call `get(names)` when there are any; note the reason when it fails."""
    if not names:
        return
    print(f"fetching {', '.join(names)} ...", flush=True)
    start = time.monotonic()
    try:
        get(names)
    except (UnavailableError, OSError, subprocess.SubprocessError) as error:
        reasons.update(dict.fromkeys(names, str(error)))
    print(f"  {time.monotonic() - start:.1f} s", flush=True)


def _private_apt(root: Path) -> list[str]:
    """apt-get with sources, lists and cache of its own under `root`."""
    if not KEYRING.is_file():
        raise UnavailableError(f"no {KEYRING}")
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    lines = ["Types: deb", f"URIs: {debian_mirror()}", f"Suites: {' '.join(reversed(SUITES))}"]
    lines += ["Components: main", f"Signed-By: {KEYRING}", ""]
    (root / "parts" / "newer.sources").write_text("\n".join(lines))
    (root / "empty.list").touch()
    options = {
        "Dir::Etc::sourcelist": root / "empty.list",
        "Dir::Etc::sourceparts": root / "parts",
        "Dir::State::lists": root / "lists",
        "Dir::Cache": root / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        "Acquire::Retries": "3",
        **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
    }
    return ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]


def _why_not_installed(apt: list[str], name: str) -> str:
    """Install `name` from the first suite whose program runs here; empty when that worked."""
    problems = []
    for suite in PACKAGES[name].suites:
        try:
            _install(apt, name, PACKAGES[name], suite)
        except (UnavailableError, OSError) as error:
            problems.append(f"{suite}: {error}")
        else:
            return ""
    return f"{name} of {', '.join(problems)}"


def _install(apt: list[str], name: str, package: Package, suite: str) -> None:
    """Unpack one package's program into the cache as `name` when it runs on this machine."""
    scratch = cache_root() / "tools" / f"{name}-{suite}.{os.getpid()}"
    root = scratch / "root"
    scratch.mkdir(parents=True)
    try:
        wanted = [f"{each}/{suite}" for each in (package.name, *package.libraries)]
        _run([*apt, "download", *wanted], cwd=scratch)
        for archive in scratch.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(root)])
        program = root / "usr" / "bin" / package.name
        if package.libraries:
            program = _with_libraries(program, cache_root() / "tools" / "roots" / name)
        _run([str(program), package.version])
        tools_bin().mkdir(parents=True, exist_ok=True)
        program.rename(tools_bin() / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_libraries(program: Path, home: Path) -> Path:
    """Move the tree of `program` to `home`; gives a script that runs it with its libraries."""
    root = program.parents[2]
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(root, home, symlinks=True)
    loader = next((home / "usr" / "lib").glob("*/ld-linux*.so.*"))
    script = root / "script"
    moved = home / program.relative_to(root)
    script.write_text(f'#!/bin/sh\nexec {loader} --library-path {loader.parent} {moved} "$@"\n')
    script.chmod(0o755)
    return script


def _run(argv: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; UnavailableError with the end of its output when it fails."""
    result = subprocess.run(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        last = " / ".join(result.stdout.strip().splitlines()[-3:])
        raise UnavailableError(f"{Path(argv[0]).name} failed: {last}")


def _source(name: str) -> Path:
    return Path(__file__).resolve().parent / name


def _stale(name: str) -> bool:
    """Whether our own Go program is not built, or older than its source."""
    built = tools_bin() / name
    sources = [path.stat().st_mtime for path in _source(name).iterdir()]
    return not built.is_file() or built.stat().st_mtime < max(sources)


if __name__ == "__main__":
    sys.exit(main())
