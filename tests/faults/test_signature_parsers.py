"""Parser games: signed documents that two readers would read differently count for nobody.

Line 9 of the list in docs/trust.md; what is signed here is signed by the right key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ocimodel.errors import InputError
from ocimodel.signing import cosign
from ocimodel.spec.base64text import encode_base64
from ocimodel.spec.bundle import encode_bundle
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.manifest import INDEX, MANIFEST, Manifest
from tests.servers import faults
from tests.signing import (
    ONE,
    PROVEN,
    SLSA,
    Raw,
    Scene,
    bundle_over,
    changed,
    compact,
    deep,
    edited,
    private_key,
    referrers_tag,
    swapped,
)

DUPLICATE = '"predicate":{},"predicate":{}'


def shouted(raw: bytes) -> bytes:
    """Upper-case hex."""
    document = json.loads(raw)
    digest = document["subject"][0]["digest"]
    digest["sha256"] = digest["sha256"].upper()
    return compact(document)


def second_signature(raw: bytes) -> bytes:
    """The trusted one and somebody else's, in either order the same."""
    document = json.loads(raw)
    document["dsseEnvelope"]["signatures"] *= 2
    return compact(document)


# 9: parser games


STATEMENTS: dict[str, Raw] = {
    "duplicate key": swapped('"predicate":{}', DUPLICATE),
    "upper-case hex": shouted,
    "NaN": swapped('"predicate":{}', '"predicate":{"x":NaN}'),
    "deep nesting": swapped('"predicate":{}', f'"predicate":{{"x":{deep()}}}'),
    "no predicate": swapped(',"predicate":{}', ""),
    "predicate is a list": swapped('"predicate":{}', '"predicate":[]'),
    "another type": swapped("Statement/v1", "Statement/v9"),
    "no subject": changed(lambda d: d.update(subject=[])),
    "a subject too many": changed(lambda d: d.update(subject=d["subject"] * 65)),
    "subjects annotated differently": changed(
        lambda d: d["subject"].append({**d["subject"][0], "annotations": {}})
    ),
    "no sha256": changed(lambda d: d["subject"][0].update(digest={"sha512": "0" * 128})),
    "expiry of no time": changed(
        lambda d: d["subject"][0]["annotations"].update({"dev.ocimodel.expires": "never"})
    ),
    "UTF-16": lambda raw: raw.decode().encode("utf-16"),
    "half a surrogate": swapped('"predicate":{}', '"predicate":{"x":"\\ud800"}'),
}


@ONE
@pytest.mark.parametrize("game", STATEMENTS)
def test_9_statements_that_the_right_key_signed(scene: Scene, game: str) -> None:
    root = scene.push()
    scene.attach(bundle_over(STATEMENTS[game](scene.statement(root.digest))), root)
    scene.refused("signature by")
    scene.attach(bundle_over(scene.statement(root.digest)), root)
    scene.pull()


BUNDLES: dict[str, Raw] = {
    "duplicate key": swapped('"tlogEntries":[]', '"tlogEntries":[],"tlogEntries":[]'),
    "two signatures": second_signature,
    "no signature": changed(lambda d: d["dsseEnvelope"].update(signatures=[])),
    "unknown field": changed(lambda d: d.update(extra=1)),
    "unknown field in the envelope": changed(lambda d: d["dsseEnvelope"].update(extra=1)),
    "unknown field in a signature": changed(
        lambda d: d["dsseEnvelope"]["signatures"][0].update(extra=1)
    ),
    "unknown material": changed(lambda d: d["verificationMaterial"].update(extra=1)),
    "base64 without padding": changed(
        lambda d: d["dsseEnvelope"].update(payload=d["dsseEnvelope"]["payload"].rstrip("="))
    ),
    "base64 with a line break": changed(
        lambda d: d["dsseEnvelope"].update(payload=d["dsseEnvelope"]["payload"] + "\n")
    ),
    "payload of another type": changed(
        lambda d: d["dsseEnvelope"].update(payloadType="application/json")
    ),
    "both kinds of signature": changed(lambda d: d.update(messageSignature={"signature": "AA=="})),
    "two signers": changed(
        lambda d: d["verificationMaterial"].update(certificate={"rawBytes": "AA=="})
    ),
    "NaN": swapped('"tlogEntries":[]', '"tlogEntries":NaN'),
    "deep nesting": swapped('"tlogEntries":[]', f'"tlogEntries":{deep()}'),
    "another media type": swapped("bundle.v0.3", "bundle.v9.9"),
    "no JSON": lambda raw: raw[:-1],
}


def padded(scene: Scene, root: Manifest) -> bytes:
    """A bundle whose payload ends with stray bits, and the padding after them."""
    bundles = [bundle_over(scene.statement(root.digest, x="x" * n)) for n in range(3)]
    return next(b for b in bundles if json.loads(b)["dsseEnvelope"]["payload"].endswith("="))


@ONE
@pytest.mark.parametrize("game", BUNDLES)
def test_9_bundles_around_a_true_signature(scene: Scene, game: str) -> None:
    root = scene.push()
    honest = padded(scene, root)
    scene.attach(BUNDLES[game](honest), root)
    scene.refused("signature by")
    scene.attach(honest, root)
    scene.pull()


