"""A foreign server as a child process: free port, readiness, stop, log."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
POLL_S = 0.01
TAKEN = "address already in use"


class ServerError(RuntimeError):
    """A server did not come up; the message carries the end of its log."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that was free a moment ago; a race for it is the caller's to retry."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """Starts `argv(port)` and waits until the port answers; stops it by its PID."""

    def __init__(
        self,
        argv: Callable[[int], Sequence[str]],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        deadline_s: float = 20.0,
        tries: int = 5,
    ) -> None:
        self._argv = argv
        self._log = log
        self._env = None if env is None else {**os.environ, **env}
        self._deadline_s = deadline_s
        self._tries = tries
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        """The PID of the running server."""
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start on a free port; the same port again after a first start.

        Raises ServerError with the log's end when it does not answer in time.
        """
        for _ in range(self._tries):
            port = self.port or free_port()
            if self._start_on(port):
                self.port = port
                return
        raise ServerError(f"no free port after {self._tries} tries\n{self.log_tail()}")

    def stop(self, grace_s: float = 5.0) -> None:
        """Terminate, then kill what is still there after `grace_s`; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def log_tail(self, n_bytes: int = 4000) -> str:
        """The end of the server's own output."""
        if not self._log.exists():
            return "(no log)"
        return self._log.read_bytes()[-n_bytes:].decode(errors="replace")

    def _start_on(self, port: int) -> bool:
        """True when the server answers on `port`; False when another had taken it."""
        argv = list(self._argv(port))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )
        deadline = time.monotonic() + self._deadline_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                if TAKEN in self.log_tail().lower():
                    return False
                raise ServerError(f"{argv[0]} exited at once\n{self.log_tail()}")
            if self._owns(port):
                return True
            time.sleep(POLL_S)
        self.stop()
        raise ServerError(f"{argv[0]} did not answer on {port}\n{self.log_tail()}")

    def _owns(self, port: int) -> bool:
        """Whether the port answers and our process is still alive to be the one answering."""
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            return False
        return self._process is not None and self._process.poll() is None
