"""open: an artifact as a model to read from, before it is here."""

from __future__ import annotations

from pathlib import Path

from ocimodel.events import Observer, ignore
from ocimodel.lazy.model import LazyModel
from ocimodel.lazy.recorder import Recorder
from ocimodel.ops.access import IndexOf, as_model, client_options, find, open_memo, open_store
from ocimodel.ops.admission import Demand, admit
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.reference import parse_reference
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.copy import DEFAULT_CONCURRENCY


def open(  # noqa: A001 - as io.open, gzip.open
    reference: str,
    *,
    key: str = "",
    policy: Path | str | None = None,
    cache: Path | str | None = None,
    require_lazy: bool = False,
    window: int | None = None,
    recorder: Recorder | None = None,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> LazyModel:
    """Open an artifact without fetching it. For a `with` statement.

    `key`, `policy`: as for `pull`; decided before anything of the model is read. `cache`: a folder
    where chunks are kept, shared with other processes and with pulls; without it they are kept in
    memory for a while. `require_lazy`: RegistryError instead of fetching whole blobs first, where
    artifact or endpoint leave no other way. `window`: bytes that may wait in memory; by default an
    eighth of what this process may use, 64 MiB to 1 GiB. `recorder`: remembers what is read, for
    an access profile. Raises the tree of ocimodel.errors.
    """
    name = parse_reference(reference)
    options = client_options(client)
    source = open_store(name, options, observer=observer)
    root = as_model(find(source, name), name)
    demand = Demand(key, Path(policy) if policy else None)
    if demand:
        admit(source, name, root, demand, concurrency=DEFAULT_CONCURRENCY, observer=observer)
    return LazyModel(
        source,
        root,
        IndexOf(source, root)(),
        cache=ChunkCache(Path(cache), open_memo(options)) if cache else None,
        require_lazy=require_lazy,
        window=window,
        recorder=recorder,
        observer=observer,
    )
