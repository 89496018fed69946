"""Certificates: whom a chain leads to, and whether it may.

Source: RFC 5280, section 6, and the profile of notaryproject/specifications v1.1,
signature-specification.md, "Certificate Requirements". Revocation lists are not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ocimodel.errors import InputError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import Evidence
from ocimodel.signing.keys import PublicKey

MAX_CHAIN: Final = 8
MAX_PEM_BYTES: Final = 1 << 20
# the JWS algorithm that goes with a kind of key
ALGORITHMS: Final = {
    "ECDSA P-256": "ES256",
    "ECDSA P-384": "ES384",
    "ECDSA P-521": "ES512",
    "RSA 2048": "PS256",
    "RSA 3072": "PS384",
    "RSA 4096": "PS512",
}
_DIGESTS: Final = ("sha256", "sha384", "sha512")
_UNDERSTOOD: Final = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
_ISSUER_PURPOSES: Final = {
    ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}
Attributes = frozenset[tuple[x509.ObjectIdentifier, str | bytes]]
# what `cryptography` raises for certificates and extensions that are malformed
UNREADABLE: Final = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class CertificateAuthority:
    """An Authority: whoever holds a certificate that the anchors lead to, under a known name."""

    def __init__(self, anchors: Sequence[bytes], identities: Sequence[str]) -> None:
        """`anchors`: DER. `identities`: such as `C=US, O=example`, or `*` for anybody certified.

        All attributes of one identity must be in the certificate's subject, which may have more.
        Raises InputError for an identity that cannot be read, and where none is named.
        """
        self._anchors = tuple(anchors)
        self._identities = [parse_identity(text) for text in identities]
        if not self._identities:
            raise InputError(
                "a certificate authority names no identities",
                hint="whose certificates count: C=US, O=example; or * for all that it certifies",
            )

    def identify(self, evidence: Evidence, at: datetime) -> str:
        if not evidence.certificates:
            raise RefusedError("carries no certificate")
        leaf = check_chain(evidence.certificates, self._anchors, at)
        subject = {(a.oid, a.value) for a in leaf.subject}
        if not any(identity <= subject for identity in self._identities):
            raise RefusedError(f"signed by {_name(leaf)}, whom nobody named")
        key = key_of(leaf)
        if evidence.algorithm and evidence.algorithm != ALGORITHMS.get(key.kind):
            raise RefusedError(f"{evidence.algorithm} does not go with the key, {key.kind}")
        if not key.verify(evidence.signature, evidence.message, evidence.algorithm):
            raise RefusedError(f"the signature is not by the certified key of {_name(leaf)}")
        return f"{_name(leaf)}, issued by {leaf.issuer.rfc4514_string()}"


def parse_identity(text: str) -> Attributes:
    """What must be in a subject; nothing for `*`. InputError for no RFC 4514 name."""
    if text.strip() == "*":
        return frozenset()
    # people put spaces around commas
    compact = re.sub(r"(\\.)|\s*,\s*", lambda found: found[1] or ",", text.strip())
    try:
        name = x509.Name.from_rfc4514_string(compact, {"E": NameOID.EMAIL_ADDRESS})
    except ValueError as error:
        raise InputError(
            f"{text[:200]!r} is no name that is understood",
            hint="write it like C=US, ST=WA, O=example, with a backslash before special characters",
        ) from error
    if not (attributes := frozenset((a.oid, a.value) for a in name)):
        raise InputError("an identity is empty", hint="* is for anybody that is certified")
    return attributes


def parse_certificates(raw: bytes, what: str) -> list[bytes]:
    """The certificates of a PEM file as DER, in their order; `what` names it in errors.

    Raises InputError when there are none, when one is broken, over MAX_PEM_BYTES.
    """
    if len(raw) > MAX_PEM_BYTES:
        raise InputError(f"{what} of {len(raw)} bytes is over the limit of {MAX_PEM_BYTES}")
    try:
        loaded = x509.load_pem_x509_certificates(raw)
        found = [c.public_bytes(serialization.Encoding.DER) for c in loaded]
        for der in found:
            _load(der)
    except (*UNREADABLE, RefusedError) as error:
        raise InputError(
            f"{what} holds no certificates that are understood: {error}",
            hint="PEM is expected: -----BEGIN CERTIFICATE-----",
        ) from error
    return found


def ordered_chain(certificates: Sequence[bytes]) -> list[bytes]:
    """The same certificates, DER, each before its issuer, up to the root.

    Raises InputError where they make no single chain, and where the root is missing.
    """
    left = {der: _load(der) for der in certificates}
    issuers = {(c.issuer, c.subject != c.issuer) for c in left.values()}
    leaves = [der for der, c in left.items() if (c.subject, True) not in issuers]
    if len(leaves) != 1:
        raise InputError(
            f"the chain has {len(leaves) or 'no'} certificates that issued no other, not one",
            hint="the file holds the signer's certificate and its issuers, and nothing else",
        )
    chain = leaves
    last = left.pop(chain[0])
    while last.subject != last.issuer:
        found = [der for der, c in left.items() if _is_issued(last, c)]
        if not found:
            raise InputError(
                f"the chain lacks the certificate of {last.issuer.rfc4514_string()}",
                hint="append it to the file: the chain goes up to the root",
            )
        chain.append(found[0])
        last = left.pop(found[0])
    if left:
        raise InputError(f"{_name(next(iter(left.values())))} does not belong to the chain")
    return chain


def check_root(certificate: bytes) -> None:
    """RefusedError unless it has issued itself."""
    root = _load(certificate)
    _check_issued(root, root)


def key_of(certificate: x509.Certificate) -> PublicKey:
    """RefusedError for a kind of key that is not accepted."""
    try:
        return PublicKey.of(certificate.public_key(), f"the key of {_name(certificate)}")
    except (InputError, ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(str(error)) from error


def check_chain(
    certificates: Sequence[bytes], anchors: Sequence[bytes], at: datetime
) -> x509.Certificate:
    """The first certificate, when the chain leads from it to an anchor, and all are valid `at`.

    In their order, each issued by the next; the last one, or its issuer, is an anchor, equal to
    the byte. A single certificate that is an anchor itself may sign. All DER. Raises RefusedError.
    """
    if not 1 <= len(certificates) <= MAX_CHAIN:
        raise RefusedError(f"a chain of {len(certificates)} certificates, not 1 to {MAX_CHAIN}")
    chain = [_load(der) for der in certificates]
    if certificates[-1] not in anchors:
        chain.append(_anchor_of(chain[-1], [_load(der) for der in anchors]))
    for certificate, issuer in pairwise(chain):
        _check_issued(certificate, issuer)
    for certificate in chain:
        _check_any(certificate, at)
    _check_leaf(chain[0])
    for n_below, issuer in enumerate(chain[1:]):
        _check_issuer(issuer, n_below)
    return chain[0]


def _load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        # read only now, and broken ones raise
        _ = certificate.subject, certificate.issuer
    except UNREADABLE as error:
        raise RefusedError(f"a certificate that cannot be read: {error}") from error
    return certificate


def _anchor_of(last: x509.Certificate, anchors: Sequence[x509.Certificate]) -> x509.Certificate:
    for anchor in anchors:
        if _is_issued(last, anchor):
            return anchor
    raise RefusedError(f"the chain ends at {_name(last)}, which nobody trusted issued")


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        _check_issued(certificate, issuer)
    except RefusedError:
        return False
    return True


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Names and signature."""
    try:
        digest = certificate.signature_hash_algorithm
        if digest is None or digest.name not in _DIGESTS:
            said = digest.name if digest else "a digest of its own"
            raise RefusedError(f"{_name(certificate)} is signed with {said}, not SHA-256 or more")
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise RefusedError(f"{_name(certificate)} was not issued by {_name(issuer)}") from error


