"""The Sigstore instance of the tests behind HTTP: what sigstore-python asks for when it signs."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers.certs import pem
from tests.servers.loopback import LoopbackServer, QuietHandler
from tests.servers.sigstore import IDENTITY, ISSUER, Json, SigstoreInstance


class SigstoreServer(LoopbackServer):
    """The two requests that signing makes: a certificate as the token asks, and a log entry.

    `refuses`: answer every request for a certificate with 401.
    """

    def __init__(self, instance: SigstoreInstance, *, refuses: bool = False) -> None:
        super().__init__()
        self.instance = instance
        self.refuses = refuses

    def handler(self) -> type[BaseHTTPRequestHandler]:
        return type("SigstoreHandler", (_Handler,), {"sigstore": self})

    def write_trust_config(self, path: Path) -> Path:
        """A client trust configuration that leads here."""
        service = {
            "url": self.url,
            "majorApiVersion": 1,
            "validFor": {"start": "2020-01-01T00:00:00Z"},
            "operator": "test",
        }
        document = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.instance.trusted_root,
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
            },
        }
        path.write_text(json.dumps(document))
        return path


class _Handler(QuietHandler):
    sigstore: SigstoreServer

    def do_POST(self) -> None:
        request = json.loads(self.body())
        if self.path == "/api/v2/signingCert" and not self.sigstore.refuses:
            self._answer(200, self._certificate(request))
        elif self.path == "/api/v1/log/entries":
            self._answer(201, self._entry(request))
        else:
            self._answer(401, {"code": 16, "message": "no"})

    def _answer(self, status: int, document: Json) -> None:
        self.answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _certificate(self, request: Json) -> Json:
        asked = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        token = self.headers["Authorization"].removeprefix("Bearer ")
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        key = asked.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        instance = self.sigstore.instance
        certificate = instance.certificate(key, identity=claims["sub"], issuer=claims["iss"])
        chain = [pem(certificate).decode(), pem(instance.ca).decode()]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _entry(self, request: Json) -> Json:
        proposed = request["spec"]["proposedContent"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(proposed["verifiers"][0]))
        envelope = json.loads(proposed["envelope"])
        entry = self.sigstore.instance.entry(envelope, certificate, datetime.now(UTC))
        proof = entry["inclusionProof"]
        answer = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": _hex(entry["logId"]["keyId"]),
            "logIndex": 1,
            "verification": {
                "signedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
                "inclusionProof": {
                    "logIndex": 1,
                    "treeSize": 2,
                    "rootHash": _hex(proof["rootHash"]),
                    "hashes": [_hex(h) for h in proof["hashes"]],
                    "checkpoint": proof["checkpoint"]["envelope"],
                },
            },
        }
        return {"24296fb24b8ad77a": answer}


def identity_token(
    identity: str = IDENTITY, issuer: str = ISSUER, *, lifetime: timedelta = timedelta(minutes=5)
) -> str:
    """An OpenID Connect token that nobody signed: clients only hand it on."""
    now = int(datetime.now(UTC).timestamp())
    claims = {
        "iss": issuer,
        "sub": identity,
        "aud": "sigstore",
        "iat": now - 600,
        "exp": now + int(lifetime.total_seconds()),
    }
    head = {"alg": "RS256", "typ": "JWT"}
    parts = [json.dumps(head).encode(), json.dumps(claims).encode(), b"nobody"]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)


def _hex(text: str) -> str:
    return base64.b64decode(text).hex()
