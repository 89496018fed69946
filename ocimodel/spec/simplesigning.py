"""The payload under cosign's `.sig` tag: a digest, and the name that it was signed under.

Source: cosign, specs/SIGNATURE_SPEC.md; containers/image, docs/containers-signature.5.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.digest import parse_digest
from ocimodel.spec.dsse import check_fields

PAYLOAD_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
MAX_PAYLOAD_BYTES: Final = 64 << 10
_KIND: Final = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class Payload:
    """`reference`: host/repository, or empty. `annotations`: the strings of `optional`."""

    digest: str
    reference: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def encode_payload(payload: Payload) -> bytes:
    """Compact JSON, byte for byte what cosign 2 writes for plain ASCII."""
    document = {
        "critical": {
            "identity": {"docker-reference": payload.reference},
            "image": {"docker-manifest-digest": payload.digest},
            "type": _KIND,
        },
        "optional": dict(sorted(payload.annotations.items())) or None,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def parse_payload(raw: bytes) -> Payload:
    """InputError for anything but the payload of a cosign signature; at most MAX_PAYLOAD_BYTES."""
    if len(raw) > MAX_PAYLOAD_BYTES:
        raise InputError(f"payload of {len(raw)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    document = canonical.decode(raw, "payload")
    check_fields(document, ("critical", "optional"), "payload")
    critical = canonical.mapping(document, "critical", "payload")
    check_fields(critical, ("identity", "image", "type"), "critical")
    kind = canonical.text(critical, "type", "critical")
    if kind != _KIND:
        raise InputError(f"payload has the type {kind[:100]!r}, not {_KIND!r}")
    image = canonical.mapping(critical, "image", "critical")
    check_fields(image, ("docker-manifest-digest",), "image")
    identity = canonical.mapping(critical, "identity", "critical")
    check_fields(identity, ("docker-reference",), "identity")
    optional = canonical.mapping(document, "optional", "payload")
    return Payload(
        parse_digest(canonical.text(image, "docker-manifest-digest", "image")),
        canonical.text(identity, "docker-reference", "identity"),
        {k: v for k, v in optional.items() if isinstance(v, str)},
    )
