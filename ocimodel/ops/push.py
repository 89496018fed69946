"""pack and push: a directory, or an artifact in a layout, into a store under a tag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ocimodel.errors import UsageError
from ocimodel.events import Observer, Outcome, ignore
from ocimodel.ops.access import (
    client_options,
    find,
    guard_tag,
    open_memo,
    open_store,
    parse_local,
)
from ocimodel.ops.packing import pack_view
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.reference import (
    DEFAULT_TAG,
    LayoutReference,
    Reference,
    RegistryReference,
    parse_reference,
)
from ocimodel.store.copy import DEFAULT_CONCURRENCY, Report, copy
from ocimodel.store.protocol import Source, Store


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did. `reference`: as asked for; `pinned`: the same by digest. Sizes in bytes.

    `bytes_skipped`: already there, or mounted. With `dry_run` nothing was written, and the numbers
    say what would be.
    """

    reference: str
    pinned: str
    digest: str
    n_files: int
    size: int
    bytes_pushed: int
    bytes_skipped: int
    left_out: tuple[str, ...] = ()
    dry_run: bool = False


def pack(
    directory: Path | str,
    reference: str,
    *,
    force_tag: bool = False,
    dry_run: bool = False,
    rehash: bool = False,
    compatible: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> PushResult:
    """Pack a model directory into an OCI image layout, `oci:PATH:TAG`.

    Raises InputError for what cannot be packed, ConflictError for a tag in use, TargetError for a
    full or read-only disk.
    """
    if not isinstance(parse_reference(reference), LayoutReference):
        raise UsageError(
            f"{reference} is in a registry", hint=f"ocimodel push {directory} {reference}"
        )
    return push(
        directory,
        reference,
        force_tag=force_tag,
        dry_run=dry_run,
        rehash=rehash,
        compatible=compatible,
        concurrency=concurrency,
        client=client,
        observer=observer,
    )


def push(
    source: Path | str,
    reference: str,
    *,
    force_tag: bool = False,
    dry_run: bool = False,
    rehash: bool = False,
    compatible: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> PushResult:
    """Push a model directory, or an artifact in a layout (`oci:PATH[:TAG]`), to `reference`.

    Only blobs that are not there yet are sent. The tag is set last, and never moved from other
    content unless `force_tag`. `rehash`: read every file even if it has not changed since the last
    time. `compatible`: write a manifest for registries that refuse types they do not know.
    `concurrency`: streams at a time. Raises the tree of ocimodel.errors.
    """
    destination = _destination(reference)
    options = client_options(client)
    origin, root, left_out = _origin(
        source, options, rehash=rehash, compatible=compatible, observer=observer
    )
    target = open_store(destination, options, writable=not dry_run, observer=observer)
    tag = destination.tag
    current = guard_tag(target, tag, root.digest, force=force_tag)
    if dry_run:
        report = _predict(target, root)
    elif current and current.digest == root.digest:
        # a tag on this very manifest: its store has checked that all of it is there
        report = _all_there(root)
    else:
        report = copy(origin, target, root, concurrency=concurrency, observer=observer)
        guard_tag(target, tag, root.digest, force=force_tag)
        target.tag(tag, root.descriptor)
    return PushResult(
        reference=str(destination),
        pinned=str(destination.at(root.digest)),
        digest=root.digest,
        n_files=len(root.layers) if isinstance(root, Manifest) else 0,
        size=sum(blob.size for blob in root.blobs()),
        bytes_pushed=report.bytes_transferred,
        bytes_skipped=report.bytes_skipped,
        left_out=tuple(left_out),
        dry_run=dry_run,
    )


def _destination(text: str) -> Reference:
    reference = parse_reference(text)
    if reference.digest:
        raise UsageError(
            f"{text} names a digest, which follows from the content", hint="push to a tag"
        )
    tag = reference.tag or DEFAULT_TAG
    if isinstance(reference, LayoutReference):
        return LayoutReference(reference.path, tag)
    return RegistryReference(reference.registry, reference.repository, tag)


def _origin(
    source: Path | str,
    options: ClientOptions,
    *,
    rehash: bool,
    compatible: bool,
    observer: Observer,
) -> tuple[Source, Document, list[str]]:
    directory = source if isinstance(source, Path) else parse_local(source)
    if directory is not None:
        packed = pack_view(
            directory,
            memo=open_memo(options),
            environ=options.environ,
            compatible=compatible,
            rehash=rehash,
            observer=observer,
        )
        return packed.view, packed.root, packed.left_out
    reference = parse_reference(str(source))
    if not isinstance(reference, LayoutReference):
        raise UsageError(
            f"{source} is no directory", hint=f"from registry to registry: ocimodel copy {source} …"
        )
    store = open_store(reference, options, observer=observer)
    return store, find(store, reference), []


def _predict(target: Store, root: Document) -> Report:
    report = Report()
    for blob in root.blobs():
        there = target.has(blob)
        report.n_bytes[Outcome.EXISTS if there else Outcome.TRANSFERRED] += blob.size
    return report


def _all_there(root: Document) -> Report:
    report = Report()
    report.n_bytes[Outcome.EXISTS] = sum(blob.size for blob in root.blobs())
    return report
