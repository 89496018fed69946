"""What a cache holds, and what goes when it is to be smaller: what was used longest ago."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ocimodel.store.chunkdb import KEY, ChunkDb
from ocimodel.store.sparse import MAP_SUFFIX, remove_sparse

BLOBS, PARTIAL = "blobs", "partial"
_TEMPORARY = ".ocimodel."
# nobody needs that long to put one file into place
_STALE_S = 86_400


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """`digest`: of a blob, or `segments:…` for a file that was joined from several. Sizes in bytes.

    `is_shared`: the file has another name elsewhere, so that removing it here frees nothing.
    `last_used`: seconds since the epoch.
    """

    digest: str
    size: int
    size_on_disk: int
    is_complete: bool
    is_shared: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class GcResult:
    """`n_bytes_freed`: on the disk. `size_on_disk`: of what is left.

    `n_in_use`: contents that should have gone too, and stayed since somebody has them open.
    """

    removed: tuple[CacheEntry, ...]
    n_bytes_freed: int
    size_on_disk: int
    n_in_use: int


def list_entries(root: Path, db: ChunkDb) -> list[CacheEntry]:
    """What was used last comes first."""
    used = db.used()
    found = [_entry(key, path, status, used) for key, path, status in _files(root)]
    return sorted(found, key=lambda e: (-e.last_used, e.digest, e.is_complete))


def collect(root: Path, db: ChunkDb, max_size: int, now: float) -> GcResult:
    """Remove contents until the others take up at most `max_size` bytes. OSError.

    Files that a kill left half placed go too, when they are a day old.
    """
    _remove_litter(root, now)
    used = db.used()
    found = [(_entry(key, path, status, used), path) for key, path, status in _files(root)]
    found.sort(key=lambda pair: (pair[0].last_used, pair[0].digest, pair[0].is_complete))
    total = sum(entry.size_on_disk for entry, _ in found)
    removed: list[CacheEntry] = []
    n_in_use = 0
    for entry, path in found:
        if total <= max_size:
            break
        if _remove(path, entry):
            removed.append(entry)
            total -= entry.size_on_disk
        else:
            n_in_use += 1
    # also of what went without us
    db.forget(used.keys() - {key for key, *_ in _files(root)})
    freed = sum(entry.size_on_disk for entry in removed if not entry.is_shared)
    return GcResult(tuple(removed), freed, total, n_in_use)


def _files(root: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """(content key, path, status) of the regular files that have a place in a cache."""
    for path in (*root.glob(f"{BLOBS}/*/*"), *root.glob(f"{PARTIAL}/*")):
        algorithm = path.parent.name
        if algorithm == PARTIAL:
            algorithm = "sha256" if len(path.name) == 64 else "sha512"
        key = f"{algorithm}:{path.name}"
        if KEY.fullmatch(key):
            # another process may have removed it
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    yield key, path, status


def _entry(key: str, path: Path, status: os.stat_result, used: Mapping[str, float]) -> CacheEntry:
    return CacheEntry(
        digest=key,
        size=status.st_size,
        size_on_disk=status.st_blocks * 512,
        is_complete=path.parent.name != PARTIAL,
        is_shared=status.st_nlink > 1,
        # a file gets a new ctime when it is linked into a model directory
        last_used=used.get(key, status.st_ctime),
    )


def _remove(path: Path, entry: CacheEntry) -> bool:
    """False if somebody has it open."""
    if not entry.is_complete:
        return remove_sparse(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        # a file system without locks: whoever has it open can still read it
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return True


def _remove_litter(root: Path, now: float) -> None:
    for path in root.glob(f"{BLOBS}/*/{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_ctime < now - _STALE_S:
                path.unlink()
    for path in root.glob(f"{PARTIAL}/*{MAP_SUFFIX}"):
        # published, and killed before the map was gone
        sparse = path.with_name(path.name.removesuffix(MAP_SUFFIX))
        if not sparse.exists():
            with contextlib.suppress(OSError):
                remove_sparse(sparse)
