"""Progress for people: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Protocol

from ocimodel.cli.text import human, shown
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
# among the digests of blobs: the bar of the reading that comes before
_HASHING = "reading"


class Progress(Protocol):
    def __call__(self, event: Event) -> None: ...
    def close(self) -> None: ...


def choose(stream: IO[str], environ: Mapping[str, str]) -> Progress:
    """Bars where a person can see them move, and has not asked for plain text."""
    plain = environ.get("NO_COLOR") or environ.get("TERM") in (None, "", "dumb")
    ci = environ.get("CI", "").lower() not in ("", "0", "false")
    return Bars(stream) if stream.isatty() and not plain and not ci else Lines(stream)


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
                    self._say(f"{_verb(outcome)}: {name} ({human(size)})")
                case BlobStarted(_, _, size):
                    self._n_total += size
                case BlobAdvanced(_, n_bytes):
                    self._n_moved += n_bytes
                    self._now_and_then("moved", self._n_moved)
                case HashStarted(n_bytes) if n_bytes >= QUIET_HASH_BYTES:
                    self._say(f"reading {human(n_bytes)}")
                case HashAdvanced(n_bytes):
                    self._n_hashed += n_bytes
                    self._now_and_then("read", self._n_hashed)

    def _now_and_then(self, what: str, n_bytes: int) -> None:
        if self._clock() - self._said >= LINE_EVERY_S:
            of = f" of {human(self._n_total)} begun" if what == "moved" else ""
            self._say(f"{what} {human(n_bytes)}{of}")

    def _say(self, text: str) -> None:
        self._said = self._clock()
        # a log that nobody keeps any more is no reason to stop the work
        with contextlib.suppress(OSError):
            self._stream.write(shown(text) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is left standing."""


class Bars:
    """Rich bars, one for each blob that moves right now; what is done scrolls away above them."""

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
        self._n_to_hash = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Notice(message):
                    self._print(message)
                case HashStarted(n_bytes):
                    self._n_to_hash += n_bytes
                    self._tasks[_HASHING] = self._bars.add_task(_HASHING, total=self._n_to_hash)
                case HashAdvanced(n_bytes):
                    self._n_to_hash -= n_bytes
                    self._advance(_HASHING, n_bytes)
                    if self._n_to_hash <= 0:
                        self._end(_HASHING)
                case BlobStarted(digest, name, size):
                    visible = len(self._tasks) < MAX_BARS
                    self._tasks[digest] = self._bars.add_task(
                        _fitted(name), total=size, visible=visible
                    )
                case BlobAdvanced(digest, n_bytes):
                    self._advance(digest, n_bytes)
                case BlobFinished(digest, name, size, outcome):
                    self._end(digest)
                    self._print(f"{_verb(outcome):>11}  {name}  ({human(size)})")

    def _advance(self, name: str, n_bytes: int) -> None:
        if (task := self._tasks.get(name)) is not None:
            self._bars.advance(task, n_bytes)  # type: ignore[arg-type]

    def _end(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            self._bars.remove_task(task)  # type: ignore[arg-type]

    def _print(self, text: str) -> None:
        self._console.print(shown(text), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()


def _verb(outcome: Outcome) -> str:
    return {Outcome.TRANSFERRED: "done"}.get(outcome, outcome.value)


def _fitted(name: str) -> str:
    name = shown(name)
    return name if len(name) <= 40 else "…" + name[-39:]
