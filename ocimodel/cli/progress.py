"""Progress for people: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import IO, Protocol

from ocimodel.events import (
    BlobAdvanced,
    BlobFinished,
    BlobStarted,
    Event,
    HashAdvanced,
    HashStarted,
    Notice,
    Outcome,
)

# without a terminal: a sign of life this often
LINE_EVERY_S = 10.0
# more bars than this hide the rest of the terminal
MAX_BARS = 8
# reading and hashing less than this needs no announcement
QUIET_HASH_BYTES = 256 << 20


class Progress(Protocol):
    def __call__(self, event: Event) -> None: ...
    def close(self) -> None: ...


def choose(stream: IO[str]) -> Progress:
    """Bars where a person can see them move; CI systems say so with CI."""
    if stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        return Bars(stream)
    return Lines(stream)


class Lines:
    """One line for each blob that is done, and one every 10 seconds in between."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._said = clock()
        self._n_total = 0
        self._n_moved = 0
        self._n_hashed = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Notice(message):
                    self._say(message)
                case BlobFinished(_, name, size, outcome):
                    self._say(f"{_verb(outcome)}: {name} ({_human(size)})")
                case BlobStarted(_, _, size):
                    self._n_total += size
                case BlobAdvanced(_, n_bytes):
                    self._n_moved += n_bytes
                    self._now_and_then("moved", self._n_moved)
                case HashStarted(n_bytes) if n_bytes >= QUIET_HASH_BYTES:
                    self._say(f"reading {_human(n_bytes)}")
                case HashAdvanced(n_bytes):
                    self._n_hashed += n_bytes
                    self._now_and_then("read", self._n_hashed)

    def _now_and_then(self, what: str, n_bytes: int) -> None:
        if self._clock() - self._said >= LINE_EVERY_S:
            of = f" of {_human(self._n_total)} begun" if what == "moved" else ""
            self._say(f"{what} {_human(n_bytes)}{of}")

    def _say(self, text: str) -> None:
        self._said = self._clock()
        self._stream.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is left standing."""


class Bars:
    """Rich bars: one for all bytes, one for each blob that moves right now."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress

        self._console = Console(file=stream)
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        self._tasks: dict[str, int] = {}
        self._hashing: int | None = None
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Notice(message):
                    self._print(message)
                case HashStarted(n_bytes):
                    self._hashing = self._bars.add_task("reading", total=n_bytes)
                case HashAdvanced(n_bytes) if self._hashing is not None:
                    self._advance(self._hashing, n_bytes)
                case BlobStarted(digest, name, size):
                    visible = len(self._tasks) < MAX_BARS
                    self._tasks[digest] = self._bars.add_task(
                        _fitted(name), total=size, visible=visible
                    )
                case BlobAdvanced(digest, n_bytes) if digest in self._tasks:
                    self._advance(self._tasks[digest], n_bytes)
                case BlobFinished(digest, name, size, outcome):
                    self._end(digest)
                    self._print(f"{_verb(outcome):>11}  {name}  ({_human(size)})")

    def _advance(self, task: int, n_bytes: int) -> None:
        self._bars.advance(task, n_bytes)  # type: ignore[arg-type]

    def _end(self, digest: str) -> None:
        task = self._tasks.pop(digest, None)
        if task is not None:
            self._bars.remove_task(task)  # type: ignore[arg-type]

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()


def _verb(outcome: Outcome) -> str:
    return {Outcome.TRANSFERRED: "done"}.get(outcome, outcome.value)


def _fitted(name: str) -> str:
    return name if len(name) <= 40 else "…" + name[-39:]


def _human(n_bytes: int) -> str:
    from ocimodel.cli.output import human

    return human(n_bytes)
