"""All that a store has to say about one artifact: signatures and attestations, read and parsed.

Anybody who may push can put anything here. So everything is capped, what is malformed is set aside
with its reason, and nothing found means nothing more than that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from ocimodel.errors import InputError, IntegrityError, NotFoundError, OcimodelError
from ocimodel.signing.cosign import (
    attestation_tag,
    bundle_evidence,
    envelope_evidence,
    signature_tag,
    simple_evidence,
)
from ocimodel.signing.evidence import Evidence, Gathered, Unreadable
from ocimodel.spec.bundle import MAX_BUNDLE_BYTES
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.dsse import ENVELOPE_TYPE
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.simplesigning import MAX_PAYLOAD_BYTES, PAYLOAD_TYPE
from ocimodel.store.copy import DEFAULT_CONCURRENCY
from ocimodel.store.protocol import Source
from ocimodel.store.streams import read_blob
from ocimodel.store.workers import Workers

MAX_REFERRERS: Final = 512
MAX_TAG_LAYERS: Final = 128
MAX_TOTAL_BYTES: Final = 64 << 20
NOTATION: Final = "application/vnd.cncf.notary.signature"
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
# referrers that other tools make and that sign nothing
_FOREIGN: Final = frozenset(
    {"application/spdx+json", "application/vnd.cyclonedx+json", "application/sarif+json"}
)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something that calls itself evidence: a blob, and its reader."""

    origin: str
    layer: Descriptor
    parse: Callable[[bytes], Evidence]


def gather(source: Source, root: Document, *, concurrency: int = DEFAULT_CONCURRENCY) -> Gathered:
    """What signs or attests `root`: its referrers and cosign's two tags, sorted by origin.

    What is gone, damaged or malformed becomes an Unreadable; so does, in one, all that goes beyond
    MAX_REFERRERS, MAX_TAG_LAYERS or MAX_TOTAL_BYTES. Raises RegistryError, AuthenticationError.
    """
    return _Gathering(source, root, concurrency).run()


class _Gathering:
    """Three steps, each with all of its requests at once: lists, manifests, blobs."""

    def __init__(self, source: Source, root: Document, concurrency: int) -> None:
        self._source = source
        self._root = root
        self._concurrency = concurrency
        self._listed: list[Descriptor] = []
        self._pieces: list[_Piece] = []
        self._blobs: dict[tuple[str, int], bytes | OcimodelError] = {}
        self._unreadable: list[Unreadable] = []
        self._lock = threading.Lock()
        self._n_bytes_left = MAX_TOTAL_BYTES
        self._n_skipped = 0

    def run(self) -> Gathered:
        self._each([self._list, *self._tags()])
        self._each(partial(self._referrer, listed) for listed in self._chosen())
        # a payload that was signed twice is one blob; small ones first, since signatures are small
        layers = {_key(piece.layer): piece.layer for piece in self._pieces}
        by_size = sorted(layers.values(), key=lambda layer: layer.size)
        self._each(partial(self._blob, layer) for layer in by_size)
        evidence = [found for piece in self._pieces if (found := self._evidence(piece))]
        if self._n_skipped:
            reason = (
                f"{self._n_skipped} more were not looked into: over the limits of {MAX_REFERRERS} "
                f"referrers, {MAX_TAG_LAYERS} layers a tag and {MAX_TOTAL_BYTES} bytes in all"
            )
            self._unreadable.append(Unreadable("the rest", reason))
        return Gathered(
            tuple(sorted(evidence, key=lambda found: found.origin)),
            tuple(sorted(self._unreadable, key=lambda found: found.origin)),
        )

    def _each(self, tasks: Iterable[Callable[[], None]]) -> None:
        Workers(tasks, self._concurrency).run()

    @contextmanager
    def _noting(self, origin: str) -> Iterator[None]:
        """What goes wrong with one piece of evidence says nothing against the others."""
        try:
            yield
        except (NotFoundError, IntegrityError, InputError) as error:
            self._unreadable.append(Unreadable(origin, " ".join(str(error).split())))

    def _list(self) -> None:
        with self._noting("referrers"):
            self._listed += self._source.referrers(self._root.digest)

    def _chosen(self) -> list[Descriptor]:
        """The referrers to look into; those that are called signatures come first."""
        asked = [listed for listed in self._listed if listed.artifact_type not in _FOREIGN]
        self._n_skipped += max(0, len(asked) - MAX_REFERRERS)
        return sorted(asked, key=lambda d: (_rank(d), d.digest))[:MAX_REFERRERS]

    def _tags(self) -> list[Callable[[], None]]:
        digest = self._root.digest
        if not digest.startswith("sha256:"):
            # cosign knows no other, and the tag would be too long
            return []
        return [
            partial(self._tag, signature_tag(digest), _signature_piece),
            partial(self._tag, attestation_tag(digest), _attestation_piece),
        ]

    def _tag(self, tag: str, piece: Callable[[str, Descriptor], _Piece]) -> None:
        with self._noting(tag):
            try:
                document = self._source.manifest(tag)
            except NotFoundError:
                return
            if not isinstance(document, Manifest):
                raise InputError("it is an image index, not a manifest")
            # the newest are at the end
            first = max(0, len(document.layers) - MAX_TAG_LAYERS)
            with self._lock:
                self._n_skipped += first
            for i, layer in enumerate(document.layers[first:], first):
                with self._noting(f"{tag}[{i}]"):
                    self._pieces.append(piece(f"{tag}[{i}]", layer))

    def _referrer(self, listed: Descriptor) -> None:
        origin = f"referrer {listed.digest}"
        if not self._takes(listed.size):
            with self._lock:
                self._n_skipped += 1
            return
        with self._noting(origin):
            document = self._source.manifest(listed.digest)
            with self._lock:
                # the list may have made it smaller than it is
                self._n_bytes_left -= max(0, len(document.raw) - listed.size)
            if piece := _referrer_piece(origin, document, self._root):
                self._pieces.append(piece)

    def _blob(self, layer: Descriptor) -> None:
        if self._takes(layer.size):
            try:
                content = read_blob(self._source.open(layer), layer, MAX_BUNDLE_BYTES)
            except (NotFoundError, IntegrityError, InputError) as error:
                self._blobs[_key(layer)] = error
            else:
                self._blobs[_key(layer)] = content

    def _takes(self, n_bytes: int) -> bool:
        with self._lock:
            fits = n_bytes <= self._n_bytes_left
            self._n_bytes_left -= n_bytes if fits else 0
            return fits

    def _evidence(self, piece: _Piece) -> Evidence | None:
        content = self._blobs.get(_key(piece.layer))
        if content is None:
            self._n_skipped += 1
            return None
        with self._noting(piece.origin):
            if isinstance(content, OcimodelError):
                raise content
            return piece.parse(content)
        return None


