"""A model directory as a source: an artifact that is not written anywhere yet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import InputError, NotFoundError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.store.streams import BytesReader, FileReader, Stream


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Where the bytes of a blob lie: from `start` on in a file that has `file_size` bytes."""

    path: Path
    start: int
    file_size: int


class DirectoryFiles:
    """A `Source` of blobs that are files or segments of files, and of no manifest.

    `files`: digest → where its bytes are; it may still grow. `documents`: digest → small
    blobs that are no file, such as the configuration.
    """

    trusted = True

    def __init__(
        self,
        root: Path,
        files: Mapping[str, FileSlice],
        documents: Mapping[str, bytes] | None = None,
    ) -> None:
        self.name = str(root)
        self._files = files
        self._documents = documents or {}

    def resolve(self, reference: str) -> Descriptor:
        return self.manifest(reference).descriptor

    def manifest(self, reference: str) -> Document:
        raise NotFoundError(f"{self.name} has no {reference}")

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Stream:
        n_bytes = what.size - start if length is None else length
        document = self._documents.get(what.digest)
        if document is not None:
            return BytesReader(document, start, n_bytes)
        place = self._files.get(what.digest)
        if place is None:
            raise NotFoundError(f"{self.name} has no blob {what.digest}")
        try:
            fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot read {place.path}: {error.strerror}") from error
        if os.fstat(fd).st_size != place.file_size:
            os.close(fd)
            raise InputError(
                f"{place.path} changed while it was packed",
                hint="wait for its writer to finish, then try again",
            )
        return FileReader(fd, start, n_bytes, place.start)

    def reject(self, what: Descriptor) -> bool:
        return False

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        return ()

    def tags(self) -> Sequence[str]:
        return ()


class DirectoryView(DirectoryFiles):
    """A `Source` of one manifest whose layers are files."""

    def __init__(
        self,
        root: Path,
        manifest: Manifest,
        files: Mapping[str, FileSlice],
        documents: Mapping[str, bytes],
    ) -> None:
        super().__init__(root, files, documents)
        self.root = manifest

    def manifest(self, reference: str) -> Document:
        return self.root if reference == self.root.digest else super().manifest(reference)
