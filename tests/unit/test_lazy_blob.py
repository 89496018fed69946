"""Blobs read in parts, from memory, from a cache, or fetched whole: always the same bytes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.errors import InputError, IntegrityError, RegistryError, TargetError
from ocimodel.lazy.blob import Blob, ChunkedBlob, Traffic
from ocimodel.lazy.memory import ChunkMemory
from ocimodel.lazy.switching import SwitchingBlob
from ocimodel.lazy.whole import WholeBlob
from ocimodel.spec.chunkindex import BlobChunks
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from ocimodel.store.memory import MemoryStore
from tests.artifacts import Recorder
from tests.cached import CHUNKS, CONTENT, LENGTH, WHAT, N, final_path, flip, sparse_path
from tests.trees import Notices

SIZE = WHAT.size
RANGES = [(0, SIZE), (0, 1), (SIZE - 1, 1), (LENGTH - 1, 2), (LENGTH, LENGTH), (5, 3 * LENGTH)]


class Maker:
    """Blobs of one kind over one source."""

    def __init__(self, kind: str, root: Path, source: Recorder | None = None) -> None:
        store = MemoryStore()
        store.blobs[WHAT.digest] = CONTENT
        self.kind = kind
        self.source = source or Recorder(store)
        self.traffic = Traffic()
        self.notices = Notices()
        self.cache = ChunkCache(root, Memo(None)) if kind.endswith("cached") else None

    def __call__(self) -> Blob:
        whole = partial(WholeBlob, self.source, WHAT, self.cache, self.traffic, self.notices)  # type: Callable[[], WholeBlob]
        if self.kind.startswith("whole"):
            return whole()
        cached = self.cache.open_blob(WHAT, CHUNKS, self.notices) if self.cache else None
        chunked = ChunkedBlob(
            self.source,
            WHAT,
            CHUNKS,
            cached=cached,
            memory=ChunkMemory(2 * LENGTH),
            traffic=self.traffic,
        )
        if not self.kind.startswith("switching"):
            return chunked
        self.source.whole = True
        return SwitchingBlob(chunked, lambda why: whole())


KINDS = [
    "chunked", "chunked cached", "switching", "switching cached", "whole", "whole cached",
]  # fmt: skip


@pytest.fixture(params=KINDS)
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    return Maker(request.param, tmp_path / "cache")


def read(blob: Blob, start: int, length: int) -> bytes:
    out = bytearray(length)
    blob.read_into(start, memoryview(out))
    return bytes(out)


def load(blob: Blob, start: int, stop: int) -> bytes:
    out = bytearray(stop - start)
    blob.load(start, memoryview(out), stop, lambda n: None)
    return bytes(out)


@pytest.mark.parametrize(("start", "length"), RANGES)
def test_any_part_is_that_of_the_content(maker: Maker, start: int, length: int) -> None:
    expected = CONTENT[start : start + length]
    blob = maker()
    assert read(blob, start, length) == expected
    assert load(blob, start, start + length) == expected
    # now from wherever they are
    assert read(blob, start, length) == expected
    blob.close()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_in_any_order(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    parts = st.lists(
        st.tuples(st.booleans(), st.integers(0, SIZE), st.integers(0, SIZE)), max_size=6
    )

    @settings(max_examples=40, deadline=None)
    @given(parts)
    def check(parts: list[tuple[bool, int, int]]) -> None:
        blob = Maker(kind, tmp_path_factory.mktemp("cache"))()
        for is_load, one, other in parts:
            start, stop = sorted((one, other))
            if is_load and start < stop:
                assert load(blob, start, stop) == CONTENT[start:stop]
            else:
                assert read(blob, start, stop - start) == CONTENT[start:stop]
        blob.close()

    check()


@given(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(1, SIZE))
def test_stretches_cover_the_range_once(one: int, other: int, n_bytes: int) -> None:
    start, stop = sorted((one, other))
    blob = ChunkedBlob(
        MemoryStore(), WHAT, CHUNKS, cached=None, memory=ChunkMemory(1), traffic=Traffic()
    )
    found = list(blob.stretches(start, stop, n_bytes))
    assert [low for low, _ in found] == [start, *(high for _, high in found)][: len(found)]
    assert not found or found[-1][1] == stop
    for low, high in found:
        assert 0 < high - low <= n_bytes + LENGTH
        assert high == stop or high % LENGTH == 0


@pytest.mark.parametrize("kind", ["chunked", "chunked cached"])
def test_only_the_chunks_of_a_part_are_fetched(kind: str, tmp_path: Path) -> None:
    maker = Maker(kind, tmp_path)
    blob = maker()
    read(blob, LENGTH + 5, 10)
    assert maker.source.asked == [(WHAT.digest, LENGTH, LENGTH)]
    assert maker.traffic.n_fetched == LENGTH
    assert maker.traffic.n_waited == maker.traffic.n_requests == 1
    load(blob, 2 * LENGTH + 1, 4 * LENGTH - 1)
    assert maker.source.asked[1:] == [(WHAT.digest, 2 * LENGTH, 2 * LENGTH)]
    read(blob, 3 * LENGTH, 10)
    assert len(maker.source.asked) == 2
    assert maker.traffic.n_fetched == 3 * LENGTH
    assert maker.traffic.n_waited == 1


def test_what_is_loaded_to_no_place_is_found_later(maker: Maker) -> None:
    blob = maker()
    blob.load(LENGTH, None, 3 * LENGTH, lambda n: None)
    n_asked = len(maker.source.asked)
    assert read(blob, LENGTH, 2 * LENGTH) == CONTENT[LENGTH : 3 * LENGTH]
    assert len(maker.source.asked) == n_asked


@pytest.mark.parametrize("kind", ["chunked cached", "whole cached"])
def test_the_next_one_finds_it_in_the_cache(kind: str, tmp_path: Path) -> None:
    first = Maker(kind, tmp_path)
    blob = first()
    load(blob, 0, SIZE)
    blob.close()
    second = Maker(kind, tmp_path)
    again = second()
    assert load(again, 0, SIZE) == CONTENT
    assert second.source.asked == []
    assert second.traffic.n_cached == SIZE
    assert not second.notices.texts
    again.close()


def test_a_whole_blob_is_a_finished_one_of_the_cache(tmp_path: Path) -> None:
    maker = Maker("whole cached", tmp_path)
    blob = maker()
    assert not blob.has(0, 1)
    read(blob, 0, 1)
    assert blob.has(0, SIZE)
    assert final_path(tmp_path).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("ocimodel-")] == []
    # and lazy readers take it from there
    lazy = Maker("chunked cached", tmp_path)
    assert read(lazy(), 5, 100) == CONTENT[5:105]
    assert lazy.source.asked == []


def test_a_finished_blob_that_somebody_wrote_to_is_fetched_again(tmp_path: Path) -> None:
    read(Maker("whole cached", tmp_path)(), 0, 1)
    flip(final_path(tmp_path), 1000)
    maker = Maker("whole cached", tmp_path)
    assert read(maker(), 0, SIZE) == CONTENT
    assert len(maker.source.asked) == 1


@pytest.mark.parametrize("i", range(N))
def test_a_chunk_damaged_in_the_cache_is_fetched_again(tmp_path: Path, i: int) -> None:
    blob = Maker("chunked cached", tmp_path)()
    load(blob, 0, SIZE)
    blob.close()
    flip(sparse_path(tmp_path), i * LENGTH + 7)
    maker = Maker("chunked cached", tmp_path)
    again = maker()
    assert read(again, 0, SIZE) == CONTENT
    assert maker.source.asked == [(WHAT.digest, i * LENGTH, min(LENGTH, SIZE - i * LENGTH))]
    again.close()


@pytest.mark.parametrize("n_users", [1, 8])
def test_many_readers_fetch_each_chunk_once(maker: Maker, n_users: int) -> None:
    blob = maker()
    starts = [n * 7919 % (SIZE - 100) for n in range(200)]
    with ThreadPoolExecutor(n_users) as pool:
        for start, data in zip(starts, pool.map(lambda s: read(blob, s, 100), starts), strict=True):
            assert data == CONTENT[start : start + 100]
    if maker.kind != "chunked":
        # in little memory chunks come and go
        whole = SIZE if maker.kind.startswith(("whole", "chunked")) else SIZE + LENGTH
        assert maker.traffic.n_fetched <= whole
    blob.close()


def test_loads_into_memory_share_what_they_fetch_at_the_same_time(tmp_path: Path) -> None:
    maker = Maker("chunked", tmp_path)
    blob = ChunkedBlob(
        maker.source, WHAT, CHUNKS, cached=None, memory=ChunkMemory(SIZE), traffic=maker.traffic
    )
    barrier = threading.Barrier(4)

    def work(_: int) -> bytes:
        barrier.wait(30)
        return load(blob, 0, SIZE)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(4))) == {CONTENT}


def test_a_disk_that_keeps_nothing_is_made_up_for_by_memory(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file, where the folder should be")
    maker = Maker("chunked cached", tmp_path / "cache")
    blob = maker()
    for start in range(0, LENGTH, 1000):
        assert read(blob, start, 10) == CONTENT[start : start + 10]
    assert len(maker.source.asked) == 1
    assert len(maker.notices.texts) == 1
    assert load(blob, 0, SIZE) == CONTENT


def test_a_whole_blob_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file, where the folder should be")
    maker = Maker("whole cached", tmp_path / "cache")
    assert read(maker(), 0, SIZE) == CONTENT
    assert len(maker.notices.texts) == 1
    assert "not kept in the cache" in maker.notices.texts[0]


def test_nowhere_to_put_a_whole_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    maker = Maker("whole", tmp_path)
    with pytest.raises(TargetError):
        read(maker(), 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_bytes_are_an_integrity_error(kind: str, tmp_path: Path) -> None:
    maker = Maker(kind, tmp_path / "cache")
    maker.source.swapped[WHAT.digest] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    blob = maker()
    with pytest.raises(IntegrityError):
        read(blob, SIZE - 10, 10)
    with pytest.raises(IntegrityError):
        load(blob, SIZE - 10, SIZE)
    # and nothing of it was kept
    maker.source.swapped.clear()
    assert read(blob, SIZE - 10, 10) == CONTENT[-10:]
    blob.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_dies_can_come_back(kind: str, tmp_path: Path) -> None:
    maker = Maker(kind, tmp_path / "cache")
    maker.source.n_bytes_left[WHAT.digest] = LENGTH + 5
    blob = maker()
    with pytest.raises(RegistryError):
        load(blob, 0, SIZE)
    maker.source.n_bytes_left.clear()
    assert load(blob, 0, SIZE) == CONTENT
    if kind == "chunked cached":
        # what had come before is not fetched again
        assert maker.source.asked[-1] == (WHAT.digest, LENGTH, SIZE - LENGTH)
    blob.close()


@pytest.mark.parametrize("kind", ["whole", "whole cached"])
def test_closing_while_others_read_is_safe(kind: str, tmp_path: Path) -> None:
    """A descriptor's number may at once be that of another file."""
    maker = Maker(kind, tmp_path / "cache")
    blob = maker()
    read(blob, 0, 1)
    stop = threading.Event()

    def work(n: int) -> bool:
        found = True
        while not stop.is_set():
            found = found and read(blob, n * 1000, 1000) == CONTENT[n * 1000 : n * 1000 + 1000]
        return found

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, n) for n in range(4)]
        for _ in range(100):
            blob.close()
            os.close(os.open(tmp_path, os.O_RDONLY))
        stop.set()
        assert all(one.result(30) for one in working)


