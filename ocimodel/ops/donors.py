"""Older versions in the directory that is pulled into: whose chunks need not be fetched again."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

from ocimodel.errors import OcimodelError
from ocimodel.events import ignore
from ocimodel.ops.indexing import Surveyed, hash_planned, plan
from ocimodel.spec.paths import PARTIAL
from ocimodel.spec.tensor import TensorMap
from ocimodel.store.growing import copy_range
from ocimodel.store.memo import Memo
from ocimodel.store.tree import TreeFile
from ocimodel.weights import read_tensor_map

# a smaller file is fetched sooner than looked into
MIN_BYTES = 1 << 20


class Donors:
    """A `ChunkFinder` over the files below `root` as they are now, for a `with` statement.

    `files`: those that are big enough to be asked. None is read before the first question. Then
    each is cut as packing would cut it, which gives the same chunks for the same tensors, and
    hashed. They stay open, so that their bytes can be had after new ones have taken their names.
    """

    def __init__(self, root: Path, memo: Memo) -> None:
        self._root = root
        self._memo = memo
        self.files = self._files()
        self._chunks: dict[bytes, tuple[int, int, int]] | None = None
        self._fds: list[int] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def copy_chunk(self, digest: bytes, length: int, out_fd: int, out_offset: int) -> bool:
        """Copy a chunk that an older file has into an open one; OSError where that is full."""
        with self._lock:
            if self._chunks is None:
                self._chunks = {}
                self._survey(self._chunks)
        found = self._chunks.get(digest)
        if found is None or found[2] != length:
            return False
        fd, offset, _ = found
        return copy_range(fd, offset, out_fd, out_offset, length)

    def _survey(self, chunks: dict[bytes, tuple[int, int, int]]) -> None:
        """Note the chunks of all files; what cannot be read has none."""
        opened = {file.path: (file, self._open(file)) for file in self.files}
        surveyed = [
            Surveyed(file, True, _map(fd, file)) for file, fd in opened.values() if fd is not None
        ]
        for path, wanted in plan(surveyed).items():
            _, fd = opened[path]
            assert fd is not None
            try:
                hashed = hash_planned(fd, wanted, self._memo, ignore, rehash=False)
            except (OcimodelError, OSError):
                continue
            for (start, length), digest in hashed.chunk_digests().items():
                chunks.setdefault(digest, (fd, start, length))

    def _files(self) -> list[TreeFile]:
        found = []
        for folder, names, files in os.walk(self._root):
            names[:] = sorted(n for n in names if n != PARTIAL)
            for name in sorted(files):
                path = Path(folder) / name
                if not path.is_symlink() and (size := path.stat().st_size) >= MIN_BYTES:
                    relative = path.relative_to(self._root).as_posix()
                    found.append(TreeFile(relative, path, size, executable=False))
        return found

    def _open(self, file: TreeFile) -> int | None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(file.real, flags)
        except OSError:
            return None
        self._fds.append(fd)
        return fd


def _map(fd: int, file: TreeFile) -> TensorMap | None:
    try:
        return read_tensor_map(lambda at, n: os.pread(fd, n, at), file.size, file.path)
    except (OcimodelError, OSError):
        # not what its name says: then it is cut as a file without tensors
        return None
