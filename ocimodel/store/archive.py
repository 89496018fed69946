"""Tar layers: other tools write whole directories so; we write only empty directories so."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from ocimodel.errors import InputError
from ocimodel.spec.paths import check_path
from ocimodel.store.files import make_folder, temporary_beside

# a layer of a few kB can claim to hold petabytes
MAX_ENTRIES = 200_000
MAX_RATIO = 1100
# a long name or an extended header, which tarfile reads into memory
MAX_HEADER_BYTES = 1 << 20
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def empty_directories(paths: Sequence[str]) -> bytes:
    """A reproducible tar of nothing but directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(paths):
            entry = tarfile.TarInfo(path)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o755
            tar.addfile(entry)
    return buffer.getvalue()


class _Entry(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in _HEADERS and entry.size > MAX_HEADER_BYTES):
            raise InputError(f"the tar layer has a header of {entry.size} bytes")
        if entry.type == tarfile.GNUTYPE_SPARSE:
            # its list of holes has no bounds
            raise InputError("the tar layer has a sparse file, which no model needs")
        return entry


def extract(archive: Path, codec: str, root: Path, mode_mask: int) -> None:
    """Unpack a verified tar layer below `root`; each file appears whole or not at all.

    InputError for links, devices, hostile names, or what is no tar.
    """
    limit = max(archive.stat().st_size, 1 << 20) * MAX_RATIO
    try:
        with (
            _opened(archive, codec) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Entry) as tar,
        ):
            for i, entry in enumerate(tar):
                name = entry.name.removeprefix("./").rstrip("/")
                limit -= entry.size
                if i >= MAX_ENTRIES or limit < 0:
                    raise InputError("the tar layer unpacks to more than any model would")
                if name in ("", "."):
                    continue
                check_path(name)
                if entry.isdir():
                    make_folder(root, name)
                elif entry.isreg():
                    parent, _, base = name.rpartition("/")
                    content = tar.extractfile(entry)
                    assert content is not None
                    mode = 0o755 if entry.mode & 0o111 else 0o644
                    _write(content, make_folder(root, parent) / base, mode & ~mode_mask)
                else:
                    raise InputError(f"tar entry {name!r} is neither a file nor a directory")
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the layer is no valid {codec}: {error}") from error


def _opened(archive: Path, codec: str) -> IO[bytes]:
    if codec == "tar":
        return archive.open("rb")
    if codec == "tar+gzip":
        return gzip.open(archive, "rb")  # type: ignore[return-value]
    raise AssertionError(f"check_codec let {codec} through")


def _write(content: IO[bytes], final: Path, mode: int) -> None:
    temporary = temporary_beside(final)
    try:
        with temporary.open("xb") as file:
            while block := content.read(1 << 20):
                file.write(block)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
