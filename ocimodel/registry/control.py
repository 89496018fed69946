"""The control plane on oras-py: manifests, tags, existence. The only place that imports oras.

oras-py sends every request through `Registry.do_request`, so this one override puts our own
transport under all of it: authorization per origin and scope, timeouts, retries that read
Retry-After, size caps and declared errors. Of its methods we call those that hold up
(reference: docs/architecture.md, "oras-py"); never push, pull, login, delete_tag or anything that
carries blobs.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping

import requests
from oras.container import Container
from oras.provider import Registry

from ocimodel.errors import NotFoundError, RegistryError, UsageError
from ocimodel.registry.transport import Client
from ocimodel.spec.manifest import ACCEPTED, MAX_MANIFEST_BYTES
from ocimodel.spec.reference import check_tag

# a page of tags: registries send up to 1000 names of up to 128 bytes; some send all at once
MAX_PAGE_BYTES = 16 << 20
MAX_PAGES = 10_000
_SUCCESS = range(200, 300)


class Control(Registry):  # type: ignore[misc]
    """What oras-py knows of the distribution API, for one repository, over our `Client`."""

    def __init__(self, client: Client, repository: str, actions: str) -> None:
        super().__init__(hostname=client.host, insecure=client.base.startswith("http:"))
        self._client = client
        self._repository = repository
        self._actions = actions
        self._pages = threading.local()

    def container(self, reference: str = "") -> Container:
        """oras-py's name of the repository, set part by part: its parser takes localhost/x for
        a repository of Docker Hub, and a dot in the first component for a host."""
        container = Container("placeholder")
        container.registry = self._client.host
        container.namespace, _, container.repository = self._repository.rpartition("/")
        container.tag, container.digest = reference, None
        return container

    def do_request(
        self,
        url: str,
        method: str = "GET",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        stream: bool = False,
    ) -> requests.Response:
        """One request over our transport. Raises the declared errors for all but 2xx and 404."""
        if json is not None or stream:
            raise NotImplementedError("documents go as the bytes that were hashed, blobs not here")
        self._count_page(url)
        actions = "delete" if method == "DELETE" else self._actions
        answer, body = self._client.fetch(
            method,
            self._path(url),
            limit=MAX_PAGE_BYTES if "/tags/list" in url else MAX_MANIFEST_BYTES,
            scope=frozenset({f"repository:{self._repository}:{actions}"}),
            headers=headers,
            body=data,
            accept={*_SUCCESS, 404},
        )
        response = requests.Response()
        response.status_code = answer.status
        response.url = answer.url
        response.headers.update(answer.headers)
        response.raw = io.BytesIO(body)
        return response

    def _path(self, url: str) -> str:
        """What oras-py built for our own host, below whichever scheme that turned out to have."""
        prefix = f"{self.prefix}://{self._client.host}"
        return url.removeprefix(prefix) if url.startswith(f"{prefix}/") else url

    def _count_page(self, url: str) -> None:
        if "/tags/list" not in url:
            return
        seen: set[str] = self._pages.seen
        if url in seen or len(seen) == MAX_PAGES:
            raise RegistryError(
                f"{self._client.host} lists tags without an end",
                hint="the registry's pages are broken; a tag can still be named",
            )
        seen.add(url)

    def _check_200_response(self, response: requests.Response) -> None:
        if response.status_code == 404:
            raise NotFoundError(f"{self._client.host}/{self._repository} was not found")

    # what we use of it

    def all_tags(self) -> list[str]:
        self._pages.seen = set()
        try:
            tags = self.get_tags(self.container())
            return [check_tag(tag) for tag in tags]
        except (ValueError, TypeError, AttributeError, RecursionError, UsageError) as error:
            raise RegistryError(
                f"{self._client.host} sent no list of tags",
                hint=f"is it a registry? ocimodel doctor {self._client.host}/{self._repository}",
            ) from error

    def has_blob(self, digest: str) -> bool:
        return bool(self.blob_exists({"digest": digest}, self.container()))

    def put_raw(self, reference: str, raw: bytes, media_type: str) -> requests.Response:
        return self._manifest("PUT", reference, raw, {"Content-Type": media_type})

    def delete(self, reference: str) -> requests.Response:
        return self._manifest("DELETE", reference)

    def _manifest(
        self,
        method: str,
        reference: str,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        url = f"{self.prefix}://{self.container(reference).manifest_url()}"
        accept = {"Accept": ", ".join(ACCEPTED)} if method in ("GET", "HEAD") else {}
        return self.do_request(url, method, raw, {**accept, **(headers or {})})
