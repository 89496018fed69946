"""pack and push: a directory, or an artifact in a layout, into a store under a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ocimodel.errors import InputError, NotFoundError, UsageError
from ocimodel.events import Observer, Outcome, ignore
from ocimodel.ops.access import (
    client_options,
    find,
    guard_tag,
    open_memo,
    open_store,
    parse_local,
    tagged,
)
from ocimodel.ops.ahead import Ahead
from ocimodel.ops.packing import Packed, check_layering, pack_view
from ocimodel.registry.transport import ClientOptions
from ocimodel.signing.signer import Ask, no_passphrase
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.profile import MAX_PROFILE_BYTES, Range, parse_profile
from ocimodel.spec.reference import (
    DEFAULT_TAG,
    LayoutReference,
    Reference,
    RegistryReference,
    parse_reference,
)
from ocimodel.spec.segments import files_of
from ocimodel.store.copy import DEFAULT_CONCURRENCY, Report, copy
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Source, Store
from ocimodel.weights.cuts import MAX_LAYER_BYTES

if TYPE_CHECKING:
    from ocimodel.ops.signatures import Signing


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
    signatures: tuple[str, ...] = ()


def pack(
    directory: Path | str,
    reference: str,
    *,
    layering: str = "file",
    max_layer_bytes: int = MAX_LAYER_BYTES,
    profiles: Mapping[str, Path] = {},
    force_tag: bool = False,
    dry_run: bool = False,
    rehash: bool = False,
    compatible: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> PushResult:
    """Pack a model directory into an OCI image layout, `oci:PATH:TAG`; otherwise as `push`.

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
        layering=layering,
        max_layer_bytes=max_layer_bytes,
        profiles=profiles,
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
    layering: str = "file",
    max_layer_bytes: int = MAX_LAYER_BYTES,
    profiles: Mapping[str, Path] = {},
    mount_from: str = "",
    sign: str = "",
    passphrase: Ask = no_passphrase,
    force_tag: bool = False,
    dry_run: bool = False,
    rehash: bool = False,
    compatible: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> PushResult:
    """Push a model directory, or an artifact in a layout (`oci:PATH[:TAG]`), to `reference`.

    Only blobs that are not there yet are sent. `layering`: "file", one layer for each file, or
    "tensor": weights are cut at their tensors, so that a fine-tune sends what has changed. A file
    over `max_layer_bytes` is cut in any case. `profiles`: by name, files of `ocimodel trace`, to be
    kept in the index. `mount_from`: a repository of the same registry that may have some of the
    blobs. `sign`: the key to sign it with, in cosign's forms, before the tag
    is set; `passphrase` is asked for that of the key. The tag is set last, and never moved from
    other content unless `force_tag`. `rehash`: read every file even if it has not changed since the
    last time. `compatible`: write a manifest for registries that refuse types they do not know.
    `concurrency`: streams at a time. Raises the tree of ocimodel.errors.
    """
    destination = _destination(reference)
    options = client_options(client)
    directory = source if isinstance(source, Path) else parse_local(source)
    signing = _signing(sign, options, passphrase) if sign else None
    check_layering(layering, max_layer_bytes)
    target = _target(destination, options, observer, dry_run, mount_from)
    current = tagged(target, destination.tag)
    ahead: Ahead | None = None
    packed: Packed | None = None
    origin: Source
    root: Document
    if directory is not None:
        # into a new tag whatever the directory holds will go: no need to know it all first
        if not dry_run and (current is None or force_tag):
            ahead = Ahead(directory, target, concurrency, observer)
        packed = _packed(
            directory,
            options,
            ahead,
            layering=layering,
            max_layer_bytes=max_layer_bytes,
            profiles={name: _profile(path) for name, path in profiles.items()},
            rehash=rehash,
            compatible=compatible,
            observer=observer,
        )
        origin, root = packed.view, packed.root
    else:
        origin, root = _stored(str(source), options, observer)
    sent = ahead.finish() if ahead else None
    guard_tag(target, destination.tag, current, root.digest, force=force_tag)
    is_tagged = current is not None and current.digest == root.digest
    if dry_run:
        report = _predict(target, root)
    elif is_tagged:
        # a tag on this very manifest: its store has checked that all of it is there
        report = sent or _all_there(root)
    else:
        report = copy(origin, target, root, concurrency=concurrency, observer=observer, report=sent)
    signatures: tuple[str, ...] = ()
    if signing and not dry_run:
        # before the tag: who goes by it shall never meet what is not signed yet
        from ocimodel.ops.signatures import sign_document

        signatures = sign_document(target, destination, root, signing, options)
    if not dry_run and not is_tagged:
        latest = tagged(target, destination.tag)
        guard_tag(target, destination.tag, latest, root.digest, force=force_tag)
        target.tag(destination.tag, root.descriptor)
    return PushResult(
        reference=str(destination),
        pinned=str(destination.at(root.digest)),
        digest=root.digest,
        n_files=_n_files(root),
        size=sum(blob.size for blob in root.blobs()),
        bytes_pushed=report.bytes_transferred,
        bytes_skipped=report.bytes_skipped,
        left_out=tuple(packed.left_out) if packed else (),
        dry_run=dry_run,
        signatures=signatures,
    )


