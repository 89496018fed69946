"""Keys as such: which ones count, and what a signature by one of them is.

Allowed: ECDSA on P-256, P-384 and P-521, RSA of 2048 to 8192 bits, Ed25519.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from ocimodel.errors import InputError, UsageError
from ocimodel.signing import ed25519ph

MAX_KEY_BYTES: Final = 64 << 10
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,60})-----")

AnyPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
AnyPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class _Curve:
    """`algorithm`, `digest`: those of a JWS. `number_bytes`: the length of r and of s in one."""

    name: str
    number_bytes: int
    algorithm: str
    digest: hashes.HashAlgorithm


_CURVES: Final = {
    "secp256r1": _Curve("P-256", 32, "ES256", hashes.SHA256()),
    "secp384r1": _Curve("P-384", 48, "ES384", hashes.SHA384()),
    "secp521r1": _Curve("P-521", 66, "ES512", hashes.SHA512()),
}
_PSS: Final[dict[str, hashes.HashAlgorithm]] = {
    "PS256": hashes.SHA256(),
    "PS384": hashes.SHA384(),
    "PS512": hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whom a signature can be by. `spki`: DER; equal keys have equal bytes. `kind`: for people."""

    spki: bytes = field(repr=False)
    kind: str
    _key: AnyPublicKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: object, what: str = "the key") -> PublicKey:
        """From a public key of `cryptography`. InputError for a kind or a size that we refuse."""
        kind = _kind(key, what)
        known = cast(AnyPublicKey, key)
        spki = known.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(spki, kind, known)

    @property
    def fingerprint(self) -> str:
        return f"sha256:{hashlib.sha256(self.spki).hexdigest()}"

    @property
    def hint(self) -> str:
        """As a Sigstore bundle names the key. Whoever writes a bundle chooses it: no trust."""
        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode()

    @property
    def pem(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, signature: bytes, message: bytes, algorithm: str = "") -> bool:
        """Whether this key signed `message`; raises for no signature, however broken.

        `algorithm`: a JWS name (ES256, PS256, …) is exactly that one, and False for a key that it
        does not fit; empty is what cosign does with this kind of key.
        """
        if isinstance(self._key, ec.EllipticCurvePublicKey):
            return _verify_ecdsa(self._key, signature, message, algorithm)
        if isinstance(self._key, rsa.RSAPublicKey):
            return _verify_rsa(self._key, signature, message, algorithm)
        if algorithm:
            return False
        key = self._key
        if _passes(key.verify, signature, message):
            return True
        # cosign 3 writes Ed25519ph
        return ed25519ph.verify(key.public_bytes_raw(), signature, message)


def parse_public_key(raw: bytes, what: str) -> PublicKey:
    """The key in a PEM file of one block, `PUBLIC KEY`; `what` names it in errors.

    Raises InputError.
    """
    label, content = pem_block(raw, what)
    if label.endswith("PRIVATE KEY"):
        raise InputError(f"{what}: that is a private key", hint="give its public half, the .pub")
    if label == "CERTIFICATE":
        raise InputError(
            f"{what} is a certificate, not a key", hint="certificates go into a policy's keyring"
        )
    if label != "PUBLIC KEY":
        raise InputError(f"{what} holds a {label}, not a PUBLIC KEY")
    try:
        key = serialization.load_der_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{what} holds no public key that is understood") from error
    return PublicKey.of(key, what)


def pem_block(raw: bytes, what: str) -> tuple[str, bytes]:
    """Label and content of the one PEM block in `raw`, whatever text stands around it.

    `openssl ecparam -genkey` writes the curve before the key, which is passed over. Raises
    InputError, for more than one block as well: readers would differ in which one they take.
    """
    if len(raw) > MAX_KEY_BYTES:
        raise InputError(f"{what} is larger than {MAX_KEY_BYTES} bytes, so it is no key")
    begins = [found for found in _BEGIN.finditer(raw) if found[1] != b"EC PARAMETERS"]
    if len(begins) != 1:
        raise InputError(f"{what} holds {len(begins) or 'no'} PEM blocks, where one is expected")
    label = begins[0][1]
    body, end, _ = raw[begins[0].end() :].partition(b"-----END %b-----" % label)
    if not end:
        raise InputError(f"{what} ends before its PEM block does")
    if b"Proc-Type:" in body:
        raise InputError(
            f"{what} is encrypted the old way, with one round of MD5",
            hint="write it anew: openssl pkcs8 -topk8 -in KEY -out NEW",
        )
    try:
        content = base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError as error:
        raise InputError(f"{what} is no PEM: {error}") from error
    return label.decode(), content


