"""Image manifests and indexes, with the raw bytes kept: what is signed is never re-serialised.

Source: OCI image-spec v1.1, manifest.md and image-index.md; the Docker v2 twins are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ocimodel.errors import InputError, IntegrityError
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import Hash, finish, hasher_for

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (INDEX, DOCKER_LIST)
ACCEPTED = (*MANIFEST_TYPES, *INDEX_TYPES)

# distribution-spec v1.1: registries are only expected to take manifests of up to 4 MiB
MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 50_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed image manifest; `raw` is exactly what `digest` covers."""

    raw: bytes = field(repr=False)
    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def blobs(self) -> tuple[Descriptor, ...]:
        """Configuration and layers, each digest once, in order."""
        return tuple({d.digest: d for d in (self.config, *self.layers)}.values())

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def effective_type(self) -> str:
        """What a referrers list shows: artifactType, or else the configuration's media type."""
        return self.artifact_type or self.config.media_type


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed image index: a list of manifests."""

    raw: bytes = field(repr=False)
    digest: str
    media_type: str
    manifests: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    def blobs(self) -> tuple[Descriptor, ...]:
        """An index points to manifests only."""
        return ()

    @property
    def effective_type(self) -> str:
        return self.artifact_type


Document = Manifest | Index


def as_referrer(document: Document) -> Descriptor:
    """How a referrers list shows a manifest. Source: distribution-spec v1.1, listing referrers."""
    return Descriptor(
        document.media_type,
        document.digest,
        len(document.raw),
        annotations=document.annotations,
        artifact_type=document.effective_type,
    )


def parse_manifest(raw: bytes, media_type: str = "", digest: str = "") -> Document:
    """`media_type`: what the transport called it; it must agree with the document.

    `digest`: what `raw` must hash to (IntegrityError otherwise), where it is known.

    Raises InputError for anything that is no manifest, or is both a manifest and an index.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise InputError(f"manifest of {len(raw)} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    actual = finish(_hashed(raw, digest or "sha256:"), digest or "sha256:")
    if digest and actual != digest:
        raise IntegrityError(f"manifest {digest} arrived with the bytes of {actual}")
    document = canonical.decode(raw, "manifest")
    stated = canonical.text(document, "mediaType", "manifest")
    if stated and media_type and stated != media_type:
        raise InputError(f"manifest calls itself {stated} but was served as {media_type}")
    kind = stated or media_type
    if document.get("schemaVersion") != 2:
        raise InputError(f"manifest has schemaVersion {document.get('schemaVersion')!r}, not 2")
    if ("layers" in document or "config" in document) and "manifests" in document:
        raise InputError("document claims to be both a manifest and an index")
    if kind in INDEX_TYPES or (not kind and "manifests" in document):
        return _index(raw, actual, kind or INDEX, document)
    if kind in MANIFEST_TYPES or (not kind and "layers" in document):
        return _manifest(raw, actual, kind or MANIFEST, document)
    raise InputError(
        f"unknown manifest media type {kind!r}", hint="this reference holds no model artifact"
    )


def _hashed(raw: bytes, digest: str) -> Hash:
    hasher = hasher_for(digest)
    hasher.update(raw)
    return hasher


def _common(document: Mapping[str, Any]) -> dict[str, Any]:
    subject = document.get("subject")
    return {
        "artifact_type": canonical.text(document, "artifactType", "manifest"),
        "subject": None if subject is None else Descriptor.parse(subject, "subject"),
        "annotations": canonical.strings(document, "annotations", "manifest"),
    }


def _descriptors(document: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    items = canonical.sequence(document, key, "manifest")
    if len(items) > MAX_LAYERS:
        raise InputError(f"manifest lists {len(items)} {key}, over the limit of {MAX_LAYERS}")
    return tuple(Descriptor.parse(item, f"{key}[{i}]") for i, item in enumerate(items))


def _manifest(raw: bytes, digest: str, media_type: str, document: Mapping[str, Any]) -> Manifest:
    config = Descriptor.parse(document.get("config"), "config")
    layers = _descriptors(document, "layers")
    sizes: dict[str, int] = {config.digest: config.size}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise InputError(f"manifest gives {layer.digest} two sizes")
    return Manifest(raw, digest, media_type, config, layers, **_common(document))


def _index(raw: bytes, digest: str, media_type: str, document: Mapping[str, Any]) -> Index:
    return Index(raw, digest, media_type, _descriptors(document, "manifests"), **_common(document))
