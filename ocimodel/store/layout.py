"""An OCI image layout on disk. Source: OCI image-spec v1.1, image-layout.md."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocimodel.errors import InputError, NotFoundError
from ocimodel.events import Outcome
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import parse_digest
from ocimodel.spec.manifest import (
    ACCEPTED,
    INDEX,
    MAX_MANIFEST_BYTES,
    Document,
    Index,
    as_referrer,
    parse_manifest,
)
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.growing import GrowingFile, target_error
from ocimodel.store.landing import FileLanding
from ocimodel.store.protocol import Ingest, Source
from ocimodel.store.streams import FileReader

REF_NAME = "org.opencontainers.image.ref.name"
# layers that are fetched from a vendor and never pushed. Source: image-spec v1.1, layer.md
_ELSEWHERE = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
# an index.json is ours to grow: thousands of entries with annotations
_EMPTY_INDEX = canonical.encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
MAX_INDEX_BYTES = 64 << 20


class Layout:
    """A `Store` in a directory. Several processes may use it at once.

    `create`: make it if it is not there; else NotFoundError for a missing directory and InputError
    for one that holds something else.
    """

    trusted = False

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.name = f"oci:{path}"
        self.path = path
        if create and not (path / "oci-layout").exists():
            self._create()
        self._check()

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._fill()
            finally:
                os.close(lock)
        except OSError as error:
            raise target_error(error, self.path) from error

    def _fill(self) -> None:
        """Write the files of an empty layout, or what an interrupted run has left to write."""
        names = {p.name for p in self.path.iterdir()}
        ours = ("blobs", "index.json", "oci-layout", PARTIAL)
        if any(n not in ours and not n.startswith((".index.json.", ".oci-layout.")) for n in names):
            raise InputError(
                f"{self.path} is not empty and no OCI image layout",
                hint="name a new directory, or one made by ocimodel, skopeo or oras",
            )
        (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if "index.json" not in names:
            _replace(self.path / "index.json", _EMPTY_INDEX)
        if "oci-layout" not in names:
            _replace(self.path / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def _check(self) -> None:
        marker = self.path / "oci-layout"
        if not marker.is_file():
            if self.path.exists():
                raise InputError(f"{self.path} is no OCI image layout: it has no file oci-layout")
            raise NotFoundError(
                f"there is no OCI image layout at {self.path}",
                hint=f"ocimodel pack DIR oci:{self.path}:TAG makes one",
            )
        version = canonical.decode(_read(marker, 4096), str(marker)).get("imageLayoutVersion")
        if version != "1.0.0":
            raise InputError(f"{self.path} has image layout version {version!r}, not 1.0.0")

    def blob_path(self, digest: str) -> Path:
        algorithm, _, value = parse_digest(digest).partition(":")
        return self.path / "blobs" / algorithm / value

    # reading

    def resolve(self, reference: str) -> Descriptor:
        return self.manifest(reference).descriptor

    def manifest(self, reference: str) -> Document:
        entry = self._entry(reference)
        digest = entry.digest if entry else reference
        if not entry and ":" not in reference:
            raise NotFoundError(
                f"{self.name} has no tag {reference!r}", hint=f"ocimodel ls {self.name}"
            )
        try:
            raw = _read(self.blob_path(digest), MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise NotFoundError(f"{self.name} has no manifest {digest}") from None
        return parse_manifest(raw, entry.media_type if entry else "", digest)

    def _entry(self, reference: str) -> Descriptor | None:
        # a hostile name that looks like a digest must not stand in for it
        is_digest = reference.startswith(("sha256:", "sha512:"))
        for entry in self._entries():
            if reference == (entry.digest if is_digest else entry.annotations.get(REF_NAME)):
                return entry
        return None

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> FileReader:
        try:
            fd = os.open(self.blob_path(what.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"{self.name} has no blob {what.digest}") from None
        return FileReader(fd, start, what.size - start if length is None else length)

    def reject(self, what: Descriptor) -> bool:
        return False

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        found = {}
        for entry in self._entries():
            if entry.media_type in ACCEPTED and entry.digest not in found:
                try:
                    document = self.manifest(entry.digest)
                except NotFoundError:
                    # another tool's entry whose manifest is elsewhere
                    continue
                if document.subject and document.subject.digest == subject:
                    found[entry.digest] = as_referrer(document)
        return list(found.values())

    def tags(self) -> Sequence[str]:
        return sorted({t for e in self._entries() if (t := e.annotations.get(REF_NAME))})

    def roots(self) -> Sequence[Descriptor]:
        """All entries of the index, as they are."""
        return self._entries()

    # writing

    def plan(self, document: Document) -> Sequence[Descriptor]:
        return document.blobs()

    def has(self, what: Descriptor) -> bool:
        try:
            return self.blob_path(what.digest).stat().st_size == what.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        if self.has(what):
            return Outcome.EXISTS
        final = self.blob_path(what.digest)

        def deliver() -> None:
            file.seal()
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                file.path.replace(final)
            except OSError as error:
                raise target_error(error, final) from error
            file.delivered()

        file = GrowingFile(self.path / PARTIAL / final.name, what.size)
        landing = FileLanding(file, what, source, deliver)
        if self.has(what):
            # another process brought it while we waited for the lock
            landing.abandon()
            return Outcome.EXISTS
        return landing

    def put_manifest(self, document: Document) -> None:
        """NotFoundError when a blob or a child is missing that registries are given."""
        children = document.manifests if isinstance(document, Index) else document.blobs()
        with self._changing() as entries:
            for child in children:
                if not self.has(child) and not child.media_type.startswith(_ELSEWHERE):
                    raise NotFoundError(f"{self.name} lacks {child.digest} of {document.digest}")
            path = self.blob_path(document.digest)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, document.raw)
            except OSError as error:
                raise target_error(error, path) from error
            if all(e.digest != document.digest for e in entries):
                entries.append(document.descriptor)

    def tag(self, name: str, what: Descriptor) -> None:
        with self._changing() as entries:
            if all(e.digest != what.digest for e in entries):
                raise NotFoundError(f"{self.name} has no {what.digest}")
            _untag(entries, name)
            entry = next(e for e in entries if e.digest == what.digest)
            tagged = replace(entry, annotations={**entry.annotations, REF_NAME: name})
            # a tag takes the place of the entry without one
            entries[:] = [
                e for e in entries if e.digest != what.digest or REF_NAME in e.annotations
            ]
            entries.append(tagged)

    def untag(self, name: str) -> None:
        with self._changing() as entries:
            if not _untag(entries, name):
                raise NotFoundError(f"{self.name} has no tag {name!r}")

    def delete(self, digest: str, *, spare: Container[str] = ()) -> None:
        """Delete a manifest, its tags, and the blobs that nothing else in the layout needs.

        `spare`: digests of blobs to keep all the same.
        """
        with self._changing() as entries:
            document = self.manifest(digest)
            if all(e.digest != digest for e in entries):
                raise NotFoundError(f"{self.name} has no manifest {digest}")
            entries[:] = [e for e in entries if e.digest != digest]
            needed = {d for e in entries for d in self._closure(e.digest)}
            # first the entry, then the blobs: a kill in between leaves litter, not a broken entry
            self._write_index(entries)
            for unused in self._closure(document.digest) - needed:
                if unused == digest or unused not in spare:
                    self.blob_path(unused).unlink(missing_ok=True)

    def _closure(self, digest: str) -> set[str]:
        try:
            document = self.manifest(digest)
        except (NotFoundError, InputError):
            return {digest}
        if isinstance(document, Index):
            below = (self._closure(m.digest) for m in document.manifests)
            return {digest}.union(*below)
        return {digest, *(b.digest for b in document.blobs())}

    def _entries(self) -> list[Descriptor]:
        manifests = canonical.sequence(self._index(), "manifests", "index.json")
        return [Descriptor.parse(m, "index.json entry") for m in manifests]

    def _index(self) -> dict[str, Any]:
        try:
            raw = _read(self.path / "index.json", MAX_INDEX_BYTES)
        except FileNotFoundError:
            raise InputError(f"{self.path} is no OCI image layout: it has no index.json") from None
        return canonical.decode(raw, "index.json")

    @contextmanager
    def _changing(self) -> Iterator[list[Descriptor]]:
        """The entries, for this process alone; written back if the block ends well."""
        try:
            lock = os.open(self.path / "oci-layout", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise target_error(error, self.path) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._entries()
            before = list(entries)
            yield entries
            if entries != before:
                self._write_index(entries)
        finally:
            os.close(lock)

    def _write_index(self, entries: list[Descriptor]) -> None:
        # what else another tool wrote there stays
        document: dict[str, Any] = {
            **self._index(),
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [e.to_json() for e in entries],
        }
        try:
            _replace(self.path / "index.json", json.dumps(document, indent=2).encode())
        except OSError as error:
            raise target_error(error, self.path) from error


def _untag(entries: list[Descriptor], name: str) -> bool:
    """Take the tag off its entry; the entry stays, or its manifest could not be found again."""
    for i, entry in enumerate(entries):
        if entry.annotations.get(REF_NAME) == name:
            others = [e for e in entries if e.digest == entry.digest and e is not entry]
            rest = {k: v for k, v in entry.annotations.items() if k != REF_NAME}
            entries[i : i + 1] = [] if others else [replace(entry, annotations=rest)]
            return True
    return False


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise InputError(f"{path} is over the limit of {limit} bytes")
    return raw


def _replace(path: Path, content: bytes) -> None:
    """Write all of a small file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
