"""Whether a file has the bytes that layers promise."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.memo import Memo
from ocimodel.store.presence import file_joins
from tests.artifacts import random_bytes

CONTENT = random_bytes(100_000, 5)
WHAT = Descriptor("t", sha256(CONTENT), len(CONTENT))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def test_a_file_has_the_bytes_of_a_layer(file: Path, tmp_path: Path) -> None:
    memo = Memo(None)
    assert file_joins(file, (WHAT,), memo)
    assert memo.recall(file.stat()) == WHAT.digest
    assert not file_joins(tmp_path, (WHAT,), memo)
    assert not file_joins(tmp_path / "nowhere", (WHAT,), memo)
    assert not file_joins(file, (Descriptor("t", sha256(b"x"), len(CONTENT)),), memo, rehash=True)
    assert not file_joins(file, (Descriptor("t", WHAT.digest, 5),), memo)
    (tmp_path / "link").symlink_to(file)
    assert not file_joins(tmp_path / "link", (WHAT,), memo)
    os.mkfifo(tmp_path / "pipe")
    assert not file_joins(tmp_path / "pipe", (Descriptor("t", sha256(b""), 0),), memo)


def test_the_algorithm_is_that_of_the_digest(file: Path) -> None:
    digest = "sha512:" + hashlib.sha512(CONTENT).hexdigest()
    assert file_joins(file, (Descriptor("t", digest, len(CONTENT)),), Memo(None))


def test_a_file_joins_segments_in_their_order(file: Path) -> None:
    parts = [CONTENT[:40_000], CONTENT[40_000:]]
    layers = [Descriptor("t", sha256(part), len(part)) for part in parts]
    memo = Memo(None)
    assert file_joins(file, layers, memo)
    assert not file_joins(file, layers[::-1], memo, rehash=True)
    assert not file_joins(file, layers[:1], memo)
    assert not file_joins(file, [*layers, layers[0]], memo)
    # joined and whole are two names for it
    assert file_joins(file, (WHAT,), memo)
