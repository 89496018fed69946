"""Blobs on this machine, whole or in part, shared by pulls and by lazy readers.

    blobs/sha256/<hex>    finished and verified; `blobs/segments/<hex>`: joined from several layers
    partial/<hex>         with its .map: the chunks of a blob that somebody reads lazily
    chunks.db             where which chunk is, and what was used when

A finished blob may be a hard link to a file in a model directory, which someone can write to. So
it is believed only as far as the memo goes, and else hashed again before use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from ocimodel.errors import InputError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import short
from ocimodel.spec.modelpack import REGULAR, content_key
from ocimodel.store.cachedblob import CachedBlob, FinishedFile, is_chunk
from ocimodel.store.chunkdb import ChunkDb
from ocimodel.store.eviction import BLOBS, PARTIAL, CacheEntry, GcResult, collect, list_entries
from ocimodel.store.files import place
from ocimodel.store.growing import copy_range, target_error
from ocimodel.store.memo import Memo
from ocimodel.store.presence import file_joins
from ocimodel.store.sparse import SparseFile, remove_sparse


class ChunkCache:
    """`root` is made when the first bytes come in. Thread-safe. A `ChunkFinder`.

    `clock`: seconds since the epoch, for the order of use.
    """

    def __init__(self, root: Path, memo: Memo, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._memo = memo
        self._clock = clock
        self._db = ChunkDb(root / "chunks.db")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database, which the next use opens again; write what the memo learned."""
        self._db.close()
        self._memo.save()

    # whole contents

    def folder(self) -> Path:
        """On the disk of the cache, for what will be added; made if it is not there. OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        return self._root

    def path(self, layers: Sequence[Descriptor]) -> Path:
        """Where what `layers` join to is kept, once it is finished."""
        return self._finished(content_key(layers))

    def take(self, layers: Sequence[Descriptor], final: Path, mode: int) -> bool:
        """Place what `layers` join to at `final` by reflink, hard link or copy; False if absent."""
        cached = self._proven(layers)
        if cached is None:
            return False
        try:
            place(cached, final, mode, link=True)
        except OSError as error:
            if not cached.exists():
                # evicted just now
                return False
            raise target_error(error, final) from error
        self._note(cached, layers)
        return True

    def open(self, layers: Sequence[Descriptor]) -> int | None:
        """A descriptor of what `layers` join to, to read from; None if it is absent."""
        cached = self._proven(layers)
        if cached is None:
            return None
        try:
            fd = os.open(cached, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # evicted just now
            return None
        self._note(cached, layers)
        return fd

    def add(self, layers: Sequence[Descriptor], origin: Path, chunks: Iterable[Chunk] = ()) -> None:
        """Keep a finished, verified file too. `chunks`: as they lie in it."""
        cached = self.path(layers)
        if not cached.exists():
            try:
                cached.parent.mkdir(parents=True, exist_ok=True)
                place(origin, cached, REGULAR, link=True)
            except OSError as error:
                raise target_error(error, cached) from error
            self._memo.note(origin.stat(), content_key(layers))
            self._drop_partial(content_key(layers))
        self._note(cached, layers, chunks)

    # chunks

    def copy_chunk(self, digest: bytes, length: int, out_fd: int, out_offset: int) -> bool:
        """Copy the chunk of this sha256 into an open file; False where none is known.

        What the memo vouches for is copied in the kernel, unread: whoever asks hashes the whole.
        OSError where the file to write to is full.
        """
        chunk = Chunk(0, length, digest)
        for fd, start, is_trusted in self._opened(digest, length):
            if is_trusted and _copied(fd, start, out_fd, out_offset, length):
                return True
            if (data := _read_checked(fd, start, chunk)) is not None:
                rest = memoryview(data)
                while rest:
                    n = os.pwrite(out_fd, rest, out_offset)
                    rest, out_offset = rest[n:], out_offset + n
                return True
        return False

    def read_chunk(self, digest: bytes, length: int, *, besides: str = "") -> bytes | None:
        """The bytes of a chunk, hashed, if some blob but `besides` (a digest) has it."""
        chunk = Chunk(0, length, digest)
        for fd, start, _ in self._opened(digest, length, besides):
            if (data := _read_checked(fd, start, chunk)) is not None:
                return data
        return None

    def open_blob(
        self, what: Descriptor, chunks: BlobChunks, observer: Observer = ignore
    ) -> CachedBlob:
        """Open a blob to read chunks of it. `observer` hears, once, if nothing can be kept.

        InputError if the chunks do not add up to the blob.
        """
        if chunks.size != what.size:
            raise InputError(f"{what.digest} has {what.size} bytes, its chunks {chunks.size}")
        file: FinishedFile | SparseFile | None = None
        try:
            file = self._open_file(what, chunks)
        except OSError as error:
            told = target_error(error, self._partial(what.digest))
            observer(Notice(f"{short(what.digest)} is not kept in the cache: {told}"))
        else:
            self._db.note(what.digest, self._clock(), chunks.at())
        return CachedBlob(self, what, chunks, file, observer)

    # what is there

    def entries(self) -> list[CacheEntry]:
        """All contents, what was used last first."""
        return list_entries(self._root, self._db)

    def gc(self, max_size: int) -> GcResult:
        """Remove what was used longest ago until the rest takes up at most `max_size` bytes.

        Not what somebody has open; of a hard link only the name here. TargetError.
        """
        try:
            return collect(self._root, self._db, max_size, self._clock())
        except OSError as error:
            raise target_error(error, Path(error.filename or self._root)) from error

    # for a `CachedBlob`

    def finished_path(self, what: Descriptor) -> Path:
        return self._finished(what.digest)

    def published(self, what: Descriptor, status: os.stat_result) -> None:
        """A blob was verified and has its place, as the file with this status."""
        self._memo.note(status, what.digest)
        self._db.note(what.digest, self._clock())

    def _open_file(self, what: Descriptor, chunks: BlobChunks) -> FinishedFile | SparseFile:
        for _ in range(2):
            with contextlib.suppress(OSError):
                return FinishedFile(self._finished(what.digest), what, self._memo)
            # what another process publishes at this moment is gone here and then there
            with contextlib.suppress(FileNotFoundError):
                return SparseFile(self._root / PARTIAL, what, chunks)
        raise FileNotFoundError("others have it open, and it was removed")

    def _opened(
        self, digest: bytes, length: int, besides: str = ""
    ) -> Iterator[tuple[int, int, bool]]:
        """(open file, start, whether the memo knows the file) of each place of a chunk."""
        for key, start in self._db.places(digest, length):
            if key == besides:
                continue
            # in a sparse file there may be a hole, which has another digest
            for path in (self._finished(key), self._partial(key)):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                except OSError:
                    continue
                try:
                    yield fd, start, self._memo.recall(os.fstat(fd)) == key
                finally:
                    os.close(fd)

    def _proven(self, layers: Sequence[Descriptor]) -> Path | None:
        """Where a finished content is, if it is there and is still what it was."""
        cached = self.path(layers)
        if not cached.exists():
            return None
        if not file_joins(cached, layers, self._memo):
            # someone wrote to it through a hard link; a read-only cache keeps it
            with contextlib.suppress(OSError):
                cached.unlink()
            return None
        return cached

    def _finished(self, key: str) -> Path:
        algorithm, _, value = key.partition(":")
        return self._root / BLOBS / algorithm / value

    def _partial(self, key: str) -> Path:
        return self._root / PARTIAL / key.partition(":")[2]

    def _drop_partial(self, key: str) -> None:
        """All of it is here now: the parts are not needed, unless somebody reads them."""
        path = self._partial(key)
        if path.exists():
            with contextlib.suppress(OSError):
                remove_sparse(path)

    def _note(
        self, cached: Path, layers: Sequence[Descriptor], chunks: Iterable[Chunk] = ()
    ) -> None:
        key = content_key(layers)
        # a new hard link changes the ctime, and with it what the memo goes by
        with contextlib.suppress(FileNotFoundError):
            self._memo.note(cached.stat(), key)
        self._db.note(key, self._clock(), chunks)


def _copied(fd: int, start: int, out_fd: int, out_offset: int, length: int) -> bool:
    try:
        return copy_range(fd, start, out_fd, out_offset, length)
    except OSError as error:
        # a bad sector: there may be another copy
        if error.errno != errno.EIO:
            raise
        return False


def _read_checked(fd: int, start: int, chunk: Chunk) -> bytes | None:
    try:
        data = os.pread(fd, chunk.length, start)
    except OSError:
        return None
    return data if is_chunk(data, chunk) else None
