"""What stands for the bytes of files and tensors: digests, from a manifest and its chunk index."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES, Chunk, ChunkIndex, fingerprint
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.tensor import Tensor


class Contents:
    """The files of one artifact, segments joined, and where their chunks lie."""

    def __init__(self, files: Sequence[ModelFile], index: ChunkIndex) -> None:
        self.files = [f for f in files if not f.directories and not f.is_directory]
        self.index = index
        raw = [f for f in self.files if f.codec == "raw"]
        self._by_path = {f.path: f for f in raw}
        self._keys = {f.path: f.key for f in raw}
        self._chunks: dict[str, list[Chunk]] = {}
        self._prints: dict[tuple[str, int, int], bytes] = {}
        self._n_walked: dict[str, int] = {}

    def chunks(self, file: ModelFile) -> list[Chunk]:
        """Ascending; with gaps where the index does not know how a blob is cut."""
        return self._cuts(file, file.key)

    def _cuts(self, file: ModelFile, key: str) -> list[Chunk]:
        known = self._chunks.get(key)
        if known is None:
            known = self._chunks[key] = list(self._cut(file))
        return known

    def _cut(self, file: ModelFile) -> Iterator[Chunk]:
        base = 0
        for layer in file.layers:
            if blob := self.index.chunks(layer):
                yield from blob.at(base)
            base += layer.size

    def place(self, path: str, tensor: Tensor) -> tuple[str, int, int] | None:
        """Equal for tensors at the same place of files with the same layers."""
        key = self._keys.get(tensor.file or path)
        return (key, tensor.offset, tensor.length) if key else None

    def fingerprint(self, path: str, tensor: Tensor) -> bytes:
        """Of a tensor that is whole chunks, cut as all tensors are; else b"".

        `path`: the file that names it.
        """
        where = (tensor.file or path, tensor.offset, tensor.length)
        known = self._prints.get(where)
        if known is None:
            known = self._prints[where] = self._walk(*where)
        return known

    def _walk(self, path: str, position: int, length: int) -> bytes:
        file = self._by_path.get(path)
        chunks = self._cuts(file, self._keys[path]) if file else []
        first = i = bisect_left(chunks, position, key=lambda c: c.start)
        end = position + length
        # tensors that lie over each other, as only a hostile index has them, end at some time
        limit = min(len(chunks), first + 2 * len(chunks) - self._n_walked.get(path, 0))
        while position < end and i < limit and chunks[i].start == position:
            position += chunks[i].length
            if position < end and chunks[i].length != MAX_CHUNK_BYTES:
                break
            i += 1
        self._n_walked[path] = self._n_walked.get(path, 0) + i - first
        whole = position == end and i > first
        return fingerprint([c.digest for c in chunks[first:i]]) if whole else b""


def same_bytes(a: ModelFile, in_a: Contents, b: ModelFile, in_b: Contents) -> bool | None:
    """Whether two files are equal; None where their digests cannot tell."""
    if a.codec == b.codec and [x.digest for x in a.layers] == [x.digest for x in b.layers]:
        return True
    if a.size != b.size or a.codec != b.codec:
        return False
    if len(a.layers) == len(b.layers) == 1 and _algorithm(a) == _algorithm(b):
        return False
    theirs = {(c.start, c.length): c.digest for c in in_b.chunks(b)}
    n_equal = 0
    for chunk in in_a.chunks(a):
        other = theirs.get((chunk.start, chunk.length))
        if other not in (None, chunk.digest):
            return False
        n_equal += chunk.length if other else 0
    return True if n_equal == a.size else None


def _algorithm(file: ModelFile) -> str:
    return file.layer.digest.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes of the files of B: all, those in chunks that A has too, and what is left to fetch.

    `fetch_bytes` counts a blob once, however many files it is in.
    """

    total_bytes: int
    shared_bytes: int
    fetch_bytes: int


def share(a: Contents, b: Contents) -> Share:
    """How much of B lies in A, by digest of blob or chunk."""
    blobs = {layer.digest for file in a.files for layer in file.layers}
    chunks = {chunk.digest for file in a.files for chunk in a.chunks(file)}
    total = shared = 0
    missing: dict[str, int] = {}
    for file in b.files:
        for layer in file.layers:
            known = layer.size
            if layer.digest not in blobs:
                cut = b.index.chunks(layer)
                known = sum(c.length for c in cut.at() if c.digest in chunks) if cut else 0
            total += layer.size
            shared += known
            missing[layer.digest] = layer.size - known
    return Share(total, shared, sum(missing.values()))