def test_chunks_that_do_not_add_up_are_refused() -> None:
    short = BlobChunks(CHUNKS.lengths[:-1], CHUNKS.digests[:-32])
    with pytest.raises(InputError):
        ChunkedBlob(
            MemoryStore(), WHAT, short, cached=None, memory=ChunkMemory(1), traffic=Traffic()
        )


def test_the_endpoint_is_asked_for_ranges_no_more(tmp_path: Path) -> None:
    maker = Maker("switching", tmp_path)
    blob = maker()
    for start in (LENGTH, 2 * LENGTH, 5):
        assert read(blob, start, 100) == CONTENT[start : start + 100]
    assert maker.source.asked == [(WHAT.digest, LENGTH, LENGTH), (WHAT.digest, 0, SIZE)]


def test_what_came_in_parts_is_still_there_after_the_switch(tmp_path: Path) -> None:
    maker = Maker("switching cached", tmp_path)
    blob = maker()
    assert isinstance(blob, SwitchingBlob)
    # the first bytes of the whole are those that were wanted
    read(blob, 0, LENGTH)
    assert blob.has(0, LENGTH)
    blob._switched()
    assert blob.has(0, LENGTH)
    assert not blob.has(0, LENGTH + 1)
    read(blob, LENGTH, 1)
    assert blob.has(0, SIZE)
    blob.close()
