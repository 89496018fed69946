"""The cache of whole contents and their chunks: given only if they still are what they were."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocimodel.errors import InputError, TargetError
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from tests.artifacts import random_bytes
from tests.cached import blob, chunks_of

CONTENT = random_bytes((3 << 20) + 1, 61)
WHAT = blob(CONTENT)
CHUNKS = chunks_of(CONTENT, 1 << 20)
FIRST = next(CHUNKS.at())


class Clock:
    """Seconds that pass when they are looked at."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> Iterator[ChunkCache]:
    with ChunkCache(root, Memo(None), Clock()) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "file", CONTENT)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def refuse(chunk: Chunk) -> bytes:
    raise AssertionError(f"nothing was to be fetched, least of all {chunk}")


def copied(cache: ChunkCache, out: int, chunk: Chunk, offset: int = 0) -> bytes | None:
    if not cache.copy_chunk(chunk.digest, chunk.length, out, offset):
        return None
    return os.pread(out, chunk.length, offset)


# whole contents


def test_nothing_is_made_before_the_first_write(cache: ChunkCache, root: Path, out: int) -> None:
    assert not cache.take((WHAT,), root.parent / "x", 0o644)
    assert not cache.copy_chunk(FIRST.digest, FIRST.length, out, 0)
    assert cache.entries() == []
    assert cache.gc(0).removed == ()
    assert not root.exists()


def test_in_and_out(cache: ChunkCache, file: Path, tmp_path: Path) -> None:
    cache.add((WHAT,), file)
    assert cache.path((WHAT,)).parts[-3:] == ("blobs", "sha256", WHAT.digest.partition(":")[2])
    assert cache.take((WHAT,), tmp_path / "x", 0o644)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.rglob(".*")] == []


def test_parts_go_when_all_of_it_comes(cache: ChunkCache, file: Path, root: Path) -> None:
    with cache.open_blob(WHAT, CHUNKS) as opened:
        opened.read(0, lambda c: CONTENT[: c.length])
        cache.add((WHAT,), file)
        assert len(list((root / "partial").iterdir())) == 2, "somebody reads them"
    cache.path((WHAT,)).unlink()
    cache.add((WHAT,), file)
    assert list((root / "partial").iterdir()) == []


def test_another_mode_makes_another_file(cache: ChunkCache, file: Path, tmp_path: Path) -> None:
    cache.add((WHAT,), file)
    assert cache.take((WHAT,), tmp_path / "x", 0o755)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o755
    assert cache.path((WHAT,)).stat().st_mode & 0o777 == 0o644


def test_what_stands_there_is_replaced_at_once(
    cache: ChunkCache, file: Path, tmp_path: Path
) -> None:
    cache.add((WHAT,), file)
    final = tmp_path / "x"
    final.write_bytes(b"old")
    with final.open("rb") as reader:
        assert cache.take((WHAT,), final, 0o644)
        assert reader.read() == b"old"
    assert final.read_bytes() == CONTENT


def test_a_folder_of_blobs_from_before_is_a_cache(
    cache: ChunkCache, root: Path, tmp_path: Path
) -> None:
    folder = root / "blobs" / "sha256"
    folder.mkdir(parents=True)
    written(folder / WHAT.digest[7:], CONTENT)
    assert cache.take((WHAT,), tmp_path / "x", 0o644)
    (entry,) = cache.entries()
    assert (entry.digest, entry.size, entry.is_complete) == (WHAT.digest, len(CONTENT), True)
    with cache.open_blob(WHAT, CHUNKS) as opened:
        assert opened.read(1, refuse) == CONTENT[1 << 20 : 2 << 20]


