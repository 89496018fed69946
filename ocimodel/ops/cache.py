"""cache: what the folder of blobs that pulls share holds, and how it is kept within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import InputError
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.eviction import CacheEntry, GcResult
from ocimodel.store.memo import Memo


@dataclass(frozen=True, slots=True)
class CacheListing:
    """`entries`: what was used last first."""

    cache: Path
    entries: tuple[CacheEntry, ...]

    @property
    def size_on_disk(self) -> int:
        """Bytes, those with other names elsewhere too."""
        return sum(entry.size_on_disk for entry in self.entries)


def cache_ls(cache: Path | str) -> CacheListing:
    """What is in a cache; nothing where no pull has made one yet.

    InputError for what is no cache.
    """
    with _open(Path(cache)) as opened:
        return CacheListing(Path(cache), tuple(opened.entries()))


def cache_gc(cache: Path | str, max_size: int) -> GcResult:
    """Remove from a cache what was used longest ago, until it has at most `max_size` bytes.

    What somebody has open stays, and files that were pulled are not touched: where the cache has
    but another name of one, that name goes. InputError for what is no cache, TargetError for one
    that cannot be written to.
    """
    with _open(Path(cache)) as opened:
        return opened.gc(max_size)


def _open(root: Path) -> ChunkCache:
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is no folder", hint="name the folder that pulls have as --cache")
    if (root / "oci-layout").exists():
        # which has blobs at the same places, and needs them all
        raise InputError(
            f"{root} is an OCI image layout, not a cache", hint=f"list it: ocimodel ls oci:{root}"
        )
    return ChunkCache(root, Memo(None))
