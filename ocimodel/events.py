"""Progress as data: operations emit events, whoever shows them decides how.

An `Observer` is any callable that takes an event. It is called from worker threads, sometimes
from several at once, and must return quickly and never raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a blob came to be where it was wanted."""

    TRANSFERRED = "transferred"
    EXISTS = "exists"
    MOUNTED = "mounted"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class HashStarted:
    """`n_bytes` of local files are about to be read and hashed."""

    n_bytes: int


@dataclass(frozen=True, slots=True)
class HashAdvanced:
    n_bytes: int


@dataclass(frozen=True, slots=True)
class BlobStarted:
    """Bytes of this blob begin to move. `name`: a file path, or a short digest. `size`: bytes."""

    digest: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class BlobAdvanced:
    """`n_bytes` more of this blob have moved; negative when an attempt is started over."""

    digest: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class BlobFinished:
    digest: str
    name: str
    size: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know that is no error: a retry, a fallback, a file left alone."""

    message: str


Event = HashStarted | HashAdvanced | BlobStarted | BlobAdvanced | BlobFinished | Notice
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that shows nothing."""
