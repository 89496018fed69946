"""Which endpoint answers which request. No sockets: tests can drive it by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

from ocimodel.server.blobs import Blobs, Recent
from ocimodel.server.manifests import Manifests
from ocimodel.server.messages import ApiError, Request, Response, json_response
from ocimodel.server.naming import Naming, default_name, is_name
from ocimodel.server.routes import Resource
from ocimodel.server.sessions import Sessions, remove_abandoned
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.layout import Layout

Endpoint = Callable[[Request], Response]
_READING = ("GET", "HEAD")


class Api:
    """The distribution API over one layout. Thread-safe; `close` ends the uploads under way."""

    def __init__(self, layout: Layout, *, read_only: bool = False) -> None:
        partial = layout.path / PARTIAL
        if not read_only:
            remove_abandoned(partial, time.time())
        self._read_only = read_only
        self._sessions = Sessions(partial)
        naming = Naming(default_name(layout.path.resolve().name))
        recent = Recent()
        blobs = Blobs(layout, self._sessions, recent)
        manifests = Manifests(layout, naming, recent)
        self._endpoints: dict[Resource, dict[str, Endpoint]] = {
            Resource.BASE: _readable(lambda _: json_response({})),
            Resource.CATALOG: _readable(manifests.catalog),
            Resource.TAGS: _readable(manifests.tags),
            Resource.REFERRERS: _readable(manifests.referrers),
            Resource.MANIFEST: {
                **_readable(manifests.get),
                "PUT": manifests.put,
                "DELETE": manifests.delete,
            },
            Resource.BLOB: {**_readable(blobs.get), "DELETE": manifests.delete_blob},
            Resource.UPLOADS: {"POST": blobs.start_upload},
            Resource.UPLOAD: {
                "GET": blobs.upload_status,
                "PATCH": blobs.append,
                "PUT": blobs.finish_upload,
                "DELETE": blobs.cancel_upload,
            },
        }

    def answer(self, request: Request) -> Response:
        """Raises ApiError, for what the client did; other declared errors for our own trouble."""
        route = request.route
        if route.name and not is_name(route.name):
            raise ApiError(400, "NAME_INVALID", f"{route.name[:300]!r} is no repository name")
        methods = self._endpoints[route.resource]
        if self._read_only:
            methods = {m: e for m, e in methods.items() if m in _READING}
        endpoint = methods.get(request.method)
        if endpoint is None:
            why = ": the registry is read-only" if self._read_only else ""
            allowed = {"Allow": ", ".join(sorted(methods))}
            raise ApiError(405, "UNSUPPORTED", f"{request.method} is not allowed{why}", allowed)
        return endpoint(request)

    def close(self) -> None:
        self._sessions.close()


def _readable(endpoint: Endpoint) -> dict[str, Endpoint]:
    return dict.fromkeys(_READING, endpoint)
