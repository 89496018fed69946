"""The chunk index, `.ocimodel/index.json`: what lies where inside the blobs of an artifact.

It names files → segments → chunks, and the tensors in the files. The manifest's digest covers it
as any other layer, so a chunk digest is worth as much as a blob digest. Schema:
schemas/index.schema.json; docs/formats.md explains it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import parse_digest
from ocimodel.spec.paths import check_path
from ocimodel.spec.profile import Range, parse_ranges
from ocimodel.spec.tensor import Tensor

MAX_INDEX_BYTES = 64 << 20
MAX_CHUNK_BYTES = 4 << 20
VERSION = 1
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` bytes at `start`, in whatever the chunk was asked of; `digest`: raw sha256."""

    start: int
    length: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class BlobChunks:
    """A blob as consecutive chunks. `digests`: raw sha256 digests, one after the other."""

    lengths: tuple[int, ...]
    digests: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return sum(self.lengths)

    def at(self, base: int = 0) -> Iterator[Chunk]:
        """The chunks in order, as they lie when the blob begins at `base`."""
        for i, length in enumerate(self.lengths):
            yield Chunk(base, length, self.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)])
            base += length


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """`segments`: digests of the layers that give the file when joined; often just one.

    `tensors`: a tensor's `file`, where it has one, is a path in the artifact. `fingerprints`: as
    many as tensors; the sha256 of a tensor's bytes where no chunk ends with the tensor, else b"".
    """

    path: str
    size: int
    segments: tuple[str, ...]
    format: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()
    fingerprints: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """`blobs`: chunks by blob digest, of blobs that have several. `files`: by path, sorted.

    `profiles`: by name, ranges (path, start, length) in the order in which somebody read them.
    """

    blobs: Mapping[str, BlobChunks] = field(default_factory=dict)
    files: Mapping[str, IndexedFile] = field(default_factory=dict)
    profiles: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    def chunks(self, what: Descriptor) -> BlobChunks | None:
        """How a blob is cut; one of up to MAX_CHUNK_BYTES is one chunk. None: nothing is known."""
        known = self.blobs.get(what.digest)
        if known or not 0 < what.size <= MAX_CHUNK_BYTES:
            return known
        algorithm, _, value = what.digest.partition(":")
        if algorithm != "sha256":
            return None
        return BlobChunks((what.size,), bytes.fromhex(value))

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            "version": VERSION,
            "blobs": {
                digest: {
                    "lengths": list(blob.lengths),
                    "digests": base64.b64encode(blob.digests).decode(),
                }
                for digest, blob in self.blobs.items()
            },
            "files": [_file_to_json(self.files[path]) for path in sorted(self.files)],
        }
        if self.profiles:
            document["profiles"] = {k: [list(r) for r in v] for k, v in self.profiles.items()}
        return canonical.encode(document)


def fingerprint(pieces: Sequence[bytes]) -> bytes:
    """What stands for the bytes of a tensor, from the digests of its pieces of MAX_CHUNK_BYTES."""
    return pieces[0] if len(pieces) == 1 else hashlib.sha256(b"".join(pieces)).digest()


# reading


def parse_index(raw: bytes) -> ChunkIndex:
    """InputError for anything that is no index, or contradicts itself."""
    document = canonical.decode(raw, "index")
    version = canonical.integer(document, "version", "index")
    if version != VERSION:
        raise InputError(f"the index has version {version}, not {VERSION}", hint="upgrade ocimodel")
    blobs = {
        parse_digest(digest): _blob(digest, value)
        for digest, value in canonical.mapping(document, "blobs", "index").items()
    }
    files: dict[str, IndexedFile] = {}
    for item in canonical.sequence(document, "files", "index"):
        file = _file(item)
        if files.setdefault(file.path, file) is not file:
            raise InputError(f"the index has {file.path!r} twice")
    for file in files.values():
        _check_places(file, files)
    profiles = canonical.mapping(document, "profiles", "index")
    return ChunkIndex(blobs, files, {name: _profile(name, v) for name, v in profiles.items()})


