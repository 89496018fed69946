"""What refers to a manifest: by the API, or by the tag that stands in for it.

Source: distribution-spec v1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ocimodel.errors import ConflictError, InputError, NotFoundError, RegistryError
from ocimodel.registry.endpoint import Endpoint
from ocimodel.registry.transport import Client, Scope
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import (
    INDEX,
    MAX_MANIFEST_BYTES,
    Document,
    Index,
    as_referrer,
)

if TYPE_CHECKING:
    from ocimodel.registry.control import Control

MAX_PAGES = 100
_MERGE_ATTEMPTS = 5


class Referrers:
    """The referrers of one repository. The registry's support is found out once."""

    def __init__(
        self,
        client: Client,
        endpoint: Endpoint,
        control: Callable[[], Control],
        repository: str,
        scope: Scope,
    ) -> None:
        """`control`: for writing only; a reader need not load oras-py."""
        self._client = client
        self._endpoint = endpoint
        self._control = control
        self._repository = repository
        self._scope = scope
        self._has_api: bool | None = None

    def listed(self, subject: str) -> Sequence[Descriptor]:
        """All referrers of the digest, each once: by the API and by the fallback tag.

        Both are read: a client without the API may have written to a registry that has it, and
        registries gain it with an upgrade.
        """
        found = {d.digest: d for d in self._by_tag(subject)}
        found.update({d.digest: d for d in self._by_api(subject)})
        return list(found.values())

    def _by_api(self, subject: str) -> list[Descriptor]:
        if self._has_api is False:
            return []
        url = f"/v2/{self._repository}/referrers/{subject}"
        found: list[Descriptor] = []
        for _ in range(MAX_PAGES):
            answer, body = self._client.fetch(
                "GET",
                url,
                limit=MAX_MANIFEST_BYTES,
                scope=self._scope,
                accept=(200, 400, 404, 405),
                headers={"Accept": INDEX},
            )
            listed = _as_index(body) if answer.status == 200 else None
            if listed is None:
                # 404, or a page for people behind a 200
                self._has_api = False
                return []
            self._has_api = True
            found += listed
            following = _next_page(answer.headers.get("link", ""))
            if not following:
                return found
            url = urljoin(answer.url, following)
            if not self._client.is_own(url):
                raise RegistryError(f"the referrers list of {self._client.host} leads elsewhere")
        raise RegistryError(f"{self._client.host} lists referrers without an end")

    def _by_tag(self, subject: str) -> list[Descriptor]:
        try:
            document = self._endpoint.manifest(fallback_tag(subject))
        except NotFoundError:
            return []
        return list(document.manifests) if isinstance(document, Index) else []

    def added(self, document: Document, subject_answer: str) -> None:
        """Make a manifest that was just put findable. `subject_answer`: the OCI-Subject header.

        A registry that sends it keeps the list; else the fallback tag is merged, read again, and
        merged once more where another writer came in between.
        """
        if document.subject is None or subject_answer:
            return
        subject = document.subject.digest
        # a registry with the API but an old proxy before it swallows the header: look
        if any(d.digest == document.digest for d in self._by_api(subject)):
            return
        for _ in range(_MERGE_ATTEMPTS):
            before = self._by_tag(subject)
            if any(d.digest == document.digest for d in before):
                return
            self._write(subject, [*before, as_referrer(document)])
        if all(d.digest != document.digest for d in self._by_tag(subject)):
            raise ConflictError(
                f"others keep overwriting the referrers of {subject}", hint="try again"
            )

    def removed(self, document: Document) -> None:
        """Take a deleted manifest out of the fallback list, where there is one."""
        if document.subject is None:
            return
        subject = document.subject.digest
        before = self._by_tag(subject)
        rest = [d for d in before if d.digest != document.digest]
        if len(rest) != len(before):
            self._write(subject, rest)

    def _write(self, subject: str, listed: Sequence[Descriptor]) -> None:
        raw = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [d.to_json() for d in listed]},
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()
        response = self._control().put_raw(fallback_tag(subject), raw, INDEX)
        if response.status_code == 404:
            raise NotFoundError(f"{self._client.host}/{self._repository} was not found")


def fallback_tag(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{algorithm}-{value}"[:128]


def _as_index(body: bytes) -> list[Descriptor] | None:
    try:
        document = canonical.decode(body, "referrers list")
        if document.get("schemaVersion") != 2 or "manifests" not in document:
            return None
        listed = canonical.sequence(document, "manifests", "referrers list")
        return [Descriptor.parse(d, "referrer") for d in listed]
    except InputError:
        return None


def _next_page(link: str) -> str:
    """The target of rel="next" in a Link header. Source: RFC 8288."""
    for part in link.split(","):
        target, _, parameters = part.strip().partition(">")
        if target.startswith("<") and 'rel="next"' in parameters.replace("rel=next", 'rel="next"'):
            return urlsplit(target[1:]).geturl()
    return ""
