"""Threads that fetch in the background: how many, in which order, and their end."""

from __future__ import annotations

import threading
from functools import partial
from queue import Queue

import pytest

from ocimodel.lazy.pool import FIRST_STREAMS, LOOK_EVERY_S, Pool
from ocimodel.store.copy import SLOW_BYTES_PER_S

FEW = FIRST_STREAMS


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Blocker:
    """Tasks that hold their threads until the end of the test."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)

    def submit(self, n: int) -> None:
        for _ in range(n):
            self.pool.submit(self._hold)

    def wait_begun(self, n: int) -> None:
        for _ in range(n):
            assert self.begun.acquire(timeout=30)

    def _hold(self) -> None:
        self.begun.release()
        assert self.gate.wait(30)


def test_tasks_run_in_their_order_and_urgent_ones_first() -> None:
    pool = Pool(1)
    blocker = Blocker(pool)
    blocker.submit(1)
    blocker.wait_begun(1)
    seen: list[str] = []
    done = threading.Event()
    for name in ("1", "2", "3"):
        pool.submit(partial(seen.append, name))
    for name in ("urgent 1", "urgent 2"):
        pool.submit(partial(seen.append, name), is_urgent=True)
    pool.submit(done.set)
    blocker.gate.set()
    assert done.wait(30)
    assert seen == ["urgent 1", "urgent 2", "1", "2", "3"]


def test_slow_streams_become_more() -> None:
    clock = Clock()
    pool = Pool(FEW * 4, clock)
    blocker = Blocker(pool)
    blocker.submit(FEW * 8)
    blocker.wait_begun(FEW)
    pool.advance(1)
    clock.now += LOOK_EVERY_S / 2
    pool.advance(1)
    assert pool.n_streams == FEW
    for n_streams in (FEW * 2, FEW * 4, FEW * 4):
        clock.now += 2 * LOOK_EVERY_S
        pool.advance(n_streams * 1000)
        assert pool.n_streams == n_streams
    # and there really is a thread for each
    blocker.wait_begun(FEW * 3)
    blocker.gate.set()


def test_more_streams_that_bring_nothing_are_the_last() -> None:
    clock = Clock()
    pool = Pool(FEW * 16, clock)
    blocker = Blocker(pool)
    blocker.submit(FEW * 16)
    blocker.wait_begun(FEW)
    pool.advance(1)
    for _ in range(4):
        clock.now += 2 * LOOK_EVERY_S
        pool.advance(1000)
    assert pool.n_streams == FEW * 2
    blocker.gate.set()


def test_fast_streams_stay_few() -> None:
    clock = Clock()
    pool = Pool(16, clock)
    blocker = Blocker(pool)
    blocker.submit(FEW * 8)
    blocker.wait_begun(FEW)
    pool.advance(1)
    for _ in range(5):
        clock.now += 2 * LOOK_EVERY_S
        pool.advance(int(3 * LOOK_EVERY_S * SLOW_BYTES_PER_S * FEW))
        assert pool.n_streams == FEW
    blocker.gate.set()


def test_a_pause_is_no_slow_stream() -> None:
    clock = Clock()
    pool = Pool(16, clock)
    first = Blocker(pool)
    first.submit(1)
    first.wait_begun(1)
    pool.advance(1)
    first.gate.set()
    while pool._n_idle != pool._n_threads:
        pass
    clock.now += 1000
    second = Blocker(pool)
    second.submit(1)
    second.wait_begun(1)
    pool.advance(1 << 20)
    assert pool.n_streams == FEW
    second.gate.set()


def test_after_close_tasks_still_run_and_threads_end() -> None:
    pool = Pool(1)
    blocker = Blocker(pool)
    blocker.submit(1)
    blocker.wait_begun(1)
    left = threading.Event()
    pool.submit(left.set)
    pool.close()
    blocker.gate.set()
    assert left.wait(30)
    late: list[str] = []
    pool.submit(partial(late.append, threading.current_thread().name))
    assert late == [threading.current_thread().name]
    while pool._n_threads:
        pass
    with pytest.raises(ValueError, match="closed"):
        pool.check_open()


def test_threads_keep_no_process_alive() -> None:
    pool = Pool(1)
    threads: Queue[threading.Thread] = Queue()
    pool.submit(lambda: threads.put(threading.current_thread()))
    assert threads.get(timeout=30).daemon
    pool.close()
