"""A few threads over tasks that beget tasks: blobs open, big blobs fall into parts.

concurrent.futures will not do: its threads are joined at exit, so that Ctrl-C would wait for a
silent socket; and parts must go before further blobs, so that what was begun gets finished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

Task = Callable[[], None]


class Workers:
    """Run `tasks` with at most `n_threads` threads, until all are done or one has failed.

    Tasks added by `urgent` are taken before the initial ones. The first error ends the run: no
    further task starts, and `run` raises it once the running ones have ended. They can look at
    `stopping` to end sooner.
    """

    def __init__(self, tasks: Iterable[Task], n_threads: int) -> None:
        self._waiting = deque(tasks)
        self._urgent: deque[Task] = deque()
        self._n_threads = max(1, n_threads)
        self._changed = threading.Condition()
        self._running = 0
        self._error: BaseException | None = None
        self.stopping = False

    def urgent(self, tasks: Iterable[Task]) -> None:
        """Add tasks; only from within a running task."""
        with self._changed:
            self._urgent.extend(tasks)
            self._changed.notify_all()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._work, name=f"ocimodel-{i}", daemon=True)
            for i in range(self._n_threads)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            # an interrupt lands here: let the threads end at their next step
            self._stop(None)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - handed to run()
                self._stop(error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _next(self) -> Task | None:
        with self._changed:
            while True:
                if self.stopping:
                    return None
                queue = self._urgent or self._waiting
                if queue:
                    self._running += 1
                    return queue.popleft()
                if not self._running:
                    return None
                self._changed.wait()

    def _stop(self, error: BaseException | None) -> None:
        with self._changed:
            self.stopping = True
            self._error = self._error or error
            self._changed.notify_all()
