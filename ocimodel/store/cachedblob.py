"""A blob of the cache, open for reading chunk by chunk; what is missing is fetched once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

from ocimodel.errors import IntegrityError
from ocimodel.events import Notice, Observer
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import short
from ocimodel.spec.modelpack import REGULAR
from ocimodel.store.growing import target_error
from ocimodel.store.memo import Memo
from ocimodel.store.sparse import ABSENT, CLAIMED, VERIFIED, SparseFile
from ocimodel.store.streams import check_digest, hash_file

Bytes = bytes | bytearray
Fetch = Callable[[Chunk], Bytes]


class Home(Protocol):
    """What a cached blob needs of the cache that it is in."""

    def read_chunk(self, digest: bytes, length: int, *, besides: str = "") -> bytes | None: ...

    def published(self, what: Descriptor, status: os.stat_result) -> None: ...

    def finished_path(self, what: Descriptor) -> Path: ...


class FinishedFile:
    """A whole blob on disk. Owns its descriptor; a shared lock keeps it from being evicted."""

    def __init__(self, path: Path, what: Descriptor, memo: Memo) -> None:
        self._path = path
        self._digest = what.digest
        self._memo = memo
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(self.fd)
            if status.st_size != what.size or not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(path)
            with contextlib.suppress(OSError):
                fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    def read(self, chunk: Chunk) -> bytes | None:
        """The bytes of a chunk, hashed again unless the memo knows the file.

        None if they are wrong; then the file is no longer in the cache.
        """
        data = os.pread(self.fd, chunk.length, chunk.start)
        # after reading: it may be a hard link to a file that somebody writes to
        if len(data) == chunk.length and self._memo.recall(os.fstat(self.fd)) == self._digest:
            return data
        if is_chunk(data, chunk):
            return data
        # whoever opens the blob next starts over; a read-only cache keeps it
        with contextlib.suppress(OSError):
            self._path.unlink()
        return None

    def read_part(self, start: int, length: int) -> bytes | None:
        """Bytes of the blob, where the memo knows the file; else None."""
        data = os.pread(self.fd, length, start)
        is_known = len(data) == length and self._memo.recall(os.fstat(self.fd)) == self._digest
        return data if is_known else None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class CachedBlob:
    """For a `with` statement. Thread-safe; other processes may have the same blob open.

    `file`: None where nothing can be kept; then `read` only passes on what it fetches.
    """

    def __init__(
        self,
        home: Home,
        what: Descriptor,
        chunks: BlobChunks,
        file: SparseFile | FinishedFile | None,
        observer: Observer,
    ) -> None:
        self._home = home
        self._what = what
        self._chunks = tuple(chunks.at())
        self._file = file
        self._observer = observer
        self._is_writable = True
        # chunks that a thread is at work on; -1: all of them
        self._busy: set[int] = set()
        self._n_users = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, or leave that to a read that is under way and ends as it would."""
        with self._changed:
            self._is_closed = True
            is_last = self._n_users == 0
        if is_last and self._file:
            self._file.close()

    @property
    def is_keeping(self) -> bool:
        """Whether what is fetched will be here; not on a disk that is full, or read-only."""
        return self._file is not None and self._is_writable

    def has(self, i: int) -> bool:
        """Whether chunk `i` is here. Reads it where it cannot be believed unread."""
        chunk = self._chunks[i]
        with self._using():
            if isinstance(self._file, SparseFile):
                if (state := self._file.state(i)) != CLAIMED:
                    return state == VERIFIED
                with self._alone(self._file, i):
                    return self._kept(self._file, i, chunk) is not None
            if self._file is None:
                return False
            is_known = self._file.read_part(chunk.start, 0) is not None
            return is_known or _read(self._file, chunk) is not None

    def read(self, i: int, fetch: Fetch, *, is_verified: bool = False) -> Bytes:
        """The verified bytes of chunk `i`: from this blob or another one of the cache, or fetched.

        Of several readers, in several processes, one fetches. A disk that is full costs a notice,
        not the bytes. IntegrityError if what is fetched is wrong; nothing of it is kept.
        `is_verified`: `fetch` itself sees to that.
        """
        chunk = self._chunks[i]
        get = fetch if is_verified else lambda wanted: _checked(self._what, wanted, fetch(wanted))
        with self._using():
            if isinstance(self._file, SparseFile):
                if self._file.state(i) == VERIFIED and (data := _read(self._file, chunk)):
                    return data
                with self._alone(self._file, i):
                    return self._fill(self._file, i, chunk, get)
            data = _read(self._file, chunk) if self._file else None
            return data or self._find(chunk, get)

    def read_part(self, i: int, offset: int, length: int) -> bytes | None:
        """`length` bytes at `offset` in chunk `i`; None if it is not here, or must be hashed."""
        chunk = self._chunks[i]
        with self._using(), contextlib.suppress(OSError):
            if isinstance(self._file, SparseFile) and self._file.state(i) == VERIFIED:
                data = os.pread(self._file.fd, length, chunk.start + offset)
                return data if len(data) == length else None
            if isinstance(self._file, FinishedFile):
                return self._file.read_part(chunk.start + offset, length)
        return None

    def publish(self) -> bool:
        """Give the blob its final place once all chunks are here; whether it is there.

        Reads all of it. False if a chunk is missing, or turned out to be damaged and is missing
        now. IntegrityError if the chunks are right and yet not those of this blob.
        """
        with self._using():
            file = self._file
            if not isinstance(file, SparseFile):
                return file is not None and self._home.finished_path(self._what).exists()
            if not file.is_full():
                return False
            with self._alone(file, -1):
                if not file.is_current():
                    return self._home.finished_path(self._what).exists()
                try:
                    return self._published(file)
                except OSError as error:
                    self._tell(error, file)
                    return False

    def _published(self, file: SparseFile) -> bool:
        try:
            digest = hash_file(file.fd, self._what.size, lambda _: None, self._what.digest)
        except IntegrityError:
            # somebody has made it shorter, or longer
            digest = ""
        if digest == self._what.digest:
            file.publish(self._home.finished_path(self._what), REGULAR)
            self._home.published(self._what, os.fstat(file.fd))
            return True
        wrong = [i for i, c in enumerate(self._chunks) if not is_chunk(_read(file, c) or b"", c)]
        for i in wrong:
            file.mark(i, ABSENT)
        if not wrong:
            file.remove()
            if digest:
                # the index was wrong, and nothing that it says of this blob can be used
                check_digest(digest, self._what)
        return False

    def _fill(self, file: SparseFile, i: int, chunk: Chunk, fetch: Fetch) -> Bytes:
        if (kept := self._kept(file, i, chunk)) is not None:
            return kept
        data = self._find(chunk, fetch)
        # not after it was published: that file may by now have other names
        if self._is_writable and file.is_current():
            try:
                file.write(i, chunk, data)
            except OSError as error:
                self._tell(error, file)
        return data

    def _kept(self, file: SparseFile, i: int, chunk: Chunk) -> bytes | None:
        """The bytes of a chunk that is here, now proven; whoever calls has it alone."""
        state = file.state(i)
        if state == ABSENT:
            return None
        data = _read(file, chunk)
        is_right = data is not None and (state == VERIFIED or is_chunk(data, chunk))
        # where the map cannot be written to, the next one hashes again
        with contextlib.suppress(OSError):
            file.mark(i, VERIFIED if is_right else ABSENT)
        return data if is_right else None

    def _find(self, chunk: Chunk, fetch: Fetch) -> Bytes:
        besides = self._what.digest if self._file else ""
        found = self._home.read_chunk(chunk.digest, chunk.length, besides=besides)
        return fetch(chunk) if found is None else found

    def _tell(self, error: OSError, file: SparseFile) -> None:
        """Once: from here on nothing more is kept."""
        if self._is_writable:
            self._is_writable = False
            told = target_error(error, file.path)
            self._observer(Notice(f"{short(self._what.digest)} is not kept in the cache: {told}"))

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """Keep the file open meanwhile: a number of a closed one may soon be that of another."""
        with self._changed:
            if self._is_closed:
                raise ValueError("read of a closed blob")
            self._n_users += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_users -= 1
                is_last = self._is_closed and self._n_users == 0
            if is_last and self._file:
                self._file.close()

    @contextlib.contextmanager
    def _alone(self, file: SparseFile, i: int) -> Iterator[None]:
        """Be the only thread of all processes at work on chunk `i`; -1: on the whole file."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._busy if i < 0 else self._busy & {i, -1}))
            self._busy.add(i)
        # the byte behind the end: so that an empty blob can be locked too
        where = (0, self._what.size + 1)
        if i >= 0:
            where = (self._chunks[i].start, self._chunks[i].length)
        try:
            with contextlib.ExitStack() as locked:
                # without one two processes may write the same bytes, which is only a waste
                with contextlib.suppress(OSError):
                    locked.enter_context(file.lock(*where))
                yield
        finally:
            with self._changed:
                self._busy.discard(i)
                self._changed.notify_all()


def is_chunk(data: Bytes, chunk: Chunk) -> bool:
    return len(data) == chunk.length and hashlib.sha256(data).digest() == chunk.digest


def _checked(what: Descriptor, chunk: Chunk, data: Bytes) -> Bytes:
    if not is_chunk(data, chunk):
        raise wrong_chunk(what, chunk)
    return data


def wrong_chunk(what: Descriptor, chunk: Chunk) -> IntegrityError:
    return IntegrityError(
        f"bytes {chunk.start} to {chunk.start + chunk.length} of {what.digest} are not those of "
        f"chunk {chunk.digest.hex()}",
        hint="the source is damaged or tampered with: use another one, or push again",
    )


def _read(file: SparseFile | FinishedFile, chunk: Chunk) -> bytes | None:
    # a disk that cannot be read any more is as good as an empty one
    with contextlib.suppress(OSError):
        return file.read(chunk)
    return None
