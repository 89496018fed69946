"""The quirks of public registries as lists of standing faults: `proxy.apply(quirks.ghcr())`."""

from __future__ import annotations

import json
from collections.abc import Collection

from tests.servers.faults import ChangeStatus, Fault, Request, Status

MIB = 1024 * 1024
UPLOAD = "/blobs/uploads/"
KNOWN_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.container.image.v1+json",
)


def ghcr(limit: int = 4 * MIB) -> list[Fault]:
    """A PATCH above 4 MiB answers 416; no referrers API."""
    return [_status(416, "PATCH", UPLOAD, over=limit), *no_referrers()]


def ecr() -> list[Fault]:
    """A PATCH answers 201 in place of 202."""
    return [Fault(ChangeStatus(202, 201), method="PATCH", path=UPLOAD, times=None)]


def gar(code: int = 405) -> list[Fault]:
    """No chunked uploads: every PATCH is refused."""
    return [Fault(Status(code), method="PATCH", path=UPLOAD, times=None)]


def acr(limit: int = 20 * MIB) -> list[Fault]:
    """A monolithic PUT above `limit` answers 413."""
    return [_status(413, "PUT", UPLOAD, over=limit)]


def quay() -> list[Fault]:
    """A mount without `from` answers 400."""
    path = UPLOAD + r"\?(?!.*\bfrom=).*\bmount="
    return [Fault(Status(400), method="POST", path=path, times=None)]


def gitlab(known: Collection[str] = KNOWN_TYPES) -> list[Fault]:
    """A manifest with an unknown config or artifact type answers 400; no referrers API."""

    def unknown(request: Request) -> bool:
        return _types(request.body()) - set(known) != set()

    refused = Fault(Status(400), method="PUT", path="/manifests/", times=None, when=unknown)
    return [refused, *no_referrers()]


def no_referrers() -> list[Fault]:
    """The referrers API answers 404."""
    return [Fault(Status(404), method="GET|HEAD", path="/referrers/", times=None)]


def _status(code: int, method: str, path: str, *, over: int) -> Fault:
    def too_big(request: Request) -> bool:
        return request.length() > over

    return Fault(Status(code), method=method, path=path, times=None, when=too_big)


def _types(manifest: bytes) -> set[str]:
    """The config's and the artifact's type of a manifest; none of an index or other bytes."""
    try:
        document = json.loads(manifest)
        found = {document.get("artifactType"), document["config"]["mediaType"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {str(kind) for kind in found if kind}
