"""Notation's signatures: a flattened JWS over the descriptor of what was signed.

Source: notaryproject/specifications v1.1, signature-specification.md and signature-envelope-jws.md;
RFC 7515. Only the signing scheme notary.x509 is read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.base64text import decode_base64, encode_base64
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.dsse import check_fields
from ocimodel.spec.moment import format_time, parse_time

ENVELOPE_TYPE: Final = "application/jose+json"
PAYLOAD_TYPE: Final = "application/vnd.cncf.notary.payload.v1+json"
ALGORITHMS: Final = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
MAX_ENVELOPE_BYTES: Final = 1 << 20
MAX_CERTIFICATES: Final = 16
_SCHEME: Final = "io.cncf.notary.signingScheme"
_TIME: Final = "io.cncf.notary.signingTime"
_EXPIRY: Final = "io.cncf.notary.expiry"
_AUTHENTIC_TIME: Final = "io.cncf.notary.authenticSigningTime"
_AGENT: Final = "io.cncf.notary.signingAgent"
_TIMESTAMP: Final = "io.cncf.notary.timestampSignature"
_X509: Final = "notary.x509"


@dataclass(frozen=True, slots=True)
class Envelope:
    """One signature. `signed`: the bytes under it; only they vouch for what is parsed from them.

    `target`: what was signed. `signature`: r‖s for ECDSA. `certificates`: DER, the signer's first.
    `timestamp`: an RFC 3161 token over `signature`, DER, or empty. `agent`: what wrote it.
    """

    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    algorithm: str
    target: Descriptor
    signed_at: datetime
    expires_at: datetime | None
    certificates: tuple[bytes, ...] = field(repr=False)
    timestamp: bytes = field(default=b"", repr=False)
    agent: str = ""


def signing_input(
    target: Descriptor, algorithm: str, signed_at: datetime, expires_at: datetime | None = None
) -> bytes:
    """What to sign, byte for byte what notation signs: the protected header, a dot, the payload."""
    protected = {
        "alg": algorithm,
        "crit": [_SCHEME, *([_EXPIRY] if expires_at else [])],
        "cty": PAYLOAD_TYPE,
        _SCHEME: _X509,
        _TIME: format_time(signed_at),
        **({_EXPIRY: format_time(expires_at)} if expires_at else {}),
    }
    parts = (protected, {"targetArtifact": target.to_json()})
    return b".".join(_url_encode(canonical.encode(part)) for part in parts)


def encode_envelope(
    signed: bytes,
    signature: bytes,
    certificates: Sequence[bytes],
    *,
    agent: str,
    timestamp: bytes = b"",
) -> bytes:
    """The document around `signed`, as `signing_input` gave it."""
    protected, payload = signed.decode().split(".")
    # the order in which notation writes them
    header: dict[str, Any] = {_TIMESTAMP: encode_base64(timestamp)} if timestamp else {}
    header |= {"x5c": [encode_base64(c) for c in certificates], _AGENT: agent}
    document = {
        "payload": payload,
        "protected": protected,
        "header": header,
        "signature": _url_encode(signature).decode(),
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def parse_envelope(raw: bytes) -> Envelope:
    """A JWS envelope of at most MAX_ENVELOPE_BYTES, with all that is critical in it understood.

    Raises InputError for anything else. Whether the signature holds is not looked at.
    """
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise InputError(f"envelope of {len(raw)} bytes is over the limit of {MAX_ENVELOPE_BYTES}")
    document = canonical.decode(raw, "envelope")
    check_fields(document, ("payload", "protected", "header", "signature"), "envelope")
    encoded = [canonical.text(document, key, "envelope") for key in ("protected", "payload")]
    protected = canonical.decode(_url_decode(encoded[0], "protected"), "protected header")
    header = canonical.mapping(document, "header", "envelope")
    if twice := protected.keys() & header.keys():
        # source: RFC 7515, section 7.2.1
        raise InputError(f"envelope has {min(twice)[:100]!r} in both of its headers")
    signature = _url_decode(canonical.text(document, "signature", "envelope"), "signature")
    if not signature:
        raise InputError("envelope has an empty signature")
    algorithm, signed_at, expires_at = _protected(protected)
    return Envelope(
        signed=".".join(encoded).encode(),
        signature=signature,
        algorithm=algorithm,
        target=_target(_url_decode(encoded[1], "payload")),
        signed_at=signed_at,
        expires_at=expires_at,
        certificates=_certificates(header),
        timestamp=decode_base64(canonical.text(header, _TIMESTAMP, "header"), _TIMESTAMP),
        agent=canonical.text(header, _AGENT, "header"),
    )


def _protected(header: Mapping[str, Any]) -> tuple[str, datetime, datetime | None]:
    """The algorithm, and when it was signed and until when it counts."""
    what = "protected header"
    algorithm = canonical.text(header, "alg", what)
    if algorithm not in ALGORITHMS:
        raise InputError(f"algorithm {algorithm[:100]!r} is none of {', '.join(ALGORITHMS)}")
    kind = canonical.text(header, "cty", what)
    if kind != PAYLOAD_TYPE:
        raise InputError(f"envelope holds {kind[:100]!r}, not {PAYLOAD_TYPE}")
    scheme = canonical.text(header, _SCHEME, what)
    if scheme != _X509:
        raise InputError(f"signing scheme {scheme[:100]!r} is not read here, only {_X509}")
    if _AUTHENTIC_TIME in header:
        raise InputError(f"{what} has {_AUTHENTIC_TIME}, which is not for {_X509}")
    _check_critical(header)
    signed_at = parse_time(canonical.text(header, _TIME, what), _TIME)
    if _EXPIRY not in header:
        return algorithm, signed_at, None
    expires_at = parse_time(canonical.text(header, _EXPIRY, what), _EXPIRY)
    if expires_at <= signed_at:
        raise InputError("envelope expires before it was signed")
    return algorithm, signed_at, expires_at


def _check_critical(header: Mapping[str, Any]) -> None:
    """What must be marked critical is, and what is marked is there and understood.

    Source: RFC 7515, section 4.1.11. An unknown member that is not marked is passed over.
    """
    marked = canonical.sequence(header, "crit", "protected header")
    for name in marked:
        if name not in (_SCHEME, _EXPIRY):
            raise InputError(f"{str(name)[:100]!r} is marked critical and not understood here")
        if name not in header:
            raise InputError(f"{name} is marked critical and not there")
    for name in (_SCHEME, _EXPIRY):
        if name in header and marked.count(name) != 1:
            raise InputError(f"{name} must be marked critical, once")


def _target(payload: bytes) -> Descriptor:
    document = canonical.decode(payload, "payload")
    check_fields(document, ("targetArtifact",), "payload")
    target = Descriptor.parse(document.get("targetArtifact"), "targetArtifact")
    if not target.media_type:
        raise InputError("targetArtifact has no mediaType")
    if target.extra:
        raise InputError(f"targetArtifact has an unknown field {min(target.extra)[:100]!r}")
    return target


def _certificates(header: Mapping[str, Any]) -> tuple[bytes, ...]:
    chain = canonical.sequence(header, "x5c", "header")
    if not 1 <= len(chain) <= MAX_CERTIFICATES:
        raise InputError(f"x5c has {len(chain)} certificates, not 1 to {MAX_CERTIFICATES}")
    if not all(isinstance(item, str) and item for item in chain):
        raise InputError("x5c must be an array of base64 strings")
    return tuple(decode_base64(item, f"x5c[{i}]") for i, item in enumerate(chain))


def _url_encode(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _url_decode(text: str, what: str) -> bytes:
    """The bytes of unpadded base64url, from the one text that encodes them. RFC 7515, section 2."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError as error:
        raise InputError(f"{what} is no base64url: {error}") from error
    if _url_encode(content).decode() != text:
        raise InputError(f"{what} is not the canonical base64url of its bytes")
    return content
