"""Small model directories, what they hold, and clients that never wait."""

from __future__ import annotations

import base64
import json
import os
import random
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocimodel.events import Event, Notice
from ocimodel.ops.access import client_options, credentials_of
from ocimodel.registry.repository import Repository
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.paths import PARTIAL
from ocimodel.spec.reference import RegistryReference, parse_reference

MIB = 1 << 20
Tree = dict[str, bytes | None]


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files; a name that ends in a slash is an empty directory."""
    for name, content in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def noise(n_bytes: int, seed: int = 0) -> bytes:
    """The same bytes for the same arguments."""
    return random.Random(f"{seed}/{n_bytes}").randbytes(n_bytes)


def small_model(root: Path, seed: int = 0) -> Path:
    """Two weights of 1 and 3 MiB with a configuration."""
    return write_tree(
        root,
        {
            "config.json": json.dumps({"model_type": "bert", "seed": seed}).encode(),
            "a.bin": noise(MIB, seed),
            "b.bin": noise(3 * MIB, seed + 1),
        },
    )


def read_tree(root: Path) -> Tree:
    """Relative path → bytes; None for an empty directory. Links are followed."""
    found: Tree = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        base = Path(folder).relative_to(root)
        for name in names:
            found[(base / name).as_posix()] = (Path(folder) / name).read_bytes()
        if not folders and not names and base.parts:
            found[base.as_posix()] = None
    return found


def executables(root: Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.stat().st_mode & stat.S_IXUSR
    }


def settled(root: Path) -> set[str]:
    """The files at final paths; what is unfinished lies in its own folder."""
    if not root.exists():
        return set()
    return {name for name in read_tree(root) if not name.startswith(PARTIAL)}


@dataclass
class Waits:
    """Stands in for time.sleep and remembers how long it was asked to sleep, in seconds."""

    asked: list[float] = field(default_factory=list)

    def __call__(self, wait_s: float) -> None:
        self.asked.append(wait_s)


@dataclass
class Notices:
    """An observer that keeps what a person would have been told."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]


def patient(**changes: Any) -> ClientOptions:
    """Options whose waits take no time."""
    defaults: dict[str, Any] = {"timeout_s": 10.0, "n_attempts": 3, "sleep": Waits()}
    return ClientOptions(**{**defaults, **changes})


def with_login(path: Path, logins: Mapping[str, tuple[str, str]], **changes: Any) -> ClientOptions:
    """Options with a registry configuration: host → (user, password)."""
    auths = {
        host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
        for host, (user, password) in logins.items()
    }
    path.write_text(json.dumps({"auths": auths}))
    return patient(registry_config=path, **changes)


def repository(
    reference: str, options: ClientOptions | None = None, *, writable: bool = True
) -> Repository:
    """The store itself, for what the operations do not offer."""
    name = parse_reference(reference)
    assert isinstance(name, RegistryReference)
    chosen = client_options(options or patient())
    return Repository(name, chosen, credentials_of(chosen), writable=writable)
