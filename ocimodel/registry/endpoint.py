"""Where one repository is read: the registry itself, or a mirror of it.

Reading needs no control plane: a manifest is one GET, the same at a registry and at a mirror, and
a pull that does not load oras-py starts a good tenth of a second sooner (docs/adr/0002).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from ocimodel.registry.blobs import Downloads
from ocimodel.registry.credentials import Credential, Credentials
from ocimodel.registry.mirrors import Mirror
from ocimodel.registry.transport import Client, ClientOptions, Scope
from ocimodel.registry.wire import Answer, TlsOptions
from ocimodel.spec.manifest import ACCEPTED, MAX_MANIFEST_BYTES, Document, parse_manifest

# a mirror is to save time: what it fails at, the registry does
_MIRROR_ATTEMPTS = 2


class Endpoint:
    """`root`: the URL or path that stands for /v2. `query`: goes on every request."""

    def __init__(
        self,
        client: Client,
        repository: str,
        scope: Scope,
        *,
        root: str = "/v2",
        query: str = "",
        n_attempts: int,
        can_resolve: bool = True,
    ) -> None:
        self.client = client
        self.host = client.host
        self.can_resolve = can_resolve
        # set by whoever found it failing
        self.is_down = False
        self._scope = scope
        self._root = f"{root}/{repository}"
        self._query = f"?{query}" if query else ""
        self.downloads = Downloads(
            client, lambda digest: self._path(f"blobs/{digest}"), scope, n_attempts=n_attempts
        )

    def _path(self, rest: str) -> str:
        return f"{self._root}/{rest}{self._query}"

    def manifest(self, reference: str) -> Document:
        """The manifest under a tag or digest, verified where the digest is known."""
        answer, raw = self._ask("GET", reference)
        return _parsed(raw, answer.headers, reference)

    def head(self, reference: str) -> Mapping[str, str]:
        """What the registry says of a manifest without giving it: headers, names in lower case."""
        return self._ask("HEAD", reference)[0].headers

    def _ask(self, method: str, reference: str) -> tuple[Answer, bytes]:
        return self.client.fetch(
            method,
            self._path(f"manifests/{reference}"),
            limit=MAX_MANIFEST_BYTES,
            scope=self._scope,
            headers={"Accept": ", ".join(ACCEPTED)},
            what=f"manifest {reference} in {self.host}",
        )


def mirror_endpoint(
    mirror: Mirror, repository: str, options: ClientOptions, credentials: Credentials
) -> Endpoint:
    """A mirror never gets the credentials of the registry that it mirrors."""
    parts = urlsplit(mirror.url)
    name = mirror.repository_for(repository)
    client = Client(
        parts.netloc,
        options,
        _OwnCredentials(credentials),
        repository=name,
        tls=TlsOptions(
            mirror.ca_files or ((options.ca_file,) if options.ca_file else ()),
            mirror.client_certs,
            mirror.verify and not options.insecure,
        ),
        scheme=parts.scheme,
        extra_headers=mirror.headers,
    )
    return Endpoint(
        client,
        name,
        frozenset({f"repository:{name}:pull"}),
        root=mirror.api_root,
        query=mirror.query,
        n_attempts=_MIRROR_ATTEMPTS,
        can_resolve=mirror.can_resolve,
    )


class _OwnCredentials:
    """What is stored for the mirror itself; credentials given for this run are the registry's."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def lookup(self, host: str, repository: str = "") -> Credential | None:
        return self._credentials.lookup(host, repository, explicit_env=False)


def _parsed(raw: bytes, headers: Mapping[str, str], reference: str) -> Document:
    """A digest is what we asked for by digest, and what the bytes hash to otherwise."""
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    if media_type not in ACCEPTED:
        # a storage backend's generic type; the document says what it is
        media_type = ""
    digest = reference if ":" in reference else headers.get("docker-content-digest", "")
    return parse_manifest(raw, media_type, digest)
