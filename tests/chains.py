"""Certificate chains, good ones and ones with one thing wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
LEAF = {
    "usages": ("digital_signature",),
    "purposes": (ExtendedKeyUsageOID.CODE_SIGNING,),
    "constraints": x509.BasicConstraints(ca=False, path_length=None),
}
AUTHORITY = {
    "usages": ("key_cert_sign",),
    "purposes": (),
    "constraints": x509.BasicConstraints(ca=True, path_length=None),
}


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key(n_bits: int) -> rsa.RSAPrivateKey:
    """One for each size: they take long to make."""
    return rsa.generate_private_key(65537, n_bits)


def subject(name: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(name)


def issue(
    name: str,
    issuer: Holder | None = None,
    *,
    key: Any = None,
    usages: tuple[str, ...] = (),
    usage_is_critical: bool = True,
    purposes: tuple[x509.ObjectIdentifier, ...] = (),
    constraints: x509.BasicConstraints | None = None,
    constraints_are_critical: bool = True,
    starts: datetime = NOW - DAY,
    ends: datetime = NOW + DAY,
    digest: Any = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    signed_by: Any = None,
) -> Holder:
    """A certificate by `issuer`, or by itself. `signed_by`: a key in place of the issuer's."""
    key = key or new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(issuer.certificate.subject if issuer else subject(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
    if usages:
        usage = x509.KeyUsage(**{name: name in usages for name in USAGES})
        builder = builder.add_extension(usage, usage_is_critical)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if constraints:
        builder = builder.add_extension(constraints, constraints_are_critical)
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    signing = signed_by or (issuer.key if issuer else key)
    return Holder(builder.sign(signing, digest or hashes.SHA256()), key)


def chain(
    *,
    leaf: dict[str, Any] | None = None,
    middle: dict[str, Any] | None = None,
    root: dict[str, Any] | None = None,
) -> list[Holder]:
    """Leaf, intermediate and root, each as it should be but for what is said."""
    top = issue("CN=root,O=example,ST=WA,C=US", **{**AUTHORITY, **(root or {})})
    between = issue("CN=middle,O=example,ST=WA,C=US", top, **{**AUTHORITY, **(middle or {})})
    last = issue("CN=signer,O=example,ST=WA,C=US", between, **{**LEAF, **(leaf or {})})
    return [last, between, top]


def self_signed(**changes: Any) -> Holder:
    """A leaf that nobody but itself has issued."""
    return issue("CN=alone,O=example,ST=WA,C=US", **{**LEAF, **changes})


def ders(holders: list[Holder]) -> list[bytes]:
    return [holder.der for holder in holders]
