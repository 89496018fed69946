"""Threads that fetch in the background; as many as the network needs, no more than this machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ocimodel.store.copy import SLOW_BYTES_PER_S

FIRST_STREAMS: Final = 4
MAX_STREAMS: Final = 16
LOOK_EVERY_S: Final = 0.05
# as many streams again are worth keeping if all together are faster by this
_GAIN: Final = 1.15
Task = Callable[[], None]


class Pool:
    """Runs tasks in the order in which they were submitted, urgent ones first. Thread-safe.

    It begins with FIRST_STREAMS, which cost a fast network nothing. While each stream is slow, it
    is the network that limits it, and their number doubles, up to `limit`, as long as that brings
    more. A task reports the bytes that come in by `advance`, and keeps its errors
    to itself.
    """

    def __init__(
        self, limit: int = MAX_STREAMS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._urgent: deque[Task] = deque()
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._n_wanted = min(limit, FIRST_STREAMS)
        self._n_threads = 0
        self._n_idle = 0
        self._is_closed = False
        # None: no bytes since the threads had nothing to do
        self._looked_at: float | None = None
        self._n_bytes = 0
        self._seen_bytes = 0
        # of all streams together, in bytes a second, when there were last made more of them
        self._rate_before = 0.0

    def submit(self, task: Task, *, is_urgent: bool = False) -> None:
        """`is_urgent`: somebody waits for it, who did not say so before."""
        with self._changed:
            if not self._is_closed:
                (self._urgent if is_urgent else self._tasks).append(task)
                self._spawn()
                self._changed.notify()
                return
        task()

    def advance(self, n_bytes: int) -> None:
        """`n_bytes` came in over some stream: maybe there should be more of them."""
        with self._changed:
            self._n_bytes += n_bytes
            now = self._clock()
            n_busy = self._n_threads - self._n_idle
            if self._looked_at is None:
                # from the first bytes on, or the latency before them would look like a slow stream
                self._looked_at, self._seen_bytes = now, self._n_bytes
            if now - self._looked_at < LOOK_EVERY_S or not n_busy:
                return
            rate = (self._n_bytes - self._seen_bytes) / (now - self._looked_at)
            self._looked_at, self._seen_bytes = now, self._n_bytes
            if rate / n_busy < SLOW_BYTES_PER_S and rate > _GAIN * self._rate_before:
                self._rate_before = rate
                self._n_wanted = min(self._limit, 2 * self._n_wanted)
                self._spawn()

    def close(self) -> None:
        """No thread is kept. What has not begun runs all the same: it has to find out by itself.

        Threads end when nothing is left; none keeps the process alive.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def check_open(self) -> None:
        """ValueError after `close`."""
        if self._is_closed:
            raise ValueError("read of a closed model")

    @property
    def n_streams(self) -> int:
        return self._n_wanted

    def _spawn(self) -> None:
        """With the lock: one thread for each task that waits, as far as that is wanted."""
        n_waiting = len(self._urgent) + len(self._tasks)
        for _ in range(min(n_waiting - self._n_idle, self._n_wanted - self._n_threads)):
            self._n_threads += 1
            threading.Thread(target=self._work, name="ocimodel-fetch", daemon=True).start()

    def _work(self) -> None:
        while task := self._next():
            task()

    def _next(self) -> Task | None:
        """Waits for a task; None when there will be no more."""
        with self._changed:
            self._n_idle += 1
            if self._n_idle == self._n_threads and not (self._urgent or self._tasks):
                self._looked_at = None
            while not (self._urgent or self._tasks or self._is_closed):
                self._changed.wait()
            self._n_idle -= 1
            if self._urgent or self._tasks:
                return (self._urgent or self._tasks).popleft()
            self._n_threads -= 1
            return None
