"""Blobs, read and uploaded. Source: distribution-spec v1.1.1, end-2, 4-6, 11, 13."""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import BinaryIO

from ocimodel.server.messages import ApiError, FileBody, Request, Response, digest_of
from ocimodel.server.ranges import parse_content_range, parse_range
from ocimodel.server.sessions import Sessions, Upload
from ocimodel.store.layout import Layout

# how long a blob that a client has seen or sent is kept for the manifest to come
SPARED_S = 3600


class Recent:
    """Digests that a client counts on: sent, mounted or found there within the last hour."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, digest: str) -> None:
        with self._lock:
            # the newest last
            self._seen.pop(digest, None)
            self._seen[digest] = time.monotonic()
            self._forget_old()

    def digests(self) -> frozenset[str]:
        with self._lock:
            self._forget_old()
            return frozenset(self._seen)

    def _forget_old(self) -> None:
        limit = time.monotonic() - SPARED_S
        while self._seen and self._seen[oldest := next(iter(self._seen))] < limit:
            del self._seen[oldest]


class Blobs:
    """All repositories share the layout's blobs, so that a mount never moves a byte."""

    def __init__(self, layout: Layout, sessions: Sessions, recent: Recent) -> None:
        self._layout = layout
        self._sessions = sessions
        self._recent = recent

    def get(self, request: Request) -> Response:
        digest = digest_of(request.route.reference)
        file, size = self._open(digest)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest}"',
        }
        if request.method == "HEAD":
            file.close()
            self._recent.note(digest)
            return Response(200, headers, content_length=size)
        wanted = request.headers.get("range", "")
        if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
            wanted = ""
        try:
            span = parse_range(wanted, size)
        except ValueError as error:
            file.close()
            raise ApiError(
                416, "SIZE_INVALID", f"no such range: {error}", {"Content-Range": f"bytes */{size}"}
            ) from error
        if span is None:
            return Response(200, headers, FileBody(file, 0, size))
        start, length = span
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        return Response(206, headers, FileBody(file, start, length))

    def _open(self, digest: str) -> tuple[BinaryIO, int]:
        try:
            fd = os.open(self._layout.blob_path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ApiError(404, "BLOB_UNKNOWN", f"there is no blob {digest}") from None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise ApiError(404, "BLOB_UNKNOWN", f"there is no blob {digest}")
        return os.fdopen(fd, "rb", buffering=0), status.st_size

    def _exists(self, digest: str) -> bool:
        return self._layout.blob_path(digest).is_file()

    # uploads

    def start_upload(self, request: Request) -> Response:
        name = request.route.name
        mounted = request.query.get("mount")
        if mounted is not None and self._exists(digest_of(mounted)):
            return self._created(name, mounted)
        digest = request.query.get("digest")
        if digest is not None:
            digest_of(digest)
        upload = self._sessions.start(name)
        if digest is None:
            # a body here belongs to no digest yet: clients send it with PATCH or PUT
            return Response(202, _progress(upload))
        with self._sessions.held(name, upload.id):
            return self._finish(upload, request, digest)

    def upload_status(self, request: Request) -> Response:
        upload = self._sessions.find(request.route.name, request.route.reference)
        return Response(204, _progress(upload))

    def append(self, request: Request) -> Response:
        with self._sessions.held(request.route.name, request.route.reference) as upload:
            self._take(upload, request)
            return Response(202, _progress(upload))

    def finish_upload(self, request: Request) -> Response:
        digest = digest_of(request.query.get("digest", ""))
        with self._sessions.held(request.route.name, request.route.reference) as upload:
            return self._finish(upload, request, digest)

    def cancel_upload(self, request: Request) -> Response:
        with self._sessions.held(request.route.name, request.route.reference) as upload:
            self._sessions.end(upload)
        return Response(204)

    def _take(self, upload: Upload, request: Request) -> None:
        stated = request.headers.get("content-range")
        if stated is not None:
            self._check_range(upload, stated, request.body.length)
        try:
            upload.append(request.body)
        except ValueError as error:
            raise ApiError(400, "BLOB_UPLOAD_INVALID", str(error)) from error

    def _check_range(self, upload: Upload, stated: str, n_bytes: int | None) -> None:
        try:
            start, length = parse_content_range(stated)
        except ValueError:
            raise ApiError(
                416, "BLOB_UPLOAD_INVALID", f"malformed Content-Range {stated!r}"
            ) from None
        if start != upload.size:
            message = f"the chunk begins at byte {start}, and {upload.size} bytes are here"
            raise ApiError(416, "BLOB_UPLOAD_INVALID", message, _progress(upload))
        if n_bytes is not None and n_bytes != length:
            raise ApiError(
                400,
                "SIZE_INVALID",
                f"Content-Range tells of {length} bytes, the body has {n_bytes}",
            )

    def _finish(self, upload: Upload, request: Request, digest: str) -> Response:
        """The closing PUT. Bytes that are not those of `digest` are dropped, session and all."""
        self._take(upload, request)
        try:
            actual = upload.digest(digest)
            if actual != digest:
                raise ApiError(
                    400, "DIGEST_INVALID", f"the {upload.size} bytes are {actual}, not {digest}"
                )
            upload.deliver(self._layout.blob_path(digest))
        finally:
            self._sessions.end(upload)
        return self._created(request.route.name, digest)

    def _created(self, name: str, digest: str) -> Response:
        self._recent.note(digest)
        return Response(
            201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        )


def _progress(upload: Upload) -> dict[str, str]:
    """Headers that say where to go on."""
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        "Docker-Upload-UUID": upload.id,
        # nothing yet has no form of its own
        "Range": f"0-{max(0, upload.size - 1)}",
    }
