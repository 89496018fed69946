"""Which scope decides, and how many different signers there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pytest

from ocimodel.signing.authorities import KeyAuthority
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import Evidence, Gathered, Unreadable
from ocimodel.signing.trust import (
    Key,
    decide,
    n_distinct,
    scope_of,
)
from ocimodel.spec.policy import Policy, Requirement, Scope, Verdict, parse_policy
from tests.trust import ARTIFACT, DAY, NOW, judged, made, private

SCOPES = parse_policy(
    {
        "version": 1,
        "scopes": [
            {"repositories": ["a.b/team/*", "c.d/*"], "accept": True},
            {"repositories": ["a.b/team/x"], "accept": True},
            {"repositories": ["a.b/*"], "accept": True},
            {"repositories": ["a.b/team/deep/*"], "accept": True},
        ],
    },
    "p",
)


@pytest.mark.parametrize(
    ("repository", "pattern"),
    [
        ("a.b/team/x", "a.b/team/x"),
        ("A.b:443/team/x", "a.b/team/x"),
        ("a.b/team/y", "a.b/team/*"),
        ("a.b/team/x/y", "a.b/team/*"),
        ("a.b/team/deep/x", "a.b/team/deep/*"),
        ("a.b/team/deeper", "a.b/team/*"),
        ("a.b/team", "a.b/*"),
        ("a.b/teams", "a.b/*"),
        ("c.d/x", "c.d/*"),
        ("c.d:5000/x", ""),
        ("a.bc/x", ""),
        ("x/a.b/team/x", ""),
        ("oci:a.b/team/x", ""),
    ],
)
def test_the_most_specific_scope_wins(repository: str, pattern: str) -> None:
    assert scope_of(SCOPES, repository)[0] == pattern


def test_a_star_covers_what_nothing_else_does() -> None:
    everything = Scope(("*",), Verdict.ACCEPT)
    policy = replace(SCOPES, scopes=(everything, *SCOPES.scopes))
    assert scope_of(policy, "oci:/srv/x") == ("*", everything)
    assert scope_of(policy, "a.b/x")[0] == "a.b/*"


@pytest.mark.parametrize(
    ("document", "accepted", "scope", "reason"),
    [
        ({}, False, "", "the default rejects everything"),
        ({"default": "reject"}, False, "", "the default rejects everything"),
        ({"default": "accept"}, True, "", "the default accepts anything: not verified"),
        (
            {"scopes": [{"repositories": ["*"], "accept": True}]},
            True,
            "*",
            "scope * accepts anything: not verified",
        ),
        (
            {"default": "accept", "scopes": [{"repositories": ["*"], "reject": True}]},
            False,
            "*",
            "scope * rejects everything",
        ),
    ],
)
def test_what_needs_no_evidence(
    document: dict[str, object], accepted: bool, scope: str, reason: str
) -> None:
    policy = parse_policy({"version": 1, **document}, "p")
    found = judged(policy, made(), unreadable=[Unreadable("x", "y")])
    assert (found.accepted, found.scope, found.reasons) == (accepted, scope, (reason,))
    assert len(found.findings) == 2
    assert not any(finding.counted for finding in found.findings)


def test_a_scope_that_requires_nothing_accepts_nothing() -> None:
    policy = Policy(scopes=(Scope(("*",), Verdict.REQUIRE),))
    assert not judged(policy, made()).accepted


@dataclass
class OneOf:
    """An authority that vouches for several keys, as a certificate authority does."""

    names: Sequence[str]

    def identify(self, evidence: Evidence, at: datetime) -> str:
        for name in self.names:
            key = private(name).public_key
            if key.verify(evidence.signature, evidence.message):
                return f"holder of {key.fingerprint}"
        raise RefusedError("not certified")


@pytest.mark.parametrize(
    ("signers", "accepted"),
    [
        (["a"], False),
        (["a", "a"], False),
        (["a", "b"], True),
        (["b", "c"], False),
        (["a", "mallory"], False),
    ],
)
def test_a_certificate_that_two_names_admit_does_not_vouch_twice(
    signers: Sequence[str], accepted: bool
) -> None:
    names = {"anybody": OneOf("abc"), "team": OneOf("a")}
    keyring = {name: Key(authority, name) for name, authority in names.items()}
    policy = Policy(scopes=(Scope(("*",), Verdict.REQUIRE, (Requirement(tuple(names), 2),)),))
    gathered = Gathered(tuple(made(signer) for signer in signers))
    found = decide(policy, keyring, ARTIFACT, gathered, now=NOW, stamped=lambda e: None)
    assert found.accepted is accepted


def test_one_authority_under_two_names_does_not_vouch_twice() -> None:
    keyring = {name: Key(OneOf("ab"), "the same") for name in ("first", "second")}
    policy = Policy(scopes=(Scope(("*",), Verdict.REQUIRE, (Requirement(tuple(keyring), 2),)),))
    gathered = Gathered((made("a"), made("b")))
    found = decide(policy, keyring, ARTIFACT, gathered, now=NOW, stamped=lambda e: None)
    assert not found.accepted


def test_a_key_that_is_certified_too_does_not_vouch_twice() -> None:
    keyring = {
        "certified": Key(OneOf(["release"]), "an authority"),
        "bare": Key(KeyAuthority(private("release").public_key), "a key"),
    }
    policy = Policy(scopes=(Scope(("*",), Verdict.REQUIRE, (Requirement(tuple(keyring), 2),)),))
    gathered = Gathered((made(), made(tag="2.1")))
    found = decide(policy, keyring, ARTIFACT, gathered, now=NOW, stamped=lambda e: None)
    assert not found.accepted


@pytest.mark.parametrize(
    ("pairs", "n"),
    [
        ("", 0),
        ("ax", 1),
        ("ax ay", 1),
        ("ax bx", 1),
        ("ax by", 2),
        ("ax ay bx", 2),
        ("ax ay az bz cz", 2),
        ("ax bx by cy cz", 3),
        ("ay az bx by cx", 3),
    ],
)
def test_distinct_keys_and_signers(pairs: str, n: int) -> None:
    assert n_distinct((key, signer) for key, signer in pairs.split()) == n


def test_time_decides_with_which_certificates() -> None:
    moments = []

    class Watching:
        def identify(self, evidence: Evidence, at: datetime) -> str:
            moments.append(at)
            return "somebody"

    policy = Policy(scopes=(Scope(("*",), Verdict.REQUIRE, (Requirement(("k",)),)),))
    for stamp in (None, NOW - DAY, NOW + DAY):
        decide(
            policy,
            {"k": Key(Watching(), "k")},
            ARTIFACT,
            Gathered((made(),)),
            now=NOW,
            stamped=lambda e, stamp=stamp: stamp,  # type: ignore[misc]
        )
    assert moments == [NOW, NOW - DAY, NOW]
