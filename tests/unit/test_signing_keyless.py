"""Signatures by an identity: sigstore's own verifier over an instance of ours, without network."""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ocimodel.errors import InputError, UsageError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.cosign import bundle_evidence, signature_statement
from ocimodel.signing.evidence import Evidence, Form
from ocimodel.signing.keyless import KeylessAuthority
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.oms import read_signature
from ocimodel.spec.bundle import encode_bundle
from ocimodel.spec.digest import sha256
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.modelsigning import ModelStatement
from tests.servers.certs import new_key
from tests.servers.sigstore import (
    IDENTITY,
    ISSUER,
    Json,
    SigstoreInstance,
    changed,
    sign_envelope,
)

STATEMENT = signature_statement(sha256(b"artifact"), {"dev.ocimodel.tag": "v1"})
OTHER = signature_statement(sha256(b"another artifact"), {})
WORKFLOW = "https://github.com/org/repo/.github/workflows/release.yml@refs/heads/main"
THEN = datetime(2024, 5, 1, tzinfo=UTC)
NOW = datetime.now(UTC)
ENTRY = "verificationMaterial__tlogEntries__0__"

pytest.importorskip("sigstore")


@pytest.fixture(scope="module")
def instance() -> SigstoreInstance:
    return SigstoreInstance()


@pytest.fixture(scope="module")
def root(instance: SigstoreInstance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instance.write_trusted_root(tmp_path_factory.mktemp("sigstore") / "trusted_root.json")


@pytest.fixture(scope="module")
def authority(root: Path) -> KeylessAuthority:
    return KeylessAuthority(IDENTITY, ISSUER, root)


def evidence(bundle: Json) -> Evidence:
    return bundle_evidence("here", json.dumps(bundle).encode())


def test_accepted(instance: SigstoreInstance, authority: KeylessAuthority) -> None:
    found = evidence(instance.bundle(STATEMENT))
    assert authority.identify(found, NOW) == f"{IDENTITY}, according to {ISSUER}"


def test_an_expired_certificate_was_valid_when_it_signed(
    instance: SigstoreInstance, authority: KeylessAuthority
) -> None:
    assert authority.identify(evidence(instance.bundle(STATEMENT, certified_at=THEN)), NOW)


def test_a_workflow_as_identity(instance: SigstoreInstance, root: Path) -> None:
    found = evidence(instance.bundle(STATEMENT, identity=WORKFLOW))
    assert KeylessAuthority(WORKFLOW, ISSUER, root).identify(found, NOW).startswith(WORKFLOW)


def test_a_signed_directory(instance: SigstoreInstance, authority: KeylessAuthority) -> None:
    """A model.sig, as `model_signing sign sigstore` writes it."""
    statement = ModelStatement("m", {"a": sha256(b"a")}).encode()
    raw = json.dumps(instance.bundle(statement)).encode()
    assert authority.identify(read_signature(raw, "here")[0], NOW)


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [
        ("bob@example.org", ISSUER),
        (IDENTITY.upper(), ISSUER),
        ("*", ISSUER),
        (".*", ISSUER),
        ("alice", ISSUER),
        (IDENTITY, "https://evil.example.org"),
        (IDENTITY, f"{ISSUER}/"),
        (IDENTITY, "*"),
    ],
)
def test_somebody_else(instance: SigstoreInstance, root: Path, identity: str, issuer: str) -> None:
    found = evidence(instance.bundle(STATEMENT))
    with pytest.raises(RefusedError, match=r"SANs do not match|OIDCIssuer.* does not match"):
        KeylessAuthority(identity, issuer, root).identify(found, NOW)


@pytest.mark.parametrize(("identity", "issuer"), [("", ISSUER), (IDENTITY, "")])
def test_an_authority_without_issuer_or_identity(identity: str, issuer: str) -> None:
    with pytest.raises(InputError):
        KeylessAuthority(identity, issuer)


Forge = Callable[[SigstoreInstance], Json]


