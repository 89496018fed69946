"""Artifacts and sources for tests: real bytes in memory, and sources that misbehave on order."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ocimodel.errors import RegistryError
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import INDEX, MANIFEST, Document, Index, Manifest, parse_manifest
from ocimodel.spec.modelpack import (
    CONFIG_TYPE,
    EXECUTABLE,
    REGULAR,
    ModelConfig,
    build_manifest,
    file_layer,
)
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Reader
from ocimodel.store.streams import BytesReader

MIB = 1 << 20


def random_bytes(n_bytes: int, seed: int = 0) -> bytes:
    """The same bytes for the same arguments, unlike those of any other seed."""
    return random.Random(f"{seed}/{n_bytes}").randbytes(n_bytes)


def put_blob(store: MemoryStore, content: bytes) -> str:
    digest = sha256(content)
    store.blobs[digest] = content
    return digest


def put_config(store: MemoryStore, diff_ids: Sequence[str] = ()) -> Descriptor:
    content = ModelConfig(diff_ids=tuple(diff_ids)).encode()
    return Descriptor(CONFIG_TYPE, put_blob(store, content), len(content))


def put_layers(
    store: MemoryStore,
    layers: Sequence[Descriptor],
    *,
    subject: Document | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """A manifest of layers whose blobs are in `store`, or are missing on purpose."""
    config = put_config(store, [layer.digest for layer in layers])
    raw = build_manifest(config, tuple(layers), annotations or {})
    if subject is not None:
        fields = canonical.decode(raw, "manifest")
        raw = canonical.encode({**fields, "subject": subject.descriptor.to_json()})
    document = parse_manifest(raw, MANIFEST)
    assert isinstance(document, Manifest)
    if all(len(store.blobs.get(b.digest, b"")) == b.size for b in document.blobs()):
        store.put_manifest(document)
    return document


def put_model(
    store: MemoryStore,
    files: Mapping[str, bytes],
    *,
    executables: Collection[str] = (),
    subject: Document | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """An artifact with one raw layer a file."""
    layers = [
        file_layer(
            path,
            "weight",
            put_blob(store, content),
            len(content),
            EXECUTABLE if path in executables else REGULAR,
        )
        for path, content in files.items()
    ]
    return put_layers(store, layers, subject=subject, annotations=annotations)


def put_index(store: MemoryStore, children: Sequence[Document]) -> Index:
    raw = canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [child.descriptor.to_json() for child in children],
        }
    )
    document = parse_manifest(raw, INDEX)
    assert isinstance(document, Index)
    store.put_manifest(document)
    return document


@dataclass
class Recorder:
    """A `Source` over a memory store that remembers what was asked of it.

    `whole`: it cannot serve ranges. `n_bytes_left`: digest → bytes that it gives of this blob
    before it fails, over all streams together. `swapped`: digest → bytes that it gives instead.
    `short`: digests of blobs that it ends one byte early.
    """

    store: MemoryStore
    whole: bool = False
    n_bytes_left: dict[str, int] = field(default_factory=dict)
    swapped: dict[str, bytes] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    n_bytes_read: int = 0
    name: str = "recorder"
    trusted: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def resolve(self, reference: str) -> Descriptor:
        return self.store.resolve(reference)

    def manifest(self, reference: str) -> Document:
        return self.store.manifest(reference)

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        return self.store.referrers(subject)

    def tags(self) -> Sequence[str]:
        return self.store.tags()

    def reject(self, what: Descriptor) -> bool:
        return False

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        n_bytes = what.size - start if length is None else length
        with self.lock:
            self.asked.append((what.digest, start, n_bytes))
        if self.whole:
            start, n_bytes = 0, what.size
        content = self.swapped.get(what.digest) or self.store.blobs[what.digest]
        if what.digest in self.short:
            content = content[:-1]
        return _RecordedReader(self, what.digest, content, start, n_bytes)


class _RecordedReader(BytesReader):
    def __init__(
        self, recorder: Recorder, digest: str, content: bytes, start: int, length: int
    ) -> None:
        super().__init__(content, start, length)
        self._recorder = recorder
        self._digest = digest

    def readinto(self, buffer: memoryview, /) -> int:
        n = super().readinto(buffer)
        with self._recorder.lock:
            self._recorder.n_bytes_read += n
            left = self._recorder.n_bytes_left.get(self._digest)
            if left is not None:
                self._recorder.n_bytes_left[self._digest] = left - n
                if left < n:
                    raise RegistryError("the source died")
        return n
