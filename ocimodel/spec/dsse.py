"""DSSE envelopes: a payload, its type, and a signature over both.

Source: secure-systems-lab/dsse v1.0, envelope.md and protocol.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.base64text import decode_base64, encode_base64

IN_TOTO: Final = "application/vnd.in-toto+json"
# of a layer that is nothing but an envelope
ENVELOPE_TYPE: Final = "application/vnd.dsse.envelope.v1+json"


@dataclass(frozen=True, slots=True)
class Envelope:
    """`signatures`: as bytes; one that was parsed has exactly one. Key ids are not kept."""

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return pae(self.payload_type, self.payload)

    def to_json(self) -> dict[str, Any]:
        return {
            "payload": encode_base64(self.payload),
            "payloadType": self.payload_type,
            # everybody takes an empty key id; cosign 2 and model-signing write one too
            "signatures": [{"sig": encode_base64(s), "keyid": ""} for s in self.signatures],
        }

    def encode(self) -> bytes:
        return json.dumps(self.to_json(), separators=(",", ":")).encode()


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature covers: type and payload, each after its length in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def parse_envelope(document: Mapping[str, Any] | bytes, what: str = "envelope") -> Envelope:
    """From JSON, parsed or not; `what` names it in errors. The caller has bounded its size.

    Raises InputError for anything but an in-toto payload under exactly one signature: who checks
    the first of two and who checks the second would see different signers. A key id may be any
    string; it is dropped, since nobody signed it.
    """
    if isinstance(document, bytes):
        document = canonical.decode(document, what)
    check_fields(document, ("payload", "payloadType", "signatures"), what)
    kind = canonical.text(document, "payloadType", what)
    if kind != IN_TOTO:
        raise InputError(f"{what} holds {kind[:100]!r}, not {IN_TOTO}")
    signatures = canonical.sequence(document, "signatures", what)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise InputError(f"{what} must have one signature, not {len(signatures)}")
    check_fields(signatures[0], ("sig", "keyid"), f"{what}: signature")
    canonical.text(signatures[0], "keyid", f"{what}: signature")
    signature = decode_base64(canonical.text(signatures[0], "sig", what), f"{what}: signature")
    payload = decode_base64(canonical.text(document, "payload", what), f"{what}: payload")
    if not signature or not payload:
        raise InputError(f"{what} has an empty {'payload' if signature else 'signature'}")
    return Envelope(payload, kind, (signature,))


def check_fields(document: Mapping[str, Any], known: Collection[str], what: str) -> None:
    """InputError for a field that is not `known`: two readers could see two documents."""
    for name in document:
        if name not in known:
            raise InputError(f"{what} has an unknown field {name[:100]!r}")
