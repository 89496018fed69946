"""Signatures as notation makes and reads them: X.509, in a JWS, in a referrer.

Source: notaryproject/specifications v1.1, signature-specification.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ocimodel.errors import InputError, UsageError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.cosign import EMPTY, Blob
from ocimodel.signing.evidence import REPOSITORY, SIGNATURE, TAG, Evidence, Form, Subject, expiry_of
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.jws import (
    ENVELOPE_TYPE,
    encode_envelope,
    parse_envelope,
    signing_input,
)
from ocimodel.spec.manifest import MANIFEST, Manifest, parse_manifest

if TYPE_CHECKING:
    from ocimodel.signing.keys import PrivateKey

ARTIFACT_TYPE: Final = "application/vnd.cncf.notary.signature"
COSE: Final = "application/cose"
THUMBPRINTS: Final = "io.cncf.notary.x509chain.thumbprint#S256"


def notation_evidence(origin: str, manifest: Manifest, raw: bytes) -> Evidence:
    """One signature. `manifest`: the referrer, whose one layer is `raw`, verified by its digest.

    Of the manifest only the types are looked at: nobody signed it. Raises InputError.
    """
    # the type stood in the configuration before manifests had artifactType
    if ARTIFACT_TYPE not in (manifest.artifact_type, manifest.config.media_type):
        raise InputError(f"{manifest.effective_type[:100]!r} is no notation signature")
    if len(manifest.layers) != 1:
        raise InputError(f"a notation signature has one layer, not {len(manifest.layers)}")
    kind = manifest.layers[0].media_type
    if kind == COSE:
        raise InputError("COSE envelopes are not read here", hint="sign with a JWS envelope")
    if kind != ENVELOPE_TYPE:
        raise InputError(f"envelope of the type {kind[:100]!r}, not {ENVELOPE_TYPE}")
    envelope = parse_envelope(raw)
    target = envelope.target
    return Evidence(
        origin=origin,
        form=Form.NOTATION,
        subjects=(Subject(target.digest, target.media_type, target.size),),
        predicate_type=SIGNATURE,
        message=envelope.signed,
        signature=envelope.signature,
        algorithm=envelope.algorithm,
        annotations=target.annotations,
        certificates=envelope.certificates,
        timestamps=(envelope.timestamp,) if envelope.timestamp else (),
        signed_at=envelope.signed_at,
        expires_at=_expiry(envelope.expires_at, target.annotations),
        repository=target.annotations.get(REPOSITORY, ""),
        tag=target.annotations.get(TAG, ""),
        document=raw,
    )


def load_chain(raw: bytes) -> list[bytes]:
    """The certificates of a PEM file as DER, put in order: the signer's first, the root last.

    Raises InputError where they make no single chain, and where the root is missing.
    """
    from ocimodel.signing.x509 import ordered_chain, parse_certificates

    return ordered_chain(parse_certificates(raw, "the certificate chain"))


def sign_notation(
    key: PrivateKey,
    chain: Sequence[bytes],
    subject: Descriptor,
    annotations: Mapping[str, str],
    *,
    signing_time: datetime,
    expires_at: datetime | None = None,
    timestamp: Callable[[bytes], bytes] | None = None,
    agent: str = "ocimodel",
) -> bytes:
    """An envelope that notation accepts. `chain`: DER, as `load_chain` gives it.

    `timestamp`: makes an RFC 3161 token over a signature. `agent`: name and version of the
    program. Raises InputError for a chain that notation would refuse, and for another one's key.
    """
    if expires_at and expires_at <= signing_time:
        raise UsageError("the signature would expire before it is made")
    algorithm = _algorithm(key, chain, signing_time)
    target = Descriptor(subject.media_type, subject.digest, subject.size, dict(annotations))
    signed = signing_input(target, algorithm, signing_time, expires_at)
    signature = key.sign_as(signed, algorithm)
    token = timestamp(signature) if timestamp else b""
    return encode_envelope(signed, signature, chain, agent=agent, timestamp=token)


def notation_documents(
    envelope: bytes, chain: Sequence[bytes], subject: Descriptor, created: str
) -> tuple[Manifest, list[Blob]]:
    """The referrer that carries an envelope, and its blobs. `created`: RFC 3339.

    With the type in the configuration, as notation 1.3 writes it: in an image layout it finds no
    signature whose manifest has the newer artifactType.
    """
    config = Descriptor(ARTIFACT_TYPE, sha256(EMPTY), len(EMPTY))
    layer = Descriptor(ENVELOPE_TYPE, sha256(envelope), len(envelope))
    thumbprints = [hashlib.sha256(certificate).hexdigest() for certificate in chain]
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json()],
        "subject": Descriptor(subject.media_type, subject.digest, subject.size).to_json(),
        "annotations": {
            THUMBPRINTS: json.dumps(thumbprints, separators=(",", ":")),
            "org.opencontainers.image.created": created,
        },
    }
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return manifest, [(config, EMPTY), (layer, envelope)]


def _algorithm(key: PrivateKey, chain: Sequence[bytes], at: datetime) -> str:
    """What `key` signs with, once notation's demands on the chain are met."""
    from ocimodel.signing.x509 import ALGORITHMS, check_chain, check_root, key_of

    try:
        certified = key_of(check_chain(chain, chain[-1:], at))
        check_root(chain[-1])
    except RefusedError as error:
        raise InputError(
            f"notation would refuse the certificate chain: {error}",
            hint="it wants a code-signing certificate and its issuers up to the root",
        ) from error
    if certified != key.public_key:
        raise InputError(
            "the chain's first certificate is for another key than the one that signs",
            hint="give the chain that was issued for this key",
        )
    if certified.kind not in ALGORITHMS:
        raise InputError(f"notation signs with no key of the kind {certified.kind}")
    return ALGORITHMS[certified.kind]


def _expiry(stated: datetime | None, annotations: Mapping[str, str]) -> datetime | None:
    """The envelope's, or ours where that comes first."""
    return min(filter(None, (stated, expiry_of(annotations))), default=None)
