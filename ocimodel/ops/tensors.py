"""The tensors of an artifact without its weights: from its index, or from the files' headers."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from ocimodel.errors import InputError, RegistryError
from ocimodel.spec.chunkindex import ChunkIndex
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.store.protocol import Source
from ocimodel.store.streams import thread_buffer
from ocimodel.store.workers import Workers
from ocimodel.weights import read_tensor_map

_N_STREAMS = 8
# most headers come whole with the first request
_FIRST_BYTES = 64 * 1024
# of one read; 90,000 tensors have a header of 12 MiB
_MAX_BYTES = 32 << 20
# what a store that knows no ranges may send before the wanted bytes; more would be the weights
_MAX_DISCARDED = 16 << 20


def tensors_of_index(index: ChunkIndex) -> list[Tensor]:
    """All tensors by the file that holds their bytes, then by offset; `file` is always set."""
    return _ordered(
        replace(tensor, file=tensor.file or entry.path)
        for entry in index.files.values()
        for tensor in entry.tensors
    )


def tensors_of_headers(source: Source, files: Sequence[ModelFile]) -> list[Tensor]:
    """The same by ranged reads of what may be weights; the bytes are NOT verified.

    InputError, naming the file, for a damaged one; RegistryError when the store serves no ranges.
    """
    found: list[Tensor] = []
    jobs = [partial(_read, source, f, found) for f in files if _may_hold_tensors(f)]
    Workers(jobs, _N_STREAMS).run()
    return _ordered(found)


def _may_hold_tensors(file: ModelFile) -> bool:
    # plain `oras push` artifacts have no kinds
    is_raw = file.codec == "raw" and not file.is_directory
    return is_raw and file.kind in ("weight", "") and file.size > 0


def _read(source: Source, file: ModelFile, into: list[Tensor]) -> None:
    if found := map_of(source, file):
        into += (replace(tensor, file=tensor.file or file.path) for tensor in found.tensors)


def map_of(source: Source, file: ModelFile) -> TensorMap | None:
    """The tensor map of a file by ranged reads; `file` of a tensor is a path in the artifact.

    Raises as `tensors_of_headers`.
    """
    found = read_tensor_map(FileReads(source, file), file.size, file.path)
    folder = posixpath.dirname(file.path)
    return found and replace(
        found,
        tensors=tuple(
            replace(t, file=posixpath.join(folder, t.file)) if t.file else t for t in found.tensors
        ),
    )


def _ordered(tensors: Iterable[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=lambda t: (t.file, t.offset, t.length, t.name))


class FileReads:
    """Ranged reads of a file, a request or more each, but for those within its first bytes."""

    def __init__(self, source: Source, file: ModelFile) -> None:
        self._source = source
        self._file = file
        self._first = self._fetch(0, min(_FIRST_BYTES, file.size))

    def __call__(self, offset: int, length: int) -> bytes:
        length = min(length, self._file.size - offset)
        if length <= 0:
            return b""
        if offset + length <= len(self._first):
            return self._first[offset : offset + length]
        return self._fetch(offset, length)

    def _fetch(self, offset: int, length: int) -> bytes:
        if length > _MAX_BYTES:
            raise InputError(
                f"a header of {length} bytes is too long to look at from afar",
                hint="pull the artifact, then inspect what came",
            )
        found = bytearray()
        base = 0
        for layer in self._file.layers:
            start = max(offset, base)
            end = min(offset + length, base + layer.size)
            if start < end:
                found += self._fetch_from(layer, start - base, end - start)
            base += layer.size
        return bytes(found)

    def _fetch_from(self, layer: Descriptor, offset: int, length: int) -> bytes:
        buffer = thread_buffer()
        found = bytearray()
        with self._source.open(layer, offset, length) as reader:
            discarded = offset - reader.start
            if discarded > _MAX_DISCARDED:
                raise RegistryError(
                    f"{self._source.name} serves no ranges of {layer.digest}",
                    hint="pull the artifact, then inspect what came",
                )
            # closed as soon as all is there: what follows would be weights
            while len(found) < discarded + length:
                n = reader.readinto(buffer[: discarded + length - len(found)])
                if not n:
                    break
                found += buffer[:n]
        return bytes(found[discarded:])