class PrivateKey:
    """A key in memory: a KeySigner, and a signer of JWS."""

    def __init__(self, key: object, what: str = "the key") -> None:
        """From a private key of `cryptography`; InputError for a kind that we refuse."""
        if not isinstance(key, AnyPrivateKey):
            raise InputError(f"{what} is of a kind that signs nothing here: {type(key).__name__}")
        self._key = key
        self._public_key = PublicKey.of(key.public_key(), what)

    @classmethod
    def generate(cls) -> PrivateKey:
        """A new one on P-256, the only kind that every tool takes."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def public_key(self) -> PublicKey:
        return self._public_key

    @property
    def pkcs8(self) -> bytes:
        """The secret itself: DER, not encrypted."""
        return self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def algorithm_name(self) -> str:
        """The JWS name of what this key does by default; empty for Ed25519."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return str(_CURVES[self._key.curve.name].algorithm)
        return "PS256" if isinstance(self._key, rsa.RSAPrivateKey) else ""

    def sign(self, message: bytes) -> bytes:
        """What every cosign verifies: SHA-256 on each curve and for RSA, pure Ed25519.

        On P-384 and P-521 cosign 3 itself signs with a longer digest, and then refuses that.
        """
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(hashes.SHA256()))
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(message)

    def sign_sized(self, message: bytes) -> bytes:
        """As `sign`, but ECDSA with the digest of its curve's size: what model_signing verifies."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(message, ec.ECDSA(_CURVES[self._key.curve.name].digest))
        return self.sign(message)

    def sign_as(self, message: bytes, algorithm: str) -> bytes:
        """A JWS signature, r‖s for ECDSA. UsageError for an algorithm that the key cannot do."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            curve = _CURVES[self._key.curve.name]
            if algorithm == curve.algorithm:
                r, s = utils.decode_dss_signature(self.sign_sized(message))
                return r.to_bytes(curve.number_bytes) + s.to_bytes(curve.number_bytes)
        elif isinstance(self._key, rsa.RSAPrivateKey) and algorithm in _PSS:
            return self._key.sign(message, _pss(algorithm), _PSS[algorithm])
        raise UsageError(
            f"a key of the kind {self._public_key.kind} makes no {algorithm} signature"
        )


def _kind(key: object, what: str) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return f"ECDSA {_CURVES[key.curve.name].name}"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        if _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            return f"RSA {key.key_size}"
        raise InputError(
            f"{what} is an RSA key of {key.key_size} bits, not {_MIN_RSA_BITS} to {_MAX_RSA_BITS}"
        )
    curve = f" on {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else ""
    raise InputError(
        f"{what} is of a kind that is not accepted: {type(key).__name__}{curve}",
        hint="ECDSA P-256, P-384 or P-521, RSA, Ed25519",
    )


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, algorithm: str
) -> bool:
    curve = _CURVES[key.curve.name]
    # cosign 2 signs with the first, cosign 3 with the second
    digests: tuple[hashes.HashAlgorithm, ...] = (hashes.SHA256(), curve.digest)
    if algorithm:
        n = curve.number_bytes
        if algorithm != curve.algorithm or len(signature) != 2 * n:
            return False
        r, s = int.from_bytes(signature[:n]), int.from_bytes(signature[n:])
        signature, digests = utils.encode_dss_signature(r, s), (curve.digest,)
    return any(_passes(key.verify, signature, message, ec.ECDSA(digest)) for digest in digests)


def _verify_rsa(key: rsa.RSAPublicKey, signature: bytes, message: bytes, algorithm: str) -> bool:
    if not algorithm:
        return _passes(key.verify, signature, message, padding.PKCS1v15(), hashes.SHA256())
    if algorithm not in _PSS:
        return False
    return _passes(key.verify, signature, message, _pss(algorithm), _PSS[algorithm])


def _pss(algorithm: str) -> padding.PSS:
    """Source: RFC 7518, 3.5: MGF1 with the same digest, a salt as long as that."""
    digest = _PSS[algorithm]
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def _passes(verify: Callable[..., None], *arguments: object) -> bool:
    try:
        verify(*arguments)
    except InvalidSignature:
        return False
    return True
