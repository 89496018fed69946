"""Blobs in chunks, and one of them in a cache that is used, killed and damaged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ocimodel.events import Observer, ignore
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.cachedblob import CachedBlob
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from tests.artifacts import random_bytes


def blob(content: bytes) -> Descriptor:
    return Descriptor("application/x", sha256(content), len(content))


def chunks_of(content: bytes, length: int) -> BlobChunks:
    """Cut every `length` bytes."""
    parts = [content[i : i + length] for i in range(0, len(content), length)]
    return BlobChunks(
        tuple(map(len, parts)), b"".join(hashlib.sha256(part).digest() for part in parts)
    )


LENGTH = 64 << 10
N = 5
CONTENT = random_bytes((N - 1) * LENGTH + 1000, 71)
WHAT = blob(CONTENT)
CHUNKS = chunks_of(CONTENT, LENGTH)
PARTS = [CONTENT[c.start : c.start + c.length] for c in CHUNKS.at()]


class Origin:
    """Has the content, and remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, chunk: Chunk) -> bytes:
        self.asked.append(chunk.start // LENGTH)
        return CONTENT[chunk.start : chunk.start + chunk.length]


@contextmanager
def opened(
    root: Path, what: Descriptor = WHAT, cut: int = LENGTH, observer: Observer = ignore
) -> Iterator[CachedBlob]:
    """The blob as another process would have it: nothing is remembered."""
    with (
        ChunkCache(root, Memo(None)) as cache,
        cache.open_blob(what, chunks_of(CONTENT, cut), observer) as it,
    ):
        yield it


def sparse_path(root: Path) -> Path:
    return root / "partial" / WHAT.digest[7:]


def final_path(root: Path) -> Path:
    return root / "blobs" / "sha256" / WHAT.digest[7:]


def killed(action: Callable[[], object]) -> None:
    """Do it in a process that then ends without a farewell."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def read_and_stay_open(root: Path, *numbers: int) -> None:
    it = ChunkCache(root, Memo(None)).open_blob(WHAT, CHUNKS)
    for i in numbers:
        assert it.read(i, Origin()) == PARTS[i]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
