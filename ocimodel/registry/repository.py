"""A repository in a registry as a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ocimodel.errors import (
    IntegrityError,
    NotFoundError,
    OcimodelError,
    RegistryError,
)
from ocimodel.events import Notice, Observer, Outcome, ignore
from ocimodel.registry.blobs import BlobStream
from ocimodel.registry.credentials import Credentials
from ocimodel.registry.endpoint import Endpoint, mirror_endpoint
from ocimodel.registry.mirrors import Mirror
from ocimodel.registry.transport import Client, ClientOptions, Scope
from ocimodel.registry.upload import Uploads
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import (
    MANIFEST,
    Document,
    parse_manifest,
)
from ocimodel.spec.reference import RegistryReference
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Advance, Ingest, Source

if TYPE_CHECKING:
    from ocimodel.registry.control import Control
    from ocimodel.registry.referrers import Referrers


class Repository:
    """A `Store` in a registry.

    `writable`: tokens are asked for with the right to push from the start, as least-privilege
    registries need. `mirrors`: tried first, for reading only; whatever they answer is verified,
    and what they cannot give comes from the registry itself. `mount_from`: a repository of the same
    registry that may have the blobs that are pushed.
    """

    trusted = False

    def __init__(
        self,
        reference: RegistryReference,
        options: ClientOptions,
        credentials: Credentials,
        *,
        writable: bool = False,
        mirrors: Sequence[Mirror] = (),
        observer: Observer = ignore,
        mount_from: str = "",
    ) -> None:
        self.name = reference.name
        self.host = reference.host
        self.repository = reference.repository
        self._observer = observer
        self._options = options
        self._actions = "pull,push" if writable else "pull"
        scopes = {f"repository:{self.repository}:{self._actions}"}
        if mount_from:
            scopes.add(f"repository:{mount_from}:pull")
        self._mount_from = mount_from
        self._mount_scope: Scope = frozenset(scopes)
        self._scope: Scope = frozenset({f"repository:{self.repository}:{self._actions}"})
        self.client = Client(
            self.host, options, credentials, repository=self.repository, observer=observer
        )
        self._upstream = Endpoint(
            self.client, self.repository, self._scope, n_attempts=options.n_attempts
        )
        self._uploads = Uploads(
            self.client, self.repository, self._scope, observer, options.n_attempts
        )
        self._mirrors = [
            mirror_endpoint(m, self.repository, options, credentials) for m in mirrors if m.can_pull
        ]
        # blobs that a mirror gave wrong bytes for
        self._distrusted: set[str] = set()
        self._put: dict[str, Document] = {}

    @cached_property
    def _control(self) -> Control:
        from ocimodel.registry.control import Control

        return Control(self.client, self.repository, self._actions)

    @cached_property
    def _referrers(self) -> Referrers:
        from ocimodel.registry.referrers import Referrers

        return Referrers(
            self.client, self._upstream, lambda: self._control, self.repository, self._scope
        )

    # reading

    def resolve(self, reference: str) -> Descriptor:
        try:
            headers = self._upstream.head(reference)
        except NotFoundError as error:
            raise self._missing(reference) from error
        digest = headers.get("docker-content-digest", "")
        size = headers.get("content-length", "")
        if not digest or not size.isdigit():
            # permitted, and seen behind proxies: then only the document itself can tell
            return self.manifest(reference).descriptor
        media_type = headers.get("content-type", "").partition(";")[0].strip()
        return Descriptor.parse({"mediaType": media_type, "digest": digest, "size": int(size)})

    def manifest(self, reference: str) -> Document:
        for mirror in self._mirrors:
            if not mirror.is_down and (":" in reference or mirror.can_resolve):
                try:
                    return mirror.manifest(reference)
                except OcimodelError as error:
                    self._passed_over(mirror, error)
        try:
            return self._upstream.manifest(reference)
        except NotFoundError as error:
            raise self._missing(reference) from error

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> BlobStream:
        n_bytes = what.size - start if length is None else length
        for mirror in self._mirrors if what.digest not in self._distrusted else ():
            if mirror.is_down:
                continue
            try:
                return mirror.downloads.open(what, start, n_bytes, self._upstream.downloads)
            except OcimodelError as error:
                self._passed_over(mirror, error)
        return self._upstream.downloads.open(what, start, n_bytes)

    def reject(self, what: Descriptor) -> bool:
        """Another source for a blob whose bytes were wrong: past the mirrors, if there are any."""
        if not self._mirrors or what.digest in self._distrusted:
            return False
        self._distrusted.add(what.digest)
        self._observer(
            Notice(f"a mirror gave wrong bytes for {what.digest[:19]}: asking {self.host}")
        )
        return True

    def _passed_over(self, mirror: Endpoint, error: Exception) -> None:
        # one that has not this blob may have the next; one that fails would cost time with each
        mirror.is_down = not isinstance(error, NotFoundError | IntegrityError)
        self._observer(Notice(f"mirror {mirror.host} passed over: {error}"))

    def referrers(self, subject: str) -> Sequence[Descriptor]:
        return self._referrers.listed(subject)

    def tags(self) -> Sequence[str]:
        return sorted(self._control.all_tags())

    def _missing(self, reference: str) -> NotFoundError:
        mark = "@" if ":" in reference else ":"
        return NotFoundError(
            f"{self.name}{mark}{reference} was not found", hint=f"ocimodel ls {self.name}"
        )

    # writing

    def plan(self, document: Document) -> Sequence[Descriptor]:
        return document.blobs()

    def has(self, what: Descriptor) -> bool:
        return self._control.has_blob(what.digest)

    def begin(self, what: Descriptor, source: Source) -> Ingest | Outcome:
        if self.has(what):
            return Outcome.EXISTS
        origin = self._mount_from
        if origin not in ("", self.repository) and self._uploads.mount(
            what, origin, self._mount_scope
        ):
            return Outcome.MOUNTED
        return _Upload(self._uploads, what, source)

    def check_push(self) -> None:
        """Raises what a push would, without leaving anything behind."""
        self._uploads.check()

    def put_manifest(self, document: Document) -> None:
        answer = self._put_under(document.digest, document)
        self._put[document.digest] = document
        self._referrers.added(document, answer)

    def tag(self, name: str, what: Descriptor) -> None:
        document = self._put.get(what.digest) or self.manifest(what.digest)
        self._put_under(name, document)

    def _put_under(self, reference: str, document: Document) -> str:
        """The OCI-Subject header of the answer."""
        response = self._control.put_raw(reference, document.raw, document.media_type)
        if response.status_code == 404:
            raise NotFoundError(
                f"{self.name} was not found",
                hint="some registries want the repository to be created first",
            )
        stored = response.headers.get("docker-content-digest", document.digest)
        if stored != document.digest:
            raise IntegrityError(f"{document.digest} was stored as {stored[:100]}")
        subject: str = response.headers.get("oci-subject", "")
        return subject

    def delete(self, digest: str) -> None:
        document = self.manifest(digest)
        try:
            response = self._control.delete(digest)
        except RegistryError as error:
            if error.status != 405:
                raise
            raise RegistryError(
                f"{self.host} does not allow deletes",
                status=405,
                hint="docker-registry needs REGISTRY_STORAGE_DELETE_ENABLED=true",
            ) from error
        if response.status_code == 404:
            raise self._missing(digest)
        self._referrers.removed(document)

    def untag(self, name: str) -> None:
        """By the API; where that only deletes by digest, by way of a manifest made to be deleted.

        Otherwise the artifact and its other tags would go too.
        """
        self.resolve(name)
        try:
            self._control.delete(name)
        except RegistryError as error:
            if error.status not in (400, 405):
                raise
            stand_in = _stand_in()
            root = stand_in.manifest("stand-in")
            copy(stand_in, self, root, tag=name)
            self.delete(root.digest)

    def close(self) -> None:
        self.client.close()
        for mirror in self._mirrors:
            mirror.client.close()


class _Upload:
    resumed = False

    def __init__(self, uploads: Uploads, what: Descriptor, source: Source) -> None:
        self.parts: Sequence[tuple[int, int]] = [(0, what.size)]
        self._uploads = uploads
        self._what = what
        self._source = source

    def transfer(self, start: int, length: int, advance: Advance) -> None:
        self._uploads.send(self._what, self._source, advance)

    def commit(self) -> None:
        """The registry made it visible with the last answer."""

    def close(self) -> None:
        """Abandoned uploads time out at the registry."""


def _stand_in() -> MemoryStore:
    """A manifest like no other, to take a tag away with."""
    store = MemoryStore()
    empty = Descriptor(EMPTY_MEDIA_TYPE, sha256(b"{}"), 2)
    store.blobs[empty.digest] = b"{}"
    raw = canonical.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": empty.to_json(),
            "layers": [empty.to_json()],
            "annotations": {"dev.ocimodel.stand-in": os.urandom(16).hex()},
        }
    )
    document = parse_manifest(raw)
    store.put_manifest(document)
    store.tag("stand-in", document.descriptor)
    return store
