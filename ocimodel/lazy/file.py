"""A file of an artifact, in one blob or in several, as something to read from and to seek in."""

from __future__ import annotations

import errno
import io
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from ocimodel.lazy.blob import Blob
from ocimodel.lazy.pool import Pool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# what one request fetches, while several share the work
STRETCH_BYTES: Final = 16 << 20
# who reads on from where they were gets this much fetched ahead
AHEAD_BYTES: Final = 64 << 20
Note = Callable[[str, int, int], None]


class LazyFile:
    """`path`: in the artifact. Thread-safe. What it gives is verified; see Blob for its errors."""

    def __init__(
        self,
        path: str,
        blobs: Sequence[Blob],
        pool: Pool,
        note: Note = lambda path, start, stop: None,
    ) -> None:
        """`note`: told of what is read, for a profile."""
        self.path = path
        self._note = note
        self._blobs = blobs
        self._pool = pool
        self._bases = [0]
        for blob in blobs:
            self._bases.append(self._bases[-1] + blob.size)
        self.size = self._bases[-1]

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` from byte `start`; now, by requests that wait for nothing else."""
        self._pool.check_open()
        self._note(self.path, start, start + len(out))
        for blob, at, begin, end in self._parts(start, start + len(out)):
            blob.read_into(at, out[begin - start : end - start])

    def stretches(
        self, start: int, stop: int, n_bytes: int = STRETCH_BYTES
    ) -> list[tuple[int, int]]:
        """[`start`, `stop`) in pieces that are best fetched in one go each."""
        found = []
        for blob, at, begin, end in self._parts(start, stop):
            found += [
                (begin - at + low, begin - at + high)
                for low, high in blob.stretches(at, at + end - begin, n_bytes)
            ]
        return found

    def load(self, start: int, stop: int, out: memoryview | None = None) -> None:
        """Fetch one of the `stretches`: into `out`, or only to where later reads find it."""
        self._pool.check_open()
        for blob, at, begin, end in self._parts(start, stop):
            part = None if out is None else out[begin - start : end - start]
            blob.load(at, part, at + end - begin, self._pool.advance)

    def has(self, start: int, stop: int) -> bool:
        """Whether all of it is on disk already."""
        return all(
            blob.has(at, at + end - begin) for blob, at, begin, end in self._parts(start, stop)
        )

    def publish(self) -> bool:
        """Whether each blob of it is whole, and among the finished ones of the cache."""
        # every one, also behind one that is not
        return sum(blob.publish() for blob in self._blobs) == len(self._blobs)

    def fill(self, start: int, out: memoryview) -> None:
        """Fill `out` from byte `start`, over as many connections as help."""
        self._note(self.path, start, start + len(out))
        filling = _Filling()
        stretches = self.stretches(start, start + len(out))
        for begin, end in stretches[1:]:
            part = out[begin - start : end - start]
            filling.add(partial(self.load, begin, end, part), self._pool)
        if stretches:
            begin, end = stretches[0]
            filling.run(partial(self.load, begin, end, out[begin - start : end - start]))
        filling.wait()

    def _parts(self, start: int, stop: int) -> list[tuple[Blob, int, int, int]]:
        """(blob, where in it, start and stop in the file) of each blob with a part of the range."""
        found = []
        while start < stop:
            i = bisect_right(self._bases, start) - 1
            end = min(stop, self._bases[i + 1])
            found.append((self._blobs[i], start - self._bases[i], start, end))
            start = end
        return found


class _Filling:
    """Several loads, of which the first error counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_left = 0
        self._error: Exception | None = None

    def add(self, load: Callable[[], None], pool: Pool) -> None:
        with self._changed:
            self._n_left += 1
        pool.submit(partial(self._finish, load), is_urgent=True)

    def run(self, load: Callable[[], None]) -> None:
        with self._changed:
            self._n_left += 1
        self._finish(load)

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._n_left == 0)
            if self._error:
                raise self._error

    def _finish(self, load: Callable[[], None]) -> None:
        error: Exception | None = None
        try:
            if self._error is None:
                load()
        except Exception as raised:  # noqa: BLE001 - it is raised where somebody waits
            error = raised
        with self._changed:
            self._error = self._error or error
            self._n_left -= 1
            self._changed.notify_all()


class FileReader(io.RawIOBase):
    """A LazyFile as Python's binary files are. One position, so for one thread.

    `ahead`: up to so many bytes are fetched before they are asked for.
    """

    def __init__(self, file: LazyFile, pool: Pool, ahead: int = AHEAD_BYTES) -> None:
        self.name = file.path
        self._file = file
        self._pool = pool
        self._ahead = ahead
        self._position = 0
        self._is_straight = True
        self._ahead_to = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}
        if whence not in base or base[whence] + offset < 0:
            # as the kernel has it: zipfile tries whether a file is long enough
            raise OSError(errno.EINVAL, f"cannot seek to {offset} from {whence}")
        moved = base[whence] + offset
        self._is_straight = moved == self._position
        self._position = moved
        return moved

    def tell(self) -> int:
        self._check_open()
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._check_open()
        with memoryview(buffer).cast("B") as view:
            n = max(0, min(len(view), self._file.size - self._position))
            if n > STRETCH_BYTES:
                self._file.fill(self._position, view[:n])
            else:
                self._fetch_ahead()
                self._file.read_into(self._position, view[:n])
        self._position += n
        self._is_straight = True
        return n

    def readall(self) -> bytes:
        data = bytearray(max(0, self._file.size - self._position))
        self.readinto(data)
        return bytes(data)

    def _fetch_ahead(self) -> None:
        """Who has read on for a while will go on doing so."""
        if not self._is_straight or self._position == 0:
            self._ahead_to = 0
            return
        stop = min(self._position + self._ahead, self._file.size)
        if stop - self._ahead_to < STRETCH_BYTES and stop < self._file.size:
            return
        begin = max(self._ahead_to, self._position)
        for low, high in self._file.stretches(begin, stop) if begin < stop else ():
            self._pool.submit(partial(_quietly, self._file, low, high))
        self._ahead_to = max(self._ahead_to, stop)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def _quietly(file: LazyFile, start: int, stop: int) -> None:
    """Ahead of who reads: an error is theirs, when they get there and it is still one."""
    with suppress(Exception):
        file.load(start, stop)
