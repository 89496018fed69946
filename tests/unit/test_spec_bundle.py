"""Sigstore bundles: those of the real tools are read; what could be read in two ways is not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec import bundle
from ocimodel.spec.bundle import Bundle, encode_bundle, parse_bundle
from ocimodel.spec.dsse import IN_TOTO, Envelope

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
GOLDEN = [(VECTORS / f"cosign3.bundle{i}.json").read_bytes() for i in (0, 1)]
ENVELOPE = Envelope(b"{}", IN_TOTO, (b"s",))
CHAIN = {"x509CertificateChain": {"certificates": [{"rawBytes": "AA=="}, {"rawBytes": "AQ=="}]}}


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(encode_bundle(ENVELOPE)), **changes}).encode()


def material(**fields: Any) -> bytes:
    return changed(verificationMaterial={"publicKey": {"hint": "h"}, **fields})


def stamps(*values: object) -> dict[str, Any]:
    return {"rfc3161Timestamps": list(values)}


@pytest.mark.parametrize("raw", GOLDEN)
def test_bundles_of_cosign_are_read(raw: bytes) -> None:
    found = parse_bundle(raw)
    pem = (VECTORS / "p256.pub").read_text()
    spki = base64.b64decode("".join(pem.splitlines()[1:-1]))
    assert found.hint == base64.b64encode(hashlib.sha256(spki).digest()).decode()
    assert (found.certificates, found.timestamps, found.n_log_entries) == ((), (), 0)
    assert found.raw == raw


binaries = st.binary(min_size=1, max_size=9)


@given(
    st.builds(Envelope, binaries, st.just(IN_TOTO), st.tuples(binaries)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    st.lists(binaries, max_size=3),
    st.lists(binaries, max_size=3),
)
def test_what_is_written_is_read_again(
    envelope: Envelope, hint: str, certificates: list[bytes], timestamps: list[bytes]
) -> None:
    raw = encode_bundle(envelope, hint=hint, certificates=certificates, timestamps=timestamps)
    expected = "" if certificates else hint
    assert parse_bundle(raw) == Bundle(
        envelope, expected, tuple(certificates), tuple(timestamps), 0, raw
    )


def test_there_is_always_a_list_of_log_entries() -> None:
    # sigstore-python and model-signing need it
    assert json.loads(encode_bundle(ENVELOPE))["verificationMaterial"]["tlogEntries"] == []


@pytest.mark.parametrize(
    ("signer", "certificates"),
    [
        ({"certificate": {"rawBytes": "AA=="}, "publicKey": None}, (b"\0",)),
        ({**CHAIN, "publicKey": None}, (b"\0", b"\1")),
    ],
)
def test_certificates_are_read(signer: dict[str, Any], certificates: tuple[bytes, ...]) -> None:
    assert parse_bundle(material(**signer)).certificates == certificates


def test_log_entries_are_counted_and_timestamps_kept() -> None:
    found = parse_bundle(
        material(
            tlogEntries=[{"logIndex": "1"}, {}],
            timestampVerificationData=stamps({"signedTimestamp": "AA=="}),
        )
    )
    assert (found.n_log_entries, found.timestamps) == (2, (b"\0",))


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_older_names_of_the_format_are_taken(version: str) -> None:
    media_type = f"application/vnd.dev.sigstore.bundle+json;version={version}"
    assert parse_bundle(changed(mediaType=media_type)).envelope == ENVELOPE


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (changed(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), "media type"),
        (changed(mediaType=None), "media type"),
        (changed(mediaType=3), "must be a string"),
        (changed(extra={}), "unknown field 'extra'"),
        (changed(dsse_envelope={}), "unknown field"),
        (changed(messageSignature={}), "signs bytes, no statement"),
        (changed(dsseEnvelope=None, messageSignature={"signature": "AA=="}), "signs bytes"),
        (changed(dsseEnvelope=None), "envelope"),
        (changed(dsseEnvelope=[]), "must be an object"),
        (changed(dsseEnvelope={**ENVELOPE.to_json(), "x": 1}), "unknown field 'x'"),
        (changed(verificationMaterial=None), "in 0 ways"),
        (changed(verificationMaterial={"content": {}}), "unknown field"),
        (material(publicKey=None), "in 0 ways"),
        (material(certificate={"rawBytes": "AA=="}), "in 2 ways"),
        (material(**CHAIN), "in 2 ways"),
        (material(publicKey={"hint": 1}), "must be a string"),
        (material(publicKey={"hint": "", "rawBytes": "AA=="}), "unknown field"),
        (material(publicKey="x"), "must be an object"),
        (material(publicKey=None, certificate={}), "no rawBytes"),
        (material(publicKey=None, certificate={"rawBytes": "A"}), "base64"),
        (material(publicKey=None, certificate={"rawBytes": "AA==", "x": 1}), "unknown field"),
        (material(publicKey=None, x509CertificateChain={}), "without certificates"),
        (material(publicKey=None, x509CertificateChain={"certificates": ["AA=="]}), "an object"),
        (material(publicKey=None, x509CertificateChain={"certificates": [{}]}), "no rawBytes"),
        (
            material(
                publicKey=None,
                x509CertificateChain={"certificates": [{"rawBytes": "AA=="}] * 33},
            ),
            "33 certificates",
        ),
        (material(tlogEntries={}), "array"),
        (material(tlogEntries=[{}] * 33), "33 tlogEntries"),
        (material(timestampVerificationData={"x": []}), "unknown field"),
        (material(timestampVerificationData=stamps({"signedTimestamp": "AA"})), "base64"),
        (material(timestampVerificationData=stamps({})), "no signedTimestamp"),
        (material(timestampVerificationData=stamps(1)), "must be an object"),
        (
            material(timestampVerificationData=stamps(*[{"signedTimestamp": "AA=="}] * 9)),
            "9 rfc3161Timestamps",
        ),
        (GOLDEN[0].replace(b'"mediaType"', b'"mediaType":"x","mediaType"', 1), "duplicate"),
        (b"null", "not an object"),
    ],
)
def test_anything_else_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(InputError, match=re.escape(why)):
        parse_bundle(raw)


def test_its_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", len(GOLDEN[0]))
    parse_bundle(GOLDEN[0])
    with pytest.raises(InputError, match="over the limit"):
        parse_bundle(GOLDEN[0] + b" ")
