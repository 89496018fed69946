"""A blob of which only some chunks are here: a sparse file, and beside it the map of its chunks.

`<hex>` has the bytes, at their places. `<hex>.map` says which chunks are there, one byte each, so
that two processes never write to the same byte. Its header binds it to the blob and to the way it
is cut, and a seal, written when the last holder is done, to the states and the file as they are. A
map without its seal was left by a kill or a power cut, or one of the two files was changed since:
then no chunk is believed before it is hashed again.

The locks: a shared flock on the map says that somebody has the blob open, an exclusive one that
nobody else has. Whoever fills a chunk locks its range in the sparse file. (Not both on one file:
on a network disk flocks are range locks.)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.memo import identity

ABSENT, VERIFIED, CLAIMED = 0, 1, 2

MAP_SUFFIX = ".map"
_MAGIC = b"ocimap1\n"
_SEAL_AT = len(_MAGIC) + hashlib.sha256().digest_size
_STATES_AT = _SEAL_AT + hashlib.sha256().digest_size
# fcntl.h: type, whence, start, length, process; off_t has 64 bits in Python
_FLOCK = struct.Struct("hhqqi4x")
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
# as the memo has it: within a tick of the kernel's clock a file can change unseen
_TICK_NS = 20_000_000


class SparseFile:
    """Owns its descriptors until `close`. Thread-safe, but for locks: see `lock`.

    Raises OSError where the folder cannot be written to, has no locks, or where others have the
    blob open with other chunks.
    """

    def __init__(self, folder: Path, what: Descriptor, chunks: BlobChunks) -> None:
        name = what.digest.partition(":")[2]
        self.path = folder / name
        self._map_path = map_path(self.path)
        self._size = what.size
        self._n_chunks = len(chunks.lengths)
        lengths = b"".join(length.to_bytes(4, "big") for length in chunks.lengths)
        self._binding = hashlib.sha256(
            b"".join([what.digest.encode(), what.size.to_bytes(8, "big"), lengths, chunks.digests])
        ).digest()
        self.fd = self._map = -1
        folder.mkdir(parents=True, exist_ok=True)
        try:
            while not self._open():
                self._close()
        except BaseException:
            self._close()
            raise

    def state(self, i: int) -> int:
        """ABSENT; VERIFIED: was hashed before it was written; CLAIMED: must be hashed again."""
        with contextlib.suppress(OSError, IndexError):
            return os.pread(self._map, 1, _STATES_AT + i)[0]
        return ABSENT

    def is_full(self) -> bool:
        states = os.pread(self._map, self._n_chunks, _STATES_AT)
        return len(states) == self._n_chunks and ABSENT not in states

    def mark(self, i: int, state: int) -> None:
        os.pwrite(self._map, bytes([state]), _STATES_AT + i)

    def read(self, chunk: Chunk) -> bytes | None:
        """What stands at the chunk's place; None where the file is shorter than that."""
        data = os.pread(self.fd, chunk.length, chunk.start)
        return data if len(data) == chunk.length else None

    def write(self, i: int, chunk: Chunk, data: bytes | bytearray) -> None:
        """Keep a chunk that was verified; whoever writes has its lock."""
        rest, position = memoryview(data), chunk.start
        while rest:
            n = os.pwrite(self.fd, rest, position)
            rest, position = rest[n:], position + n
        self.mark(i, VERIFIED)

    def is_current(self) -> bool:
        """Whether the file is still where it was: neither published nor taken away."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self.fd), self.path.stat(follow_symlinks=False))
        return False

    @contextlib.contextmanager
    def lock(self, start: int, length: int) -> Iterator[None]:
        """Be the only process, and the only `SparseFile`, at work in a range; waits for others.

        Two threads with one `SparseFile` do not exclude each other.
        """
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, 0, start, length, 0))
        try:
            yield
        finally:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, start, length, 0))

    def publish(self, final: Path, mode: int) -> None:
        """All bytes are right: give the file its place among the finished ones."""
        os.fchmod(self.fd, mode)
        os.fsync(self.fd)
        # who removes finished blobs leaves those that are in use
        fcntl.flock(self.fd, fcntl.LOCK_SH)
        final.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(final)
        # after it: a map at its path says that the file is, or was, at its own
        self._map_path.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._map_path.unlink(missing_ok=True)

    def close(self) -> None:
        """The last one to go seals what is there."""
        if self._map < 0:
            return
        with contextlib.suppress(OSError):
            fcntl.flock(self._map, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.is_current():
                self._seal()
        self._close()

    def _open(self) -> bool:
        """False if the files were taken away in the meantime."""
        self._map = os.open(self._map_path, _FLAGS | os.O_CREAT, 0o644)
        is_first = _enter(self._map)
        # where another process has the blob open, its file is there, or being published
        self.fd = os.open(self.path, _FLAGS | (os.O_CREAT if is_first else 0), 0o644)
        # in this order: if the map is still there now, the file is the one that it is about
        try:
            there = self._map_path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not os.path.samestat(os.fstat(self._map), there):
            return False
        if is_first:
            self._begin()
            fcntl.flock(self._map, fcntl.LOCK_SH)
        elif os.pread(self._map, _SEAL_AT, 0) != _MAGIC + self._binding:
            raise OSError("others have it open, cut into other chunks")
        # a place that nobody else locks: does this file system have such locks?
        with self.lock(self._size + 1, 1):
            return True

    def _begin(self) -> None:
        """Nobody else has it open: find out what can be believed."""
        raw = os.pread(self._map, _STATES_AT + self._n_chunks, 0)
        states = raw[_STATES_AT:]
        if raw[:_SEAL_AT] != _MAGIC + self._binding:
            os.ftruncate(self._map, 0)
            os.ftruncate(self.fd, 0)
            header = (_MAGIC + self._binding).ljust(_STATES_AT, b"\0")
            os.pwrite(self._map, header + bytes([ABSENT]) * self._n_chunks, 0)
        elif raw[_SEAL_AT:_STATES_AT] != self._new_seal(states):
            claimed = bytes(CLAIMED if state != ABSENT else ABSENT for state in states)
            os.pwrite(self._map, claimed, _STATES_AT)
        if os.fstat(self.fd).st_size != self._size:
            os.ftruncate(self.fd, self._size)

    def _seal(self) -> None:
        """Bring the bytes to the disk, and say that they are there."""
        states = os.pread(self._map, self._n_chunks, _STATES_AT)
        if os.pread(self._map, _STATES_AT - _SEAL_AT, _SEAL_AT) == self._new_seal(states):
            return
        os.fsync(self.fd)
        changed_ns = os.fstat(self.fd).st_ctime_ns
        time.sleep(min(_TICK_NS, max(0, changed_ns + _TICK_NS - time.time_ns())) / 1e9)
        os.pwrite(self._map, self._new_seal(states), _SEAL_AT)

    def _new_seal(self, states: bytes) -> bytes:
        # any write to either file makes it another one
        now = repr(identity(os.fstat(self.fd))).encode()
        return hashlib.sha256(self._binding + now + states).digest()

    def _close(self) -> None:
        for fd in (self.fd, self._map):
            if fd >= 0:
                os.close(fd)
        self.fd = self._map = -1


def map_path(path: Path) -> Path:
    return path.with_name(path.name + MAP_SUFFIX)


def remove_sparse(path: Path) -> bool:
    """Remove a sparse file and its map; False if somebody has it open. OSError."""
    fd = os.open(map_path(path), _FLAGS | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), map_path(path).stat(follow_symlinks=False)):
            return False
        path.unlink(missing_ok=True)
        map_path(path).unlink(missing_ok=True)
    except (BlockingIOError, FileNotFoundError):
        # in use, or somebody else has just done it
        return False
    else:
        return True
    finally:
        os.close(fd)


def _enter(fd: int) -> bool:
    """Lock a map. True: nobody else has it open, nor can, until the lock is made a shared one."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return False
    return True
