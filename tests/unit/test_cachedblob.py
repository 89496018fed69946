"""A blob filled chunk by chunk: each fetched once, nothing believed that was not hashed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import threading
from pathlib import Path

import pytest

from ocimodel.errors import IntegrityError, TargetError
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from ocimodel.store.sparse import SparseFile
from tests.artifacts import random_bytes
from tests.cached import (
    CHUNKS,
    CONTENT,
    LENGTH,
    PARTS,
    WHAT,
    N,
    Origin,
    blob,
    chunks_of,
    final_path,
    opened,
    sparse_path,
)
from tests.trees import Notices


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def origin() -> Origin:
    return Origin()


def test_each_chunk_is_fetched_once(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        assert not it.has(3)
        for i in (3, 0, 3, 4, 0):
            assert it.read(i, origin) == PARTS[i]
        assert [it.has(i) for i in range(N)] == [True, False, False, True, True]
        assert not it.publish()
    with opened(root) as it:
        assert [it.read(i, origin) for i in range(N)] == PARTS
    assert origin.asked == [3, 0, 4, 1, 2]


def test_a_whole_blob_is_published(root: Path, origin: Origin, tmp_path: Path) -> None:
    with opened(root) as it:
        for i in range(N):
            it.read(i, origin)
            assert not final_path(root).exists()
        assert sparse_path(root).exists()
        assert it.publish()
        assert final_path(root).read_bytes() == CONTENT
        assert final_path(root).stat().st_blocks * 512 >= len(CONTENT)
        assert list((root / "partial").iterdir()) == []
        assert it.read(2, origin) == PARTS[2]
        assert it.publish()
    with ChunkCache(root, Memo(None)) as cache:
        assert cache.take((WHAT,), tmp_path / "x", 0o644)
        assert cache.entries()[0].is_complete
    with opened(root) as it:
        assert it.publish() and it.has(1)
        assert [it.read(i, origin) for i in range(N)] == PARTS
    assert origin.asked == list(range(N))


def test_a_memo_spares_hashing_what_was_published(root: Path, origin: Origin) -> None:
    memo = Memo(None)
    with ChunkCache(root, memo) as cache:
        with cache.open_blob(WHAT, CHUNKS) as it:
            for i in range(N):
                it.read(i, origin)
            it.publish()
        assert memo.recall(final_path(root).stat()) == WHAT.digest


def test_an_empty_blob(root: Path, origin: Origin) -> None:
    what = blob(b"")
    with ChunkCache(root, Memo(None)) as cache:
        with cache.open_blob(what, BlobChunks((), b"")) as it:
            assert it.publish()
        assert cache.path((what,)).read_bytes() == b""


def test_chunks_of_other_blobs_are_not_fetched(root: Path, origin: Origin, tmp_path: Path) -> None:
    newer = PARTS[0] + random_bytes(LENGTH, 5) + PARTS[2]
    (tmp_path / "file").write_bytes(CONTENT)
    with ChunkCache(root, Memo(None)) as cache:
        cache.add((WHAT,), tmp_path / "file", CHUNKS.at())
        with cache.open_blob(blob(newer), chunks_of(newer, LENGTH)) as it:
            asked: list[int] = []

            def fetch(chunk: Chunk) -> bytes:
                asked.append(chunk.start)
                return newer[chunk.start : chunk.start + chunk.length]

            assert b"".join(it.read(i, fetch) for i in range(3)) == newer
            assert asked == [LENGTH]
            assert it.publish()


def test_wrong_bytes_are_refused_and_not_kept(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        for wrong in (b"", PARTS[2][:-1], PARTS[3], PARTS[2] + b"x"):
            with pytest.raises(IntegrityError, match=r"not those of chunk"):
                it.read(2, lambda _, wrong=wrong: wrong)  # type: ignore[misc]
            assert not it.has(2)
        # nor does an error that is the fetcher's leave a lock behind
        with pytest.raises(ConnectionError):
            it.read(2, lambda _: (_ for _ in ()).throw(ConnectionError()))
        assert it.read(2, origin) == PARTS[2]


def test_a_closed_blob_is_closed(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        pass
    it.close()
    with pytest.raises(ValueError, match="closed"):
        it.read(0, origin)


def test_closing_leaves_a_read_that_is_under_way(root: Path, origin: Origin) -> None:
    with opened(root) as it:

        def fetch(chunk: Chunk) -> bytes:
            it.close()
            return origin(chunk)

        assert it.read(1, fetch) == PARTS[1]
    with opened(root) as again:
        assert again.has(1)


# places that cannot be written to


def test_a_read_only_cache(root: Path, origin: Origin) -> None:
    root.parent.joinpath("file").write_bytes(b"")
    blocked = root.parent / "file" / "cache"
    notices = Notices()
    with opened(blocked, observer=notices) as it:
        assert it.read(1, origin) == it.read(1, origin) == PARTS[1]
        assert not it.has(1) and not it.publish()
    assert len(notices.texts) == 1
    assert "is not kept in the cache: cannot write" in notices.texts[0]


def test_a_full_disk_costs_a_notice(small_disk: Path) -> None:
    content = random_bytes(6 << 20, 9)
    what, chunks = blob(content), chunks_of(content, 1 << 20)
    notices = Notices()

    def fetch(chunk: Chunk) -> bytes:
        return content[chunk.start : chunk.start + chunk.length]

    with (
        ChunkCache(small_disk / "cache", Memo(None)) as cache,
        cache.open_blob(what, chunks, notices) as it,
    ):
        assert b"".join(it.read(i, fetch) for i in range(6)) == content
        assert b"".join(it.read(i, fetch) for i in range(6)) == content
        assert not it.publish()
        assert 0 < sum(it.has(i) for i in range(6)) < 6
    assert len(notices.texts) == 1
    assert "No space left" in notices.texts[0]


def test_a_read_only_disk_still_gives(small_disk: Path, origin: Origin, tmp_path: Path) -> None:
    root = small_disk / "cache"
    other = random_bytes(3 * LENGTH, 72)
    (tmp_path / "file").write_bytes(other)
    with ChunkCache(root, Memo(None)) as cache:
        cache.add((blob(other),), tmp_path / "file", chunks_of(other, LENGTH).at())
    with opened(root) as it:
        it.read(0, Origin())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    notices = Notices()
    with opened(root, observer=notices) as it, ChunkCache(root, Memo(None)) as cache:
        # the part that is here is found by its chunk
        assert [it.read(i, origin) for i in (0, 1)] == PARTS[:2]
        assert origin.asked == [1]
        assert cache.take((blob(other),), tmp_path / "x", 0o644)
        with cache.open_blob(blob(other), chunks_of(other, LENGTH), notices) as whole:
            assert whole.read(2, origin) == other[2 * LENGTH :]
        assert len(cache.entries()) == 2
        with pytest.raises(TargetError, match="Read-only"):
            cache.gc(0)
    assert len(notices.texts) == 1
    assert "Read-only" in notices.texts[0]


# several at once


def test_threads_fetch_each_chunk_once(root: Path, origin: Origin) -> None:
    barrier = threading.Barrier(8)
    failed: list[BaseException] = []

    with opened(root) as first, opened(root) as second:

        def work(k: int) -> None:
            try:
                barrier.wait(30)
                it = (first, second)[k % 2]
                for i in range(N):
                    assert it.read((i + k) % N, origin) == PARTS[(i + k) % N]
                it.publish()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failed
    assert sorted(origin.asked) == list(range(N))
    assert final_path(root).read_bytes() == CONTENT


def fill(root: Path, tally: Path, order: list[int], start: object) -> None:
    def fetch(chunk: Chunk) -> bytes:
        with tally.open("a") as file:
            file.write(f"{chunk.start // LENGTH}\n")
        return CONTENT[chunk.start : chunk.start + chunk.length]

    start.wait(30)  # type: ignore[attr-defined]
    with opened(root) as it:
        assert [it.read(i, fetch) for i in order] == [PARTS[i] for i in order]
        it.publish()


def test_two_processes_fetch_each_chunk_once(root: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    tally = tmp_path / "tally"
    orders = [list(range(N)) * 3, list(range(N))[::-1] * 3]
    start = spawn.Barrier(2)
    processes = [spawn.Process(target=fill, args=(root, tally, order, start)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(tally.read_text().split()) == [str(i) for i in range(N)]
    assert final_path(root).read_bytes() == CONTENT


def test_no_descriptor_is_left_open(root: Path, origin: Origin) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for i in range(20):
        with opened(root) as it:
            it.read(i % N, origin)
    with pytest.raises(OSError, match="other chunks"), opened(root):
        SparseFile(root / "partial", WHAT, chunks_of(CONTENT, 1000))
    assert len(os.listdir("/proc/self/fd")) == before < limit  # noqa: PTH208
