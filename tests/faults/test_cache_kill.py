"""A cache that several processes fill, some of which are killed: what is read is always right."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocimodel.spec.chunkindex import Chunk
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from tests.artifacts import random_bytes
from tests.cached import blob, chunks_of
from tests.trees import MIB

N = 6
CONTENT = random_bytes(N * MIB, 81)
WHAT = blob(CONTENT)
CHUNKS = chunks_of(CONTENT, MIB)
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
# reads the chunks that standard input names, and tells of each before it is fetched and after
READER = """
import sys
from pathlib import Path
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from tests.faults.test_cache_kill import CHUNKS, CONTENT, MIB, WHAT
def fetch(chunk):
    i = chunk.start // MIB
    print("fetching", i, flush=True)
    # held until the test says so
    assert sys.stdin.readline() == "go\\n"
    return CONTENT[chunk.start : chunk.start + chunk.length]
with ChunkCache(Path(sys.argv[1]), Memo(None)) as cache, cache.open_blob(WHAT, CHUNKS) as it:
    print("open", flush=True)
    for i in map(int, sys.argv[2:]):
        assert it.read(i, fetch) == CONTENT[i * MIB : (i + 1) * MIB]
        print("read", i, flush=True)
    print("published" if it.publish() else "partial", flush=True)
    sys.stdin.readline()
"""


class Reader:
    """A process that reads chunks of the blob through the cache."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        assert self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(TIMEOUT_S) == -signal.SIGKILL


@contextmanager
def reader(cache: Path, *numbers: int) -> Iterator[Reader]:
    argv = [sys.executable, "-c", READER, str(cache), *map(str, numbers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Reader(process)
        finally:
            process.kill()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def read_all(cache: Path) -> list[int]:
    """Read all of it, publish it, and say which chunks had to be fetched."""
    asked: list[int] = []

    def fetch(chunk: Chunk) -> bytes:
        asked.append(chunk.start // MIB)
        return CONTENT[chunk.start : chunk.start + chunk.length]

    with ChunkCache(cache, Memo(None)) as opened, opened.open_blob(WHAT, CHUNKS) as it:
        assert b"".join(it.read(i, fetch) for i in range(N)) == CONTENT
        assert it.publish()
        assert opened.path((WHAT,)).read_bytes() == CONTENT
    return asked


def test_killed_while_fetching(cache: Path) -> None:
    with reader(cache, 0, 1, 2) as first:
        assert [first.line(), first.line()] == ["open", "fetching 0"]
        first.go()
        assert [first.line(), first.line()] == ["read 0", "fetching 1"]
        first.kill()
    assert read_all(cache) == [1, 2, 3, 4, 5]


def test_whoever_waits_takes_over_from_the_killed(cache: Path) -> None:
    with reader(cache, 3) as first:
        assert [first.line(), first.line()] == ["open", "fetching 3"]
        with reader(cache, 3) as second:
            assert second.line() == "open"
            # it is, or will be, waiting for the first one's lock
            first.kill()
            assert second.line() == "fetching 3"
            second.go()
            assert [second.line(), second.line()] == ["read 3", "partial"]
    assert read_all(cache) == [0, 1, 2, 4, 5]


def test_whoever_waits_gets_what_the_other_has_fetched(cache: Path) -> None:
    with reader(cache, 3) as first:
        assert [first.line(), first.line()] == ["open", "fetching 3"]
        with reader(cache, 3, 4) as second:
            assert second.line() == "open"
            first.go()
            assert [first.line(), first.line()] == ["read 3", "partial"]
            # not "fetching 3"
            assert [second.line(), second.line()] == ["read 3", "fetching 4"]


def test_damaged_after_a_kill(cache: Path) -> None:
    with reader(cache, *range(N)) as only:
        assert only.line() == "open"
        for i in range(N - 1):
            assert only.line() == f"fetching {i}"
            only.go()
            assert only.line() == f"read {i}"
        only.kill()
    sparse = cache / "partial" / WHAT.digest[7:]
    with sparse.open("r+b") as file:
        # as if the bytes had not reached the disk before the map did
        file.seek(2 * MIB)
        file.write(bytes(4096))
    assert read_all(cache) == [2, 5]


def test_a_blob_in_use_is_not_evicted(cache: Path) -> None:
    with reader(cache, 0, 1) as only:
        assert [only.line(), only.line()] == ["open", "fetching 0"]
        only.go()
        assert [only.line(), only.line()] == ["read 0", "fetching 1"]
        with ChunkCache(cache, Memo(None)) as opened:
            assert opened.gc(0).n_in_use == 1
            only.kill()
            assert [e.digest for e in opened.gc(0).removed] == [WHAT.digest]
    assert read_all(cache) == list(range(N))


@pytest.mark.parametrize("n_lines", range(1, 2 * N + 2))
def test_killed_at_any_point(cache: Path, n_lines: int) -> None:
    with reader(cache, *range(N)) as only:
        for _ in range(N):
            only.go()
        seen = [only.line() for _ in range(n_lines)]
        # it goes on meanwhile: the kill comes while something is fetched, written or published
        only.kill()
    fetched = read_all(cache)
    assert not {int(line[5:]) for line in seen if line.startswith("read")} & set(fetched)
