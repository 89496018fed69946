"""The digest of a file whose parts are written in any order, known when the last one is there."""

from __future__ import annotations

import os
import threading

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import finish, hasher_for

_READ_BACK_BYTES = 1 << 20
# pieces read back for each one written, so that no writer is held up for long
_STEPS = 4


class Frontier:
    """Hashes a growing file in order, in the threads that write it.

    What comes next in order is hashed from the writer's buffer, while the processor's cache still
    holds it: on the machines we measured, a thread of its own for hashing costs more than it saves
    (bench/README.md). What came early is read back from the page cache once its predecessors are
    there, by whoever is at it; the others write on. `done`: stretches (start, length) that are in
    the file already.
    """

    def __init__(self, fd: int, what: Descriptor, done: list[tuple[int, int]]) -> None:
        self._fd = fd
        self._what = what
        self._hasher = hasher_for(what.digest)
        self._hashed = 0
        self._hashing = threading.Lock()
        # start → end of stretches that are written and not hashed
        self._ends = {start: start + length for start, length in done}
        self._ends_lock = threading.Lock()

    def written(self, position: int, data: memoryview) -> None:
        """`data` is in the file at `position` now."""
        if not self._hashing.acquire(blocking=False):
            self._remember(position, len(data))
            return
        try:
            if position == self._hashed:
                self._hasher.update(data)
                self._hashed += len(data)
            else:
                self._remember(position, len(data))
            for _ in range(_STEPS):
                if not self._read_back():
                    break
        finally:
            self._hashing.release()

    def finish(self) -> str:
        """The digest; IntegrityError if not all of the file was written."""
        with self._hashing:
            while self._read_back():
                pass
            if self._hashed != self._what.size:
                raise IntegrityError(
                    f"{self._what.digest} has {self._hashed} bytes in order, not {self._what.size}"
                )
            return finish(self._hasher, self._what.digest)

    def _remember(self, position: int, n_bytes: int) -> None:
        with self._ends_lock:
            self._ends[position] = position + n_bytes

    def _read_back(self) -> bool:
        """Hash a piece of what is written and comes next; False if nothing does."""
        with self._ends_lock:
            end = self._ends.pop(self._hashed, None)
        if end is None:
            return False
        # not the thread's buffer: that one holds bytes on their way to the file
        buffer = memoryview(bytearray(min(_READ_BACK_BYTES, end - self._hashed)))
        n = os.preadv(self._fd, [buffer], self._hashed)
        if n == 0:
            raise IntegrityError(f"{self._what.digest}: the file was cut while it was written")
        self._hasher.update(buffer[:n])
        self._hashed += n
        if self._hashed < end:
            self._remember(self._hashed, end - self._hashed)
        return True
