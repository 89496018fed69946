"""Byte streams in bounded memory: one buffer a thread, readers over files, verified readers."""

from __future__ import annotations

import mmap
import os
import threading
from types import TracebackType
from typing import Self

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import finish, hasher_for
from ocimodel.store.protocol import Advance, Reader

# the size at which socket reads, writes and hashing all run near their best (bench/README.md)
BUFFER_BYTES = 2 << 20

_local = threading.local()


def thread_buffers(n: int) -> list[memoryview]:
    """`n` buffers of BUFFER_BYTES that are this thread's; whoever called last owns them."""
    buffers: list[memoryview] = _local.__dict__.setdefault("buffers", [])
    while len(buffers) < n:
        buffers.append(aligned_buffer(BUFFER_BYTES))
    return buffers[:n]


def aligned_buffer(n_bytes: int) -> memoryview:
    """Writable memory that begins at a page.

    The kernel copies into it up to four times as fast as into a bytearray, which begins 16 bytes
    after one (bench/README.md).
    """
    return memoryview(mmap.mmap(-1, n_bytes))


def thread_buffer() -> memoryview:
    """The first of this thread's buffers."""
    return thread_buffers(1)[0]


class Stream:
    """Base of readers: the bytes [start, start + length) of a blob."""

    start: int
    length: int

    def readinto(self, buffer: memoryview, /) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the stream holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FileReader(Stream):
    """A range of a regular file. Owns the file descriptor `fd` from the first moment.

    `base`: where the blob begins in the file, if that holds more; `start` counts in the blob.
    """

    def __init__(self, fd: int, start: int, length: int, base: int = 0) -> None:
        self.start = start
        self.length = length
        self._fd = fd
        self._position = base + start
        self._end = self._position + length
        os.lseek(fd, self._position, os.SEEK_SET)

    def readinto(self, buffer: memoryview, /) -> int:
        left = self._end - self._position
        n = os.readv(self._fd, [buffer[:left]]) if left else 0
        self._position += n
        return n

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BytesReader(Stream):
    """A range of bytes in memory."""

    def __init__(self, content: bytes | bytearray, start: int, length: int) -> None:
        self.start = start
        self.length = length
        self._rest = memoryview(content)[start : start + length]

    def readinto(self, buffer: memoryview, /) -> int:
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


class Verified(Stream):
    """Passes a whole blob on and raises IntegrityError before its last bytes get out, if wrong.

    So whoever reads on to the end, as an upload does, never completes with other bytes.
    """

    def __init__(self, inner: Reader, what: Descriptor) -> None:
        self.start = 0
        self.length = what.size
        self._inner = inner
        self._what = what
        self._hasher = hasher_for(what.digest)
        self._n_seen = 0

    def readinto(self, buffer: memoryview, /) -> int:
        left = self.length - self._n_seen
        n = self._inner.readinto(buffer[:left]) if left else 0
        self._hasher.update(buffer[:n])
        self._n_seen += n
        if n == 0 and left:
            raise IntegrityError(
                f"{self._what.digest} ended after {self._n_seen} of {self.length} bytes"
            )
        if n == left:
            check_digest(finish(self._hasher, self._what.digest), self._what)
        return n

    def close(self) -> None:
        self._inner.close()


def check_digest(actual: str, what: Descriptor) -> None:
    if actual != what.digest:
        raise IntegrityError(
            f"{what.digest} arrived with the bytes of {actual}",
            hint="the source is damaged or tampered with: pull from another one, or push again",
        )


def drain(reader: Reader) -> bytes:
    """All bytes of a small stream; the caller has bounded its length."""
    buffer = thread_buffer()
    parts: list[bytes] = []
    while n := reader.readinto(buffer):
        parts.append(bytes(buffer[:n]))
    return b"".join(parts)


def hash_file(
    fd: int, size: int, advance: Advance, like: str = "sha256:", start: int | None = None
) -> str:
    """The digest of an open file of `size` bytes, by the algorithm of `like`.

    With a `start`, of `size` bytes from there, whatever follows. IntegrityError when there are
    fewer, or more: it is being written.
    """
    hasher = hasher_for(like)
    buffer = thread_buffer()
    position = start or 0
    end = position + size
    while n := os.preadv(fd, [buffer if start is None else buffer[: end - position]], position):
        hasher.update(buffer[:n])
        position += n
        advance(n)
    if position != end:
        raise IntegrityError(
            f"the file changed while it was read: {position} bytes, not {end}",
            hint="wait for its writer to finish, then try again",
        )
    return finish(hasher, like)


def read_blob(source_reader: Reader, what: Descriptor, limit: int) -> bytes:
    """The verified bytes of a small blob; IntegrityError when it is over `limit` bytes."""
    if what.size > limit:
        raise IntegrityError(f"{what.digest} has {what.size} bytes, over the limit of {limit}")
    with Verified(source_reader, what) as reader:
        return drain(reader)
