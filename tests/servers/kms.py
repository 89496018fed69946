"""What AWS KMS and HashiCorp Vault answer to those who fetch a public key and have a digest signed.

The keys and signatures are real, the services are not: only what securesystemslib asks of them.
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from tests.servers.loopback import AnyMethodHandler, LoopbackServer

_EC_ALGORITHMS = {"secp256r1": "ECDSA_SHA_256", "secp384r1": "ECDSA_SHA_384"}
_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_RSA_ALGORITHMS = [
    f"RSASSA_{padding}_SHA_{bits}" for padding in ("PSS", "PKCS1_V1_5") for bits in _DIGESTS
]


class FakeKms(LoopbackServer):
    """`keys`: by name. `refusal`: answered to everything, when set; AWS's name of an error.

    `asked`: the algorithms that AWS was asked for. `versions`: how often Vault rotated its keys.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__()
        self.keys = keys
        self.refusal = ""
        self.asked: list[str] = []
        self.versions = 1

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(AnyMethodHandler):
            def any(self) -> None:
                body = json.loads(self.body() or b"{}")
                target = self.headers.get("X-Amz-Target", "")
                status, document = server.aws(target, body) if target else server.vault(self, body)
                self.answer(
                    status,
                    {"Content-Type": "application/x-amz-json-1.1"},
                    json.dumps(document).encode(),
                )

        return Handler

    def aws(self, target: str, body: dict[str, Any]) -> tuple[int, object]:
        refusal = self.refusal or ("" if body["KeyId"] in self.keys else "NotFoundException")
        if refusal:
            return 400, {"__type": refusal, "message": "no"}
        key = self.keys[body["KeyId"]]
        if target == "TrentService.GetPublicKey":
            der = key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return 200, {"PublicKey": _text(der), "SigningAlgorithms": _algorithms(key)}
        assert (target, body["MessageType"]) == ("TrentService.Sign", "DIGEST")
        self.asked.append(body["SigningAlgorithm"])
        digest = base64.b64decode(body["Message"])
        return 200, {"Signature": _text(_signed(key, digest, body["SigningAlgorithm"]))}

    def vault(self, request: AnyMethodHandler, body: dict[str, Any]) -> tuple[int, object]:
        _, version, engine, verb, name = request.path.split("/")
        assert (version, engine) == ("v1", "transit")
        if request.headers.get("X-Vault-Token") != "token":
            return 403, {"errors": ["permission denied"]}
        if name not in self.keys:
            return 404, {"errors": []}
        key: ed25519.Ed25519PrivateKey = self.keys[name]
        if verb == "keys":
            public = {"public_key": _text(key.public_key().public_bytes_raw())}
            return 200, {"data": {"keys": {str(n + 1): public for n in range(self.versions)}}}
        signature = key.sign(base64.b64decode(body["input"]))
        return 200, {"data": {"signature": f"vault:v{body['key_version']}:{_text(signature)}"}}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _algorithms(key: Any) -> list[str]:
    if isinstance(key, rsa.RSAPrivateKey):
        return _RSA_ALGORITHMS
    return [_EC_ALGORITHMS[key.curve.name]]


def _signed(key: Any, digest: bytes, algorithm: str) -> bytes:
    hashed = utils.Prehashed(_DIGESTS[algorithm[-3:]])
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(digest, ec.ECDSA(hashed))
    assert algorithm.startswith("RSASSA_PKCS1")
    return bytes(key.sign(digest, padding.PKCS1v15(), hashed))
