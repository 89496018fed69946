"""From a reference to a store: which registry, which credentials, which mirrors."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocimodel.errors import ConflictError, InputError, NotFoundError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.registry.credentials import Credentials
from ocimodel.registry.mirrors import (
    HOSTS_DIRS,
    Mirror,
    default_registries_conf,
    mirrors_for,
)
from ocimodel.registry.repository import Repository
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.modelpack import index_layer
from ocimodel.spec.reference import (
    DEFAULT_TAG,
    LayoutReference,
    Reference,
    RegistryReference,
    parse_reference,
)
from ocimodel.spec.segments import check_index, files_of
from ocimodel.store.layout import REF_NAME, Layout
from ocimodel.store.memo import Memo, memo_path
from ocimodel.store.protocol import Source, Store
from ocimodel.store.streams import read_blob

if TYPE_CHECKING:
    from ocimodel.spec.chunkindex import ChunkIndex


def client_options(options: ClientOptions | None) -> ClientOptions:
    """The given options, or the defaults, in this process's environment."""
    chosen = options or ClientOptions()
    return chosen if chosen.environ else replace(chosen, environ=dict(os.environ))


def open_store(
    reference: Reference,
    options: ClientOptions,
    *,
    writable: bool = False,
    observer: Observer = ignore,
    mount_from: str = "",
) -> Store:
    """The store that a reference lies in. `writable`: a layout is made if it is not there.

    `mount_from`: a repository of the same registry to take blobs over from.
    """
    if isinstance(reference, LayoutReference):
        return Layout(Path(reference.path), create=writable)
    mirrors = () if writable else _mirrors(reference, options)
    return Repository(
        reference,
        options,
        credentials_of(options),
        writable=writable,
        mirrors=mirrors,
        observer=observer,
        mount_from=mount_from,
    )


def credentials_of(options: ClientOptions) -> Credentials:
    return Credentials(registry_config=options.registry_config, environ=options.environ)


def _mirrors(reference: RegistryReference, options: ClientOptions) -> tuple[Mirror, ...]:
    home = Path(options.environ.get("HOME", "/nonexistent"))
    return mirrors_for(
        reference.host,
        reference.repository,
        explicit=options.mirrors,
        hosts_dirs=HOSTS_DIRS,
        registries_conf=default_registries_conf(options.environ, home),
    )


def find(source: Source, reference: Reference) -> Document:
    """The manifest that a reference names; with neither tag nor digest: the tag `latest`.

    In a layout with a single artifact that one is meant, as skopeo has it.
    """
    wanted = reference.digest or reference.tag
    if not wanted and isinstance(source, Layout):
        roots = source.roots()
        tags = {root.annotations.get(REF_NAME) for root in roots}
        digests = {root.digest for root in roots}
        if DEFAULT_TAG not in tags and len(digests) == 1:
            wanted = digests.pop()
    # with both a tag and a digest the digest decides, and the tag is for people
    return source.manifest(wanted or DEFAULT_TAG)


def as_model(root: Document, reference: Reference) -> Manifest:
    """`root` itself; InputError for an index, which is several models or none."""
    if not isinstance(root, Manifest):
        raise InputError(
            f"{reference} is an index of several artifacts, not one model",
            hint="name one of its manifests by digest: ocimodel inspect --raw shows them",
        )
    return root


class IndexOf:
    """The chunk index of an artifact, fetched when it is first asked for. Thread-safe.

    `n_bytes`: that were fetched for it so far.
    """

    def __init__(self, source: Source, root: Document) -> None:
        self._source = source
        self._root = root
        self._lock = threading.Lock()
        self._index: ChunkIndex | None = None
        self.n_bytes = 0

    def __call__(self) -> ChunkIndex | None:
        """Verified and checked against the manifest; None where the artifact has none.

        Raises InputError for what is no index, or contradicts the manifest.
        """
        layer = index_layer(self._root) if isinstance(self._root, Manifest) else None
        if layer is None:
            return None
        from ocimodel.spec.chunkindex import MAX_INDEX_BYTES, parse_index

        with self._lock:
            if self._index is None:
                assert isinstance(self._root, Manifest)
                raw = read_blob(self._source.open(layer), layer, MAX_INDEX_BYTES)
                self._index = check_index(parse_index(raw), files_of(self._root))
                self.n_bytes = layer.size
            return self._index


def tagged(target: Store, name: str) -> Descriptor | None:
    """What a tag points to now."""
    try:
        return target.resolve(name)
    except NotFoundError:
        return None


def guard_tag(
    target: Store, name: str, current: Descriptor | None, digest: str, *, force: bool
) -> None:
    """ConflictError if the tag points to other content and may not be moved.

    Tags are immutable unless someone says otherwise: a deployment that names a tag must not change
    under its feet.
    """
    if current and current.digest != digest and not force:
        raise ConflictError(
            f"{target.name}:{name} is {current.digest} already, not {digest}",
            hint="choose another tag, or move this one with --force-tag",
        )


def parse_local(text: str) -> Path | None:
    """A directory, if `text` names one rather than a reference."""
    if text.startswith("oci:"):
        return None
    path = Path(text)
    looks_like_path = text.startswith((".", "/", "~")) or path.is_dir()
    return path.expanduser() if looks_like_path else None


def parse_full(text: str) -> Reference:
    """A reference that says which artifact; UsageError for a bare repository."""
    reference = parse_reference(text)
    if not reference.tag and not reference.digest:
        raise UsageError(f"{text} names no tag and no digest", hint=f"write {text}:TAG")
    return reference


def open_memo(options: ClientOptions) -> Memo:
    """Where the digests of unchanged files are remembered, for this user."""
    return Memo(memo_path(options.environ))