def _check_any(certificate: x509.Certificate, at: datetime) -> None:
    """What holds for every certificate of a chain."""
    name = _name(certificate)
    if at < certificate.not_valid_before_utc:
        raise RefusedError(f"{name} is valid only from {certificate.not_valid_before_utc}")
    if at > certificate.not_valid_after_utc:
        raise RefusedError(f"{name} expired at {certificate.not_valid_after_utc}")
    if key_of(certificate).kind == "Ed25519":
        raise RefusedError(f"{name} has an Ed25519 key, not an RSA or ECDSA one")
    for extension in _extensions(certificate):
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            oid = extension.oid.dotted_string
            raise RefusedError(f"{name} has the critical extension {oid}, not understood here")
    usage = _find(certificate, x509.KeyUsage)
    if usage is None or not usage.critical:
        raise RefusedError(f"{name} has no critical key usage")


def _check_leaf(leaf: x509.Certificate) -> None:
    """Good for signing code, and for nothing else."""
    name, usage = _name(leaf), _find(leaf, x509.KeyUsage).value
    constraints, purposes = _find(leaf, x509.BasicConstraints), _find(leaf, x509.ExtendedKeyUsage)
    if constraints and constraints.value.ca:
        raise RefusedError(f"{name} is an authority's certificate, not a signer's")
    if not usage.digital_signature:
        raise RefusedError(f"the key usage of {name} is not digitalSignature")
    # contentCommitment says no more than a signature does
    others = (usage.key_encipherment, usage.data_encipherment, usage.key_agreement)
    if any((*others, usage.key_cert_sign, usage.crl_sign)):
        raise RefusedError(f"the key usage of {name} is more than digitalSignature")
    if purposes and set(purposes.value) != {ExtendedKeyUsageOID.CODE_SIGNING}:
        raise RefusedError(f"{name} is not for code signing, or not for that alone")


def _check_issuer(issuer: x509.Certificate, n_below: int) -> None:
    """May issue. `n_below`: how many other issuers are between it and the leaf."""
    name, usage = _name(issuer), _find(issuer, x509.KeyUsage).value
    constraints = _find(issuer, x509.BasicConstraints)
    purposes = _find(issuer, x509.ExtendedKeyUsage)
    if not (constraints and constraints.critical and constraints.value.ca):
        raise RefusedError(f"{name} is no authority and has issued a certificate")
    limit = constraints.value.path_length
    if limit is not None and limit < n_below:
        raise RefusedError(f"{name} allows {limit} authorities below it, not {n_below}")
    if not usage.key_cert_sign:
        raise RefusedError(f"the key usage of {name} is not keyCertSign")
    if purposes and not _ISSUER_PURPOSES & set(purposes.value):
        raise RefusedError(f"{name} issues no certificates for code signing")


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except UNREADABLE as error:
        raise RefusedError(f"{_name(certificate)} has extensions that cannot be read") from error


def _find(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> Any:
    """The extension of that kind, or None."""
    return next((e for e in _extensions(certificate) if isinstance(e.value, kind)), None)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"
