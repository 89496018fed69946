"""A timestamp authority: `openssl ts` behind HTTP, and tokens that no honest one would make."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.servers import certs
from tests.servers.loopback import LoopbackServer, QuietHandler

REPLY = "application/timestamp-reply"
_CONFIG = """
[tsa]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
certs = {folder}/ca.pem
signer_digest = sha256
ess_cert_id_alg = sha256
ess_cert_id_chain = no
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
"""
# GeneralizedTime
_TIME = re.compile(rb"\d{14}Z")
Purposes = Sequence[x509.ObjectIdentifier]


class TimestampAuthority(LoopbackServer):
    """Answers queries at any path. `folder`: for its keys and certificates, fresh each time.

    `answer`: makes status and body of a query, instead of OpenSSL. `queries`: what was asked, DER.
    """

    def __init__(self, folder: Path, *, digests: str = "sha256, sha384, sha512") -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.answer: Callable[[bytes], tuple[int, bytes]] | None = None
        self.queries: list[bytes] = []
        self._key, self._tsa_key = certs.new_key(), certs.new_key()
        self._ca = certs.self_signed("timestamp root", self._key)
        (folder / "ca.pem").write_bytes(certs.pem(self._ca))
        (folder / "tsa.key").write_bytes(certs.key_pem(self._tsa_key))
        (folder / "tsa.pem").write_bytes(certs.pem(self.certificate()))
        (folder / "serial").write_text("01")
        (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder, digests=digests))

    @property
    def root(self) -> bytes:
        """Whom to trust, DER."""
        return self._ca.public_bytes(serialization.Encoding.DER)

    def certificate(
        self, purposes: Purposes = (ExtendedKeyUsageOID.TIME_STAMPING,), *, critical: bool = True
    ) -> x509.Certificate:
        """One for the authority's key, for `purposes`; without any when there are none."""
        now = self._ca.not_valid_before_utc
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clock")]))
            .issuer_name(self._ca.subject)
            .public_key(self._tsa_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(self._ca.not_valid_after_utc)
        )
        # notation wants it
        usage = x509.KeyUsage(True, *[False] * 8)
        builder = builder.add_extension(usage, critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical)
        return builder.sign(self._key, hashes.SHA256())

    def reply(self, query: bytes) -> bytes:
        """What OpenSSL answers, DER; a refusal is an answer too."""
        source, target = self.folder / "query.tsq", self.folder / "reply.tsr"
        source.write_bytes(query)
        options = ["-config", self.folder / "openssl.cnf", "-section", "tsa"]
        openssl("ts", "-reply", *options, "-queryfile", source, "-out", target)
        return target.read_bytes()

    def resigned(
        self, token: bytes, certificate: x509.Certificate, moved: timedelta = timedelta()
    ) -> bytes:
        """The same statement of time, or one `moved` away, under another certificate: a token."""
        source, content, signer, target = (
            self.folder / name for name in ("token.der", "info.der", "signer.pem", "resigned.der")
        )
        source.write_bytes(token)
        openssl(
            "cms", "-verify", "-noverify", "-inform", "DER", "-in", source, "-out", content,
            "-binary",
        )  # fmt: skip
        content.write_bytes(_TIME.sub(lambda found: _moved(found[0], moved), content.read_bytes()))
        signer.write_bytes(certs.pem(certificate))
        openssl(
            "cms", "-sign", "-binary", "-nodetach", "-in", content, "-outform", "DER",
            "-out", target, "-econtent_type", "1.2.840.113549.1.9.16.1.4", "-md", "sha256",
            "-signer", signer, "-inkey", self.folder / "tsa.key",
        )  # fmt: skip
        return target.read_bytes()

    def handler(self) -> type[QuietHandler]:
        authority = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                query = self.body()
                authority.queries.append(query)
                answer = authority.answer or (lambda query: (200, authority.reply(query)))
                status, body = answer(query)
                self.answer(status, {"Content-Type": REPLY}, body)

        return Handler


def _moved(time: bytes, by: timedelta) -> bytes:
    form = "%Y%m%d%H%M%SZ"
    moment = datetime.strptime(time.decode(), form).replace(tzinfo=UTC)
    return f"{moment + by:{form}}".encode()


def openssl(*arguments: str | Path) -> None:
    """Run it; CalledProcessError when it fails."""
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
