"""A blob on its way into a file: parts in any order, hashed as they come, resumable, atomic.

Beside the growing file lies a journal with a line `start length` for each stretch that is
written. After a kill both are there, and the next attempt fetches what the journal lacks. The
journal is only a hint: the digest over the whole file decides, so that a lying one costs time and
never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from threading import Event

from ocimodel.errors import IntegrityError, TargetError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.frontier import Frontier
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
    """An `Ingest` into `folder`/<hex>; `deliver` takes the verified, synced file's path.

    The first range is asked for at once, since the answer tells whether the source serves ranges.
    Raises TargetError when the disk is full or read-only.
    """

    def __init__(
        self,
        folder: Path,
        what: Descriptor,
        source: Source,
        deliver: Callable[[Path], None],
    ) -> None:
        self._what = what
        self._source = source
        self._deliver = deliver
        self._path = folder / what.digest.partition(":")[2]
        self._journal = self._path.with_suffix(".ranges")
        self._fd = _open_locked(self._path)
        try:
            n_present = os.fstat(self._fd).st_size
            if n_present > what.size:
                # left by a manifest that gave this digest another size
                self._resize()
            done = _read_journal(self._journal, n_present, what.size)
            self.resumed = bool(done)
            self._hash = Frontier(self._fd, what, done)
            self.parts: Sequence[tuple[int, int]] = _split(_missing(done, what.size))
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
                self._forget()
            elif len(self.parts) > 1:
                # room for the parts that will be written ahead
                self._resize()
        except BaseException:
            reader.close()
            raise
        return reader

    def _resize(self) -> None:
        try:
            os.ftruncate(self._fd, self._what.size)
        except OSError as error:
            raise target_error(error, self._path) from error

    def _forget(self) -> None:
        self._hash.stop()
        self.resumed = False
        self._journal.unlink(missing_ok=True)
        self._hash = Frontier(self._fd, self._what, [])

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
        _write(self._fd, buffer[:n], position, self._path)
        return n

    def _noted(self, noted: int, position: int, end: int) -> int:
        """Up to where the journal goes; a line is added for every JOURNAL_BYTES or so."""
        if position - noted < JOURNAL_BYTES and position != end:
            return noted
        self._note(noted, position - noted)
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

    def _note(self, start: int, length: int) -> None:
        # O_APPEND: lines of several threads do not mix
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # it is a hint: where it cannot be written, a rerun has more to fetch
        with contextlib.suppress(OSError):
            fd = os.open(self._journal, flags, 0o644)
            try:
                os.write(fd, f"{start} {length}\n".encode())
            finally:
                os.close(fd)

    def commit(self) -> None:
        try:
            check_digest(self._hash.finish(), self._what)
            _sync(self._fd, self._path)
        except IntegrityError:
            self.abandon()
            raise
        self._deliver(self._path)
        self._journal.unlink(missing_ok=True)
        self.close()

    def abandon(self) -> None:
        """End an attempt that turned out not to be needed, and leave nothing of it."""
        self._path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        frontier = getattr(self, "_hash", None)
        if frontier is not None:
            frontier.stop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        first = getattr(self, "_first", None)
        if first is not None:
            first.close()


def _open_locked(path: Path) -> int:
    """Open the growing file for this process alone, waiting for another one to be done with it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise target_error(error, path) from error
        with contextlib.suppress(OSError):
            # a file system without locks: two writers then waste time, and the digest decides
            fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False)):
                return fd
        # the other one has moved it into place: start over
        os.close(fd)


def _read_journal(path: Path, n_present: int, size: int) -> list[tuple[int, int]]:
    """The finished stretches, in order, without overlaps; nothing where the journal is odd."""
    try:
        lines = path.read_text("ascii").splitlines()
        stretches = sorted((int(a), int(b)) for a, b in (line.split() for line in lines))
    except (OSError, ValueError):
        return []
    done: list[tuple[int, int]] = []
    position = 0
    for start, length in stretches:
        if start < position or length <= 0 or start + length > min(n_present, size):
            return []
        done.append((start, length))
        position = start + length
    return done


def _missing(done: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    gaps, position = [], 0
    for start, length in [*done, (size, 0)]:
        if start > position:
            gaps.append((position, start - position))
        position = start + length
    return gaps


def _split(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
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


def _write(fd: int, data: memoryview, position: int, path: Path) -> None:
    try:
        while data:
            n = os.pwrite(fd, data, position)
            data, position = data[n:], position + n
    except OSError as error:
        raise target_error(error, path) from error


def _sync(fd: int, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise target_error(error, path) from error


def target_error(error: OSError, path: Path) -> TargetError:
    """Say which place cannot be written to, and what to do about it."""
    hints = {
        errno.ENOSPC: "free some space, or choose another directory; the next run resumes",
        errno.EDQUOT: "the quota is used up: free some space; the next run resumes",
        errno.EROFS: "the file system is read-only: choose another directory",
        errno.EACCES: "choose a directory that this user may write to",
        errno.EPERM: "choose a directory that this user may write to",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return TargetError(f"cannot write {path}: {reason}", hint=hints.get(error.errno or 0, ""))
