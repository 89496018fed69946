"""Files cut and hashed: each as layers, and all together as the chunk index."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ocimodel.errors import InputError, IntegrityError
from ocimodel.events import HashAdvanced, Observer
from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile, fingerprint
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.store.hashing import hash_stretches
from ocimodel.store.memo import Memo, identity
from ocimodel.store.tree import TreeFile
from ocimodel.weights.cuts import MAX_LAYER_BYTES, Content, Cuts, Range, cut, pieces


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A file whose header was read. `tensors`: those that it names; `is_weight`: by its kind."""

    file: TreeFile
    is_weight: bool = False
    map: TensorMap | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be hashed of a file. `inside`: tensors whose bytes lie in it, whoever names them.

    `map`: with the `file` of each tensor as a path in the artifact.
    """

    file: TreeFile
    cuts: Cuts
    map: TensorMap | None
    inside: tuple[Tensor, ...]
    _chunks: frozenset[Range] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_chunks", frozenset(self.cuts.chunks))

    def has_chunks(self, ranges: Sequence[Range]) -> bool:
        """Whether each of these is a chunk by itself."""
        return self._chunks.issuperset(ranges)

    def to_fingerprint(self) -> list[Range]:
        """Parts of tensors that are no chunks by themselves."""
        return [p for t in self.inside if not self.has_chunks(pieces(t)) for p in pieces(t)]


@dataclass(frozen=True, slots=True)
class Hashed:
    """A plan carried out. `digests`: raw sha256 of all segments, chunks and fingerprinted parts."""

    plan: Plan
    digests: Mapping[Range, bytes]

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(f"sha256:{self.digests[s].hex()}" for s in self.plan.cuts.segments)


def plan(
    files: Sequence[Surveyed], layering: str = "file", max_layer_bytes: int = MAX_LAYER_BYTES
) -> dict[str, Plan]:
    """By path, how each file is cut (weights.cuts has the rule)."""
    sizes = {s.file.path: s.file.size for s in files}
    maps = {s.file.path: _resolved(s, sizes) for s in files}
    inside: dict[str, list[Tensor]] = {path: [] for path in sizes}
    for path, tensor_map in maps.items():
        for tensor in tensor_map.tensors if tensor_map else ():
            inside[tensor.file or path].append(tensor)
    contents = {s.file.path: Content(s.file.size, inside[s.file.path], s.is_weight) for s in files}
    cuts = cut(contents, layering, max_layer_bytes)
    return {
        path: Plan(s.file, cuts[path], maps[path], tuple(inside[path]))
        for s in files
        for path in (s.file.path,)
    }


def _resolved(surveyed: Surveyed, sizes: Mapping[str, int]) -> TensorMap | None:
    """The map with paths in the artifact; without tensors whose bytes are not in it."""
    if surveyed.map is None:
        return None
    folder = posixpath.dirname(surveyed.file.path)
    found = []
    for tensor in surveyed.map.tensors:
        holder = surveyed.file.path
        if tensor.file:
            holder = posixpath.normpath(posixpath.join(folder, tensor.file))
            tensor = replace(tensor, file=holder)
        if tensor.offset + tensor.length <= sizes.get(holder, -1):
            found.append(tensor)
    return replace(surveyed.map, tensors=tuple(found))


def hash_planned(fd: int, wanted: Plan, memo: Memo, observer: Observer, *, rehash: bool) -> Hashed:
    """Hash what the plan wants in one pass over the file, or believe the memo.

    Raises InputError when the file changes meanwhile.
    """
    path, cuts = wanted.file.path, wanted.cuts
    inner = [*cuts.chunks, *wanted.to_fingerprint()]
    needed = {*cuts.segments, *inner}
    before = os.fstat(fd)
    known = {} if rehash else _recall(memo, before, needed)
    if needed <= known.keys():
        observer(HashAdvanced(wanted.file.size))
        return Hashed(wanted, known)
    try:
        digests = hash_stretches(fd, cuts.segments, inner, lambda n: observer(HashAdvanced(n)))
    except IntegrityError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from error
    if identity(os.fstat(fd)) != identity(before) or before.st_size != wanted.file.size:
        raise InputError(
            f"{path} changed while it was read",
            hint="wait for its writer to finish, then try again",
        )
    for (_, length), digest in digests.items():
        if length == before.st_size:
            memo.note(before, f"sha256:{digest.hex()}")
    if len(needed) > 1:
        memo.note_stretches(before, digests)
    return Hashed(wanted, digests)


def _recall(memo: Memo, status: os.stat_result, needed: set[Range]) -> dict[Range, bytes]:
    whole = (0, status.st_size)
    if needed == {whole}:
        digest = memo.recall(status)
        return {whole: bytes.fromhex(digest[7:])} if digest.startswith("sha256:") else {}
    return memo.recall_stretches(status)


def build_index(files: Mapping[str, Hashed]) -> ChunkIndex:
    """The index of all files of an artifact, without those of which there is nothing to say."""
    blobs = {
        digest: chunks
        for hashed in files.values()
        for digest, chunks in _blobs(hashed)
        if len(chunks.lengths) > 1
    }
    holders = {
        tensor.file
        for hashed in files.values()
        for tensor in (hashed.plan.map.tensors if hashed.plan.map else ())
        if tensor.file
    }
    entries = {
        path: _entry(hashed, files)
        for path, hashed in files.items()
        if hashed.plan.map or len(hashed.segments) > 1 or path in holders
    }
    return ChunkIndex(blobs, entries)


def _blobs(hashed: Hashed) -> list[tuple[str, BlobChunks]]:
    found = []
    chunks = iter(hashed.plan.cuts.chunks)
    for digest, (_, length) in zip(hashed.segments, hashed.plan.cuts.segments, strict=True):
        inside: list[Range] = []
        left = length
        while left:
            inside.append(next(chunks))
            left -= inside[-1][1]
        lengths = tuple(n for _, n in inside)
        found.append((digest, BlobChunks(lengths, b"".join(hashed.digests[c] for c in inside))))
    return found


def _entry(hashed: Hashed, files: Mapping[str, Hashed]) -> IndexedFile:
    tensor_map = hashed.plan.map or TensorMap("")
    return IndexedFile(
        path=hashed.plan.file.path,
        size=hashed.plan.file.size,
        segments=hashed.segments,
        format=tensor_map.format,
        metadata=tensor_map.metadata,
        tensors=tensor_map.tensors,
        fingerprints=tuple(
            _fingerprint(t, files[t.file] if t.file else hashed) for t in tensor_map.tensors
        ),
    )


def _fingerprint(tensor: Tensor, holder: Hashed) -> bytes:
    """What the chunks do not tell of a tensor's bytes."""
    parts = pieces(tensor)
    if not parts or holder.plan.has_chunks(parts):
        return b""
    return fingerprint([holder.digests[p] for p in parts])
