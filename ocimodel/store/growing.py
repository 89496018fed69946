"""A file that takes shape under another name: written anywhere, resumable, locked to one process.

Beside it lies a journal with a line `start length` for each stretch that is written, and a line
with a negative length for one that is to be forgotten. After a kill both are there, and the next
attempt fetches what the journal lacks. The journal is only a hint: the digest over a whole blob
decides, so that a lying one costs time and never correctness.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from bisect import insort
from collections.abc import Iterable
from pathlib import Path

from ocimodel.errors import TargetError

Stretch = tuple[int, int]


class GrowingFile:
    """`size`: bytes, when it is whole. Owns its descriptor until `close`. Thread-safe.

    Waits for another process that has it. Raises TargetError for a full or read-only disk.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._journal = path.with_suffix(".ranges")
        self._lock = threading.Lock()
        self._is_sized = False
        self.fd = _open_locked(path)
        try:
            n_present = os.fstat(self.fd).st_size
            self._done = _read_journal(self._journal, n_present, size)
            if n_present > size:
                # left by a manifest that gave this digest another size
                self.resize()
        except BaseException:
            self.close()
            raise

    def done(self, start: int, length: int) -> list[Stretch]:
        """What an earlier attempt, or a copy, has written of a stretch; in order."""
        with self._lock:
            return clip(self._done, start, length)

    def resize(self) -> None:
        """Give it its final size, as room for what will be written ahead."""
        if self._is_sized:
            return
        try:
            os.ftruncate(self.fd, self.size)
        except OSError as error:
            raise target_error(error, self.path) from error
        self._is_sized = True

    def write(self, data: memoryview, position: int) -> None:
        try:
            while data:
                n = os.pwrite(self.fd, data, position)
                data, position = data[n:], position + n
        except OSError as error:
            raise target_error(error, self.path) from error

    def take(self, fd: int, offset: int, start: int, length: int) -> bool:
        """Copy from another file; False where that one ends early."""
        try:
            return copy_range(fd, offset, self.fd, start, length)
        except OSError as error:
            raise target_error(error, self.path) from error

    def keep(self, start: int, length: int) -> None:
        """A stretch was copied here: let it count as done."""
        with self._lock:
            insort(self._done, (start, length))
        self.note(start, length)

    def note(self, start: int, length: int) -> None:
        """Remember a stretch as written, for a later attempt."""
        # O_APPEND: lines of several threads do not mix
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # it is a hint: where it cannot be written, a rerun has more to fetch
        with contextlib.suppress(OSError):
            fd = os.open(self._journal, flags, 0o644)
            try:
                os.write(fd, f"{start} {length}\n".encode())
            finally:
                os.close(fd)

    def forget(self, start: int, length: int) -> None:
        """What stands there turned out wrong."""
        if (start, length) == (0, self.size):
            self._journal.unlink(missing_ok=True)
        else:
            self.note(start, -length)
        with self._lock:
            self._done = _without(self._done, start, length)

    def seal(self) -> None:
        """All of it is there: bring it to the disk."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise target_error(error, self.path) from error

    def delivered(self) -> None:
        """The file has its place; nothing of the way there remains."""
        self._journal.unlink(missing_ok=True)
        self.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.delivered()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def copy_range(in_fd: int, in_offset: int, out_fd: int, out_offset: int, length: int) -> bool:
    """Copy between open files, in the kernel; False where the origin ends early. OSError."""
    while length:
        try:
            n = os.copy_file_range(in_fd, out_fd, length, in_offset, out_offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            data = os.pread(in_fd, min(length, 1 << 20), in_offset)
            n = os.pwrite(out_fd, data, out_offset)
        if n == 0:
            return False
        in_offset, out_offset, length = in_offset + n, out_offset + n, length - n
    return True


def clip(stretches: Iterable[Stretch], start: int, length: int) -> list[Stretch]:
    """What of the sorted `stretches` lies in [start, start + length)."""
    end = start + length
    return [
        (max(at, start), min(at + n, end) - max(at, start))
        for at, n in stretches
        if at < end and at + n > start
    ]


def _without(stretches: Iterable[Stretch], start: int, length: int) -> list[Stretch]:
    rest: list[Stretch] = []
    for at, n in stretches:
        rest += clip([(at, n)], 0, start) + clip([(at, n)], start + length, 1 << 63)
    return rest


def _open_locked(path: Path) -> int:
    """Open the growing file for this process alone, waiting for another one to be done with it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise target_error(error, path) from error
        with contextlib.suppress(OSError):
            # a file system without locks: two writers then waste time, and the digest decides
            fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False)):
                return fd
        # the other one has moved it into place: start over
        os.close(fd)


def _read_journal(path: Path, n_present: int, size: int) -> list[Stretch]:
    """The finished stretches, in order, without overlaps; nothing where the journal is odd."""
    found: list[Stretch] = []
    try:
        for line in path.read_text("ascii").splitlines():
            start, length = map(int, line.split())
            if length < 0:
                found = _without(found, start, -length)
            else:
                found.append((start, length))
    except (OSError, ValueError):
        return []
    done: list[Stretch] = []
    position = 0
    for start, length in sorted(found):
        if start < position or length <= 0 or start + length > min(n_present, size):
            return []
        done.append((start, length))
        position = start + length
    return done


def target_error(error: OSError, path: Path) -> TargetError:
    """Say which place cannot be written to, and what to do about it."""
    hints = {
        errno.ENOSPC: "free some space, or choose another directory; the next run resumes",
        errno.EDQUOT: "the quota is used up: free some space; the next run resumes",
        errno.EROFS: "the file system is read-only: choose another directory",
        errno.EACCES: "choose a directory that this user may write to",
        errno.EPERM: "choose a directory that this user may write to",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return TargetError(f"cannot write {path}: {reason}", hint=hints.get(error.errno or 0, ""))
