"""Blob uploads under way: one file each in the layout's partial folder, hashed as it grows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ocimodel.server.body import Body
from ocimodel.server.messages import ApiError
from ocimodel.spec.digest import finish, hasher_for
from ocimodel.store.growing import target_error
from ocimodel.store.streams import hash_file, thread_buffer

ABANDONED_AFTER_S = 24 * 3600
_PREFIX = "upload-"
# what an upload without an end may cost; a client retries at once, or its old connection is dead
_LOCK_TIMEOUT_S = 10
_END_TIMEOUT_S = 1


class Upload:
    """One session. `size`: the bytes taken so far; the hash covers exactly those."""

    def __init__(self, folder: Path, repository: str) -> None:
        self.id = uuid4().hex
        self.repository = repository
        self.size = 0
        self.touched = time.monotonic()
        self.lock = threading.Lock()
        self.path = folder / f"{_PREFIX}{self.id}"
        self._hasher = hasher_for("sha256:")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise target_error(error, self.path) from error
        with contextlib.suppress(OSError):
            # tells other processes that this is no litter, where the file system has locks
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def append(self, body: Body) -> None:
        """Take all of `body`. What came before a failure stays, and counts."""
        buffer = thread_buffer()
        while n := body.readinto(buffer):
            try:
                _write(self._fd, buffer[:n], self.size)
            except OSError as error:
                raise target_error(error, self.path) from error
            self._hasher.update(buffer[:n])
            self.size += n
            self.touched = time.monotonic()

    def digest(self, like: str) -> str:
        """The digest of all bytes, by the algorithm of `like`; another than sha256 reads again."""
        if like.startswith("sha256:"):
            return finish(self._hasher, like)
        return hash_file(self._fd, self.size, lambda _: None, like)

    def deliver(self, final: Path) -> None:
        """Sync the file and let it appear at `final`; the session is over."""
        try:
            os.fsync(self._fd)
            final.parent.mkdir(parents=True, exist_ok=True)
            self.path.replace(final)
        except OSError as error:
            raise target_error(error, final) from error
        self.close()

    def close(self) -> None:
        """End it; what was not delivered is gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path.unlink(missing_ok=True)


class Sessions:
    """All uploads of this server. They do not outlive it: clients start over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def start(self, repository: str) -> Upload:
        self._expire()
        upload = Upload(self._folder, repository)
        with self._lock:
            self._uploads[upload.id] = upload
        return upload

    @contextmanager
    def held(self, repository: str, upload_id: str) -> Iterator[Upload]:
        """The session, for this request alone; 404 BLOB_UPLOAD_UNKNOWN where there is none."""
        upload = self.find(repository, upload_id)
        if not upload.lock.acquire(timeout=_LOCK_TIMEOUT_S):
            raise ApiError(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
        try:
            # it may have ended while we waited
            yield self.find(repository, upload_id)
        finally:
            upload.lock.release()

    def find(self, repository: str, upload_id: str) -> Upload:
        """The session, to look at only; 404 BLOB_UPLOAD_UNKNOWN where there is none."""
        with self._lock:
            upload = self._uploads.get(upload_id)
        if upload is None or upload.repository != repository:
            raise ApiError(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; start a new one")
        return upload

    def end(self, upload: Upload) -> None:
        with self._lock:
            self._uploads.pop(upload.id, None)
        upload.close()

    def close(self) -> None:
        with self._lock:
            uploads, self._uploads = list(self._uploads.values()), {}
        for upload in uploads:
            # one that is being written to has just lost its connection
            if upload.lock.acquire(timeout=_END_TIMEOUT_S):
                upload.close()

    def _expire(self) -> None:
        limit = time.monotonic() - ABANDONED_AFTER_S
        with self._lock:
            old = [u for u in self._uploads.values() if u.touched < limit]
        for upload in old:
            if upload.lock.acquire(blocking=False):
                self.end(upload)


def remove_abandoned(folder: Path, now_s: float) -> int:
    """Delete what killed servers have left for a day; the number of files."""
    n_removed = 0
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if now_s - path.stat().st_mtime > ABANDONED_AFTER_S and not _in_use(path):
                path.unlink()
                n_removed += 1
    return n_removed


def _in_use(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _write(fd: int, data: memoryview, position: int) -> None:
    while data:
        n = os.pwrite(fd, data, position)
        data, position = data[n:], position + n