def moved(part: str) -> Forge:
    """A good bundle with a part of another good one of the same identity and statement."""

    def forge(instance: SigstoreInstance) -> Json:
        one, other = instance.bundle(STATEMENT), instance.bundle(STATEMENT)
        place: Any = other
        for name in part.split("__"):
            place = place[int(name) if name.isdecimal() else name]
        return changed(one, **{part: place})

    return forge


def edited(**values: object) -> Forge:
    return lambda instance: changed(instance.bundle(STATEMENT), **values)


def logged_elsewhere(instance: SigstoreInstance) -> Json:
    """Under the true certificate authority, in a log that nobody trusts."""
    forger = SigstoreInstance(instance.ca_key, instance.ct_key)
    forger.ca = instance.ca
    return forger.bundle(STATEMENT)


def certified_elsewhere(instance: SigstoreInstance) -> Json:
    """In the true log, under a certificate authority that has only the name."""
    return SigstoreInstance(ct_key=instance.ct_key, log_key=instance.log_key).bundle(STATEMENT)


def receipt_elsewhere(instance: SigstoreInstance) -> Json:
    """With a receipt for the certificate from a log that nobody trusts."""
    forger = SigstoreInstance(ca_key=instance.ca_key, log_key=instance.log_key)
    forger.ca = instance.ca
    return forger.bundle(STATEMENT)


def entry_of_another_payload(instance: SigstoreInstance) -> Json:
    """Same key and certificate; what was logged is another statement."""
    key = new_key()
    certificate = instance.certificate(key.public_key())
    logged = sign_envelope(key, OTHER)
    bundle = instance.bundle(STATEMENT)
    certificate_der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    return changed(
        bundle,
        dsseEnvelope=sign_envelope(key, STATEMENT),
        verificationMaterial__certificate={"rawBytes": certificate_der},
        verificationMaterial__tlogEntries=[
            instance.entry(logged, certificate, datetime.now(UTC) + timedelta(seconds=5))
        ],
    )


def signed_by_another_key(instance: SigstoreInstance) -> Json:
    """The forger's signature; certificate and log entry are Alice's, over the same statement."""
    envelope = sign_envelope(new_key(), STATEMENT)
    return changed(instance.bundle(STATEMENT), dsseEnvelope=envelope)


def tampered(instance: SigstoreInstance) -> Json:
    payload = base64.b64encode(OTHER).decode()
    return changed(instance.bundle(STATEMENT), dsseEnvelope__payload=payload)