def _signing(key: str, options: ClientOptions, passphrase: Ask) -> Signing:
    # most pushes are not signed here, and shall start sooner
    from ocimodel.ops.signatures import open_signing

    return open_signing(key, options, passphrase)


def _n_files(root: Document) -> int:
    if not isinstance(root, Manifest):
        return 0
    try:
        return len([file for file in files_of(root) if not file.directories])
    except InputError:
        # another tool's artifact, whose layers are no files
        return len(root.layers)


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


def _packed(
    directory: Path,
    options: ClientOptions,
    ahead: Ahead | None,
    *,
    layering: str,
    max_layer_bytes: int,
    profiles: Mapping[str, Sequence[Range]],
    rehash: bool,
    compatible: bool,
    observer: Observer,
) -> Packed:
    try:
        return pack_view(
            directory,
            memo=open_memo(options),
            environ=options.environ,
            compatible=compatible,
            layering=layering,
            max_layer_bytes=max_layer_bytes,
            profiles=profiles,
            rehash=rehash,
            observer=observer,
            found=ahead.found if ahead else lambda layer, place: None,
        )
    except Exception as error:
        if ahead:
            ahead.abort(error)
        raise


def _profile(path: Path) -> tuple[Range, ...]:
    try:
        with path.open("rb") as file:
            return parse_profile(file.read(MAX_PROFILE_BYTES + 1), str(path))
    except OSError as error:
        raise InputError(f"cannot read the profile {path}: {error.strerror}") from error


def _stored(text: str, options: ClientOptions, observer: Observer) -> tuple[Source, Document]:
    reference = _layout_reference(text)
    store = open_store(reference, options, observer=observer)
    return store, find(store, reference)


def _layout_reference(text: str) -> LayoutReference:
    if text.startswith("oci:"):
        reference = parse_reference(text)
        assert isinstance(reference, LayoutReference)
        return reference
    try:
        parse_reference(text)
    except UsageError:
        raise NotFoundError(f"there is no directory {text}") from None
    raise UsageError(
        f"{text} is no directory", hint=f"from registry to registry: ocimodel copy {text} …"
    )


def _target(
    destination: Reference,
    options: ClientOptions,
    observer: Observer,
    dry: bool,
    mount_from: str,
) -> Store:
    if dry and isinstance(destination, LayoutReference) and not Path(destination.path).exists():
        # it would be made; until then it is empty
        return MemoryStore(destination.name)
    return open_store(
        destination,
        options,
        writable=not dry,
        observer=observer,
        mount_from=_sibling(destination, mount_from),
    )


def _sibling(destination: Reference, text: str) -> str:
    """The repository to mount from, given alone or with the host that it must share."""
    if not text:
        return ""
    if not isinstance(destination, RegistryReference):
        raise UsageError("blobs are mounted inside a registry, and a layout is none")
    host = destination.host
    origin = parse_reference(text if text.startswith(f"{host}/") else f"{host}/{text}")
    assert isinstance(origin, RegistryReference)
    return origin.repository


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
