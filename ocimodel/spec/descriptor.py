"""Descriptors: what points to content. Source: OCI image-spec v1.1, descriptor.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.digest import parse_digest

_MEMBERS = frozenset({"mediaType", "digest", "size", "annotations", "artifactType"})
EMPTY_MEDIA_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` in bytes. Equality is by all fields; use `digest` to compare content.

    `extra`: members that are only passed on, such as `platform`, `urls` and `data`.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: object, what: str = "descriptor") -> Descriptor:
        """From JSON; InputError for anything but a well-formed descriptor."""
        if not isinstance(document, dict):
            raise InputError(f"{what} must be an object")
        size = canonical.integer(document, "size", what)
        if not 0 <= size < 1 << 63:
            raise InputError(f"{what}: size {size} is out of range")
        return cls(
            media_type=canonical.text(document, "mediaType", what),
            digest=parse_digest(canonical.text(document, "digest", what)),
            size=size,
            annotations=canonical.strings(document, "annotations", what),
            artifact_type=canonical.text(document, "artifactType", what),
            extra={k: v for k, v in document.items() if k not in _MEMBERS},
        )

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return {**document, **self.extra}
