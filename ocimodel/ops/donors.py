"""Older versions in the directory that is pulled into: whose chunks need not be fetched again."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ocimodel.errors import OcimodelError
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.assembly import MIN_COMPOSED_BYTES
from ocimodel.store.growing import Stretch, copy_range
from ocimodel.store.hashing import hash_stretches
from ocimodel.store.memo import Memo, identity
from ocimodel.store.tree import TreeFile

if TYPE_CHECKING:
    from ocimodel.spec.tensor import TensorMap

# they stay open, and a process often may have no more than 1024 files
MAX_FILES = 256


class Donors:
    """A `ChunkFinder` over the files below `root` as they are now, for a `with` statement.

    `files`: up to MAX_FILES of the biggest, with at most `max_bytes` in all, so that a folder of
    other models is not read for the sake of a small one. They are opened at once, so that their
    bytes can be had after new ones have taken their names. None is read before the first question.
    Then each is cut as packing would cut it, which gives the same chunks for the same tensors, and
    hashed.
    """

    def __init__(self, root: Path, memo: Memo, max_bytes: int = 1 << 62) -> None:
        self._root = root
        self._memo = memo
        self.files = _within(self._files(), max_bytes)
        self._chunks: dict[bytes, tuple[int, int, int]] | None = None
        # as many as files; None: cannot be read
        self._fds = [_opened(file.real) for file in self.files]
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            if fd is not None:
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
        # most pulls never come here, and shall start sooner
        from ocimodel.ops.indexing import Surveyed, plan

        opened = {
            file.path: (file, fd)
            for file, fd in zip(self.files, self._fds, strict=True)
            if fd is not None and os.fstat(fd).st_size == file.size
        }
        surveyed = [Surveyed(file, True, _map(fd, file)) for file, fd in opened.values()]
        for path, planned in plan(surveyed).items():
            _, fd = opened[path]
            with contextlib.suppress(OcimodelError, OSError):
                for (start, length), digest in self._digests(fd, planned.cuts.chunks).items():
                    chunks.setdefault(digest, (fd, start, length))

    def _digests(self, fd: int, wanted: Sequence[Stretch]) -> Mapping[Stretch, bytes]:
        before = os.fstat(fd)
        known = self._memo.recall_stretches(before)
        if known.keys() >= set(wanted):
            return known
        digests = hash_stretches(fd, (), wanted, lambda n: None)
        # one that was replaced meanwhile has another ctime, and still its bytes
        if identity(os.fstat(fd)) == identity(before):
            self._memo.note_stretches(before, digests)
        return digests

    def _files(self) -> list[TreeFile]:
        found = []
        for folder, names, files in os.walk(self._root):
            names[:] = sorted(n for n in names if n != PARTIAL)
            for name in sorted(files):
                path = Path(folder) / name
                # what has just gone, or cannot be looked at, is no donor
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_size >= MIN_COMPOSED_BYTES:
                        relative = path.relative_to(self._root).as_posix()
                        found.append(TreeFile(relative, path, status.st_size, executable=False))
        return found


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None


def _within(files: list[TreeFile], max_bytes: int) -> list[TreeFile]:
    """The biggest first, as long as they fit."""
    chosen: list[TreeFile] = []
    for file in sorted(files, key=lambda f: -f.size):
        if file.size <= max_bytes and len(chosen) < MAX_FILES:
            chosen.append(file)
            max_bytes -= file.size
    return chosen


def _map(fd: int, file: TreeFile) -> TensorMap | None:
    from ocimodel.weights import read_tensor_map

    try:
        return read_tensor_map(lambda at, n: os.pread(fd, n, at), file.size, file.path)
    except (OcimodelError, OSError):
        # not what its name says: then it is cut as a file without tensors
        return None
