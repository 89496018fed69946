"""notation's signatures: theirs are accepted, ours are as theirs, and altered ones are refused."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocimodel.errors import InputError, UsageError
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import EXPIRES, REPOSITORY, SIGNATURE, TAG, Evidence, Form, Subject
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.notation import (
    load_chain,
    notation_documents,
    notation_evidence,
    sign_notation,
)
from ocimodel.signing.x509 import CertificateAuthority, parse_certificates
from ocimodel.spec.descriptor import EMPTY_MEDIA_TYPE, Descriptor
from ocimodel.spec.jws import parse_envelope
from ocimodel.spec.manifest import Manifest, parse_manifest
from tests.chains import AUTHORITY, DAY, NOW, Holder, chain, ders, issue, rsa_key, self_signed

VECTORS = Path(__file__).parents[1] / "vectors/signing"
ENVELOPE = (VECTORS / "notation.jws.json").read_bytes()
ROOTS = parse_certificates((VECTORS / "notation.root.pem").read_bytes(), "the root")
SIGNED_AT = datetime(2026, 11, 23, 4, 9, 56, tzinfo=UTC)
SUBJECT = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, 417)
CREATED = "2026-11-25T12:00:00Z"


def golden_manifest(**changes: Any) -> Manifest:
    document = json.loads((VECTORS / "notation.manifest.json").read_bytes())
    found = parse_manifest(json.dumps({**document, **changes}).encode())
    assert isinstance(found, Manifest)
    return found


def golden() -> Evidence:
    return notation_evidence("here", golden_manifest(), ENVELOPE)


def signed(
    made: list[Holder] | None = None, annotations: Mapping[str, str] | None = None, **options: Any
) -> Evidence:
    """What comes back of a signature of ours, through the documents that carry it."""
    made = made or chain()
    how = {"signing_time": NOW, **options}
    envelope = sign_notation(PrivateKey(made[0].key), ders(made), SUBJECT, annotations or {}, **how)
    manifest, blobs = notation_documents(envelope, ders(made), SUBJECT, CREATED)
    return notation_evidence("here", manifest, blobs[1][1])


def test_what_notation_signed_is_accepted() -> None:
    found = golden()
    subject = (VECTORS / "subject3.manifest.json").read_bytes()
    digest = "sha256:" + hashlib.sha256(subject).hexdigest()
    assert found.form is Form.NOTATION
    assert found.subjects == (Subject(digest, SUBJECT.media_type, len(subject)),)
    assert found.predicate_type == SIGNATURE
    assert found.annotations == {"team": "ml"}
    assert (found.signed_at, found.expires_at, found.timestamps) == (SIGNED_AT, None, ())
    judge = CertificateAuthority(ROOTS, ["C=US, ST=WA, O=ocimodel"])
    assert judge.identify(found, SIGNED_AT) == (
        "CN=leaf,O=ocimodel,ST=WA,C=US, issued by CN=ocimodel root,O=ocimodel,ST=WA,C=US"
    )


def test_what_notation_signed_is_accepted_for_its_signer_only() -> None:
    judge = CertificateAuthority(ROOTS, ["C=US, ST=WA, O=other"])
    with pytest.raises(RefusedError, match="whom nobody named"):
        judge.identify(golden(), SIGNED_AT)
    stranger = CertificateAuthority(ders(chain())[2:], ["*"])
    with pytest.raises(RefusedError, match="nobody trusted"):
        stranger.identify(golden(), SIGNED_AT)


@pytest.mark.parametrize("member", ["payload", "protected"])
def test_what_is_signed_cannot_be_changed(member: str) -> None:
    document = json.loads(ENVELOPE)
    text = document[member]
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    changed = raw.replace(b'"size":417', b'"size":418').replace(b"04:09:56Z", b"04:09:57Z")
    document[member] = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    found = notation_evidence("here", golden_manifest(), json.dumps(document).encode())
    with pytest.raises(RefusedError, match="not by the certified key"):
        CertificateAuthority(ROOTS, ["*"]).identify(found, SIGNED_AT)


@pytest.mark.parametrize(
    ("artifact_type", "config_type"),
    [
        ("application/vnd.cncf.notary.signature", EMPTY_MEDIA_TYPE),
        ("", "application/vnd.cncf.notary.signature"),
    ],
)
def test_both_kinds_of_manifest_are_read(artifact_type: str, config_type: str) -> None:
    config = {**golden_manifest().config.to_json(), "mediaType": config_type}
    manifest = golden_manifest(artifactType=artifact_type, config=config)
    assert notation_evidence("here", manifest, ENVELOPE) == golden()


LAYER = golden_manifest().layers[0].to_json()
CONFIG = {**golden_manifest().config.to_json(), "mediaType": EMPTY_MEDIA_TYPE}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "another artifact": ("is no notation signature", {"config": CONFIG}),
    "no layer": ("one layer, not 0", {"layers": []}),
    "two layers": ("one layer, not 2", {"layers": [LAYER, LAYER]}),
    "COSE": (
        "COSE envelopes are not read here",
        {"layers": [{**LAYER, "mediaType": "application/cose"}]},
    ),
    "another envelope": ("type 'text/plain'", {"layers": [{**LAYER, "mediaType": "text/plain"}]}),
}


@pytest.mark.parametrize(("reason", "changes"), REFUSED.values(), ids=REFUSED)
def test_a_manifest_that_carries_no_signature(reason: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=reason):
        notation_evidence("here", golden_manifest(**changes), ENVELOPE)


def test_thumbprints_are_not_looked_at() -> None:
    assert notation_evidence("here", golden_manifest(annotations={}), ENVELOPE) == golden()


KEYS: dict[str, Callable[[], Any]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "PS256": lambda: rsa_key(2048),
    "PS384": lambda: rsa_key(3072),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_we_sign_is_read_and_accepted(algorithm: str) -> None:
    made = chain(leaf={"key": KEYS[algorithm]()})
    found = signed(made, {REPOSITORY: "host/repo", TAG: "v1", "team": "ml"}, agent="ocimodel/1")
    assert found.algorithm == algorithm
    assert found.subjects == (Subject(SUBJECT.digest, SUBJECT.media_type, SUBJECT.size),)
    assert (found.repository, found.tag) == ("host/repo", "v1")
    assert found.annotations == {REPOSITORY: "host/repo", TAG: "v1", "team": "ml"}
    assert (found.signed_at, found.expires_at) == (NOW, None)
    assert parse_envelope(found.document).agent == "ocimodel/1"
    assert CertificateAuthority([made[2].der], ["O=example"]).identify(found, NOW)


def test_a_certificate_signed_by_itself_will_do() -> None:
    alone = self_signed()
    found = signed([alone])
    assert CertificateAuthority([alone.der], ["*"]).identify(found, NOW)


def test_only_what_is_signed_of_the_subject_is_its_descriptor() -> None:
    """Annotations of the descriptor that names the subject are nobody's word."""
    made = chain()
    subject = replace(SUBJECT, annotations={"a": "b"}, artifact_type="x", extra={"urls": []})
    envelope = sign_notation(PrivateKey(made[0].key), ders(made), subject, {}, signing_time=NOW)
    assert parse_envelope(envelope).target == SUBJECT


