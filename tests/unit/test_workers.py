"""Threads over tasks: all run, the first error ends the run, and what was begun goes first."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from ocimodel.store.workers import Task, Workers


@pytest.mark.parametrize("n_threads", [0, 1, 2, 8])
def test_every_task_runs_once(n_threads: int) -> None:
    done: list[int] = []
    Workers([partial(done.append, i) for i in range(200)], n_threads).run()
    assert sorted(done) == list(range(200))


def test_nothing_to_do() -> None:
    workers = Workers([], 4)
    workers.run()
    assert workers.stopping


def test_tasks_beget_tasks() -> None:
    done: list[str] = []

    def parent(name: str, depth: int) -> None:
        done.append(name)
        if depth:
            workers.urgent(partial(parent, f"{name}.{i}", depth - 1) for i in range(3))

    workers = Workers([partial(parent, "a", 4), partial(parent, "b", 4)], 4)
    workers.run()
    assert len(done) == len(set(done)) == 2 * (1 + 3 + 9 + 27 + 81)


def test_what_was_begun_is_finished_first() -> None:
    order: list[str] = []

    def begin(name: str) -> None:
        order.append(name)
        workers.urgent(partial(order.append, f"{name}{i}") for i in (1, 2))

    workers = Workers([partial(begin, "a"), partial(begin, "b")], 1)
    workers.run()
    assert order == ["a", "a1", "a2", "b", "b1", "b2"]


def test_no_more_threads_than_asked_for_and_all_of_them() -> None:
    n_threads = 3
    barrier = threading.Barrier(n_threads, timeout=30)
    running = 0
    most = 0
    lock = threading.Lock()

    def task() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait()
        with lock:
            running -= 1

    Workers([task] * (n_threads * 5), n_threads).run()
    assert most == n_threads


def test_the_first_error_is_raised_and_ends_the_run() -> None:
    started: list[int] = []

    def task(i: int) -> None:
        started.append(i)
        if i == 3:
            raise LookupError("three")

    with pytest.raises(LookupError, match="three"):
        Workers([partial(task, i) for i in range(1000)], 1).run()
    assert started == [0, 1, 2, 3]


def test_running_tasks_end_before_the_error_is_raised() -> None:
    failed = threading.Event()
    ended: list[bool] = []
    both = threading.Barrier(2, timeout=30)

    def failing() -> None:
        both.wait()
        failed.set()
        raise LookupError

    def slow() -> None:
        both.wait()
        assert failed.wait(30)
        # a task can see that it may give up
        while not workers.stopping:
            pass
        ended.append(True)
        raise ValueError("a later error, which nobody wants to see")

    workers = Workers([failing, slow], 2)
    with pytest.raises(LookupError):
        workers.run()
    assert ended == [True]


def test_an_error_wakes_those_that_wait_for_work() -> None:
    def failing() -> None:
        raise LookupError

    tasks: list[Task] = [failing]
    with pytest.raises(LookupError):
        Workers(tasks, 8).run()
    # those of a Workers have numbers
    names = [t.name.removeprefix("ocimodel-") for t in threading.enumerate()]
    assert not [name for name in names if name.isdigit()]


def test_threads_do_not_hold_up_the_end_of_the_program() -> None:
    flags: list[bool] = []
    Workers([lambda: flags.append(threading.current_thread().daemon)], 1).run()
    assert flags == [True]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_task_is_passed_on(kind: type[BaseException]) -> None:
    def task() -> None:
        raise kind

    with pytest.raises(kind):
        Workers([task], 2).run()