def _key(layer: Descriptor) -> tuple[str, int]:
    return layer.digest, layer.size


def _rank(listed: Descriptor) -> int:
    if listed.artifact_type == NOTATION or listed.artifact_type.startswith(_BUNDLE):
        return 0
    # as cosign 3 lists its own in the fallback tag
    return 1 if listed.artifact_type == EMPTY_MEDIA_TYPE else 2


def _referrer_piece(origin: str, document: Document, root: Document) -> _Piece | None:
    """None for what does not call itself a signature. InputError for what does, and is not ours."""
    if not isinstance(document, Manifest):
        return None
    types = {document.artifact_type, document.config.media_type}
    types.update(layer.media_type for layer in document.layers)
    parse: Callable[[bytes], Evidence]
    if any(name.startswith(_BUNDLE) for name in types):
        parse = partial(bundle_evidence, origin)
    elif NOTATION in types:
        parse = partial(_notation, origin, document)
    else:
        return None
    about, expected = document.subject, root.descriptor
    if not about or (about.digest, about.size, about.media_type) != (
        expected.digest,
        expected.size,
        expected.media_type,
    ):
        raise InputError("its subject is another manifest")
    if len(document.layers) != 1:
        raise InputError(f"it has {len(document.layers)} layers, not one")
    return _piece(origin, document.layers[0], MAX_BUNDLE_BYTES, parse)


def _signature_piece(origin: str, layer: Descriptor) -> _Piece:
    _check_type(layer, PAYLOAD_TYPE)
    return _piece(
        origin,
        layer,
        MAX_PAYLOAD_BYTES,
        lambda raw: simple_evidence(origin, raw, layer.annotations),
    )


def _attestation_piece(origin: str, layer: Descriptor) -> _Piece:
    _check_type(layer, ENVELOPE_TYPE)
    return _piece(
        origin,
        layer,
        MAX_BUNDLE_BYTES,
        lambda raw: envelope_evidence(origin, raw, layer.annotations),
    )


def _check_type(layer: Descriptor, media_type: str) -> None:
    if layer.media_type != media_type:
        raise InputError(f"it is {layer.media_type[:100]!r}, not {media_type}")


def _piece(
    origin: str, layer: Descriptor, limit: int, parse: Callable[[bytes], Evidence]
) -> _Piece:
    if layer.size > limit:
        raise InputError(f"it has {layer.size} bytes, over the limit of {limit}")
    return _Piece(origin, layer, parse)


def _notation(origin: str, manifest: Manifest, raw: bytes) -> Evidence:
    from ocimodel.signing.notation import notation_evidence

    return notation_evidence(origin, manifest, raw)
