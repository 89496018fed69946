"""Certificates that must not count, in notation signatures beside a model in a real registry.

Lines 3, 7, 8 and 13 of the list in docs/trust.md.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from ocimodel.signing import notation
from ocimodel.signing.keys import PrivateKey
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.jws import encode_envelope, signing_input
from ocimodel.spec.manifest import INDEX, Manifest
from tests.chains import AUTHORITY, DAY, LEAF, Holder, ders, issue
from tests.signing import (
    ONE,
    Raw,
    Scene,
    changed,
    deep,
    swapped,
)

NOW = datetime.now(UTC)

# 7 and 3: certificates, and what a JWS envelope says


def chain(**changes: dict[str, Any]) -> list[Holder]:
    """As tests.chains makes one, good now; but for what is said."""
    dates = {"starts": NOW - DAY, "ends": NOW + DAY}
    name = "O=example,ST=WA,C=US"
    top = issue(f"CN=root,{name}", **{**AUTHORITY, **dates, **changes.get("root", {})})
    middle = issue(f"CN=middle,{name}", top, **{**AUTHORITY, **dates, **changes.get("middle", {})})
    leaf = issue(f"CN=signer,{name}", middle, **{**LEAF, **dates, **changes.get("leaf", {})})
    return [leaf, middle, top]


def notarized(
    scene: Scene,
    target: Descriptor,
    holders: list[Holder],
    *,
    algorithm: str = "ES256",
    by: Any = None,
    expires: datetime | None = None,
) -> bytes:
    """An envelope with a true signature, whatever is wrong with its certificates."""
    signed = signing_input(target, algorithm, NOW - timedelta(hours=1), expires)
    key = PrivateKey(by or holders[0].key)
    return encode_envelope(
        signed, key.sign_as(signed, key.algorithm_name), ders(holders), agent="test"
    )


def certified(scene: Scene, holders: list[Holder], **more: Any) -> Path:
    entry = {"certificates": holders[-1].pem.decode(), "identities": ["O=example, C=US"]}
    return scene.policy({"require": [{"by": ["corp"]}], **more}, keys={"corp": entry})


def notarize(scene: Scene, root: Manifest, envelope: bytes, holders: list[Holder]) -> None:
    made, blobs = notation.notation_documents(
        envelope, ders(holders), root.descriptor, "2026-01-31T00:00:00Z"
    )
    scene.put(made, *blobs)


CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "expired leaf": ({"leaf": {"ends": NOW - DAY / 2}}, "expired at"),
    "expired intermediate": ({"middle": {"ends": NOW - DAY / 2}}, "expired at"),
    "expired root": ({"root": {"ends": NOW - DAY / 2}}, "expired at"),
    "leaf of an authority": ({"leaf": AUTHORITY}, "authority's certificate"),
    "leaf as an issuer": ({"middle": LEAF}, "is no authority"),
    "leaf for web servers": (
        {"leaf": {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}},
        "not for code signing",
    ),
    "leaf for timestamps too": (
        {
            "leaf": {
                "purposes": (
                    ExtendedKeyUsageOID.CODE_SIGNING,
                    ExtendedKeyUsageOID.TIME_STAMPING,
                )
            }
        },
        "not for code signing",
    ),
    "issuer for web servers": (
        {"middle": {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}},
        "issues no certificates for code signing",
    ),
    "too long a path": (
        {"root": {"constraints": x509.BasicConstraints(ca=True, path_length=0)}},
        "allows 0 authorities",
    ),
    "no key usage": ({"leaf": {"usages": ()}}, "no critical key usage"),
    "key agreement": ({"leaf": {"usages": ("digital_signature", "key_agreement")}}, "more than"),
    "issued by nobody": ({"leaf": {"signed_by": ec.generate_private_key(ec.SECP256R1())}}, "not"),
}


@ONE
@pytest.mark.parametrize("flaw", CERTIFICATES)
def test_7_certificates_that_do_not_count(scene: Scene, flaw: str) -> None:
    root = scene.push()
    changes, says = CERTIFICATES[flaw]
    holders = chain(**changes)
    notarize(scene, root, notarized(scene, root.descriptor, holders), holders)
    scene.refused(says, policy=certified(scene, holders))


def test_7_an_honest_chain_and_others_that_are_not_trusted(scene: Scene) -> None:
    root = scene.push()
    holders, strangers = chain(), chain()
    policy = certified(scene, holders)
    target = root.descriptor
    # another root of the same name; the right chain under a signature by somebody else
    notarize(scene, root, notarized(scene, target, strangers), strangers)
    stolen = notarized(scene, target, holders, by=strangers[0].key)
    notarize(scene, root, stolen, holders)
    # thumbprints of the trusted chain beside another one
    notarize(scene, root, notarized(scene, replace(target), strangers[:1] + holders[1:]), holders)
    scene.refused("signature by", policy=policy)
    notarize(scene, root, notarized(scene, target, holders), holders)
    (found,) = scene.pull(policy=policy).evidence
    assert found.form == "notation"
    # who has a certificate has none of our keys
    scene.refused("signature by", key=scene.key())


def test_7_a_certificate_for_somebody_else(scene: Scene) -> None:
    root = scene.push()
    holders = chain()
    notarize(scene, root, notarized(scene, root.descriptor, holders), holders)
    scene.pull(policy=certified(scene, holders))
    entry = {"certificates": holders[-1].pem.decode(), "identities": ["O=example.org, C=US"]}
    policy = scene.policy({"require": [{"by": ["corp"]}]}, keys={"corp": entry})
    scene.refused("whom nobody named", policy=policy)


@ONE
@pytest.mark.parametrize("algorithm", ["ES384", "PS256"])
def test_7_and_13_an_algorithm_that_is_not_the_keys(scene: Scene, algorithm: str) -> None:
    root = scene.push()
    holders = chain()
    envelope = notarized(scene, root.descriptor, holders, algorithm=algorithm)
    notarize(scene, root, envelope, holders)
    scene.refused("does not go with the key", policy=certified(scene, holders))


@ONE
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 1}, "made for 1 bytes"),
        ({"media_type": INDEX}, f"made for a {INDEX}"),
        ({"digest": "sha256:" + "0" * 64}, "made for another artifact"),
    ],
    ids=["size", "mediaType", "digest"],
)
def test_3_a_certified_signature_of_something_else(
    scene: Scene, change: dict[str, Any], says: str
) -> None:
    root = scene.push()
    holders = chain()
    wrong = replace(root.descriptor, **change)
    notarize(scene, root, notarized(scene, wrong, holders), holders)
    scene.refused(says, policy=certified(scene, holders))


def test_8_a_certified_signature_that_has_expired(scene: Scene) -> None:
    root = scene.push()
    holders = chain()
    past = NOW - timedelta(minutes=1)
    notarize(scene, root, notarized(scene, root.descriptor, holders, expires=past), holders)
    scene.refused("expired at", policy=certified(scene, holders))
    future = NOW + timedelta(hours=1)
    notarize(scene, root, notarized(scene, root.descriptor, holders, expires=future), holders)
    scene.pull(policy=certified(scene, holders))


@ONE
@pytest.mark.parametrize(
    "game",
    [
        swapped('"payload"', '"payload":"e30","payload"'),
        changed(lambda d: d.update(extra=1)),
        changed(lambda d: d["header"].update(alg="ES256")),
        changed(lambda d: d.update(payload=d["payload"] + "=")),
        changed(lambda d: d.update(signature="")),
        changed(lambda d: d["header"].update(x5c=[])),
        changed(lambda d: d.update(protected=deep(10_000))),
    ],
    ids=["duplicate", "unknown", "header twice", "padding", "unsigned", "no chain", "deep"],
)
def test_9_jws_envelopes_around_a_true_signature(scene: Scene, game: Raw) -> None:
    root = scene.push()
    holders = chain()
    honest = notarized(scene, root.descriptor, holders)
    notarize(scene, root, game(honest), holders)
    scene.refused("signature by", policy=certified(scene, holders))
    notarize(scene, root, honest, holders)
    scene.pull(policy=certified(scene, holders))
