"""Putting a file together: from segments that arrive, and from chunks that are here already."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.modelpack import ModelFile
from ocimodel.store.growing import GrowingFile, clip

if TYPE_CHECKING:
    from ocimodel.spec.chunkindex import BlobChunks


# a smaller file is fetched sooner than it is asked around for
MIN_COMPOSED_BYTES = 1 << 20


class ChunkFinder(Protocol):
    """Knows where on this machine there are chunks: in a cache, in an older version."""

    def copy_chunk(self, digest: bytes, length: int, out_fd: int, out_offset: int) -> bool:
        """Copy the chunk of this sha256 into an open file; False where none is known."""
        ...


@dataclass(slots=True)
class Assembly:
    """One content, and the files that shall have it. `left`: where segments are missing yet."""

    layers: tuple[Descriptor, ...]
    files: list[ModelFile] = field(default_factory=list)
    left: set[int] = field(default_factory=set)
    growing: GrowingFile | None = None
    # None: nobody has looked
    is_there: bool | None = None
    is_sought: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    def places(self) -> Iterator[tuple[Descriptor, int]]:
        """The segments and where they begin; one, at 0, for a file that has a layer of its own."""
        base = 0
        for layer in self.layers:
            yield layer, base
            base += layer.size


def take_chunks(
    chunks: BlobChunks, finders: Sequence[ChunkFinder], file: GrowingFile, base: int
) -> bool:
    """Copy what `finders` have of a blob that begins at `base`; whether that was anything."""
    file.resize()
    end = base + chunks.size
    done = file.done(base, chunks.size)
    run = base
    runs: list[tuple[int, int]] = []
    for chunk in chunks.at(base):
        if clip(done, chunk.start, chunk.length) or not any(
            f.copy_chunk(chunk.digest, chunk.length, file.fd, chunk.start) for f in finders
        ):
            runs.append((run, chunk.start))
            run = chunk.start + chunk.length
    runs.append((run, end))
    found = [(start, stop - start) for start, stop in runs if stop > start]
    for stretch in found:
        file.keep(*stretch)
    return bool(found)


def take_range(path: Path, at: int, file: GrowingFile, base: int, what: Descriptor) -> bool:
    """Copy a blob that lies at `at` of a finished file; False where it does not any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        file.forget(base, what.size)
        file.resize()
        if file.take(fd, at, base, what.size):
            file.keep(base, what.size)
            return True
        return False
    finally:
        os.close(fd)
