"""Paths of the API. Source: distribution-spec v1.1.1, "Endpoints"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote


class Resource(Enum):
    BASE = auto()
    CATALOG = auto()
    TAGS = auto()
    REFERRERS = auto()
    MANIFEST = auto()
    UPLOADS = auto()
    UPLOAD = auto()
    BLOB = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """`name`: the repository, `reference`: tag, digest or upload id; both as asked, unchecked."""

    resource: Resource
    name: str = ""
    reference: str = ""


# the first that fits; a repository may itself have components called blobs or tags
_PATTERNS = [
    (re.compile(r"/v2/?"), Resource.BASE),
    (re.compile(r"/v2/_catalog"), Resource.CATALOG),
    (re.compile(r"/v2/(?P<name>.+)/tags/list"), Resource.TAGS),
    (re.compile(r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)"), Resource.REFERRERS),
    (re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"), Resource.MANIFEST),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?"), Resource.UPLOADS),
    (re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"), Resource.UPLOAD),
    (re.compile(r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)"), Resource.BLOB),
]


def find_route(path: str) -> Route | None:
    """What a request path, still percent-encoded, asks for; None for what is not in the API."""
    decoded = unquote(path)
    for pattern, resource in _PATTERNS:
        if found := pattern.fullmatch(decoded):
            return Route(resource, **found.groupdict())
    return None
