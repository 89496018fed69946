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
        known = "" if rehash else memo.recall(status)
        if known == key or (known and len(layers) == 1 and _same_algorithm(known, key)):
            return known == key
        found = _joined_key(fd, layers)
        if found and identity(os.fstat(fd)) == identity(status):
            memo.note(status, found)
        return found == key
    finally:
        os.close(fd)


def _same_algorithm(a: str, b: str) -> bool:
    return a.partition(":")[0] == b.partition(":")[0]


def _joined_key(fd: int, layers: Sequence[Descriptor]) -> str:
    """The key of what is there, as far as it could be that of `layers`; "" if that is certain."""
    position = 0
    for layer in layers:
        try:
            found = hash_file(fd, layer.size, lambda _: None, layer.digest, start=position)
        except (IntegrityError, OSError):
            return ""
        if found != layer.digest:
            return found if len(layers) == 1 else ""
        position += layer.size
    return content_key(layers)
