"""Whether what a store holds is what an artifact says: every byte, read again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ocimodel.errors import InputError, IntegrityError, NotFoundError
from ocimodel.events import HashAdvanced, HashStarted, Observer
from ocimodel.ops.access import IndexOf
from ocimodel.ops.tensors import map_of
from ocimodel.spec.chunkindex import ChunkIndex, IndexedFile, fingerprint
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.segments import files_of
from ocimodel.spec.tensor import Tensor
from ocimodel.store.growing import Stretch
from ocimodel.store.hashing import StretchHasher
from ocimodel.store.protocol import Source
from ocimodel.store.streams import Verified, thread_buffer
from ocimodel.store.workers import Workers
from ocimodel.weights.cuts import pieces

# bytes of tensors to bytes of their file
MAX_OVERLAP = 4
# what a store may be blamed for; a network that fails is another matter
_WRONG = (IntegrityError, InputError, NotFoundError)


@dataclass(frozen=True, slots=True)
class Contents:
    """`n_blobs`, `n_chunks`, `n_tensors`: compared. `problems`: what is not as it is said to be."""

    n_blobs: int
    n_chunks: int
    n_tensors: int
    n_bytes: int
    problems: tuple[str, ...] = ()


def check_contents(
    source: Source, root: Manifest, *, concurrency: int, observer: Observer
) -> Contents:
    """Read every byte of an artifact, and recompute all digests that manifest and index give.

    So a reader of single chunks can be sure to get the bytes that a whole pull gets. Nothing is
    written. `problems` tell of wrong bytes; InputError of an index that contradicts the manifest.
    """
    index = IndexOf(source, root)() or ChunkIndex()
    observer(HashStarted(sum(blob.size for blob in root.blobs())))
    found = files_of(root)
    sizes = {file.path: file.size for file in found}
    check = _Check(source, index, _inside(index), observer, sizes)
    files: dict[str, list[ModelFile]] = {}
    for file in found:
        files.setdefault(file.key, []).append(file)
    in_files = {layer.digest for same in files.values() for layer in same[0].layers}
    others = [blob for blob in root.blobs() if blob.digest not in in_files]
    tasks = [
        *(partial(check.files, f) for f in sorted(files.values(), key=lambda f: -f[0].size)),
        *(partial(check.blob, blob) for blob in others),
    ]
    Workers(tasks, concurrency).run()
    return Contents(
        n_blobs=len(root.blobs()),
        n_chunks=check.n_chunks,
        n_tensors=check.n_tensors,
        n_bytes=sum(blob.size for blob in root.blobs()),
        problems=tuple(sorted(check.problems)),
    )


def _inside(index: ChunkIndex) -> dict[str, list[tuple[Tensor, bytes]]]:
    """By path, the tensors whose bytes lie in that file, each with its fingerprint."""
    found: dict[str, list[tuple[Tensor, bytes]]] = {}
    for entry in index.files.values():
        for tensor, digest in _with_fingerprints(entry):
            found.setdefault(tensor.file or entry.path, []).append((tensor, digest))
    return found


def _with_fingerprints(entry: IndexedFile) -> Iterator[tuple[Tensor, bytes]]:
    prints = entry.fingerprints or (b"",) * len(entry.tensors)
    return zip(entry.tensors, prints, strict=True)


@dataclass(slots=True)
class _Check:
    source: Source
    index: ChunkIndex
    inside: dict[str, list[tuple[Tensor, bytes]]]
    observer: Observer
    # of each file, in bytes
    sizes: Mapping[str, int]
    problems: list[str] = field(default_factory=list)
    n_chunks: int = 0
    n_tensors: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def blob(self, what: Descriptor) -> None:
        """A blob that is no file: the configuration, the index."""
        buffer = thread_buffer()
        try:
            with Verified(self.source.open(what), what) as reader:
                while n := reader.readinto(buffer):
                    self.observer(HashAdvanced(n))
        except _WRONG as error:
            self._found(str(error))

    def files(self, same: Sequence[ModelFile]) -> None:
        """Files of the same layers, each read once: digests of layers, of chunks, of tensors."""
        file = same[0]
        if any(not layer.digest.startswith("sha256:") for layer in file.layers):
            for layer in file.layers:
                self.blob(layer)
            return
        chunks: dict[Stretch, bytes] = {}
        layers: dict[Stretch, Descriptor] = {}
        base = 0
        for layer in file.layers:
            layers[(base, layer.size)] = layer
            known = self.index.chunks(layer)
            chunks |= {(c.start, c.length): c.digest for c in known.at(base)} if known else {}
            base += layer.size
        inside = [(f.path, t, d) for f in same for t, d in self.inside.get(f.path, [])]
        parts = [p for _, t, d in inside if d for p in pieces(t)]
        if sum(length for _, length in parts) > MAX_OVERLAP * max(1, file.size):
            self._found(f"{file.path}: its tensors overlap beyond all reason")
            return
        hasher = StretchHasher([*layers, *chunks, *parts])
        try:
            for layer in file.layers:
                self._stream(layer, hasher)
            digests = hasher.finish()
        except _WRONG as error:
            self._found(f"{file.path}: {error}")
            return
        wrong = [layer for at, layer in layers.items() if digests[at].hex() != layer.digest[7:]]
        for layer in wrong:
            self._found(f"{file.path}: {layer.digest} has other bytes than its digest says")
        for (start, length), digest in chunks.items():
            if digests[start, length] != digest and not wrong:
                self._found(f"{file.path}: the chunk at byte {start} is not what the index says")
        for path, tensor, digest in inside:
            if not digest or wrong:
                continue
            if fingerprint([digests[p] for p in pieces(tensor)]) != digest:
                self._found(f"{path}: tensor {tensor.name[:200]!r} is not what the index says")
        for each in same if not wrong else ():
            self._tensors(each)
        with self.lock:
            self.n_chunks += len(chunks)
            self.n_tensors += len(inside)

    def _tensors(self, file: ModelFile) -> None:
        """Whether the index gives the tensors that the file's own header gives."""
        entry = self.index.files.get(file.path)
        if entry is None or not entry.format:
            return
        try:
            found = map_of(self.source, file)
        except _WRONG as error:
            self._found(str(error))
            return
        if found is None:
            # a reader that is not installed here
            return
        # a packer leaves out what lies in no file of the artifact
        tensors = [
            t
            for t in found.tensors
            if t.offset + t.length <= self.sizes.get(t.file or file.path, -1)
        ]
        if (found.format, found.metadata, tensors) != (
            entry.format,
            entry.metadata,
            list(entry.tensors),
        ):
            self._found(f"{file.path}: its header is not what the index says")

    def _stream(self, layer: Descriptor, hasher: StretchHasher) -> None:
        buffer = thread_buffer()
        left = layer.size
        with self.source.open(layer) as reader:
            while left and (n := reader.readinto(buffer[:left])):
                hasher.update(buffer[:n])
                left -= n
                self.observer(HashAdvanced(n))
        if left:
            raise InputError(f"{layer.digest} ended {left} bytes early")

    def _found(self, problem: str) -> None:
        with self.lock:
            self.problems.append(problem)
