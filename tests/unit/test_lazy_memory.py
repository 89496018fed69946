"""How much memory may be used, and what is kept in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ocimodel.lazy.memory import (
    MAX_WINDOW_BYTES,
    MIN_WINDOW_BYTES,
    ChunkMemory,
    memory_limit,
    window_bytes,
)
from tests.trees import write_tree

GIB = 1 << 30
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000"}, 1000),
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/\n", {"memory.max": "2000", "memory.high": "1500"}, 1500),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "3000"}, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "4000", "a/memory.max": "5000"}, 4000),
        ("0::/a\n", {"b/memory.max": "1"}, MACHINE),
        # as a container of its own name space, with the path of the host
        ("0::/kubepods/pod1/c\n", {"memory.max": "6000"}, 6000),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": "7000"}, 7000),
        (V1, {"memory/docker/memory.limit_in_bytes": "8000"}, 8000),
        (V1, {"memory/memory.limit_in_bytes": "9000"}, 9000),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("0::/a\n", {"a/memory.max": "nonsense"}, MACHINE),
        ("nonsense\n", {"memory.max": "1000"}, 1000),
        (None, {"memory.max": "1000"}, 1000),
        ("0::/../../other\n", {"memory.max": "1000"}, 1000),
    ],
)
def test_the_limit_of_the_control_group(
    tmp_path: Path, own: str | None, files: Mapping[str, str], expected: int
) -> None:
    root = write_tree(tmp_path / "cgroup", {n: f"{v}\n".encode() for n, v in files.items()})
    proc = tmp_path / "self"
    if own is not None:
        proc.write_text(own)
    assert memory_limit(root, proc) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, MIN_WINDOW_BYTES),
        (GIB // 4, MIN_WINDOW_BYTES),
        (4 * GIB, GIB // 2),
        (64 * GIB, MAX_WINDOW_BYTES),
    ],
)
def test_the_window_is_a_part_of_the_limit(limit: int, expected: int) -> None:
    assert window_bytes(limit) == expected


class Origin:
    """Gives the chunks, counts, and can be told to wait."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.asked: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_asked = threading.Event()

    def read(self, memory: ChunkMemory, i: int) -> bytes:
        return bytes(memory.read(("blob", i), lambda: self.fetch(i)))

    def read_into(self, memory: ChunkMemory, i: int) -> bytes:
        out = bytearray(self.length)
        memory.read_into(("blob", i), memoryview(out), lambda part: self.fill(i, part))
        return bytes(out)

    def fetch(self, i: int) -> bytes:
        self.asked.append(i)
        self.is_asked.set()
        assert self.gate.wait(30)
        return bytes([i]) * self.length

    def fill(self, i: int, out: memoryview) -> None:
        out[:] = self.fetch(i)


def test_what_was_used_last_stays() -> None:
    memory, origin = ChunkMemory(30), Origin()
    for i in (0, 1, 2, 0, 3, 0, 1):
        assert origin.read(memory, i) == bytes([i]) * 10
    # 3 pushed 1 out, not 0, which had been used since
    assert origin.asked == [0, 1, 2, 3, 1]


def test_what_is_over_the_limit_is_not_kept() -> None:
    memory, origin = ChunkMemory(9), Origin()
    assert origin.read(memory, 1) == origin.read(memory, 1) == b"\1" * 10
    assert origin.asked == [1, 1]


def test_what_goes_to_the_callers_memory_is_not_kept() -> None:
    memory, origin = ChunkMemory(100), Origin()
    origin.read_into(memory, 1)
    origin.read_into(memory, 1)
    assert origin.asked == [1, 1]
    origin.read(memory, 1)
    assert origin.read_into(memory, 1) == b"\1" * 10
    assert origin.asked == [1, 1, 1]


@pytest.mark.parametrize("first", ["read", "read_into"])
@pytest.mark.parametrize("others", ["read", "read_into"])
def test_of_several_readers_one_fetches(first: str, others: str) -> None:
    memory, origin = ChunkMemory(100), Origin()
    origin.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(getattr(origin, first), memory, 1)]
        assert origin.is_asked.wait(30)
        found += [pool.submit(getattr(origin, others), memory, 1) for _ in range(7)]
        while not memory._wanted:
            pass
        origin.gate.set()
        assert {f.result(30) for f in found} == {b"\1" * 10}
    # one who came after the first was done finds nothing kept, if nobody waited just then
    assert len(origin.asked) == 1


def test_an_error_is_that_of_its_reader_and_the_next_one_tries() -> None:
    memory, origin = ChunkMemory(100), Origin()

    def fail() -> bytes:
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            memory.read(("blob", 1), fail)
        with pytest.raises(RuntimeError):
            memory.read_into(("blob", 1), memoryview(bytearray(10)), lambda part: fail())
    assert origin.read(memory, 1) == b"\1" * 10


def test_many_threads_and_little_memory() -> None:
    memory, origin = ChunkMemory(35), Origin()
    with ThreadPoolExecutor(8) as pool:
        jobs = [(n * 7 % 11, (origin.read, origin.read_into)[n % 2]) for n in range(2000)]
        for i, data in pool.map(lambda job: (job[0], job[1](memory, job[0])), jobs):
            assert data == bytes([i]) * 10
