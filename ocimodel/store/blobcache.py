"""Finished blobs on this machine, shared by pulls: `DIR/blobs/sha256/<hex>`.

A cached blob may be a hard link to a file in a model directory, which someone can write to. So a
blob is believed only as far as the memo goes, and else hashed again before use.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.modelpack import REGULAR
from ocimodel.store.files import place
from ocimodel.store.landing import target_error
from ocimodel.store.memo import Memo, identity
from ocimodel.store.streams import hash_file


def file_has(path: Path, what: Descriptor, memo: Memo, *, rehash: bool = False) -> bool:
    """Whether `path` is a regular file, no link, with exactly the bytes of `what`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        if status.st_size != what.size or not stat.S_ISREG(status.st_mode):
            return False
        if not rehash and memo.recall(status) == what.digest:
            return True
        with contextlib.suppress(IntegrityError, OSError):
            if hash_file(fd, what.size, lambda _: None, what.digest) == what.digest:
                if identity(os.fstat(fd)) == identity(status):
                    memo.note(status, what.digest)
                return True
        return False
    finally:
        os.close(fd)


class BlobCache:
    """`root` is made when the first blob comes in."""

    def __init__(self, root: Path, memo: Memo) -> None:
        self._root = root
        self._memo = memo

    def path(self, what: Descriptor) -> Path:
        algorithm, _, value = what.digest.partition(":")
        return self._root / "blobs" / algorithm / value

    def take(self, what: Descriptor, final: Path, mode: int) -> bool:
        """Place the blob at `final` by reflink, hard link or copy; False if it is not here."""
        cached = self.path(what)
        if not cached.exists():
            return False
        if not file_has(cached, what, self._memo):
            # someone wrote to it through a hard link; a read-only cache keeps it
            with contextlib.suppress(OSError):
                cached.unlink()
            return False
        try:
            place(cached, final, mode, link=True)
        except OSError as error:
            raise target_error(error, final) from error
        self._note(cached, what)
        return True

    def add(self, what: Descriptor, origin: Path) -> None:
        """Keep a finished, verified file too."""
        cached = self.path(what)
        if cached.exists():
            return
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            place(origin, cached, REGULAR, link=True)
        except OSError as error:
            raise target_error(error, cached) from error
        self._note(cached, what)
        self._note(origin, what)

    def _note(self, path: Path, what: Descriptor) -> None:
        # a new hard link changes the ctime, and with it what the memo goes by
        self._memo.note(path.stat(), what.digest)
