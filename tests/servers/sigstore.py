"""A Sigstore instance of our own: certificates as Fulcio issues them, a log as Rekor keeps it.

Everything is made here, with keys made here; sigstore-python accepts it offline, given
`trusted_root`. It signs with it over `tests.servers.sigstore_server`.

Sources: sigstore/fulcio docs/oid-info.md; RFC 6962; sigstore/rekor types/dsse v0.0.1 and
its signed notes; sigstore/protobuf-specs, sigstore_trustroot.proto.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.servers.certs import Key, new_key, pem

IDENTITY = "alice@example.org"
ISSUER = "https://accounts.example.org"
_ISSUER_OID = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_OID = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ORIGIN = "rekor.test - 1"
_IN_TOTO = "application/vnd.in-toto+json"
Json = dict[str, Any]


@dataclass
class SigstoreInstance:
    """A certificate authority, a certificate log and a signature log, each with its key."""

    ca_key: Key = field(default_factory=new_key)
    ct_key: Key = field(default_factory=new_key)
    log_key: Key = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.ca = _authority(self.ca_key)

    def certificate(
        self,
        key: ec.EllipticCurvePublicKey,
        *,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        at: datetime | None = None,
        logged: bool = True,
    ) -> x509.Certificate:
        """Good for ten minutes from `at`; `logged`: with the receipt of the certificate log."""
        start = at or datetime.now(UTC)
        name: x509.GeneralName = x509.RFC822Name(identity)
        if "://" in identity:
            name = x509.UniformResourceIdentifier(identity)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=10))
            .add_extension(_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()), False
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer.encode()), False)
        )
        if logged:
            before = builder.sign(self.ca_key, hashes.SHA256())
            receipt = self._receipt(before.tbs_certificate_bytes, start)
            builder = builder.add_extension(x509.UnrecognizedExtension(_SCT_OID, receipt), False)
        return builder.sign(self.ca_key, hashes.SHA256())

    def entry(self, envelope: Json, certificate: x509.Certificate, at: datetime) -> Json:
        """A log entry over the envelope, as a bundle carries it: second of two in the log."""
        body = _json(_entry_body(envelope, certificate))
        leaf, sibling = _leaf(body), _leaf(b"an older entry")
        root = hashlib.sha256(b"\x01" + sibling + leaf).digest()
        log_id = _key_id(self.log_key)
        promise = {
            "body": _b64(body),
            "integratedTime": int(at.timestamp()),
            "logID": log_id.hex(),
            "logIndex": 1,
        }
        return {
            "logIndex": "1",
            "logId": {"keyId": _b64(log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(int(at.timestamp())),
            "inclusionPromise": {"signedEntryTimestamp": _b64(_sign(self.log_key, _json(promise)))},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": _b64(root),
                "treeSize": "2",
                "hashes": [_b64(sibling)],
                "checkpoint": {"envelope": self._checkpoint(root)},
            },
            "canonicalizedBody": _b64(body),
        }

    def bundle(
        self,
        statement: bytes,
        *,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        certified_at: datetime | None = None,
        signed_at: datetime | None = None,
        logged: bool = True,
    ) -> Json:
        """What signing `statement` gives; the certificate's time and the log's can be given."""
        key = new_key()
        start = certified_at or datetime.now(UTC)
        certificate = self.certificate(
            key.public_key(), identity=identity, issuer=issuer, at=start, logged=logged
        )
        envelope = sign_envelope(key, statement)
        entry = self.entry(envelope, certificate, signed_at or start + timedelta(seconds=5))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _b64(_der(certificate))},
                "tlogEntries": [entry],
            },
            "dsseEnvelope": envelope,
        }

    @property
    def trusted_root(self) -> Json:
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log("https://rekor.test", self.log_key)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "test", "commonName": "sigstore test"},
                    "uri": "https://fulcio.test",
                    "certChain": {"certificates": [{"rawBytes": _b64(_der(self.ca))}]},
                    "validFor": {"start": "2020-01-01T00:00:00Z"},
                }
            ],
            "ctlogs": [_log("https://ctfe.test", self.ct_key)],
            "timestampAuthorities": [],
        }

    def write_trusted_root(self, path: Path) -> Path:
        path.write_text(json.dumps(self.trusted_root))
        return path

    def _receipt(self, precertificate: bytes, at: datetime) -> bytes:
        """The certificate log's promise, as an extension's value. Source: RFC 6962, 3.2, 3.3."""
        issuer = hashlib.sha256(_spki(self.ca_key)).digest()
        head = struct.pack("!BBQH", 0, 0, int(at.timestamp() * 1000), 1)
        length = len(precertificate).to_bytes(3, "big")
        signature = _sign(self.ct_key, head + issuer + length + precertificate + b"\0\0")
        stamp = struct.pack("!Q", int(at.timestamp() * 1000))
        # 4, 3: SHA-256, ECDSA
        receipt = b"\0" + _key_id(self.ct_key) + stamp + b"\0\0" + b"\4\3"
        receipt += struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(receipt) + 2, len(receipt)) + receipt
        return b"\x04" + bytes([0x81] if len(listed) > 127 else []) + bytes([len(listed)]) + listed

    def _checkpoint(self, root: bytes) -> str:
        note = f"{_ORIGIN}\n2\n{_b64(root)}\n"
        signature = _key_id(self.log_key)[:4] + _sign(self.log_key, note.encode())
        return f"{note}\n\u2014 rekor.test {_b64(signature)}\n"


def sign_envelope(key: Key, statement: bytes, payload_type: str = _IN_TOTO) -> Json:
    """A DSSE envelope."""
    message = b"DSSEv1 %d %s %d %s" % (
        len(payload_type),
        payload_type.encode(),
        len(statement),
        statement,
    )
    return {
        "payload": _b64(statement),
        "payloadType": payload_type,
        "signatures": [{"sig": _b64(_sign(key, message))}],
    }


def changed(document: Json, **values: object) -> Json:
    """A deep copy with values at `a__b__0`-like paths."""
    result = copy.deepcopy(document)
    for path, value in values.items():
        *above, last = path.split("__")
        place: Any = result
        for name in above:
            place = place[int(name) if name.isdecimal() else name]
        place[int(last) if last.isdecimal() else last] = value
    return result


def _authority(key: Key) -> x509.Certificate:
    """Older than anything that is signed in a test."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sigstore test")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _entry_body(envelope: Mapping[str, Any], certificate: x509.Certificate) -> Json:
    payload = base64.b64decode(envelope["payload"])
    return {
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": _hashed(_json(dict(envelope))),
            "payloadHash": _hashed(payload),
            "signatures": [
                {"signature": s["sig"], "verifier": _b64(pem(certificate))}
                for s in envelope["signatures"]
            ],
        },
    }


def _hashed(content: bytes) -> Json:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _log(url: str, key: Key) -> Json:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _b64(_spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        },
        "logId": {"keyId": _b64(_key_id(key))},
    }


def _usage(*, certificates: bool = False) -> x509.KeyUsage:
    """For signatures, or for certificates."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _leaf(body: bytes) -> bytes:
    return hashlib.sha256(b"\0" + body).digest()


def _key_id(key: Key) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def _spki(key: Key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _sign(key: Key, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
