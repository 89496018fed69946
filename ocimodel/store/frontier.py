"""The digest of a file whose parts are written in any order, known when the last one is there."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import finish, hasher_for
from ocimodel.store.streams import aligned_buffer

_READ_BACK_BYTES = 1 << 20
# pieces read back for each one written, so that no writer is held up for long
_STEPS = 4

_Piece = tuple[int, memoryview, threading.Event]


class Frontier:
    """Hashes a growing file in order.

    What comes next in order is hashed from the writer's buffer: in the writer's thread, while the
    processor's cache still holds it, or `beside` it in a thread of the file's own, where a core is
    idle (bench/README.md has figures). What came early is read back from the page cache once its
    predecessors are there. `done`: stretches (start, length) that are in the file already.
    `base`: where in the file the blob begins; all other positions count from there.
    """

    def __init__(
        self, fd: int, what: Descriptor, done: list[tuple[int, int]], base: int = 0
    ) -> None:
        self._fd = fd
        self._base = base
        self._what = what
        self._hasher = hasher_for(what.digest)
        self._hashed = 0
        self._hashing = threading.Lock()
        # for what is read back, by whoever holds that lock
        self._spare: memoryview | None = None
        # start → end of stretches that are written and not hashed
        self._ends = {start: start + length for start, length in done}
        self._ends_lock = threading.Lock()
        self._queue: SimpleQueue[_Piece | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def written(self, position: int, data: memoryview) -> None:
        """`data` is in the file at `position` now; hash what can be, in this thread."""
        if not self._hashing.acquire(blocking=False):
            self._remember(position, len(data))
            return
        try:
            self._take(position, data)
        finally:
            self._hashing.release()

    def written_beside(self, position: int, data: memoryview) -> threading.Event:
        """The same in another thread; `data` must stay as it is until the event is set."""
        with self._ends_lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="ocimodel-hash", daemon=True
                )
                self._thread.start()
        free = threading.Event()
        self._queue.put((position, data, free))
        return free

    def stop(self) -> None:
        """End the thread, after what was handed to it."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            position, data, free = piece
            try:
                with self._hashing:
                    self._take(position, data)
            except (OSError, IntegrityError) as error:
                self._error = error
            finally:
                free.set()

    def _take(self, position: int, data: memoryview) -> None:
        if position == self._hashed:
            self._hasher.update(data)
            self._hashed += len(data)
        else:
            self._remember(position, len(data))
        for _ in range(_STEPS):
            if not self._read_back():
                break

    def finish(self) -> str:
        """The digest; IntegrityError if not all of the file was written."""
        self.stop()
        if self._error:
            raise self._error
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
        if self._spare is None:
            self._spare = aligned_buffer(_READ_BACK_BYTES)
        buffer = self._spare[: end - self._hashed]
        n = os.preadv(self._fd, [buffer], self._base + self._hashed)
        if n == 0:
            raise IntegrityError(f"{self._what.digest}: the file was cut while it was written")
        self._hasher.update(buffer[:n])
        self._hashed += n
        if self._hashed < end:
            self._remember(self._hashed, end - self._hashed)
        return True