def test_segments_are_kept_as_one_file(cache: ChunkCache, tmp_path: Path, out: int) -> None:
    parts = (CONTENT[: 1 << 20], CONTENT[1 << 20 :])
    layers = tuple(blob(part) for part in parts)
    cache.add(layers, written(tmp_path / "file", CONTENT), CHUNKS.at())
    assert cache.path(layers).parent.name == "segments"
    assert cache.take(layers, tmp_path / "x", 0o644)
    assert (tmp_path / "x").read_bytes() == CONTENT
    for chunk in CHUNKS.at():
        expected = CONTENT[chunk.start : chunk.start + chunk.length]
        assert copied(cache, out, chunk, chunk.start) == expected
    assert cache.entries()[0].digest.startswith("segments:")


@pytest.mark.parametrize("damage", ["bytes", "length", "link", "folder"])
def test_what_is_damaged_is_not_given(
    cache: ChunkCache, file: Path, tmp_path: Path, damage: str
) -> None:
    cache.add((WHAT,), file)
    cached = cache.path((WHAT,))
    if damage == "bytes":
        with cached.open("r+b") as writer:
            writer.write(b"????")
    elif damage == "length":
        os.truncate(cached, 5)
    else:
        cached.unlink()
        if damage == "link":
            cached.symlink_to(written(tmp_path / "other", CONTENT))
        else:
            cached.mkdir()
    assert not cache.take((WHAT,), tmp_path / "x", 0o644)
    assert cached.exists() == (damage == "folder"), "what is damaged is dropped"
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_to(cache: ChunkCache, file: Path, tmp_path: Path) -> None:
    blocked = ChunkCache(file / "below a file", Memo(None))
    assert not blocked.take((WHAT,), tmp_path / "x", 0o644)
    with pytest.raises(TargetError):
        blocked.add((WHAT,), file)
    assert blocked.entries() == []
    cache.add((WHAT,), file)
    with pytest.raises(TargetError):
        cache.take((WHAT,), tmp_path / "no" / "such" / "folder", 0o644)


# chunks


def test_a_chunk_is_found_in_another_blob(
    cache: ChunkCache, file: Path, root: Path, out: int
) -> None:
    cache.add((WHAT,), file, CHUNKS.at())
    last = list(CHUNKS.at())[-1]
    assert copied(cache, out, last, 77) == CONTENT[3 << 20 :]
    assert not cache.copy_chunk(last.digest, last.length + 1, out, 0)
    assert not cache.copy_chunk(bytes(32), last.length, out, 0)
    # another process finds it, and knows nothing of the file's identity
    with ChunkCache(root, Memo(None)) as other:
        assert copied(other, out, FIRST) == CONTENT[: 1 << 20]
        assert other.read_chunk(FIRST.digest, FIRST.length) == CONTENT[: 1 << 20]
        assert other.read_chunk(FIRST.digest, FIRST.length, besides=WHAT.digest) is None


def test_a_chunk_of_a_changed_file_is_not_given(cache: ChunkCache, file: Path, out: int) -> None:
    cache.add((WHAT,), file, CHUNKS.at())
    with cache.path((WHAT,)).open("r+b") as writer:
        writer.write(b"????")
    assert copied(cache, out, FIRST) is None
    # the others are as they were
    assert copied(cache, out, list(CHUNKS.at())[1]) == CONTENT[1 << 20 : 2 << 20]
    cache.path((WHAT,)).unlink()
    assert copied(cache, out, list(CHUNKS.at())[1]) is None


def test_a_chunk_is_found_while_its_blob_is_there_in_part(cache: ChunkCache, out: int) -> None:
    with cache.open_blob(WHAT, CHUNKS) as opened:
        opened.read(0, lambda c: CONTENT[: c.length])
        assert copied(cache, out, FIRST) == CONTENT[: 1 << 20]
        # this one is a hole
        assert copied(cache, out, list(CHUNKS.at())[1]) is None


def test_the_same_chunk_in_two_blobs(cache: ChunkCache, tmp_path: Path, out: int) -> None:
    for tail in (b"a", b"b"):
        content = CONTENT[: 1 << 20] + tail
        file = written(tmp_path / "file", content)
        cache.add((blob(content),), file, chunks_of(content, 1 << 20).at())
    for tail in (b"a", b"b"):
        assert copied(cache, out, FIRST) == CONTENT[: 1 << 20]
        cache.path((blob(CONTENT[: 1 << 20] + tail),)).unlink()
    assert copied(cache, out, FIRST) is None