def test_the_manifest_is_written_byte_for_byte_as_notation_does() -> None:
    theirs = golden_manifest()
    assert theirs.subject is not None
    created = theirs.annotations["org.opencontainers.image.created"]
    # notation says nothing of the subject but its descriptor
    subject = replace(theirs.subject, annotations={"a": "b"}, artifact_type="x")
    ours, blobs = notation_documents(ENVELOPE, golden().certificates, subject, created)
    assert ours.raw == (VECTORS / "notation.manifest.json").read_bytes()
    assert [what for what, _ in blobs] == list(ours.blobs())
    assert [content for _, content in blobs] == [b"{}", ENVELOPE]


@pytest.mark.parametrize(
    ("stated", "annotated", "expected"),
    [
        (None, None, None),
        (NOW + DAY, None, NOW + DAY),
        (None, NOW + DAY, NOW + DAY),
        (NOW + 2 * DAY, NOW + DAY, NOW + DAY),
        (NOW + DAY, NOW + 2 * DAY, NOW + DAY),
    ],
)
def test_the_earlier_expiry_counts(
    stated: datetime | None, annotated: datetime | None, expected: datetime | None
) -> None:
    annotations = {EXPIRES: f"{annotated:%Y-%m-%dT%H:%M:%SZ}"} if annotated else {}
    assert signed(None, annotations, expires_at=stated).expires_at == expected


