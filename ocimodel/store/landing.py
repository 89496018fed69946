"""A blob on its way into a file: parts in any order, hashed as they come, resumable."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from threading import Event

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.frontier import Frontier
from ocimodel.store.growing import GrowingFile, Stretch
from ocimodel.store.protocol import Advance, Reader, Source
from ocimodel.store.streams import BUFFER_BYTES, check_digest, thread_buffer, thread_buffers

# stretches between two lines of the journal: what a kill can cost, per stream
JOURNAL_BYTES = 16 << 20
# big enough that a request's latency vanishes, small enough that streams finish together
PART_BYTES = 16 << 20


class _Receiving:
    """How many streams this process receives right now."""

    def __init__(self) -> None:
        self._n = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Callable[[], int]:
        with self._lock:
            self._n += 1
        return lambda: self._n

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n -= 1


_receiving = _Receiving()
_N_CORES = os.cpu_count() or 1
# of a stream whose hashing happens beside it: receiving comes in bursts, hashing does not
_N_BUFFERS = 4


class FileLanding:
    """An `Ingest` into a growing file; `deliver` is called once the blob is verified.

    `base`: where the blob begins in the file, if it is one of several; None for the whole file,
    which then is this landing's own. The first range is asked for at once, since the answer tells
    whether the source serves ranges. Raises TargetError when the disk is full or read-only.
    """

    def __init__(
        self,
        file: GrowingFile,
        what: Descriptor,
        source: Source,
        deliver: Callable[[], None],
        base: int | None = None,
    ) -> None:
        self._file = file
        self._what = what
        self._source = source
        self._deliver = deliver
        self._is_whole = base is None
        self._base = base or 0
        try:
            done = [(at - self._base, n) for at, n in file.done(self._base, what.size)]
            self.resumed = bool(done)
            self._hash = Frontier(file.fd, what, done, self._base)
            self.parts: Sequence[Stretch] = _split(_missing(done, what.size))
            self._first = self._probe()
        except BaseException:
            self.close()
            raise

    def _probe(self) -> Reader | None:
        """Open the first part; if all of the blob comes instead, let that be the only part."""
        if not self.parts:
            return None
        first = self.parts[0]
        reader = self._source.open(self._what, *first)
        try:
            if (reader.start, reader.length) != first:
                if reader.start + reader.length > self._what.size:
                    raise IntegrityError(
                        f"{self._what.digest} comes with {reader.start + reader.length} bytes, "
                        f"not {self._what.size}"
                    )
                self.parts = [(reader.start, reader.length)]
                self._start_over()
            elif len(self.parts) > 1 or not self._is_whole:
                # room for the parts that will be written ahead
                self._file.resize()
        except BaseException:
            reader.close()
            raise
        return reader

    def _start_over(self) -> None:
        self._hash.stop()
        self.resumed = False
        self._file.forget(self._base, self._what.size)
        self._hash = Frontier(self._file.fd, self._what, [], self._base)

    def transfer(self, start: int, length: int, advance: Advance) -> None:
        position, end = start, start + length
        with _receiving as n_streams:
            while position < end:
                # the first reader was opened before it was known how much would be asked of it
                with self._reader(position, end - position) as reader:
                    stop = min(end, reader.start + reader.length)
                    if n_streams() < _N_CORES and stop - position > _N_BUFFERS * BUFFER_BYTES:
                        self._receive_beside(reader, position, stop, advance)
                    else:
                        self._receive(reader, position, stop, advance)
                    position = stop

    def _receive(self, reader: Reader, start: int, end: int, advance: Advance) -> None:
        """Receive, write and hash in this thread: the cheapest way, while all cores are busy."""
        position = noted = start
        buffer = thread_buffer()
        while position < end:
            n = self._fill(reader, buffer[: end - position], position)
            self._hash.written(position, buffer[:n])
            position += n
            noted = self._noted(noted, position, end)
            advance(n)

    def _receive_beside(self, reader: Reader, start: int, end: int, advance: Advance) -> None:
        """Fill one buffer while another thread hashes the others."""
        position = noted = start
        hashed: deque[Event] = deque()
        try:
            for buffer in cycle(thread_buffers(_N_BUFFERS)):
                if position == end:
                    return
                if len(hashed) == _N_BUFFERS:
                    hashed.popleft().wait()
                n = self._fill(reader, buffer[: end - position], position)
                hashed.append(self._hash.written_beside(position, buffer[:n]))
                position += n
                noted = self._noted(noted, position, end)
                advance(n)
        finally:
            # the buffers are this thread's, and its next task may write to them
            for event in hashed:
                event.wait()

    def _fill(self, reader: Reader, buffer: memoryview, position: int) -> int:
        n = reader.readinto(buffer)
        if n == 0:
            raise IntegrityError(
                f"{self._what.digest} ended at byte {position} of {self._what.size}"
            )
        self._file.write(buffer[:n], self._base + position)
        return n

    def _noted(self, noted: int, position: int, end: int) -> int:
        """Up to where the journal goes; a line is added for every JOURNAL_BYTES or so."""
        if position - noted < JOURNAL_BYTES and position != end:
            return noted
        self._file.note(self._base + noted, position - noted)
        return position

    def _reader(self, start: int, length: int) -> Reader:
        first = self._first
        if first is not None and first.start == start:
            # each start has one thread, so nobody else takes it
            self._first = None
            return first
        reader = self._source.open(self._what, start, length)
        # a cache in between may answer the odd range in full
        _skip(reader, start - reader.start)
        return reader

    def commit(self) -> None:
        try:
            check_digest(self._hash.finish(), self._what)
        except IntegrityError:
            self.abandon()
            raise
        self._deliver()
        self.close()

    def abandon(self) -> None:
        """End an attempt that turned out not to be needed, and leave nothing of it."""
        self._hash.stop()
        if self._is_whole:
            self._file.remove()
        else:
            self._file.forget(self._base, self._what.size)
        self.close()

    def close(self) -> None:
        frontier = getattr(self, "_hash", None)
        if frontier is not None:
            frontier.stop()
        if self._is_whole:
            self._file.close()
        first = getattr(self, "_first", None)
        if first is not None:
            first.close()


def _missing(done: list[Stretch], size: int) -> list[Stretch]:
    gaps, position = [], 0
    for start, length in [*done, (size, 0)]:
        if start > position:
            gaps.append((position, start - position))
        position = start + length
    return gaps


def _split(gaps: list[Stretch]) -> list[Stretch]:
    return [
        (position, min(PART_BYTES, start + length - position))
        for start, length in gaps
        for position in range(start, start + length, PART_BYTES)
    ]


def _skip(reader: Reader, n_bytes: int) -> None:
    buffer = thread_buffer()
    while n_bytes > 0:
        n = reader.readinto(buffer[:n_bytes])
        if n == 0:
            raise IntegrityError("the answer ended before the range that was asked for")
        n_bytes -= n
