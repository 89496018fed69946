"""Sigstore bundles: an envelope, and what to check its signature with.

Source: sigstore/protobuf-specs v0.4, sigstore_bundle.proto and sigstore_common.proto, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.base64text import decode_base64, encode_base64
from ocimodel.spec.dsse import Envelope, check_fields, parse_envelope

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_TYPES: Final = (
    BUNDLE,
    *(f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (3, 2, 1)),
)
MAX_BUNDLE_BYTES: Final = 4 << 20
MAX_CERTIFICATES: Final = 32
MAX_TIMESTAMPS: Final = 8
MAX_LOG_ENTRIES: Final = 32
# who signed is told in one of three ways
_SIGNER: Final = ("publicKey", "certificate", "x509CertificateChain")
_MATERIAL: Final = (*_SIGNER, "tlogEntries", "timestampVerificationData")


@dataclass(frozen=True, slots=True)
class Bundle:
    """`raw`: the document. All but what the envelope signs is only what somebody wrote there.

    `hint`: which key may have signed. `certificates`: DER, the signer's first. `timestamps`: RFC
    3161, DER. `n_log_entries`: how many it has; what they say is not looked at.
    """

    envelope: Envelope
    hint: str = ""
    certificates: tuple[bytes, ...] = ()
    timestamps: tuple[bytes, ...] = ()
    n_log_entries: int = 0
    raw: bytes = field(default=b"", repr=False)


def encode_bundle(
    envelope: Envelope,
    *,
    hint: str = "",
    certificates: Sequence[bytes] = (),
    timestamps: Sequence[bytes] = (),
) -> bytes:
    """Compact JSON of a v0.3 bundle: with the `certificates`, or else with the key `hint`."""
    material: dict[str, Any] = {"publicKey": {"hint": hint}}
    if certificates:
        chain = [{"rawBytes": encode_base64(c)} for c in certificates]
        material = {"x509CertificateChain": {"certificates": chain}}
    # sigstore-python reads no bundle without it
    material["tlogEntries"] = []
    if timestamps:
        stamps = [{"signedTimestamp": encode_base64(t)} for t in timestamps]
        material["timestampVerificationData"] = {"rfc3161Timestamps": stamps}
    document = {
        "mediaType": BUNDLE,
        "verificationMaterial": material,
        "dsseEnvelope": envelope.to_json(),
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def parse_bundle(raw: bytes) -> Bundle:
    """A bundle around a DSSE envelope with an in-toto statement.

    Raises InputError for anything else: unknown fields, none or several ways to tell the signer,
    more than MAX_BUNDLE_BYTES, MAX_CERTIFICATES, MAX_TIMESTAMPS or MAX_LOG_ENTRIES.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise InputError(f"bundle of {len(raw)} bytes is over the limit of {MAX_BUNDLE_BYTES}")
    document = canonical.decode(raw, "bundle")
    fields = ("mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
    check_fields(document, fields, "bundle")
    kind = canonical.text(document, "mediaType", "bundle")
    if kind not in BUNDLE_TYPES:
        raise InputError(f"bundle has the media type {kind[:100]!r}, not {BUNDLE}")
    if document.get("messageSignature") is not None:
        raise InputError("bundle signs bytes, no statement")
    envelope = parse_envelope(canonical.mapping(document, "dsseEnvelope", "bundle"))
    material = canonical.mapping(document, "verificationMaterial", "bundle")
    check_fields(material, _MATERIAL, "verificationMaterial")
    hint, certificates = _signer(material)
    return Bundle(
        envelope, hint, certificates, _timestamps(material), _n_log_entries(material), raw
    )


def _signer(material: Mapping[str, Any]) -> tuple[str, tuple[bytes, ...]]:
    """The key hint, or the certificates."""
    stated = [name for name in _SIGNER if material.get(name) is not None]
    if len(stated) != 1:
        raise InputError(f"bundle tells its signer in {len(stated)} ways, not in one")
    signer = canonical.mapping(material, stated[0], "bundle")
    if stated[0] == "publicKey":
        check_fields(signer, ("hint",), "publicKey")
        return canonical.text(signer, "hint", "publicKey"), ()
    if stated[0] == "certificate":
        return "", (_bytes(signer, "rawBytes", "certificate"),)
    check_fields(signer, ("certificates",), "x509CertificateChain")
    chain = _all_bytes(signer, "certificates", "rawBytes", MAX_CERTIFICATES)
    if not chain:
        raise InputError("bundle has a certificate chain without certificates")
    return "", chain


def _timestamps(material: Mapping[str, Any]) -> tuple[bytes, ...]:
    stamped = canonical.mapping(material, "timestampVerificationData", "bundle")
    check_fields(stamped, ("rfc3161Timestamps",), "timestampVerificationData")
    return _all_bytes(stamped, "rfc3161Timestamps", "signedTimestamp", MAX_TIMESTAMPS)


def _n_log_entries(material: Mapping[str, Any]) -> int:
    entries = canonical.sequence(material, "tlogEntries", "bundle")
    if len(entries) > MAX_LOG_ENTRIES:
        raise InputError(f"bundle has {len(entries)} tlogEntries, over {MAX_LOG_ENTRIES}")
    return len(entries)


def _all_bytes(document: Mapping[str, Any], key: str, field: str, limit: int) -> tuple[bytes, ...]:
    items = canonical.sequence(document, key, "bundle")
    if len(items) > limit:
        raise InputError(f"bundle has {len(items)} {key}, over the limit of {limit}")
    return tuple(_bytes(item, field, f"{key}[{i}]") for i, item in enumerate(items))


def _bytes(document: object, field: str, what: str) -> bytes:
    """The bytes of an object that holds nothing but them."""
    if not isinstance(document, dict):
        raise InputError(f"{what} must be an object")
    check_fields(document, (field,), what)
    content = decode_base64(canonical.text(document, field, what), f"{what}: {field}")
    if not content:
        raise InputError(f"{what} has no {field}")
    return content
