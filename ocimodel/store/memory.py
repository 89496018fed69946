"""A store in memory: for tests, and for documents too small to need a disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ocimodel.errors import IntegrityError, NotFoundError
from ocimodel.events import Outcome
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import finish, hasher_for
from ocimodel.spec.manifest import Document, Index, as_referrer, parse_manifest
from ocimodel.store.protocol import Advance, Ingest, Source
from ocimodel.store.streams import BytesReader, check_digest, thread_buffer


class MemoryStore:
    """Blobs, manifests and tags in dictionaries."""

    trusted = True

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.blobs: dict[str, bytes] = {}
        self._manifests: dict[str, Document] = {}
        self._tags: dict[str, str] = {}
        self._lock = threading.Lock()

    def resolve(self, reference: str) -> Descriptor:
        return self.manifest(reference).descriptor

    def manifest(self, reference: str) -> Document:
        with self._lock:
            document = self._manifests.get(self._tags.get(reference, reference))
        if document is None:
            raise NotFoundError(f"{self.name} has no {reference}")
        return parse_manifest(document.raw, document.media_type, document.digest)

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> BytesReader:
        content = self.blobs.get(what.digest)
        if content is None:
            raise NotFoundError(f"{self.name} has no blob {what.digest}")
        return BytesReader(content, start, what.size - start if length is None else length)

    def reject(self, what: Descriptor) -> bool:
        return False

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        with self._lock:
            documents = list(self._manifests.values())
        return [as_referrer(d) for d in documents if d.subject and d.subject.digest == subject]

    def tags(self) -> Sequence[str]:
        with self._lock:
            return sorted(self._tags)

    def plan(self, document: Document) -> Sequence[Descriptor]:
        return document.blobs()

    def has(self, what: Descriptor) -> bool:
        return what.digest in self.blobs

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        return Outcome.EXISTS if self._has(what) else _MemoryIngest(self, what, source)

    def _has(self, what: Descriptor) -> bool:
        content = self.blobs.get(what.digest)
        return content is not None and len(content) == what.size

    def put_manifest(self, document: Document) -> None:
        """NotFoundError when a blob or a child is missing."""
        with self._lock:
            if isinstance(document, Index):
                missing = [m for m in document.manifests if m.digest not in self._manifests]
            else:
                missing = [b for b in document.blobs() if not self._has(b)]
            if missing:
                raise NotFoundError(f"{self.name} lacks {missing[0].digest} of {document.digest}")
            self._manifests[document.digest] = document

    def tag(self, name: str, what: Descriptor) -> None:
        with self._lock:
            if what.digest not in self._manifests:
                raise NotFoundError(f"{self.name} has no {what.digest}")
            self._tags[name] = what.digest

    def delete(self, digest: str) -> None:
        with self._lock:
            if self._manifests.pop(digest, None) is None:
                raise NotFoundError(f"{self.name} has no {digest}")
            self._tags = {k: v for k, v in self._tags.items() if v != digest}

    def untag(self, name: str) -> None:
        with self._lock:
            if self._tags.pop(name, None) is None:
                raise NotFoundError(f"{self.name} has no tag {name}")


class _MemoryIngest:
    resumed = False

    def __init__(self, store: MemoryStore, what: Descriptor, source: Source) -> None:
        self.parts: Sequence[tuple[int, int]] = [(0, what.size)]
        self._store = store
        self._what = what
        self._source = source
        self._content = bytearray()

    def transfer(self, start: int, length: int, advance: Advance) -> None:
        buffer = thread_buffer()
        with self._source.open(self._what) as reader:
            while n := reader.readinto(buffer):
                self._content += buffer[:n]
                advance(n)

    def commit(self) -> None:
        if len(self._content) != self._what.size:
            raise IntegrityError(
                f"{self._what.digest} has {len(self._content)} bytes, not {self._what.size}"
            )
        hasher = hasher_for(self._what.digest)
        hasher.update(self._content)
        check_digest(finish(hasher, self._what.digest), self._what)
        self._store.blobs[self._what.digest] = bytes(self._content)

    def close(self) -> None:
        self._content.clear()
