"""Older versions as donors: what they have is found by its bytes, wherever it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocimodel.ops import donors as donors_module
from ocimodel.ops.donors import Donors
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.assembly import MIN_COMPOSED_BYTES as MIN_BYTES
from ocimodel.store.memo import Memo
from tests.artifacts import random_bytes
from tests.indexed import safetensors
from tests.trees import MIB, write_tree

A = random_bytes(MIB, 1)
B = random_bytes(700_000, 2)
C = random_bytes(5 * MIB, 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    first = safetensors({"a": ("U8", [len(A)], A), "b": ("U8", [len(B)], B)})
    second = safetensors({"c": ("U8", [len(C)], C)}, {"some": "metadata"})
    return write_tree(
        tmp_path / "model",
        {"one.safetensors": first.content, "deep/two.safetensors": second.content},
    )


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def copied(donors: Donors, content: bytes, out: int, at: int = 0) -> bool:
    """Whether the chunk of this content was given; then it is there, byte for byte."""
    found = donors.copy_chunk(hashlib.sha256(content).digest(), len(content), out, at)
    assert not found or os.pread(out, len(content), at) == content
    return found


def test_tensors_are_found_by_their_bytes(root: Path, out: int) -> None:
    with Donors(root, Memo(None)) as donors:
        assert copied(donors, A, out)
        assert copied(donors, B, out, 12345)
        # pieces of one that is over 4 MiB
        assert copied(donors, C[: 4 * MIB], out, MIB)
        assert copied(donors, C[4 * MIB :], out)
        assert not copied(donors, C, out)
        assert not copied(donors, A[:-1], out)
        assert not copied(donors, random_bytes(MIB, 9), out)


def test_the_length_must_be_right_too(root: Path, out: int) -> None:
    with Donors(root, Memo(None)) as donors:
        assert not donors.copy_chunk(hashlib.sha256(A).digest(), len(A) + 1, out, 0)
        assert not donors.copy_chunk(hashlib.sha256(A).digest(), len(A) - 1, out, 0)


def test_what_is_replaced_before_the_first_question_is_still_had(root: Path, out: int) -> None:
    """A small new file may take the name of a big old one before anybody asks."""
    with Donors(root, Memo(None)) as donors:
        (root / "new").write_bytes(b"small")
        (root / "new").replace(root / "one.safetensors")
        assert copied(donors, A, out)


def test_nothing_is_read_before_it_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise AssertionError("read")

    for name in ("read", "pread", "readv", "preadv"):
        monkeypatch.setattr(os, name, refused)
    with Donors(root, Memo(None)) as donors:
        assert donors.files


def test_what_is_small_linked_or_unfinished_gives_nothing(tmp_path: Path, out: int) -> None:
    contents = [random_bytes(MIN_BYTES + i, 100 + i) for i in range(4)]
    small = random_bytes(MIN_BYTES - 1, 200)
    root = write_tree(
        tmp_path / "model",
        {"file": contents[0], f"{PARTIAL}/part": contents[1], "small": small},
    )
    (tmp_path / "outside").write_bytes(contents[2])
    (root / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(contents[3])
    (root / "linked").symlink_to(tmp_path / "folder")
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe")
    with Donors(root, Memo(None)) as donors:
        assert [f.path for f in donors.files] == ["file"]
        found = [copied(donors, content, out) for content in (*contents, small)]
    assert found == [True, False, False, False, False]


def test_a_directory_that_is_not_there_has_none(tmp_path: Path, out: int) -> None:
    with Donors(tmp_path / "nowhere", Memo(None)) as donors:
        assert donors.files == []
        assert not copied(donors, A, out)


def test_the_old_bytes_can_be_had_after_the_name_has_gone(root: Path, out: int) -> None:
    with Donors(root, Memo(None)) as donors:
        assert copied(donors, A, out)
        (root / "new").write_bytes(b"new")
        (root / "new").replace(root / "one.safetensors")
        assert copied(donors, B, out)


def test_a_damaged_file_is_cut_as_any_other(root: Path, out: int) -> None:
    """The header does not fit the file any more: fixed places then, and no error."""
    path = root / "deep" / "two.safetensors"
    content = path.read_bytes()[:-5]
    path.write_bytes(content)
    with Donors(root, Memo(None)) as donors:
        assert copied(donors, content[: 4 * MIB], out)
        assert copied(donors, content[4 * MIB :], out)
        assert copied(donors, A, out)


def test_a_file_that_shrank_after_it_was_looked_at(root: Path, out: int) -> None:
    with Donors(root, Memo(None)) as donors:
        assert copied(donors, A, out)
        os.truncate(root / "one.safetensors", 500)
        assert not copied(donors, A, out)
        assert copied(donors, C[4 * MIB :], out)


def test_what_cannot_be_read_gives_nothing(root: Path, out: int) -> None:
    path = root / "one.safetensors"
    path.unlink()
    path.mkdir()
    with Donors(root, Memo(None)) as donors:
        assert not copied(donors, A, out)
        assert copied(donors, C[4 * MIB :], out)


def n_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_only_the_biggest_stay_open(root: Path, out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(donors_module, "MAX_FILES", 1)
    n_open = n_open_files()
    with Donors(root, Memo(None)) as donors:
        assert copied(donors, C[4 * MIB :], out)
        assert not copied(donors, A, out)
        assert n_open_files() == n_open + 1
    assert n_open_files() == n_open


def test_the_memo_spares_the_hashing(
    root: Path, out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = Memo(tmp_path / "memo")
    with Donors(root, memo) as donors:
        assert copied(donors, A, out)
    memo.save()
    reads: list[int] = []
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(offset)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with Donors(root, Memo(tmp_path / "memo")) as donors:
        assert copied(donors, C[4 * MIB :], out)
    assert reads == []
    with (root / "one.safetensors").open("r+b") as changed:
        changed.write(b"x")
    with Donors(root, Memo(tmp_path / "memo")) as donors:
        assert copied(donors, C[4 * MIB :], out)
    assert reads


def test_no_more_is_read_than_could_be_of_use(tmp_path: Path) -> None:
    for name, n_bytes in {"other.bin": 9 * MIB, "old.bin": 3 * MIB, "older.bin": 2 * MIB}.items():
        (tmp_path / name).write_bytes(random_bytes(n_bytes, n_bytes))
    donors = Donors(tmp_path, Memo(None), 4 * MIB)
    assert [file.path for file in donors.files] == ["old.bin"]
