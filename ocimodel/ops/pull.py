"""pull: an artifact from any store into a model directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ocimodel.errors import InputError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import IndexOf, as_model, client_options, find, open_memo, open_store
from ocimodel.ops.admission import Demand, admit
from ocimodel.ops.donors import Donors
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.globs import compile_globs
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.reference import parse_reference
from ocimodel.store.checkout import Checkout
from ocimodel.store.copy import DEFAULT_CONCURRENCY, copy
from ocimodel.store.memo import Memo

if TYPE_CHECKING:
    from ocimodel.signing.trust import Finding
    from ocimodel.store.chunkcache import ChunkCache

# of older files that are looked into, to the bytes of the artifact
_DONOR_RATIO = 2
CONFIG_FIRST = "config-first"


@dataclass(frozen=True, slots=True)
class PulledFile:
    """`path`: below the directory. `size`: bytes; of a tar layer, of the tar.

    `digest`: of the layer; empty for a file that is joined from several, `n_segments`.
    """

    path: str
    size: int
    digest: str
    n_segments: int = 1


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did. `bytes_fetched` came over the wire, `bytes_reused` were here already.

    `extra_files`: in the directory, not in the artifact, left alone. `evidence`: the signatures and
    attestations for which it was accepted; none where nothing was asked.
    """

    reference: str
    pinned: str
    digest: str
    directory: Path
    files: tuple[PulledFile, ...]
    bytes_fetched: int
    bytes_reused: int
    extra_files: tuple[str, ...] = ()
    evidence: tuple[Finding, ...] = ()


def pull(
    reference: str,
    directory: Path | str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: str = "",
    policy: Path | str | None = None,
    order: str = "",
    cache: Path | str | None = None,
    rehash: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> PullResult:
    """Pull an artifact into `directory`, every byte verified before it gets its final name.

    `key`: the name of a public key that must have signed it. `policy`: a file that says whose
    signatures count. PolicyError, before any file is fetched, unless all that is given accepts.
    `include`, `exclude`: glob patterns on paths; nothing else is fetched. `order`: "config-first",
    or the name of an access profile in the artifact: which files to fetch first. `cache`: a folder
    of finished blobs, taken by reflink, hard link or copy, and added to. What is there already is
    not fetched again; `rehash` reads it all to be sure. Of a file that is in the directory or in
    the cache in another version, only the chunks that have changed are fetched. After an
    interruption a second call resumes.
    Raises the tree of ocimodel.errors.
    """
    name = parse_reference(reference)
    options = client_options(client)
    source = open_store(name, options, observer=observer)
    # before the manifests of an index, which a copy takes first, end up in one directory
    root = as_model(find(source, name), name)
    demand = Demand(key, Path(policy) if policy else None)
    evidence: tuple[Finding, ...] = ()
    if demand:
        evidence = admit(source, name, root, demand, concurrency=concurrency, observer=observer)
    memo = open_memo(options)
    chunk_cache = _open_cache(Path(cache), memo) if cache else None
    index = IndexOf(source, root)
    with (
        chunk_cache or nullcontext(),
        Donors(
            Path(directory), memo, _DONOR_RATIO * sum(blob.size for blob in root.blobs())
        ) as donors,
        Checkout(
            Path(directory),
            wanted=_filter(include, exclude),
            rank=_rank(order, index),
            index=index,
            chunks=[donors] if donors.files else [],
            memo=memo,
            cache=chunk_cache,
            rehash=rehash,
            mode_mask=_umask(),
            observer=observer,
        ) as checkout,
    ):
        report = copy(source, checkout, root, concurrency=concurrency, observer=observer)
    return PullResult(
        reference=str(name),
        pinned=str(name.at(root.digest)),
        digest=root.digest,
        directory=Path(directory),
        files=tuple(_pulled(f) for f in checkout.files),
        bytes_fetched=report.bytes_transferred + index.n_bytes,
        bytes_reused=report.bytes_skipped,
        extra_files=tuple(checkout.extra_files()),
        evidence=evidence,
    )


def _rank(order: str, index: IndexOf) -> Callable[[ModelFile], int]:
    """Which files come first: what is no weights, or what somebody else has read first."""
    if not order:
        return lambda file: 0
    if order == CONFIG_FIRST:
        return lambda file: int(file.kind == "weight")
    known = index()
    profiles = known.profiles if known else {}
    if order not in profiles:
        raise InputError(
            f"the artifact has no access profile {order[:200]!r}",
            hint=f"it has: {', '.join(sorted(profiles)) or 'none'}; or use {CONFIG_FIRST}",
        )
    paths = list(dict.fromkeys(path for path, _, _ in profiles[order]))
    ranks = {path: i for i, path in enumerate(paths)}
    return lambda file: ranks.get(file.path, len(ranks))


def _open_cache(folder: Path, memo: Memo) -> ChunkCache:
    # most pulls have none, and shall start sooner
    from ocimodel.store.chunkcache import ChunkCache

    return ChunkCache(folder, memo)


def _pulled(file: ModelFile) -> PulledFile:
    n_segments = len(file.layers)
    return PulledFile(
        file.path, file.size, file.layer.digest if n_segments == 1 else "", n_segments
    )


def _filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    included = compile_globs(include) if include else None
    excluded = compile_globs(exclude)
    return lambda path: (included is None or included(path)) and not excluded(path)


def _umask() -> int:
    """The umask can only be read by setting it; this is done before any thread starts."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
