from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocimodel.cli.output import Output
from ocimodel.cli.sizes import parse_size
from ocimodel.cli.text import counted, human, table
from ocimodel.errors import UsageError

if TYPE_CHECKING:
    from ocimodel.store.eviction import CacheEntry

CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", envvar="OCIMODEL_CACHE", help="The folder that pulls have as --cache."
    ),
]


def cache_ls(cache: CacheOption = None, *, out: Output) -> None:
    """List what the cache holds, what was used last first."""
    import ocimodel

    found = ocimodel.cache_ls(_named(cache))
    document = {
        "cache": str(found.cache),
        "bytesOnDisk": found.size_on_disk,
        "entries": [_document(entry) for entry in found.entries],
    }
    rows = [
        (human(e.size), human(e.size_on_disk), _state(e), _time(e.last_used), e.digest)
        for e in found.entries
    ]
    head = [("size", "on disk", "state", "last used", "content"), *rows] if rows else []
    text = [
        *table(head, right=frozenset({0, 1})),
        f"{counted(len(rows), 'blob')}, {human(found.size_on_disk)} on disk in {found.cache}",
    ]
    out.result(document, text, "\n".join(e.digest for e in found.entries))


def cache_gc(
    max_size: Annotated[
        int,
        typer.Option(
            "--max-size", metavar="SIZE", parser=parse_size, help="What may stay, such as 10G."
        ),
    ],
    cache: CacheOption = None,
    *,
    out: Output,
) -> None:
    """Remove what was used longest ago until the cache is small enough.

    What a process has open stays. A pulled file that the cache shares stays where it was pulled to.
    """
    import ocimodel

    root = _named(cache)
    done = ocimodel.cache_gc(root, max_size)
    document = {
        "cache": str(root),
        "maxSize": max_size,
        "bytesFreed": done.n_bytes_freed,
        "bytesOnDisk": done.size_on_disk,
        "inUse": done.n_in_use,
        "removed": [_document(entry) for entry in done.removed],
    }
    text = [
        f"removed {counted(len(done.removed), 'blob')}, {human(done.n_bytes_freed)} freed; "
        f"{human(done.size_on_disk)} on disk in {root}"
    ]
    if done.n_in_use:
        text.append(f"{counted(done.n_in_use, 'blob')} more in use, left alone")
    out.result(document, text, "\n".join(e.digest for e in done.removed))


def _named(cache: Path | None) -> Path:
    if cache is None:
        raise UsageError("no cache is named", hint="add --cache DIR, or set OCIMODEL_CACHE")
    return cache


def _document(entry: "CacheEntry") -> dict[str, Any]:
    return {
        "digest": entry.digest,
        "size": entry.size,
        "bytesOnDisk": entry.size_on_disk,
        "complete": entry.is_complete,
        "shared": entry.is_shared,
        "lastUsed": _time(entry.last_used),
    }


def _state(entry: "CacheEntry") -> str:
    if not entry.is_complete:
        return "partial"
    return "shared" if entry.is_shared else "whole"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
