"""The JWS envelope: what notation wrote is read and written again, and nothing else is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.jws import (
    Envelope,
    encode_envelope,
    format_time,
    parse_envelope,
    parse_time,
    signing_input,
)

GOLDEN = (Path(__file__).parents[1] / "vectors/signing/notation.jws.json").read_bytes()
TARGET = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, 417)
SIGNED_AT = datetime(2026, 11, 23, 4, 9, 56, tzinfo=UTC)
EXPIRES_AT = datetime(2027, 11, 23, tzinfo=UTC)
SCHEME, TIME = "io.cncf.notary.signingScheme", "io.cncf.notary.signingTime"
EXPIRY, STAMP = "io.cncf.notary.expiry", "io.cncf.notary.timestampSignature"
AUTHENTIC = "io.cncf.notary.authenticSigningTime"
Edit = Callable[[dict[str, Any]], object]


def envelope() -> bytes:
    signed = signing_input(TARGET, "ES256", SIGNED_AT, EXPIRES_AT)
    return encode_envelope(signed, b"s" * 64, [b"leaf", b"root"], agent="test", timestamp=b"now")


def url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def part(document: dict[str, Any], name: str) -> Any:
    text = document[name]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def edited(edit: Edit, name: str = "") -> bytes:
    """The envelope after `edit`, of the whole document or of what is encoded in its `name`."""
    document = json.loads(envelope())
    content = part(document, name) if name else document
    edit(content)
    if name:
        document[name] = url(json.dumps(content).encode())
    return json.dumps(document).encode()


def put(**members: Any) -> Edit:
    return lambda content: content.update(members)


def protected(edit: Edit) -> bytes:
    return edited(edit, "protected")


def target(**members: Any) -> bytes:
    return edited(lambda content: content["targetArtifact"].update(members), "payload")


def header(**members: Any) -> bytes:
    return edited(lambda content: content["header"].update(members))


def without(name: str) -> Edit:
    return lambda content: content.pop(name)


def test_what_notation_wrote_is_read() -> None:
    found = parse_envelope(GOLDEN)
    assert found.algorithm == "ES256"
    assert (found.signed_at, found.expires_at) == (SIGNED_AT, None)
    assert found.target.size == 417
    assert found.target.annotations == {"team": "ml"}
    assert (found.agent, found.timestamp) == ("notation-go/1.3.2", b"")
    assert (len(found.certificates), len(found.signature)) == (2, 64)
    assert found.signed == b"%(protected)s.%(payload)s" % {
        key.encode(): value.encode() for key, value in json.loads(GOLDEN).items() if key != "header"
    }


def test_what_notation_wrote_is_written_byte_for_byte() -> None:
    found = parse_envelope(GOLDEN)
    signed = signing_input(found.target, "ES256", found.signed_at)
    assert signed == found.signed
    assert encode_envelope(signed, found.signature, found.certificates, agent=found.agent) == GOLDEN


def test_all_members_come_back() -> None:
    assert parse_envelope(envelope()) == Envelope(
        signed=signing_input(TARGET, "ES256", SIGNED_AT, EXPIRES_AT),
        signature=b"s" * 64,
        algorithm="ES256",
        target=TARGET,
        signed_at=SIGNED_AT,
        expires_at=EXPIRES_AT,
        certificates=(b"leaf", b"root"),
        timestamp=b"now",
        agent="test",
    )


GOOD = {
    "an unknown member that is not critical": protected(put(anything={"at": "all"})),
    "an unknown unprotected member": header(anything=1),
    "no timestamp": edited(lambda content: content["header"].pop(STAMP)),
    "critical in another order": protected(put(crit=[EXPIRY, SCHEME])),
    "a time elsewhere": protected(put(**{TIME: "2026-11-23T06:09:56.5+02:00"})),
    "sixteen certificates": header(x5c=["AA=="] * 16),
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_other_tools_may_write_more(raw: bytes) -> None:
    assert parse_envelope(raw).target == TARGET


# what is wrong → (the reason, the envelope)
BAD: dict[str, tuple[str, bytes]] = {
    "no JSON": ("not valid JSON", b"{"),
    "an array": ("not an object", b"[]"),
    "compact form": ("not valid JSON", b"eyJh.eyJh.c2ln"),
    "two payloads": ("duplicate key", envelope()[:-1] + b',"payload":"e30"}'),
    "two protected headers": ("duplicate key", envelope()[:-1] + b',"protected":"e30"}'),
    "several signatures": ("unknown field 'signatures'", edited(put(signatures=[]))),
    "a member in upper case": ("unknown field 'Payload'", edited(put(Payload="e30"))),
    "too large": ("over the limit", envelope() + b" " * (1 << 20)),
    "no payload": ("payload is not valid JSON", edited(without("payload"))),
    "no protected header": ("not valid JSON", edited(without("protected"))),
    "no header": ("0 certificates", edited(without("header"))),
    "no signature": ("empty signature", edited(without("signature"))),
    "an empty signature": ("empty signature", edited(put(signature=""))),
    "a signature that is no text": ("must be a string", edited(put(signature=1))),
    "padding": ("no base64url|not the canonical", edited(put(signature="czE="))),
    "the other alphabet": ("not the canonical", edited(put(signature="+/+/"))),
    "stray bits": ("not the canonical", edited(put(signature="czF"))),
    "white space": ("no base64url", edited(put(signature="cz Ex"))),
    "one character": ("no base64url", edited(put(signature="c"))),
    "not ASCII": ("no base64url", edited(put(signature="\u017fz12"))),
    # the protected header
    "a duplicate key under the signature": (
        "protected header has a duplicate key",
        edited(put(protected=url(b'{"alg":"ES256","alg":"none"}'))),
    ),
    "no algorithm": ("algorithm '' is none", protected(without("alg"))),
    "algorithm none": ("algorithm 'none'", protected(put(alg="none"))),
    "HS256": ("algorithm 'HS256'", protected(put(alg="HS256"))),
    "RS256": ("algorithm 'RS256'", protected(put(alg="RS256"))),
    "EdDSA": ("algorithm 'EdDSA'", protected(put(alg="EdDSA"))),
    "algorithms": ("must be a string", protected(put(alg=["ES256"]))),
    "another content": ("envelope holds 'text/plain'", protected(put(cty="text/plain"))),
    "no content type": ("envelope holds ''", protected(without("cty"))),
    "a signing authority's scheme": (
        "'notary.x509.signingAuthority' is not read here",
        protected(put(**{SCHEME: "notary.x509.signingAuthority"})),
    ),
    "no scheme": ("signing scheme ''", protected(without(SCHEME))),
    "a time of the other scheme": (
        "is not for notary.x509",
        protected(put(**{AUTHENTIC: "2026-11-23T04:09:56Z"})),
    ),
    "no crit": ("must be marked critical", protected(without("crit"))),
    "an empty crit": ("must be marked critical", protected(put(crit=[]))),
    "crit as a text": ("must be an array", protected(put(crit=SCHEME))),
    "the scheme is not critical": ("signingScheme must be", protected(put(crit=[EXPIRY]))),
    "the expiry is not critical": ("expiry must be", protected(put(crit=[SCHEME]))),
    "critical twice": ("once", protected(put(crit=[SCHEME, SCHEME, EXPIRY]))),
    "critical and unknown": (
        "'x' is marked critical and not understood",
        protected(put(crit=[SCHEME, EXPIRY, "x"], x=1)),
    ),
    "critical and no name": (
        "not understood",
        protected(put(crit=[SCHEME, EXPIRY, {"x": 1}])),
    ),
    "a plugin is to verify": (
        "verificationPlugin' is marked critical",
        protected(
            put(
                **{"io.cncf.notary.verificationPlugin": "p"},
                crit=[SCHEME, EXPIRY, "io.cncf.notary.verificationPlugin"],
            )
        ),
    ),
    "critical and not there": ("marked critical and not there", protected(without(EXPIRY))),
    "no signing time": ("signingTime is no RFC 3339", protected(without(TIME))),
    "a time without a zone": ("no RFC 3339", protected(put(**{TIME: "2026-11-23T04:09:56"}))),
    "an expiry that is none": ("expiry is no RFC 3339", protected(put(**{EXPIRY: None}))),
    "an expiry that is a number": ("must be a string", protected(put(**{EXPIRY: 4}))),
    "expired when it was signed": (
        "expires before it was signed",
        protected(put(**{EXPIRY: format_time(SIGNED_AT)})),
    ),
    "a header that is in both": ("'alg' in both", header(alg="ES256")),
    "critical in the unprotected header": ("'crit' in both", header(crit=[])),
    # the payload
    "a second thing in the payload": ("unknown field 'x'", edited(put(x=1), "payload")),
    "no target": ("targetArtifact must be an object", edited(put(targetArtifact=1), "payload")),
    "a target without a type": ("has no mediaType", target(mediaType=None)),
    "a target without a digest": ("is no digest", target(digest=None)),
    "an upper-case digest": ("is no digest", target(digest="sha256:" + "A" * 64)),
    "a target without a size": ("size must be an integer", target(size=None)),
    "a size that is no number": ("size must be an integer", target(size=True)),
    "a negative size": ("out of range", target(size=-1)),
    "annotations that are no texts": ("must be a string", target(annotations={"a": 1})),
    "an unknown field of the target": ("unknown field 'urls'", target(urls=["https://x"])),
    "NaN in the payload": (
        "NaN",
        edited(put(payload=url(b'{"targetArtifact":{"size":NaN}}'))),
    ),
    "deep nesting": ("not valid JSON", edited(put(payload=url(b"[" * 100_000)))),
    # the unprotected header
    "no certificates": ("0 certificates", header(x5c=[])),
    "too many certificates": ("17 certificates", header(x5c=["AA=="] * 17)),
    "a certificate that is no text": ("array of base64 strings", header(x5c=[1])),
    "an empty certificate": ("array of base64 strings", header(x5c=[""])),
    "a certificate in base64url": ("no base64", header(x5c=["-_-_"])),
    "a certificate that is not canonical": ("canonical", header(x5c=["AB=="])),
    "a timestamp that is no base64": ("no base64", header(**{STAMP: "?"})),
    "an agent that is no text": (
        "must be a string",
        header(**{"io.cncf.notary.signingAgent": 1}),
    ),
}


@pytest.mark.parametrize(("reason", "raw"), BAD.values(), ids=BAD)
def test_an_envelope_that_is_refused(reason: str, raw: bytes) -> None:
    with pytest.raises(InputError, match=reason):
        parse_envelope(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T04:09:56Z", SIGNED_AT),
        ("2026-11-23T04:09:56.000000000Z", SIGNED_AT),
        ("2026-11-23T05:09:56+01:00", SIGNED_AT),
        ("2026-11-22T20:39:56-07:30", SIGNED_AT),
    ],
)
def test_a_time(text: str, expected: datetime) -> None:
    assert parse_time(text, "it") == expected
    assert format_time(parse_time(text, "it")) == "2026-11-23T04:09:56Z"


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-11-23", "2026-11-23 04:09:56Z", "2026-11-23t04:09:56z", "20261123T040956Z",
        "2026-11-23T04:09:56", "2026-11-23T04:09Z", "2026-02-30T00:00:00Z", "2026-11-23T24:00:00Z",
        "2026-11-23T04:09:61Z", "2026-11-23T04:09:56+24:00", "2026-11-23T04:09:56+0100",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
        "\u0662026-11-23T04:09:56Z", "2026-11-23T04:09:56Z\n", "2026-W48-1T04:09:56Z",
    ],
)  # fmt: skip
def test_no_time(text: str) -> None:
    with pytest.raises(InputError, match="it is no RFC 3339"):
        parse_time(text, "it")


def jws_target(raw: bytes) -> None:
    """What was accepted is written so that it is accepted again, as the same. Fuzzed too."""
    try:
        found = parse_envelope(raw)
    except InputError:
        return
    again = encode_envelope(
        found.signed,
        found.signature,
        found.certificates,
        agent=found.agent,
        timestamp=found.timestamp,
    )
    assert parse_envelope(again) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("ES256"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@given(st.binary(max_size=200))
@example(GOLDEN)
@example(envelope())
def test_any_bytes_are_an_envelope_or_an_input_error(raw: bytes) -> None:
    jws_target(raw)


@given(st.sampled_from(["", "protected", "payload"]), st.data())
def test_any_member_may_be_anything(name: str, data: st.DataObject) -> None:
    def change(content: dict[str, Any]) -> None:
        content[data.draw(st.sampled_from([*content, "x"]))] = data.draw(JSON)

    jws_target(edited(change, name))


@given(st.data())
def test_damage_is_seen_or_lies_outside_the_signature(data: st.DataObject) -> None:
    raw = bytearray(envelope())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    jws_target(bytes(raw))
