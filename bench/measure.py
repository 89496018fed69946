"""Run one command to its end and say what it cost: wall time, CPU time, peak memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 900.0


class RunError(Exception):
    """A measured command failed, or did not do its work."""


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    cwd: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `rss_bytes` is the peak of the largest process, not a sum over processes."""

    wall_s: float
    cpu_s: float
    rss_bytes: int
    stdout: str


def run_timed(command: Command, env: dict[str, str]) -> Sample:
    """Run the command; raises RunError with the end of its stderr when it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(
            command.argv, cwd=command.cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        guard = threading.Timer(TIMEOUT_S, child.kill)
        guard.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        guard.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RunError(f"exit {child.returncode}: {tail(err.fileno())}")
        cpu_s = usage.ru_utime + usage.ru_stime
        return Sample(wall_s, cpu_s, usage.ru_maxrss * 1024, tail(out.fileno(), 1 << 20))


def tail(fd: int, n_bytes: int = 600) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, n_bytes, max(0, size - n_bytes)).decode("utf-8", "replace").strip()


def own_peak_rss() -> int:
    """Our own peak in bytes: a child's figure is never below it, since it starts as our fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
