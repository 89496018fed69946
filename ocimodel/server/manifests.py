"""Manifests, tags, referrers, the catalog. Source: distribution-spec v1.1.1, end-3, 7-10, 12."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urlencode

from ocimodel.errors import InputError, IntegrityError, NotFoundError
from ocimodel.server.blobs import Recent
from ocimodel.server.messages import ApiError, Request, Response, digest_of, json_response
from ocimodel.server.naming import Naming, is_tag, page
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import (
    ACCEPTED,
    INDEX,
    MAX_MANIFEST_BYTES,
    Document,
    Index,
    parse_manifest,
)
from ocimodel.store.layout import REF_NAME, Layout


class Manifests:
    """`recent`: the blobs that a delete leaves alone, since a manifest for them may be coming."""

    def __init__(self, layout: Layout, naming: Naming, recent: Recent) -> None:
        self._layout = layout
        self._naming = naming
        self._recent = recent
        # a repository stays, though its last tag be deleted
        self._known: set[str] = set()
        # a blob must not go between the check of a manifest and its entry
        self._changing = threading.Lock()

    # reading

    def get(self, request: Request) -> Response:
        document = self._find(request.route.name, request.route.reference)
        headers = {
            "Content-Type": document.media_type,
            "Docker-Content-Digest": document.digest,
            "ETag": f'"{document.digest}"',
        }
        if request.method == "HEAD":
            return Response(200, headers, content_length=len(document.raw))
        return Response(200, headers, document.raw)

    def _find(self, name: str, reference: str) -> Document:
        if ":" in reference:
            digest = digest_of(reference)
        else:
            digest = self._tagged(name, reference)[1].digest
        try:
            return self._layout.manifest(digest)
        except (NotFoundError, InputError):
            # a blob that is no manifest is none here
            raise _unknown(name, reference) from None

    def _tagged(self, name: str, tag: str) -> tuple[str, Descriptor]:
        """The ref.name and the entry of a tag as this repository sees it."""
        entries = self._by_ref_name()
        ref_name = self._naming.visible(name, entries).get(tag)
        if ref_name is None:
            raise _unknown(name, tag)
        return ref_name, entries[ref_name]

    def _by_ref_name(self) -> dict[str, Descriptor]:
        entries = self._layout.roots()
        return {n: e for e in entries if (n := e.annotations.get(REF_NAME))}

    def tags(self, request: Request) -> Response:
        name = request.route.name
        visible = self._naming.visible(name, self._by_ref_name())
        if not visible and name not in self._known:
            raise ApiError(404, "NAME_UNKNOWN", f"there is no repository {name}")
        tags, headers = _paged(visible, request.query, f"/v2/{name}/tags/list")
        return json_response({"name": name, "tags": tags}, headers=headers)

    def catalog(self, request: Request) -> Response:
        names = self._naming.repositories(self._by_ref_name())
        found, headers = _paged(names, request.query, "/v2/_catalog")
        return json_response({"repositories": found}, headers=headers)

    def referrers(self, request: Request) -> Response:
        found = self._layout.referrers(digest_of(request.route.reference))
        headers = {"Content-Type": INDEX}
        wanted = request.query.get("artifactType")
        if wanted:
            found = [d for d in found if d.artifact_type == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [d.to_json() for d in found],
        }
        return json_response(document, headers=headers)

    # writing

    def put(self, request: Request) -> Response:
        name, reference = request.route.name, request.route.reference
        document = self._received(request)
        with self._changing:
            try:
                self._layout.put_manifest(document)
            except NotFoundError as error:
                raise ApiError(404, "MANIFEST_BLOB_UNKNOWN", str(error)) from error
            if ":" not in reference:
                self._layout.tag(self._naming.ref_name(name, reference), document.descriptor)
        self._known.add(name)
        headers = {
            "Location": f"/v2/{name}/manifests/{document.digest}",
            "Docker-Content-Digest": document.digest,
        }
        if document.subject:
            headers["OCI-Subject"] = document.subject.digest
        return Response(201, headers)

    def _received(self, request: Request) -> Document:
        reference = request.route.reference
        digest = digest_of(reference) if ":" in reference else ""
        if not digest and not is_tag(reference):
            raise ApiError(400, "MANIFEST_INVALID", f"{reference!r} is neither a tag nor a digest")
        try:
            raw = request.body.read(MAX_MANIFEST_BYTES)
        except ValueError as error:
            raise ApiError(400, "MANIFEST_INVALID", str(error)) from error
        if raw is None:
            raise ApiError(
                413, "SIZE_INVALID", f"the manifest is over the limit of {MAX_MANIFEST_BYTES} bytes"
            )
        stated = request.headers.get("content-type", "").partition(";")[0].strip()
        try:
            # curl and the like send other types; the document then tells
            return parse_manifest(raw, stated if stated in ACCEPTED else "", digest)
        except IntegrityError as error:
            raise ApiError(400, "DIGEST_INVALID", str(error)) from error
        except InputError as error:
            raise ApiError(400, "MANIFEST_INVALID", str(error)) from error

    def delete(self, request: Request) -> Response:
        name, reference = request.route.name, request.route.reference
        with self._changing:
            if ":" in reference:
                self._delete_manifest(name, digest_of(reference))
            else:
                self._delete_tag(name, reference)
        return Response(202)

    def _delete_tag(self, name: str, tag: str) -> None:
        ref_name, _ = self._tagged(name, tag)
        if not self._naming.owns(name, ref_name):
            raise ApiError(
                405,
                "UNSUPPORTED",
                f"{tag} is a tag of {self._naming.default}, only seen from {name}: delete it there",
            )
        self._layout.untag(ref_name)
        self._known.add(name)

    def _delete_manifest(self, name: str, digest: str) -> None:
        """Take the manifest out of this repository; it goes once no other one has a tag on it."""
        tags = [n for n, e in self._by_ref_name().items() if e.digest == digest]
        own = [n for n in tags if self._naming.owns(name, n)]
        self._known.add(name)
        if len(own) < len(tags):
            for ref_name in own:
                self._layout.untag(ref_name)
            return
        try:
            self._layout.delete(digest, spare=self._recent.digests())
        except (NotFoundError, InputError):
            raise _unknown(name, digest) from None

    def delete_blob(self, request: Request) -> Response:
        """Delete a blob that no manifest of the layout needs."""
        digest = digest_of(request.route.reference)
        with self._changing:
            if any(digest in self._needs(e.digest) for e in self._layout.roots()):
                raise ApiError(
                    405, "UNSUPPORTED", f"a manifest needs {digest}: delete the manifest first"
                )
            try:
                self._layout.blob_path(digest).unlink()
            except FileNotFoundError:
                raise ApiError(404, "BLOB_UNKNOWN", f"there is no blob {digest}") from None
        return Response(202)

    def _needs(self, digest: str) -> set[str]:
        try:
            document = self._layout.manifest(digest)
        except (NotFoundError, InputError):
            return {digest}
        if isinstance(document, Index):
            return {digest}.union(*(self._needs(m.digest) for m in document.manifests))
        return {digest, *(b.digest for b in document.blobs())}


def _unknown(name: str, reference: str) -> ApiError:
    return ApiError(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}")


def _paged(
    names: Mapping[str, str] | list[str], query: Mapping[str, str], path: str
) -> tuple[list[str], dict[str, str]]:
    """The page that `n` and `last` ask for, and the Link header to the next one, if any."""
    n = query.get("n")
    if n is not None and not (n.isascii() and n.isdecimal() and len(n) < 10):
        raise ApiError(400, "PAGINATION_NUMBER_INVALID", f"n={n!r} is no number")
    found, more = page(names, None if n is None else int(n), query.get("last", ""))
    if not more:
        return found, {}
    return found, {"Link": f'<{path}?{urlencode({"n": n, "last": found[-1]})}>; rel="next"'}
