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

    `tasks` may be an iterator that waits until there is more to do. Tasks added by `urgent` are
    taken before it. The first error ends the run: no further task starts, and `run` raises it once
    the running ones have ended. They can look at `stopping` to end sooner.
    """

    def __init__(self, tasks: Iterable[Task], n_threads: int) -> None:
        self._tasks = iter(tasks)
        self._is_feeding = False
        self._is_fed = False
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
            with self._changed:
                # not join: one thread may wait for a task that nobody wants any more
                while not self._is_over():
                    self._changed.wait()
        finally:
            # an interrupt lands here: let the threads end at their next step
            self._stop(None)
        if self._error is not None:
            raise self._error

    def _is_over(self) -> bool:
        if self._running:
            return False
        return self.stopping or (self._is_fed and not self._urgent)

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
        while True:
            with self._changed:
                while not (self.stopping or self._urgent or self._may_feed()):
                    if self._is_fed and not self._running:
                        return None
                    self._changed.wait()
                if self.stopping:
                    return None
                if self._urgent:
                    self._running += 1
                    return self._urgent.popleft()
                self._is_feeding = True
            if task := self._feed():
                return task

    def _may_feed(self) -> bool:
        return not (self._is_fed or self._is_feeding)

    def _feed(self) -> Task | None:
        """Take one of the tasks; without the lock, since it may have to be waited for."""
        task, error = None, None
        try:
            task = next(self._tasks, None)
        except BaseException as raised:  # noqa: BLE001 - handed to run()
            error = raised
        with self._changed:
            self._is_feeding = False
            self._is_fed = task is None
            if self.stopping:
                task = None
            self._running += task is not None
            self._changed.notify_all()
        if error:
            self._stop(error)
        return task

    def _stop(self, error: BaseException | None) -> None:
        with self._changed:
            self.stopping = True
            self._error = self._error or error
            self._changed.notify_all()