def _blob(digest: str, value: object) -> BlobChunks:
    what = f"index: blob {digest}"
    if not isinstance(value, dict):
        raise InputError(f"{what} is no object")
    lengths = canonical.sequence(value, "lengths", what)
    if not all(type(n) is int and 0 < n <= MAX_CHUNK_BYTES for n in lengths):
        raise InputError(f"{what}: a chunk has 1 to {MAX_CHUNK_BYTES} bytes")
    try:
        digests = base64.b64decode(canonical.text(value, "digests", what), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{what}: digests are no base64") from error
    if not lengths or len(digests) != DIGEST_BYTES * len(lengths):
        raise InputError(f"{what}: {len(lengths)} chunks, {len(digests)} bytes of digests")
    return BlobChunks(tuple(lengths), digests)


def _file(item: object) -> IndexedFile:
    if not isinstance(item, dict):
        raise InputError("index: a file is no object")
    path = check_path(canonical.text(item, "path", "index: file"))
    what = f"index: {path!r}"
    segments = canonical.sequence(item, "segments", what)
    if not segments or not all(isinstance(s, str) for s in segments):
        raise InputError(f"{what}: segments must be digests, at least one")
    rows = [_tensor(row, what) for row in canonical.sequence(item, "tensors", what)]
    return IndexedFile(
        path=path,
        size=_natural(item, "size", what),
        segments=tuple(parse_digest(s) for s in segments),
        format=canonical.text(item, "format", what),
        metadata=canonical.mapping(item, "metadata", what),
        tensors=tuple(tensor for tensor, _ in rows),
        fingerprints=tuple(digest for _, digest in rows),
    )


def _tensor(row: object, what: str) -> tuple[Tensor, bytes]:
    if not isinstance(row, dict):
        raise InputError(f"{what}: a tensor is no object")
    shape = canonical.sequence(row, "shape", what)
    if len(shape) > 64 or not all(map(_is_natural, shape)):
        raise InputError(f"{what}: a shape must be up to 64 whole numbers")
    tensor = Tensor(
        name=canonical.text(row, "name", what),
        dtype=canonical.text(row, "dtype", what),
        shape=tuple(shape),
        offset=_natural(row, "offset", what),
        length=_natural(row, "length", what),
        file=canonical.text(row, "file", what),
    )
    try:
        digest = bytes.fromhex(canonical.text(row, "sha256", what))
    except ValueError as error:
        raise InputError(f"{what}: {tensor.name[:200]!r} has a sha256 that is no hex") from error
    if len(digest) not in (0, DIGEST_BYTES):
        raise InputError(f"{what}: {tensor.name[:200]!r} has a sha256 of {len(digest)} bytes")
    return tensor, digest


def _check_places(file: IndexedFile, files: Mapping[str, IndexedFile]) -> None:
    for tensor in file.tensors:
        holder = files.get(tensor.file) if tensor.file else file
        if holder is None or tensor.offset + tensor.length > holder.size:
            raise InputError(
                f"index: {file.path!r}: tensor {tensor.name[:200]!r} lies outside of "
                f"{tensor.file or file.path!r}"
            )


def _profile(name: str, value: object) -> tuple[Range, ...]:
    what = f"index: profile {name[:200]!r}"
    if not isinstance(value, list):
        raise InputError(f"{what} must list [path, start, length]")
    return parse_ranges(value, what)


def _is_natural(value: object) -> bool:
    # bool is an int to Python, not to JSON
    return type(value) is int and 0 <= value < 1 << 63


def _natural(document: Mapping[str, Any], key: str, what: str) -> int:
    value = canonical.integer(document, key, what)
    if not _is_natural(value):
        raise InputError(f"{what}: {key} {value} is out of range")
    return value


def _file_to_json(file: IndexedFile) -> dict[str, Any]:
    document: dict[str, Any] = {
        "path": file.path,
        "size": file.size,
        "segments": list(file.segments),
    }
    if file.format:
        document["format"] = file.format
    if file.metadata:
        document["metadata"] = dict(file.metadata)
    if file.tensors:
        prints = file.fingerprints or (b"",) * len(file.tensors)
        document["tensors"] = [
            _tensor_to_json(t, p) for t, p in zip(file.tensors, prints, strict=True)
        ]
    return document


def _tensor_to_json(tensor: Tensor, digest: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "offset": tensor.offset,
        "length": tensor.length,
    }
    if tensor.file:
        row["file"] = tensor.file
    if digest:
        row["sha256"] = digest.hex()
    return row
