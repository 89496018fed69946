"""Many digests of one file in one pass: of its segments, of their chunks, of small tensors."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from itertools import cycle
from queue import SimpleQueue

from ocimodel.errors import IntegrityError
from ocimodel.store.growing import Stretch
from ocimodel.store.protocol import Advance
from ocimodel.store.streams import BUFFER_BYTES, thread_buffers

Digests = dict[Stretch, bytes]
_N_BUFFERS = 3
# below this a second thread costs more than it brings
_BESIDE_BYTES = 8 << 20


class StretchHasher:
    """The sha256 of each of `stretches` of a stream that is fed in order from `position` 0."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        # the next one last, to be popped
        self._waiting = sorted(set(stretches), reverse=True)
        self._open: list[tuple[Stretch, hashlib._Hash]] = []
        self._position = 0
        self.digests: Digests = {}

    def update(self, data: memoryview) -> None:
        begin, end = self._position, self._position + len(data)
        self._position = end
        while self._waiting and self._waiting[-1][0] < end:
            self._open.append((self._waiting.pop(), hashlib.sha256()))
        still_open = []
        for stretch, hasher in self._open:
            start, length = stretch
            hasher.update(data[max(0, start - begin) : start + length - begin])
            if start + length <= end:
                self.digests[stretch] = hasher.digest()
            else:
                still_open.append((stretch, hasher))
        self._open = still_open

    def finish(self) -> Digests:
        """All of them; IntegrityError when the stream ended too early."""
        for stretch in [s for s in self._waiting if s == (self._position, 0)]:
            self._waiting.remove(stretch)
            self.digests[stretch] = hashlib.sha256().digest()
        if self._open or self._waiting:
            raise IntegrityError(
                f"the file changed while it was read: it ends at byte {self._position}",
                hint="wait for its writer to finish, then try again",
            )
        return self.digests


def hash_stretches(
    fd: int, outer: Collection[Stretch], inner: Collection[Stretch], advance: Advance
) -> Mapping[Stretch, bytes]:
    """sha256 digests of stretches (start, length) of an open file, all read once, in order.

    `outer` and `inner` are hashed side by side, in two threads where there is much to do: blobs,
    and what lies in them. IntegrityError where the file is shorter than they say.
    """
    sides = [StretchHasher(side) for side in (outer, set(inner) - set(outer)) if side]
    end = max((start + length for start, length in (*outer, *inner)), default=0)
    if len(sides) < 2 or end < _BESIDE_BYTES:
        _feed(fd, end, sides, advance)
    else:
        _feed_two(fd, end, sides, advance)
    return {k: v for side in sides for k, v in side.finish().items()}


def _feed(fd: int, end: int, sides: Iterable[StretchHasher], advance: Advance) -> None:
    (buffer,) = thread_buffers(1)
    position = 0
    while n := os.preadv(fd, [buffer[: end - position]], position):
        for side in sides:
            side.update(buffer[:n])
        position += n
        advance(n)


def _feed_two(fd: int, end: int, sides: list[StretchHasher], advance: Advance) -> None:
    """One side here, the other in a thread that may lag by a few buffers."""
    here, there = sides
    queue: SimpleQueue[memoryview | None] = SimpleQueue()
    free = threading.Semaphore(_N_BUFFERS)

    def work() -> None:
        while (data := queue.get()) is not None:
            there.update(data)
            free.release()

    thread = threading.Thread(target=work, name="ocimodel-chunks", daemon=True)
    thread.start()
    try:
        position = 0
        for buffer in cycle(thread_buffers(_N_BUFFERS)):
            free.acquire()
            n = os.preadv(fd, [buffer[: min(BUFFER_BYTES, end - position)]], position)
            if not n:
                return
            queue.put(buffer[:n])
            here.update(buffer[:n])
            position += n
            advance(n)
    finally:
        # the buffers are this thread's, and its next task may write to them
        queue.put(None)
        thread.join()