def test_9_a_stray_bit_behind_the_last_byte(scene: Scene) -> None:
    """Decoders that pass over it see the same bytes, under another text."""
    root = scene.push()
    document = json.loads(padded(scene, root))
    envelope = document["dsseEnvelope"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = len(envelope["payload"].rstrip("=")) - 1
    other = alphabet[alphabet.index(envelope["payload"][at]) ^ 1]
    envelope["payload"] = envelope["payload"][:at] + other + envelope["payload"][at + 1 :]
    scene.attach(compact(document), root)
    scene.refused("canonical base64")


PAYLOADS: dict[str, Raw] = {
    "duplicate key": swapped('"optional":null', '"optional":null,"optional":null'),
    "unknown field": changed(lambda d: d.update(extra=1)),
    "unknown critical field": changed(lambda d: d["critical"].update(extra=1)),
    "unknown image field": changed(lambda d: d["critical"]["image"].update(extra=1)),
    "unknown identity field": changed(lambda d: d["critical"]["identity"].update(extra=1)),
    "another type": swapped("cosign container image", "atomic container"),
    "upper-case hex": changed(
        lambda d: d["critical"]["image"].update(
            {
                "docker-manifest-digest": "sha256:"
                + d["critical"]["image"]["docker-manifest-digest"][7:].upper()
            }
        )
    ),
    "NaN": swapped('"optional":null', '"optional":{"x":NaN}'),
    "deep nesting": swapped('"optional":null', f'"optional":{{"x":{deep(20_000)}}}'),
    "a digest without its algorithm": swapped('"sha256:', '"'),
    "a statement": lambda raw: cosign.signature_statement("sha256:" + "0" * 64, {}),
}


@ONE
@pytest.mark.parametrize("game", PAYLOADS)
def test_9_payloads_that_the_right_key_signed(scene: Scene, game: str) -> None:
    root = scene.push()
    honest = cosign.simple_payload(root.digest, scene.name, {})
    scene.sign_payload(PAYLOADS[game](honest), root)
    scene.refused("signature by")
    scene.sign_payload(honest, root)
    scene.pull()


@ONE
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(signatures=d["signatures"] * 2),
        lambda d: d.update(extra=1),
        lambda d: d.update(payloadType="text/plain"),
        lambda d: d.update(payload=d["payload"] + "\n"),
    ],
    ids=["two signatures", "unknown field", "another type", "base64"],
)
def test_9_envelopes_under_the_attestation_tag(
    scene: Scene, change: Callable[[dict[str, Any]], object]
) -> None:
    root = scene.signed()
    payload = cosign.attestation_statement(root.digest, SLSA, {"a": 1})
    envelope = Envelope(payload, IN_TOTO, (private_key().sign(pae(IN_TOTO, payload)),)).encode()
    proven = scene.policy(PROVEN)
    marks = {cosign.SIGNATURE_MARK: ""}
    scene.attach_layer(edited(envelope, change), root, marks, ".att")
    scene.refused(f"attestation {SLSA}", policy=proven)
    scene.attach_layer(envelope, root, marks, ".att")
    scene.pull(policy=proven)


@ONE
def test_9_a_statement_that_was_signed_as_something_else(scene: Scene) -> None:
    root = scene.push()
    statement, kind = scene.statement(root.digest), "application/json"
    signature = private_key().sign(pae(kind, statement))
    scene.attach(encode_bundle(Envelope(statement, kind, (signature,))), root)
    scene.refused(f"holds '{kind}'")


def test_9_a_signature_over_bare_bytes_is_none_over_an_envelope(scene: Scene) -> None:
    """The payload of one form, signed for it, must not pass as the other one."""
    root = scene.push()
    statement = scene.statement(root.digest)
    bare = encode_bundle(Envelope(statement, IN_TOTO, (private_key().sign(statement),)))
    scene.attach(bare, root)
    payload = cosign.simple_payload(root.digest, scene.name, {})
    over_pae = private_key().sign(pae(IN_TOTO, payload))
    scene.attach_layer(payload, root, {cosign.SIGNATURE_MARK: encode_base64(over_pae)})
    assert scene.refused().count("not signed by this key") == 2


@pytest.mark.parametrize("kind", [MANIFEST, INDEX])
def test_9_what_is_both_a_manifest_and_an_index(scene: Scene, kind: str) -> None:
    """From a registry that would take it: served under the tag as it is."""
    root = scene.signed()
    raw = compact({**json.loads(root.raw), "mediaType": kind, "manifests": []})
    headers = {"Docker-Content-Digest": None, "Content-Type": kind}
    for lie in (faults.ReplaceBody(raw), faults.Headers(headers)):
        scene.proxy.add(lie, path="/manifests/v1$", times=None)
    scene.refused("both a manifest and an index", expected=InputError)


def test_9_an_index_where_signatures_belong(scene: Scene) -> None:
    root = scene.push()
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    tag = referrers_tag(root.digest, ".sig")
    scene.store._control.put_raw(tag, compact(document), INDEX)
    scene.refused("it is an image index, not a manifest")


@ONE
def test_9_a_policy_that_says_a_thing_twice(scene: Scene) -> None:
    """Of two keys with one name the first must not vanish: it may be the one that is revoked."""
    scene.signed()
    policy = scene.policy()
    revoked = "  release: {key: a.pub, revoked: stolen}\n  release:\n"
    text = policy.read_text().replace("  release:\n", revoked)
    assert revoked in text
    policy.write_text(text)
    scene.refused("twice", expected=InputError, policy=policy)
