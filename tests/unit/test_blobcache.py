"""Blobs shared by pulls: given only if they still are what they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocimodel.errors import TargetError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.blobcache import BlobCache
from ocimodel.store.memo import Memo
from ocimodel.store.presence import file_has
from tests.artifacts import random_bytes

CONTENT = random_bytes((3 << 20) + 1, 61)
WHAT = Descriptor("application/x", sha256(CONTENT), len(CONTENT))


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache", Memo(None))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    path.chmod(0o644)
    return path


def test_in_and_out(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    assert not cache.take((WHAT,), tmp_path / "out", 0o644)
    assert not (tmp_path / "out").exists()
    cache.add((WHAT,), file)
    assert cache.path((WHAT,)).parts[-3:] == ("blobs", "sha256", WHAT.digest.partition(":")[2])
    assert cache.take((WHAT,), tmp_path / "out", 0o644)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_another_mode_makes_another_file(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    cache.add((WHAT,), file)
    assert cache.take((WHAT,), tmp_path / "out", 0o755)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert cache.path((WHAT,)).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_what_stands_there_is_replaced_at_once(
    cache: BlobCache, file: Path, tmp_path: Path
) -> None:
    cache.add((WHAT,), file)
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with out.open("rb") as reader:
        assert cache.take((WHAT,), out, 0o644)
        assert reader.read() == b"old"
    assert out.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["bytes", "length", "link", "folder"])
def test_what_is_damaged_is_not_given(
    cache: BlobCache, file: Path, tmp_path: Path, damage: str
) -> None:
    cache.add((WHAT,), file)
    cached = cache.path((WHAT,))
    if damage == "bytes":
        with cached.open("r+b") as out:
            out.write(b"????")
    elif damage == "length":
        os.truncate(cached, 5)
    else:
        cached.unlink()
        if damage == "link":
            other = tmp_path / "other"
            other.write_bytes(CONTENT)
            cached.symlink_to(other)
        else:
            cached.mkdir()
    assert not cache.take((WHAT,), tmp_path / "out", 0o644)
    assert cached.exists() == (damage == "folder"), "what is damaged is dropped"
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    blocked = BlobCache(file / "below a file", Memo(None))
    assert not blocked.take((WHAT,), tmp_path / "out", 0o644)
    with pytest.raises(TargetError):
        blocked.add((WHAT,), file)
    cache.add((WHAT,), file)
    with pytest.raises(TargetError):
        cache.take((WHAT,), tmp_path / "no" / "such" / "folder", 0o644)


def test_file_has(file: Path, tmp_path: Path) -> None:
    memo = Memo(None)
    assert file_has(file, WHAT, memo)
    assert memo.recall(file.stat()) == WHAT.digest
    assert not file_has(tmp_path, WHAT, memo)
    assert not file_has(tmp_path / "nowhere", WHAT, memo)
    assert not file_has(file, Descriptor("t", sha256(b"x"), len(CONTENT)), memo, rehash=True)
    assert not file_has(file, Descriptor("t", WHAT.digest, 5), memo)
    (tmp_path / "link").symlink_to(file)
    assert not file_has(tmp_path / "link", WHAT, memo)
    os.mkfifo(tmp_path / "pipe")
    assert not file_has(tmp_path / "pipe", Descriptor("t", sha256(b""), 0), memo)


def test_the_algorithm_is_that_of_the_digest(file: Path) -> None:
    import hashlib

    digest = "sha512:" + hashlib.sha512(CONTENT).hexdigest()
    assert file_has(file, Descriptor("t", digest, len(CONTENT)), Memo(None))
