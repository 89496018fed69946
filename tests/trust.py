"""A policy, keys that are the same for the same name, and evidence made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ocimodel.signing.authorities import open_keyring
from ocimodel.signing.evidence import SIGNATURE, Evidence, Form, Gathered, Subject, Unreadable
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.trust import (
    Artifact,
    Decision,
    decide,
)
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import MANIFEST
from ocimodel.spec.policy import Policy, parse_policy

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SLSA = "https://slsa.dev/provenance/v1"
SPDX = "https://spdx.dev/Document"
VERSION = "org.opencontainers.image.version"
ARTIFACT = Artifact(
    digest=sha256(b"manifest"),
    media_type=MANIFEST,
    size=8,
    repository="registry.example.com/team/model",
    tag="2.1",
    annotations={VERSION: "2.1", "stage": "prod"},
)
OTHER = sha256(b"other manifest")


@cache
def private(name: str) -> PrivateKey:
    """The same key for the same name, as long as the tests run."""
    if name.startswith("ed"):
        return PrivateKey(ed25519.Ed25519PrivateKey.generate())
    if name.startswith("rsa"):
        return PrivateKey(rsa.generate_private_key(65537, 2048))
    curve = ec.SECP384R1() if name.startswith("p384") else ec.SECP256R1()
    return PrivateKey(ec.generate_private_key(curve))


def made(by: str = "release", **claims: Any) -> Evidence:
    """A signature by that key, over all that it claims."""
    claims = {
        "origin": f"referrer of {by}",
        "form": Form.BUNDLE,
        "subjects": (Subject(ARTIFACT.digest),),
        "predicate_type": SIGNATURE,
    } | claims
    message = repr(sorted(claims.items())).encode()
    algorithm = claims.get("algorithm", "")
    key = private(by)
    signature = key.sign_as(message, algorithm) if algorithm else key.sign(message)
    return Evidence(message=message, signature=signature, **claims)


def attested(by: str = "ci", predicate_type: str = SLSA, **claims: Any) -> Evidence:
    return made(by, predicate_type=predicate_type, **claims)


def keyring_of(**entries: Mapping[str, object]) -> dict[str, object]:
    """Four names, of which `again` has the key of `release`; `entries` say more about them."""
    owners = {"release": "release", "again": "release", "corp": "corp", "ci": "ci"}
    return {
        name: {"key": private(owner).public_key.pem.decode(), **entries.get(name, {})}
        for name, owner in owners.items()
    }


def judged(
    scope: Mapping[str, object] | Policy,
    *evidence: Evidence,
    artifact: Artifact = ARTIFACT,
    keys: Mapping[str, Mapping[str, object]] = {},
    unreadable: Sequence[Unreadable] = (),
    now: datetime = NOW,
    stamps: Mapping[bytes, datetime] = {},
) -> Decision:
    """The decision of a policy with one scope for everything."""
    policy = scope
    if not isinstance(policy, Policy):
        document = {"repositories": ["*"], **scope}
        policy = parse_policy(
            {"version": 1, "keyring": keyring_of(**keys), "scopes": [document]}, "p"
        )
    return decide(
        policy,
        open_keyring(policy, Path()),
        artifact,
        Gathered(tuple(evidence), tuple(unreadable)),
        now=now,
        stamped=lambda e: stamps.get(e.signature),
    )


SIGNED = {"require": [{"by": ["release"]}]}
EITHER = {"require": [{"by": ["release", "corp"]}]}
BOTH = {"require": [{"by": ["release", "corp"], "atLeast": 2}]}
PROVEN = {"require": [{"by": ["ci"], "predicate": SLSA}]}
SIGNED_AND_PROVEN = {"require": [*SIGNED["require"], *PROVEN["require"]]}


def expecting(**expect: object) -> dict[str, object]:
    return {**SIGNED, "expect": expect}


def broken(evidence: Evidence) -> Evidence:
    return replace(evidence, message=evidence.message + b" ")


REVOKED = {"revoked": "leaked"}
SAME = {"require": [{"by": ["release", "again"], "atLeast": 2}]}
EMPTY = sha256(b"")


def window(start: str, end: str = "2100-01-01") -> dict[str, object]:
    return {"notBefore": start, "notAfter": end}


def until(end: str) -> dict[str, object]:
    return {"notAfter": end}


def with_subject(*subjects: Subject) -> Evidence:
    return made(subjects=subjects)


DIGEST = ARTIFACT.digest
LATER, EARLIER = (NOW + DAY).isoformat(), (NOW - DAY).isoformat()
NOT_THIS_KEY = "release: not signed by this key"
