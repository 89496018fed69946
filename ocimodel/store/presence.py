"""Whether a file on disk has the bytes that layers promise."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.modelpack import content_key
from ocimodel.store.memo import Memo, identity
from ocimodel.store.streams import hash_file


def file_joins(
    path: Path, layers: Sequence[Descriptor], memo: Memo, *, rehash: bool = False
) -> bool:
    """Whether `path` is a regular file, no link, with the bytes of `layers` one after the other.

    `rehash`: read it even if the memo knows it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        size = sum(layer.size for layer in layers)
        if status.st_size != size or not stat.S_ISREG(status.st_mode):
            return False
        key = content_key(layers)
        if not rehash and memo.recall(status) == key:
            return True
        if not _hashes_to(fd, layers):
            return False
        if identity(os.fstat(fd)) == identity(status):
            memo.note(status, key)
        return True
    finally:
        os.close(fd)


def _hashes_to(fd: int, layers: Sequence[Descriptor]) -> bool:
    position = 0
    for layer in layers:
        try:
            found = hash_file(fd, layer.size, lambda _: None, layer.digest, start=position)
        except (IntegrityError, OSError):
            return False
        if found != layer.digest:
            return False
        position += layer.size
    return True