def test_a_full_disk_is_told(cache: ChunkCache, file: Path) -> None:
    cache.add((WHAT,), file, CHUNKS.at())
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            ChunkCache(cache.path((WHAT,)).parents[2], Memo(None)).copy_chunk(
                FIRST.digest, FIRST.length, full, 0
            )
    finally:
        os.close(full)


# the database


def damage_nothing(path: Path) -> None:
    path.unlink()


def damage_text(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def damage_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(b"\xff" * (path.stat().st_size - 1024))


def damage_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_schema(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE chunk (other TEXT)")


def damage_values(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE blob SET key = '../../../etc/passwd', used = 1e30")
        db.execute("UPDATE chunk SET start = -5, length = 'x'")


@pytest.mark.parametrize(
    "damage",
    [damage_nothing, damage_text, damage_pages, damage_cut, damage_schema, damage_values],
)
def test_a_broken_database_is_made_anew(
    cache: ChunkCache, file: Path, root: Path, tmp_path: Path, out: int, damage: object
) -> None:
    cache.add((WHAT,), file, CHUNKS.at())
    cache.close()
    assert callable(damage)
    damage(root / "chunks.db")
    with ChunkCache(root, Memo(None), Clock()) as broken:
        assert copied(broken, out, FIRST) in (None, CONTENT[: 1 << 20])
        assert [e.digest for e in broken.entries()] == [WHAT.digest]
        assert broken.take((WHAT,), tmp_path / "x", 0o644)
    for _ in range(2):
        # the first may have to do away with it
        with ChunkCache(root, Memo(None), Clock()) as again:
            again.add((WHAT,), file, CHUNKS.at())
    with ChunkCache(root, Memo(None), Clock()) as healed:
        assert copied(healed, out, FIRST) == CONTENT[: 1 << 20]


def test_a_database_that_cannot_be_is_none(
    cache: ChunkCache, file: Path, root: Path, out: int
) -> None:
    (root / "chunks.db").mkdir(parents=True)
    cache.add((WHAT,), file, CHUNKS.at())
    assert copied(cache, out, FIRST) is None
    assert [e.digest for e in cache.entries()] == [WHAT.digest]


def test_a_database_leads_nowhere_else(
    cache: ChunkCache, file: Path, root: Path, tmp_path: Path, out: int
) -> None:
    cache.add((WHAT,), file, CHUNKS.at())
    cache.path((WHAT,)).unlink()
    with sqlite3.connect(root / "chunks.db") as db:
        db.execute("UPDATE blob SET key = 'sha256:../../../file'")
    assert (root / "blobs" / "sha256" / "../../../file").samefile(file)
    assert copied(cache, out, FIRST) is None


# keeping it small


def fill(cache: ChunkCache, tmp_path: Path, n: int, size: int = 1 << 20) -> list[Descriptor]:
    made = []
    for i in range(n):
        content = random_bytes(size, 100 + i)
        # from a file that is gone afterwards: nobody shares it
        file = written(tmp_path / "file", content)
        cache.add((blob(content),), file, chunks_of(content, 1 << 19).at())
        file.unlink()
        made.append(blob(content))
    return made


def test_what_was_used_longest_ago_goes_first(
    cache: ChunkCache, tmp_path: Path, root: Path, out: int
) -> None:
    a, b, c, d = fill(cache, tmp_path, 4)
    assert cache.take((a,), tmp_path / "x", 0o755)
    assert [e.digest for e in cache.entries()] == [x.digest for x in (a, d, c, b)]
    result = cache.gc(2 << 20)
    assert [e.digest for e in result.removed] == [b.digest, c.digest]
    assert (result.n_bytes_freed, result.size_on_disk, result.n_in_use) == (2 << 20, 2 << 20, 0)
    assert {p.name for p in (root / "blobs" / "sha256").iterdir()} == {a.digest[7:], d.digest[7:]}
    assert copied(cache, out, next(chunks_of(random_bytes(1 << 20, 101), 1 << 19).at())) is None
    assert cache.gc(2 << 20).removed == ()
    assert len(cache.gc(0).removed) == 2
    with sqlite3.connect(root / "chunks.db") as db:
        assert db.execute("SELECT count(*) FROM chunk").fetchone() == (0,)


def test_without_a_database_the_times_of_the_files_count(
    cache: ChunkCache, tmp_path: Path, root: Path
) -> None:
    a, b = fill(cache, tmp_path, 2)
    cache.close()
    (root / "chunks.db").unlink()
    for what in (b, a):
        # any change of the inode will do; the clock that stamps it moves in ticks
        before = cache.path((what,)).stat().st_ctime
        while cache.path((what,)).stat().st_ctime <= before:
            cache.path((what,)).chmod(0o644)
    assert [e.digest for e in cache.gc(1 << 20).removed] == [b.digest]


def test_what_is_open_stays(cache: ChunkCache, tmp_path: Path, root: Path) -> None:
    whole, other = fill(cache, tmp_path, 2)
    content = random_bytes(1 << 20, 100)
    with (
        cache.open_blob(whole, chunks_of(content, 1 << 19)) as reading,
        ChunkCache(root, Memo(None), Clock()).open_blob(WHAT, CHUNKS) as filling,
    ):
        filling.read(0, lambda c: CONTENT[: c.length])
        result = cache.gc(0)
        assert [e.digest for e in result.removed] == [other.digest]
        assert result.n_in_use == 2
        assert reading.read(1, refuse) == content[1 << 19 :]
        assert filling.read(0, refuse) == CONTENT[: 1 << 20]
    result = cache.gc(0)
    assert {e.digest for e in result.removed} == {whole.digest, WHAT.digest}
    assert cache.entries() == []
    assert [p for p in root.rglob("*") if p.is_file()] == [root / "chunks.db"]


def test_a_hard_link_elsewhere_stays(cache: ChunkCache, file: Path, root: Path) -> None:
    cache.add((WHAT,), file)
    if file.stat().st_nlink == 1:
        pytest.skip("this file system has reflinks")
    (entry,) = cache.entries()
    assert entry.is_shared
    result = cache.gc(0)
    assert result.removed == (entry,)
    assert result.n_bytes_freed == 0
    assert file.read_bytes() == CONTENT


def test_a_lock_of_a_stranger_is_respected(cache: ChunkCache, file: Path) -> None:
    cache.add((WHAT,), file)
    with cache.path((WHAT,)).open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert cache.gc(0).n_in_use == 1
    assert len(cache.gc(0).removed) == 1


def test_litter_goes_and_what_is_not_ours_stays(cache: ChunkCache, file: Path, root: Path) -> None:
    cache.add((WHAT,), file)
    folder = root / "blobs" / "sha256"
    old, notes = folder / ".ocimodel.1.abc", folder / "notes.txt"
    for path in (old, notes, root / "other"):
        path.write_bytes(b"x" * 5000)
    (root / "partial").mkdir()
    (root / "partial" / ("ab" * 32 + ".map")).write_bytes(b"left")
    (folder / ("cd" * 32)).symlink_to(notes)
    assert [e.digest for e in cache.entries()] == [WHAT.digest]
    # by a clock of long ago the temporary file is a new one
    cache.gc(1 << 30)
    assert old.exists()
    assert not list((root / "partial").iterdir())
    with ChunkCache(root, Memo(None), lambda: old.stat().st_ctime + 86_500) as later:
        later.gc(1 << 30)
    assert not old.exists()
    assert notes.exists() and (root / "other").exists() and (folder / ("cd" * 32)).is_symlink()


def test_chunks_that_do_not_add_up(cache: ChunkCache) -> None:
    with pytest.raises(InputError, match="its chunks"):
        cache.open_blob(WHAT, BlobChunks((5,), bytes(32)))
    assert sha256(CONTENT) == WHAT.digest
