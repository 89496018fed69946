"""Where the foreign tools are: on PATH, or in the git-ignored cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.servers.loopback import cache_root

REASONS = {
    "docker-registry": "apt-get install docker-registry",
    "skopeo": "apt-get install skopeo",
    "htpasswd": "apt-get install apache2-utils, or pip install bcrypt",
    "oras": "run: python -m tests.servers.fetch_tools",
    "crane": "run: python -m tests.servers.fetch_tools",
    "cosign2": "cosign 2.x; run: python -m tests.servers.fetch_tools",
    "cosign3": "cosign 3.x; run: python -m tests.servers.fetch_tools",
    "notation": "run: python -m tests.servers.fetch_tools",
    "skopeo-newer": "1.18 or newer; run: python -m tests.servers.fetch_tools",
    "openssl": "apt-get install openssl",
    "ggcr": "needs Go, then: python -m tests.servers.fetch_tools",
    "zot": "put a zot binary on PATH",
    "go": "install Go",
}


def tools_bin() -> Path:
    """The cache's folder of executables."""
    return cache_root() / "tools" / "bin"


def tool(name: str) -> Path | None:
    """The executable `name`, or None when this machine has none."""
    found = shutil.which(name) or shutil.which(name, path=str(tools_bin()))
    if found is None and name == "go":
        found = shutil.which("go", path=os.pathsep.join(["/usr/local/go/bin", "/usr/lib/go/bin"]))
    return Path(found) if found else None


def why_absent(name: str) -> str:
    """One line for a skip: what is missing and how to get it."""
    return f"{name} is not on this machine ({REASONS.get(name, 'install it')})"
