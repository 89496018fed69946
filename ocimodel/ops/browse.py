"""Looking without pulling: inspect, ls, cat."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ocimodel.errors import InputError, NotFoundError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import IndexOf, as_model, client_options, find, open_store
from ocimodel.ops.tensors import tensors_of_headers, tensors_of_index
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.modelpack import MAX_CONFIG_BYTES, ModelConfig, ModelFile, is_model, read_layer
from ocimodel.spec.reference import parse_reference
from ocimodel.spec.segments import files_of, model_files
from ocimodel.spec.tensor import Tensor
from ocimodel.store.protocol import Source, Store
from ocimodel.store.streams import Verified, read_blob, thread_buffer

# until a file is verified it waits here: in memory up to this size, then on disk
_SPOOL_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an artifact says of itself. Sizes in bytes.

    `files`: a file in several layers is one. `descriptor`, `config`: the ModelPack configuration's
    objects; empty for other artifacts. `tensors`: where asked for, each with the file in which its
    bytes lie. `tensors_from`: "index", which the digest covers; or "headers", ranges of the files
    that nothing was verified of; "" where tensors were not asked for.
    """

    reference: str
    pinned: str
    digest: str
    media_type: str
    artifact_type: str
    raw: bytes = field(repr=False)
    files: tuple[ModelFile, ...] = ()
    size: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    descriptor: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    referrers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    tensors_from: str = ""


def inspect(
    reference: str,
    *,
    tensors: bool = False,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> Inspection:
    """Read an artifact's manifest, configuration and referrers; no weights are fetched.

    `tensors`: list what is in the weights too, by the artifact's index or a few ranged reads;
    InputError when either is damaged.
    """
    name = parse_reference(reference)
    store = open_store(name, client_options(client), observer=observer)
    root = find(store, name)
    config = _model_config(store, root)
    is_manifest = isinstance(root, Manifest)
    contents = _contents(store, root, tensors) if isinstance(root, Manifest) else _Contents()
    return Inspection(
        reference=str(name),
        pinned=str(name.at(root.digest)),
        digest=root.digest,
        media_type=root.media_type,
        artifact_type=root.effective_type,
        raw=root.raw,
        files=tuple(contents.files),
        size=sum(blob.size for blob in root.blobs()),
        annotations=root.annotations,
        descriptor=config.descriptor,
        config=config.config,
        referrers=tuple(store.referrers(root.digest)),
        manifests=() if is_manifest else root.manifests,  # type: ignore[union-attr]
        tensors=tuple(contents.tensors),
        tensors_from=contents.tensors_from,
    )


@dataclass(frozen=True, slots=True)
class _Contents:
    files: Sequence[ModelFile] = ()
    tensors: Sequence[Tensor] = ()
    tensors_from: str = ""


def _contents(source: Source, root: Manifest, tensors: bool) -> _Contents:
    files = _files(root)
    if not tensors:
        return _Contents(files)
    index = IndexOf(source, root)()
    if index:
        return _Contents(files, tensors_of_index(index), "index")
    return _Contents(files, tensors_of_headers(source, files), "headers")


def _model_config(source: Source, root: Document) -> ModelConfig:
    if not isinstance(root, Manifest) or not is_model(root):
        return ModelConfig()
    raw = read_blob(source.open(root.config), root.config, MAX_CONFIG_BYTES)
    return ModelConfig.parse(raw)


def _files(root: Manifest) -> Sequence[ModelFile]:
    """The files as far as they have names: to look at an odd artifact is no error."""
    try:
        return files_of(root)
    except InputError:
        return [_as_far_as_named(layer) for layer in root.layers]


def _as_far_as_named(layer: Descriptor) -> ModelFile:
    try:
        return read_layer(layer)
    except InputError:
        return ModelFile("", (layer,), "", "raw")


@dataclass(frozen=True, slots=True)
class Tag:
    """`digest`, `size` (bytes, all blobs): only in a long listing."""

    name: str
    digest: str = ""
    size: int = -1


def ls(
    repository: str,
    *,
    long: bool = False,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> list[Tag]:
    """The tags of a repository or layout, sorted. `long`: with digests and sizes."""
    name = parse_reference(repository)
    store = open_store(name, client_options(client), observer=observer)
    return [_tag(store, tag) if long else Tag(tag) for tag in store.tags()]


def _tag(store: Store, name: str) -> Tag:
    document = store.manifest(name)
    return Tag(name, document.digest, sum(blob.size for blob in document.blobs()))


@dataclass(frozen=True, slots=True)
class CatResult:
    """`digest`: the artifact's. `size`: the file's, in bytes."""

    reference: str
    pinned: str
    digest: str
    path: str
    size: int


def cat(
    reference: str,
    path: str,
    out: IO[bytes],
    *,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> CatResult:
    """Write one file of an artifact to `out`, once all of it is verified.

    Raises NotFoundError when the artifact has no such file.
    """
    name = parse_reference(reference)
    store = open_store(name, client_options(client), observer=observer)
    root = as_model(find(store, name), name)
    file = next((f for f in model_files(root) if f.path == path and f.codec == "raw"), None)
    if file is None:
        raise NotFoundError(f"{reference} has no file {path!r}", hint=f"ocimodel inspect {name}")
    buffer = thread_buffer()
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
        for layer in file.layers:
            with Verified(store.open(layer), layer) as reader:
                while n := reader.readinto(buffer):
                    spool.write(buffer[:n])
        spool.seek(0)
        while block := spool.read(len(buffer)):
            out.write(block)
    return CatResult(str(name), str(name.at(root.digest)), root.digest, path, file.size)
