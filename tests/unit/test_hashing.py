"""Many digests of one file in one pass: each as hashlib has it, and every byte read once."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import IntegrityError
from ocimodel.store.growing import Stretch
from ocimodel.store.hashing import StretchHasher, hash_stretches
from ocimodel.store.streams import BUFFER_BYTES
from tests.artifacts import random_bytes

MIB = 1 << 20
SMALL = random_bytes(3000, 1)
# above what is hashed in two threads, and no multiple of a buffer
BIG = random_bytes(9 * MIB + 77, 2)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    fds: list[int] = []

    def open_with(content: bytes) -> int:
        path = tmp_path / f"f{len(fds)}"
        path.write_bytes(content)
        fds.append(os.open(path, os.O_RDONLY))
        return fds[-1]

    yield open_with
    for fd in fds:
        os.close(fd)


def expected(content: bytes, stretches: list[Stretch]) -> dict[Stretch, bytes]:
    return {(a, n): hashlib.sha256(content[a : a + n]).digest() for a, n in stretches}


def stretches_of(size: int) -> st.SearchStrategy[list[Stretch]]:
    starts = st.integers(0, size)
    one = starts.flatmap(lambda start: st.tuples(st.just(start), st.integers(0, size - start)))
    return st.lists(one, max_size=12)


@given(stretches_of(len(SMALL)), stretches_of(len(SMALL)), st.integers(1, 700))
def test_any_stretches_of_a_stream(outer: list[Stretch], inner: list[Stretch], step: int) -> None:
    """Overlapping, nested, equal and empty ones, fed in steps of any size."""
    hasher = StretchHasher([*outer, *inner])
    for position in range(0, len(SMALL), step):
        hasher.update(memoryview(SMALL[position : position + step]))
    assert hasher.finish() == expected(SMALL, [*outer, *inner])


@given(stretches_of(len(SMALL)), stretches_of(len(SMALL)))
def test_any_stretches_of_a_small_file(outer: list[Stretch], inner: list[Stretch]) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(SMALL)
        file.flush()
        found = hash_stretches(file.fileno(), outer, inner, lambda _: None)
    assert found == expected(SMALL, [*outer, *inner])


def test_many_stretches_of_a_big_file(opened: Callable[[bytes], int]) -> None:
    """In two threads: borders at, beside and across those of the buffers."""
    size = len(BIG)
    outer = [(0, size), (0, BUFFER_BYTES), (BUFFER_BYTES, BUFFER_BYTES), (size, 0)]
    inner = [(n, 5 * MIB) for n in range(0, 4 * MIB, MIB // 2 + 1)]
    inner += [(BUFFER_BYTES - 1, 2), (0, size), (size - 1, 1), (7, 0)]
    threads = threading.active_count()
    found = hash_stretches(opened(BIG), outer, inner, lambda _: None)
    assert found == expected(BIG, [*outer, *inner])
    assert threading.active_count() == threads


@pytest.mark.parametrize("content", [SMALL, BIG])
def test_every_byte_is_read_once(
    opened: Callable[[bytes], int], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = opened(content)
    read = os.preadv
    n_bytes: list[int] = []

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        n_bytes.append(read(fd, buffers, offset))
        return n_bytes[-1]

    monkeypatch.setattr(os, "preadv", counted)
    advanced: list[int] = []
    half = len(content) // 2
    hash_stretches(fd, [(0, len(content))], [(0, half), (half, 100)], advanced.append)
    assert sum(n_bytes) == len(content)
    assert sum(advanced) == len(content)
    # and no more than is asked for
    n_bytes.clear()
    hash_stretches(fd, [(0, 10)], [(5, len(content) - 10)], advanced.append)
    assert sum(n_bytes) == len(content) - 5


@pytest.mark.parametrize("content", [SMALL, BIG])
@pytest.mark.parametrize("beyond", [1, MIB])
def test_a_file_that_is_shorter_is_refused(
    opened: Callable[[bytes], int], content: bytes, beyond: int
) -> None:
    size = len(content)
    fd = opened(content)
    with pytest.raises(IntegrityError, match=f"ends at byte {size}"):
        hash_stretches(fd, [(0, size + beyond)], [(0, size)], lambda _: None)
    with pytest.raises(IntegrityError, match=f"ends at byte {size}"):
        hash_stretches(fd, [(0, size)], [(size + beyond, 1)], lambda _: None)
    with pytest.raises(IntegrityError):
        hash_stretches(fd, [(size + beyond, 0)], [], lambda _: None)


def test_nothing_to_hash(opened: Callable[[bytes], int]) -> None:
    empty = hashlib.sha256().digest()
    assert hash_stretches(opened(b""), [(0, 0)], [(0, 0)], lambda _: None) == {(0, 0): empty}
    assert hash_stretches(opened(SMALL), [], [], lambda _: None) == {}


def test_an_interruption_ends_the_other_thread_too(opened: Callable[[bytes], int]) -> None:
    """What the observer raises comes out, and the buffers are free for the next task."""
    threads = threading.active_count()

    def advance(n_bytes: int) -> None:
        raise KeyboardInterrupt

    fd = opened(BIG)
    with pytest.raises(KeyboardInterrupt):
        hash_stretches(fd, [(0, len(BIG))], [(0, MIB)], advance)
    assert threading.active_count() == threads
    found = hash_stretches(fd, [(0, len(BIG))], [(0, MIB)], lambda _: None)
    assert found == expected(BIG, [(0, len(BIG)), (0, MIB)])
