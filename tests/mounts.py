"""Models at a directory, by the real program and the real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ocimodel.errors import OcimodelError
from ocimodel.lazy.mountpoint import attach, detach

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
POLL_S = 0.01


def need_fuse() -> None:
    """Skip, with the reason, where this machine lets nobody mount."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            fd = attach(Path(folder), "probe")
        except OcimodelError as error:
            pytest.skip(f"{error}; {error.hint}")
        detach(Path(folder))
        os.close(fd)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that another process does; what the condition gave in the end."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(POLL_S)
    return found


class Mount:
    """`ocimodel mount` as a process; `path`: where the files are."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, work: Path) -> None:
        self.process = process
        self.path = path
        self._work = work

    @property
    def errors(self) -> str:
        """What it has said on stderr so far."""
        return (self._work / "stderr").read_text()

    @property
    def ready(self) -> Path:
        return self._work / "ready"

    def stats(self) -> dict[str, Any]:
        """What it says of itself when it is asked."""
        n_before = len(self._told())
        self.process.send_signal(signal.SIGUSR1)
        told: list[str] = until(lambda: self._told()[n_before:], f"stats in {self.errors}")
        return dict(json.loads(told[0]))

    def complete(self) -> dict[str, Any]:
        """Wait until all of the model is in the cache."""

        def stats() -> dict[str, Any] | None:
            found = self.stats()
            return found if found["bytesCompleted"] == found["bytesTotal"] else None

        return dict(until(stats, f"completion in {self.errors}"))

    def end(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """Ask it to end; what it prints then."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> dict[str, Any]:
        assert self.process.wait(DEADLINE_S) == 0, self.errors
        return dict(json.loads((self._work / "stdout").read_text()))

    def _told(self) -> list[str]:
        lines = self.errors.splitlines(keepends=True)
        return [line for line in lines if line.startswith("{") and line.endswith("\n")]


@contextmanager
def mounted(
    reference: str, work: Path, *options: object, prefix: Sequence[str] = (), waits: bool = True
) -> Iterator[Mount]:
    """The artifact at a directory below `work`, which is made for it; gone afterwards."""
    path = work / "mount"
    path.mkdir(parents=True, exist_ok=True)
    argv = [*prefix, sys.executable, "-m", "ocimodel", "mount", reference, str(path), "--json"]
    argv += ["--ready-file", str(work / "ready"), *map(str, options)]
    with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as err:
        # a killed one leaves its cache there
        env = {**os.environ, "TMPDIR": str(work)}
        process = subprocess.Popen(argv, stdout=out, stderr=err, cwd=ROOT, env=env)
    mount = Mount(process, path, work)
    try:
        if waits:
            until(lambda: mount.ready.exists() or process.poll() is not None, mount.errors)
            assert process.poll() is None, mount.errors
        yield mount
    finally:
        process.kill()
        process.wait()
        detach(path)