def test_an_expiry_that_cannot_be_read_is_not_none() -> None:
    with pytest.raises(InputError, match="expires is 'tomorrow', not a time"):
        signed(None, {EXPIRES: "tomorrow"})


def test_a_timestamp_over_the_signature_goes_along() -> None:
    found = signed(None, None, timestamp=lambda signature: b"at noon: " + signature)
    assert found.timestamps == (b"at noon: " + found.signature,)


# chains that notation would refuse


UNFIT: dict[str, tuple[str, Callable[[], list[Holder]]]] = {
    "no root": ("was not issued by", lambda: chain()[:2]),
    "no certificate": ("a chain of 0", lambda: []),
    "expired": ("expired", lambda: chain(leaf={"ends": NOW - DAY / 2})),
    "for TLS": (
        "not for code signing",
        lambda: chain(leaf={"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}),
    ),
    "key usage not critical": (
        "no critical key usage",
        lambda: chain(leaf={"usage_is_critical": False}),
    ),
    "an authority": (
        "is an authority's",
        lambda: chain(leaf={"constraints": x509.BasicConstraints(True, None)}),
    ),
    "a root that says that it is none": (
        "is no authority",
        lambda: chain(root={"constraints": None}),
    ),
}


@pytest.mark.parametrize(("reason", "make"), UNFIT.values(), ids=UNFIT)
def test_a_chain_that_notation_would_refuse(reason: str, make: Callable[[], list[Holder]]) -> None:
    made = make()
    key = PrivateKey(made[0].key) if made else PrivateKey.generate()
    with pytest.raises(InputError, match=f"notation would refuse.*{reason}") as raised:
        sign_notation(key, ders(made), SUBJECT, {}, signing_time=NOW)
    assert raised.value.hint


def test_a_chain_for_another_key_is_refused() -> None:
    with pytest.raises(InputError, match="is for another key"):
        sign_notation(PrivateKey.generate(), ders(chain()), SUBJECT, {}, signing_time=NOW)


def test_a_key_that_notation_does_not_know_is_refused() -> None:
    made = chain(leaf={"key": rsa_key(2056)})
    with pytest.raises(InputError, match="no key of the kind RSA 2056"):
        sign_notation(PrivateKey(made[0].key), ders(made), SUBJECT, {}, signing_time=NOW)
    made = chain(leaf={"key": ed25519.Ed25519PrivateKey.generate()})
    with pytest.raises(InputError, match="Ed25519"):
        sign_notation(PrivateKey(made[0].key), ders(made), SUBJECT, {}, signing_time=NOW)


def test_a_signature_that_expires_before_it_is_made_is_refused() -> None:
    with pytest.raises(UsageError, match="would expire before"):
        signed(None, None, expires_at=NOW)


def test_a_chain_file_is_read_in_any_order() -> None:
    made = chain()
    assert load_chain(b"".join(holder.pem for holder in reversed(made))) == ders(made)


def test_a_chain_file_without_its_root_is_refused() -> None:
    with pytest.raises(InputError, match="lacks the certificate of CN=root") as raised:
        load_chain(b"".join(holder.pem for holder in chain()[:2]))
    assert "append it" in raised.value.hint


def test_a_chain_file_with_a_stranger_is_refused() -> None:
    stranger = issue("CN=stranger", **AUTHORITY)
    with pytest.raises(InputError, match="issued no other"):
        load_chain(b"".join(holder.pem for holder in (*chain(), stranger)))
