"""DSSE envelopes and the base64 in them: one way to read each, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.base64text import decode_base64, encode_base64
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae, parse_envelope

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
GOLDEN = (VECTORS / "cosign2.att.layer0.json").read_bytes()


def envelope(**changes: Any) -> dict[str, Any]:
    return {"payload": "e30=", "payloadType": IN_TOTO, "signatures": [{"sig": "AA=="}], **changes}


# Source: secure-systems-lab/dsse, protocol.md, "Test Vectors"
def test_what_is_signed_is_unambiguous() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


def test_an_envelope_of_cosign_is_read() -> None:
    found = parse_envelope(GOLDEN)
    assert json.loads(found.payload)["predicateType"] == "https://slsa.dev/provenance/v1"
    assert found.message == pae(IN_TOTO, found.payload)
    assert encode_base64(found.signatures[0]) in GOLDEN.decode()


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_what_is_written_is_read_again(payload: bytes, signature: bytes) -> None:
    written = Envelope(payload, IN_TOTO, (signature,))
    assert parse_envelope(written.encode()) == written
    assert parse_envelope(written.to_json()) == written


@pytest.mark.parametrize("keyid", [{}, {"keyid": ""}, {"keyid": "who knows"}, {"keyid": None}])
def test_a_key_id_changes_nothing(keyid: dict[str, Any]) -> None:
    found = parse_envelope(envelope(signatures=[{"sig": "AA==", **keyid}]))
    assert found == Envelope(b"{}", IN_TOTO, (b"\0",))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (envelope(signatures=[]), "one signature, not 0"),
        (envelope(signatures=[{"sig": "AA=="}, {"sig": "AA=="}]), "one signature, not 2"),
        (envelope(signatures=None), "one signature"),
        (envelope(signatures={"sig": "AA=="}), "array"),
        (envelope(signatures=["AA=="]), "one signature"),
        (envelope(signatures=[{}]), "empty signature"),
        (envelope(signatures=[{"sig": ""}]), "empty signature"),
        (envelope(signatures=[{"sig": 1}]), "must be a string"),
        (envelope(signatures=[{"sig": "AA==", "keyid": 1}]), "must be a string"),
        (envelope(signatures=[{"sig": "AA==", "cert": "x"}]), "unknown field 'cert'"),
        (envelope(signatures=[{"sig": "AA"}]), "base64"),
        (envelope(payload=""), "empty payload"),
        (envelope(payload=None), "empty payload"),
        (envelope(payload="e31="), "canonical"),
        (envelope(payload={}), "must be a string"),
        (envelope(payloadType="application/json"), "not application/vnd.in-toto"),
        (envelope(payloadType="Application/vnd.in-toto+json"), "not application/vnd.in-toto"),
        (envelope(payloadType=None), "not application/vnd.in-toto"),
        (envelope(extra=1), "unknown field 'extra'"),
        (envelope(payload_type="x"), "unknown field"),
        (b"[]", "not an object"),
        (b'{"payload":"e30=","payload":"e30="}', "duplicate key"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    document: dict[str, Any] | bytes, why: str
) -> None:
    with pytest.raises(InputError, match=why):
        parse_envelope(document)


@given(st.binary())
def test_base64_comes_back(content: bytes) -> None:
    assert decode_base64(encode_base64(content), "x") == content


@pytest.mark.parametrize(
    "text", ["AA", "AA=", "AA===", "AB==", "AAB=", "A A=", "AA==\n", "_-8=", "AA==AA==", "ä", "="]
)
def test_other_texts_for_the_same_bytes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="x is"):
        decode_base64(text, "x")


@given(st.text(max_size=12))
def test_a_text_that_is_taken_is_the_only_one_for_its_bytes(text: str) -> None:
    try:
        content = decode_base64(text, "x")
    except InputError:
        return
    assert encode_base64(content) == text
