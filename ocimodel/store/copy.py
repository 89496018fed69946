"""The one algorithm that moves artifacts: push, pull, pack and promote are calls of it.

Children before parents, the tag last, referrers after their subject. Whatever ends it early
leaves the target without a manifest that lacks a blob, and a rerun goes on where it stopped.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from ocimodel.errors import IntegrityError, OcimodelError
from ocimodel.events import BlobAdvanced, BlobFinished, BlobStarted, Observer, Outcome, ignore
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import short
from ocimodel.spec.manifest import Document, Index
from ocimodel.spec.modelpack import (
    CONFIG_TYPE,
    DIRECTORIES,
    FILEPATH,
    IMAGE_CONFIG_TYPE,
    TITLE,
)
from ocimodel.store.protocol import Ingest, Source, Target
from ocimodel.store.workers import Workers

DEFAULT_CONCURRENCY = 8
# how deep indexes may nest, and referrers refer to referrers
MAX_DEPTH = 4
# a stream below this rate is limited by the network, not by this machine
SLOW_BYTES_PER_S = 80 << 20
LOOK_EVERY_S = 0.1
# what one request fetches while nobody shares the work
LONG_PART_BYTES = 256 << 20
# a fast stream keeps two cores busy: one receives, one hashes
_N_FAST = max(1, (os.cpu_count() or 1) // 2)


class StoppedError(OcimodelError):
    """A part ended early since another one failed; never seen outside `copy`."""


@dataclass(slots=True)
class Report:
    """What a copy did. Bytes count blobs, not manifests. `blobs`: digests that are there now."""

    n_bytes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    n_blobs: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    manifests: list[str] = field(default_factory=list)
    blobs: set[str] = field(default_factory=set)

    @property
    def bytes_transferred(self) -> int:
        return self.n_bytes[Outcome.TRANSFERRED]

    @property
    def bytes_skipped(self) -> int:
        return sum(self.n_bytes.values()) - self.bytes_transferred


def copy(
    source: Source,
    target: Target,
    root: Document,
    *,
    tag: str = "",
    referrers: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    observer: Observer = ignore,
    report: Report | None = None,
) -> Report:
    """Copy the manifest `root`, all that it points to and, if asked, all that refers to it.

    `concurrency`: streams at a time. `report`: of what was sent ahead, and need not be looked for.
    Raises what source and target raise; the first error ends the copy.
    """
    report = report or Report()
    _copy_tree(source, target, root, concurrency, observer, report, MAX_DEPTH)
    if referrers:
        _copy_referrers(source, target, root.digest, concurrency, observer, report, MAX_DEPTH)
    if tag:
        target.tag(tag, root.descriptor)
    return report


def send_ahead(
    source: Source,
    target: Target,
    blobs: Iterable[Descriptor],
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    observer: Observer = ignore,
) -> Report:
    """Transfer blobs before the manifest that needs them is known; `copy` does the rest.

    `blobs` may wait until there is another one. What it raises ends the transfer.
    """
    report = Report()
    _Transfer(source, target, concurrency, observer, report).run(blobs)
    return report


def _copy_tree(
    source: Source,
    target: Target,
    root: Document,
    concurrency: int,
    observer: Observer,
    report: Report,
    depth: int,
) -> None:
    if root.digest in report.manifests:
        return
    if isinstance(root, Index):
        if depth == 0:
            raise IntegrityError(f"index {root.digest} nests deeper than {MAX_DEPTH}")
        for child in root.manifests:
            document = source.manifest(child.digest)
            _copy_tree(source, target, document, concurrency, observer, report, depth - 1)
    blobs = [blob for blob in target.plan(root) if blob.digest not in report.blobs]
    if blobs:
        _Transfer(source, target, concurrency, observer, report).run(blobs)
    target.put_manifest(root)
    report.manifests.append(root.digest)


def _copy_referrers(
    source: Source,
    target: Target,
    subject: str,
    concurrency: int,
    observer: Observer,
    report: Report,
    depth: int,
) -> None:
    for referrer in source.referrers(subject) if depth else ():
        if referrer.digest in report.manifests:
            continue
        document = source.manifest(referrer.digest)
        _copy_tree(source, target, document, concurrency, observer, report, depth - 1)
        _copy_referrers(source, target, referrer.digest, concurrency, observer, report, depth - 1)


class _Transfer:
    """The blobs of one manifest, several at a time, big ones in parts."""

    def __init__(
        self,
        source: Source,
        target: Target,
        concurrency: int,
        observer: Observer,
        report: Report,
    ) -> None:
        self._source = source
        self._target = target
        self._concurrency = concurrency
        self._observer = observer
        self._report = report
        self._lock = threading.Lock()
        self._open: set[Ingest] = set()
        self._n_streams = 0

    def run(self, blobs: Iterable[Descriptor]) -> None:
        self._workers = Workers((partial(self._blob, blob) for blob in blobs), self._concurrency)
        try:
            self._workers.run()
        except Exception:
            # not on an interrupt: then threads may still be at work on these
            for job in self._open:
                job.close()
            raise

    def _blob(self, what: Descriptor) -> None:
        begun = self._target.begin(what, self._source)
        if isinstance(begun, Outcome):
            self._finished(what, begun, 0)
            return
        flow = _Flow(what, begun, deque(begun.parts), sum(length for _, length in begun.parts))
        with self._lock:
            self._open.add(begun)
            self._n_streams += 1
        self._observer(BlobStarted(what.digest, name_of(what), what.size))
        if not begun.parts:
            self._commit(flow)
            return
        self._stream(flow)

    def _stream(self, flow: _Flow) -> None:
        """Transfer parts of a blob until none is left; whoever ends the last one commits."""

        def advance(n_bytes: int) -> None:
            if self._workers.stopping:
                raise StoppedError("another transfer failed")
            with self._lock:
                flow.n_moved += n_bytes
                n_more = flow.growth(
                    time.monotonic(), self._concurrency, saturated=self._n_streams >= _N_FAST
                )
                flow.n_streams += n_more
                self._n_streams += n_more
            self._workers.urgent([partial(self._stream, flow)] * n_more)
            self._observer(BlobAdvanced(flow.what.digest, n_bytes))

        while part := self._next_part(flow):
            flow.job.transfer(*part, advance)
            with self._lock:
                flow.n_left -= part[1]
                last = flow.n_left == 0
            if last:
                self._commit(flow)

    def _next_part(self, flow: _Flow) -> tuple[int, int] | None:
        with self._lock:
            if flow.waiting:
                return flow.take()
            flow.n_streams -= 1
            self._n_streams -= 1
            return None

    def _commit(self, flow: _Flow) -> None:
        try:
            flow.job.commit()
        except IntegrityError:
            flow.job.close()
            # what an earlier run left behind may be at fault: once more from the start
            if not (flow.job.resumed or self._source.reject(flow.what)):
                raise
            self._observer(BlobAdvanced(flow.what.digest, -flow.n_moved))
            self._workers.urgent([partial(self._blob, flow.what)])
        except BaseException:
            flow.job.close()
            raise
        else:
            self._finished(flow.what, Outcome.TRANSFERRED, flow.n_moved)
        finally:
            with self._lock:
                self._open.discard(flow.job)

    def _finished(self, what: Descriptor, outcome: Outcome, n_moved: int) -> None:
        rest = Outcome.REUSED if outcome is Outcome.TRANSFERRED else outcome
        with self._lock:
            self._report.blobs.add(what.digest)
            self._report.n_blobs[outcome] += 1
            self._report.n_bytes[Outcome.TRANSFERRED] += n_moved
            self._report.n_bytes[rest] += max(0, what.size - n_moved)
        self._observer(BlobFinished(what.digest, name_of(what), what.size, outcome))


@dataclass(slots=True)
class _Flow:
    """A blob on its way. `waiting`: parts nobody has begun; `n_left`: bytes not finished."""

    what: Descriptor
    job: Ingest
    waiting: deque[tuple[int, int]]
    n_left: int
    n_moved: int = 0
    n_streams: int = 1
    looked_at: float = 0.0
    moved_then: int = 0
    is_fast: bool = False

    def take(self) -> tuple[int, int]:
        """The next part; for a fast stream alone several in one, which saves requests."""
        start, length = self.waiting.popleft()
        while (
            self.is_fast
            and self.n_streams == 1
            and self.waiting
            and self.waiting[0][0] == start + length
            and length + self.waiting[0][1] <= LONG_PART_BYTES
        ):
            length += self.waiting.popleft()[1]
        return start, length

    def growth(self, now: float, limit: int, *, saturated: bool) -> int:
        """How many streams to add, of `limit` in all. `saturated`: enough for fast ones.

        While each stream is slow, it is the network that limits it, and more of them help. Fast
        ones wait for this machine: on few cores more of them only cost more, for what arrives out
        of order must be read back to be hashed.
        """
        if not self.looked_at:
            # from the first bytes on, or the latency before them would look like a slow stream
            self.looked_at, self.moved_then = now, self.n_moved
        elapsed = now - self.looked_at
        if elapsed < LOOK_EVERY_S or not self.waiting:
            return 0
        rate = (self.n_moved - self.moved_then) / elapsed / self.n_streams
        self.looked_at, self.moved_then = now, self.n_moved
        self.is_fast = rate > SLOW_BYTES_PER_S
        if self.is_fast and saturated:
            return 0
        return max(0, min(2 * self.n_streams, limit - self.n_streams, len(self.waiting)))


def name_of(what: Descriptor) -> str:
    """What to call a blob in front of people: its file, its role, or its digest."""
    if DIRECTORIES in what.annotations:
        return "empty directories"
    if what.media_type in (CONFIG_TYPE, IMAGE_CONFIG_TYPE):
        return "configuration"
    return what.annotations.get(FILEPATH) or what.annotations.get(TITLE) or short(what.digest)