FORGED: dict[str, tuple[Forge, str]] = {
    "entry of another signature": (moved(ENTRY[:-2]), "signatures do not match"),
    "entry's body of another": (moved(f"{ENTRY}canonicalizedBody"), "invalid root hash"),
    "entry's proof of another": (moved(f"{ENTRY}inclusionProof"), "invalid root hash"),
    "entry's promise of another": (moved(f"{ENTRY}inclusionPromise"), "inclusion promise"),
    "checkpoint of another": (
        moved(f"{ENTRY}inclusionProof__checkpoint"),
        "invalid root hash signature",
    ),
    "entry of another payload": (entry_of_another_payload, "payload hash does not match"),
    "certificate of another key": (
        moved("verificationMaterial__certificate"),
        "DSSE: invalid signature",
    ),
    "signature by another key": (signed_by_another_key, "DSSE: invalid signature"),
    "payload changed": (tampered, "DSSE: invalid signature"),
    "another log": (logged_elsewhere, "checkpoint: Signature not found|invalid signature"),
    "another certificate authority": (certified_elsewhere, "certificate chain"),
    "receipt of another log": (receipt_elsewhere, "SCT verify failed"),
    "no receipt": (lambda i: i.bundle(STATEMENT, logged=False), "signed certificate timestamp"),
    "signed too late": (
        lambda i: i.bundle(STATEMENT, certified_at=THEN, signed_at=THEN + timedelta(hours=1)),
        "not valid at validation time",
    ),
    "signed too early": (
        lambda i: i.bundle(STATEMENT, certified_at=THEN, signed_at=THEN - timedelta(hours=1)),
        "not valid at validation time",
    ),
    "time changed": (
        # while its certificate is still valid, whenever this module was loaded
        lambda i: edited(
            **{f"{ENTRY}integratedTime": str(int(datetime.now(UTC).timestamp()) + 60)}
        )(i),
        "inclusion promise",
    ),
    "no promise": (edited(**{f"{ENTRY}inclusionPromise": None}), "inclusion promise"),
    "no time": (edited(**{f"{ENTRY}integratedTime": None}), "verified time"),
    "no proof": (edited(**{f"{ENTRY}inclusionProof": None}), "failed to load bundle"),
    "no checkpoint": (edited(**{f"{ENTRY}inclusionProof__checkpoint": None}), "checkpoint"),
    "no entry": (edited(verificationMaterial__tlogEntries=[]), "exactly one log entry"),
    "another kind of entry": (edited(**{f"{ENTRY}kindVersion__kind": "intoto"}), "0.0.1 types"),
    "not a certificate": (
        edited(verificationMaterial__certificate={"rawBytes": "AAAA"}),
        "sigstore: ",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged(instance: SigstoreInstance, authority: KeylessAuthority, name: str) -> None:
    forge, reason = FORGED[name]
    with pytest.raises(RefusedError, match=reason):
        authority.identify(evidence(forge(instance)), NOW)


def test_what_was_verified_is_what_was_looked_at(
    instance: SigstoreInstance, authority: KeylessAuthority
) -> None:
    """A good bundle behind the claims of another one."""
    good, wanted = evidence(instance.bundle(STATEMENT)), evidence(instance.bundle(OTHER))
    mixed = replace(wanted, document=good.document, certificates=good.certificates)
    with pytest.raises(RefusedError, match="verified another statement"):
        authority.identify(mixed, NOW)


def test_key_signatures_are_nobodys(authority: KeylessAuthority) -> None:
    key = PrivateKey.generate()
    envelope = Envelope(STATEMENT, IN_TOTO, (key.sign(pae(IN_TOTO, STATEMENT)),))
    by_key = bundle_evidence("here", encode_bundle(envelope, hint=key.public_key.hint))
    chained = bundle_evidence("here", encode_bundle(envelope, certificates=[b"der"]))
    legacy = Evidence("here", Form.SIMPLE, (), "", b"", b"")
    for found in (by_key, legacy, replace(chained, document=b"")):
        with pytest.raises(RefusedError, match="not signed by an identity"):
            authority.identify(found, NOW)
    with pytest.raises(RefusedError, match="sigstore: "):
        authority.identify(chained, NOW)


def test_any_damage_is_refused_or_changes_nothing(
    instance: SigstoreInstance, authority: KeylessAuthority
) -> None:
    """A byte replaced anywhere in the bundle: refused, or the same statement still verifies."""
    found = evidence(instance.bundle(STATEMENT))
    chance = random.Random(4)
    refused = 0
    for _ in range(300):
        damaged = bytearray(found.document)
        damaged[chance.randrange(len(damaged))] = chance.choice(b'"{}[]0Az\\\x00\xff')
        try:
            authority.identify(replace(found, document=bytes(damaged)), NOW)
        except RefusedError:
            refused += 1
    assert refused > 200


def test_the_public_instance_without_network(instance: SigstoreInstance) -> None:
    """Its root comes with sigstore, and certifies none of ours."""
    with pytest.raises(RefusedError, match="certificate chain"):
        KeylessAuthority(IDENTITY, ISSUER).identify(evidence(instance.bundle(STATEMENT)), NOW)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"mediaType":"x"}', None], ids=str
)
def test_a_root_that_is_none(
    instance: SigstoreInstance, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "root.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"root\.json"):
        KeylessAuthority(IDENTITY, ISSUER, path).identify(evidence(instance.bundle(STATEMENT)), NOW)


def test_without_the_extra(
    instance: SigstoreInstance, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evidence(instance.bundle(STATEMENT))
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    with pytest.raises(UsageError) as refused:
        KeylessAuthority(IDENTITY, ISSUER, root).identify(found, NOW)
    assert refused.value.hint == "pip install 'ocimodel[keyless]'"
    # what no identity has signed needs no sigstore
    with pytest.raises(RefusedError):
        KeylessAuthority(IDENTITY, ISSUER, root).identify(replace(found, certificates=()), NOW)
