"""What a place that holds artifacts can do, wherever it lies.

A `Source` is read from, a `Target` is written to, a `Store` is both. Every store passes the one
contract suite in tests/contract. All methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from ocimodel.events import Outcome
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document

Advance = Callable[[int], None]


class Reader(Protocol):
    """A stream of the bytes [`start`, `start + length`) of one blob, NOT yet verified.

    A place that cannot serve ranges answers with more than was asked for: look at `start` and
    `length`.
    """

    start: int
    length: int

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` as far as possible; the number of bytes, 0 only at the end."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """A place to read artifacts from. `name` is for people. Missing things: NotFoundError.

    `trusted`: the bytes were hashed in this process a moment ago, so that a target which itself
    verifies them (a registry does) need not have them hashed again.
    """

    name: str
    trusted: bool

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor of the manifest that a tag or digest names."""
        ...

    def manifest(self, reference: str) -> Document:
        """The manifest under a tag or digest; under a digest its bytes are verified."""
        ...

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        """Stream a blob from byte `start`, `length` bytes or to its end."""
        ...

    def reject(self, what: Descriptor) -> bool:
        """Told that a blob's bytes were wrong: whether another try may bring others."""
        ...

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        """The manifests whose subject has the digest `subject`."""
        ...

    def tags(self) -> Sequence[str]:
        """All tags, sorted."""
        ...


class Ingest(Protocol):
    """One blob on its way into a target.

    `parts`: the ranges (start, length) still wanted; they may be transferred in any order and at
    the same time. Then `commit` verifies the whole and makes it visible, all or nothing;
    IntegrityError means that nothing of it was kept. `close` ends an attempt that did not come to
    its commit and keeps what a later one can resume from. `resumed`: some bytes come from an
    earlier attempt.
    """

    parts: Sequence[tuple[int, int]]
    resumed: bool

    def transfer(self, start: int, length: int, advance: Advance) -> None: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


class Target(Protocol):
    """A place to write artifacts to."""

    name: str

    def plan(self, document: Document) -> Sequence[Descriptor]:
        """The blobs of this manifest that the target wants, each once.

        Raises where the artifact can never fit: names that are unsafe to create, a full disk.
        """
        ...

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        """Start taking a blob; or tell at once how it came to be there without a transfer."""
        ...

    def put_manifest(self, document: Document) -> None:
        """Store a manifest whose blobs are all there."""
        ...

    def tag(self, name: str, what: Descriptor) -> None:
        """Let `name` point to a manifest that is there; moves an existing tag."""
        ...


class Store(Source, Target, Protocol):
    """A place that artifacts can be read from, written to and deleted from."""

    def has(self, what: Descriptor) -> bool:
        """Whether a blob is there."""
        ...

    def delete(self, digest: str) -> None:
        """Delete a manifest and the tags that point to it; NotFoundError if it is not there."""
        ...

    def untag(self, name: str) -> None:
        """Delete a tag, and nothing else; NotFoundError if it is not there."""
        ...
