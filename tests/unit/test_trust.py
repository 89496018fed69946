"""Trust decisions: a table for every rule, with real keys and evidence made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.signing.authorities import KeyAuthority, open_keyring, policy_of_key, stamper
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import SIGNATURE, Evidence, Form, Gathered, Subject, Unreadable
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.trust import (
    EVERYBODY,
    Artifact,
    Decision,
    Key,
    decide,
    n_distinct,
    scope_of,
)
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import INDEX, MANIFEST
from ocimodel.spec.policy import Policy, Requirement, Scope, Verdict, parse_policy

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


@dataclass
class Row:
    """`refused`: what one of the reasons says; empty where the artifact is accepted.

    `stamp`: when a trusted timestamp authority saw the evidence.
    """

    title: str
    scope: Mapping[str, object]
    evidence: Sequence[Evidence]
    refused: str = ""
    artifact: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    stamp: datetime | None = None


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
ABOUT = [
    Row("nothing found", SIGNED, [], "signature by release: none found; there is nothing else"),
    Row("a signature", SIGNED, [made()]),
    Row("another key", SIGNED, [made("mallory")], NOT_THIS_KEY),
    Row("a key not named here", SIGNED, [made("corp")], NOT_THIS_KEY),
    Row("over other bytes", SIGNED, [broken(made())], NOT_THIS_KEY),
    Row("another digest", SIGNED, [with_subject(Subject(OTHER))], "made for another artifact: sha"),
    Row("no digest", SIGNED, [with_subject()], "made for another artifact: none"),
    Row("ours among several", SIGNED, [with_subject(Subject(OTHER), Subject(DIGEST))]),
    Row("ours not there", SIGNED, [with_subject(Subject(OTHER), Subject(EMPTY))], "another art"),
    Row("type and size", SIGNED, [with_subject(Subject(DIGEST, MANIFEST, 8))]),
    Row("another type", SIGNED, [with_subject(Subject(DIGEST, INDEX, 8))], f"made for a {INDEX}"),
    Row("another size", SIGNED, [with_subject(Subject(DIGEST, MANIFEST, 9))], "made for 9 bytes"),
    Row("size zero", SIGNED, [with_subject(Subject(DIGEST, "", 0))], "made for 0 bytes"),
    Row(
        "two sizes",
        SIGNED,
        [with_subject(Subject(DIGEST, "", 8), Subject(DIGEST, "", 9))],
        "made for 9 bytes, but these are 8",
    ),
    Row(
        "two types",
        SIGNED,
        [with_subject(Subject(DIGEST, MANIFEST), Subject(DIGEST, INDEX))],
        f"made for a {INDEX}, but this is a {MANIFEST}",
    ),
    Row("size of another", SIGNED, [with_subject(Subject(OTHER, INDEX, 9), Subject(DIGEST))]),
    Row("attested of another", PROVEN, [attested(subjects=(Subject(OTHER),))], "made for another"),
    Row("good beside bad", SIGNED, [made("mallory"), made(), broken(made())]),
]
FORMS = [
    Row("allowed", {**SIGNED, "forms": ["bundle", "notation"]}, [made()]),
    Row("not allowed", {**SIGNED, "forms": ["notation"]}, [made()], "form bundle is not among"),
    Row("any", SIGNED, [made(form=Form.SIMPLE)]),
    Row("of attestations too", {**PROVEN, "forms": ["dsse"]}, [attested()], "form bundle is not"),
]
TYPES = [
    Row("attestation", PROVEN, [attested()]),
    Row("attestation as signature", SIGNED, [attested("release")], "no attestation of this type"),
    Row("signature as attestation", PROVEN, [made("ci")], "no signature is asked for"),
    Row("another type", PROVEN, [attested(predicate_type=SPDX)], "no attestation of this type"),
    Row("of no type", PROVEN, [attested(predicate_type="")], "no attestation of this type"),
    Row("nearly the type", PROVEN, [attested(predicate_type=SLSA + "\n")], "no attestation of"),
    Row("both", SIGNED_AND_PROVEN, [made(), attested()]),
    Row("signature alone", SIGNED_AND_PROVEN, [made()], f"attestation {SLSA} by ci: none found; "),
    Row("attestation alone", SIGNED_AND_PROVEN, [attested()], "signature by release: none found; "),
    Row("the wrong way round", SIGNED_AND_PROVEN, [made("ci"), attested("release")], "none found"),
    Row(
        "one key for both, only attested",
        {"require": [{"by": ["ci"]}, {"by": ["ci"], "predicate": SLSA}]},
        [attested()],
        f"signature by ci: none found; referrer of ci: {SLSA} is asked for elsewhere, not here",
    ),
    Row(
        "a key of another requirement of the same type",
        {"require": [{"by": ["release"]}, {"by": ["corp"]}]},
        [made()],
        "signature by corp: none found; referrer of release: corp: not signed by this key",
    ),
]
EXPIRY = [
    Row("not yet", SIGNED, [made(expires_at=NOW + DAY)]),
    Row("now", SIGNED, [made(expires_at=NOW)], "expired at 2026-06-01T12:00:00+00:00"),
    Row("before", SIGNED, [made(expires_at=NOW - DAY)], "expired at 2026-05-31"),
    Row("stamped before", SIGNED, [made(expires_at=NOW - DAY)], "expired", stamp=NOW - 2 * DAY),
    Row("of an attestation", PROVEN, [attested(expires_at=NOW - DAY)], "expired at 2026-05-31"),
]
KEYS = [
    Row("revoked", SIGNED, [made()], "release: revoked: leaked", keys={"release": REVOKED}),
    Row("revoked, stamped", SIGNED, [made()], "revoked", keys={"release": REVOKED}, stamp=NOW),
    Row("another revoked", EITHER, [made()], keys={"corp": REVOKED}),
    Row("in its window", SIGNED, [made()], keys={"release": window(EARLIER, LATER)}),
    Row("begins now", SIGNED, [made()], keys={"release": {"notBefore": NOW.isoformat()}}),
    Row("ends now", SIGNED, [made()], keys={"release": {"notAfter": NOW.isoformat()}}),
    Row("not yet", SIGNED, [made()], "release: counts from", keys={"release": window(LATER)}),
    Row("no more", SIGNED, [made()], "release: counts until", keys={"release": until(EARLIER)}),
    Row(
        "says that it was signed in time",
        SIGNED,
        [made(signed_at=NOW - 2 * DAY)],
        "release: counts until",
        keys={"release": until(EARLIER)},
    ),
    Row("stamped in time", SIGNED, [made()], keys={"release": until(EARLIER)}, stamp=NOW - 2 * DAY),
    Row(
        "stamped too late",
        SIGNED,
        [made()],
        "release: counts until",
        keys={"release": until(EARLIER)},
        stamp=NOW - DAY / 2,
    ),
    Row(
        "stamped too early",
        SIGNED,
        [made()],
        "release: counts from",
        keys={"release": {"notBefore": EARLIER}},
        stamp=NOW - 2 * DAY,
    ),
    Row(
        "stamped in the future",
        SIGNED,
        [made()],
        "release: counts from",
        keys={"release": {"notBefore": LATER}},
        stamp=NOW + 2 * DAY,
    ),
]
COUNTS = [
    Row("one of two", EITHER, [made("corp")]),
    Row("two of two", BOTH, [made(), made("corp")]),
    Row("one is not two", BOTH, [made()], "signature by 2 of release, corp: 1 found; there is no"),
    Row("twice the same", BOTH, [made(), made(tag="2.1")], "signature by 2 of release, corp: 1"),
    Row("the same key under two names", SAME, [made(), made(tag="2.1")], "1 found"),
    Row("one with an attestation", BOTH, [made(), attested("corp")], "1 found; referrer of corp"),
    Row("many strangers", BOTH, [made(), *[made("mallory")] * 9], "; and 6 more"),
]
NAMES = [
    Row("tag", expecting(tag=True), [made(tag="2.1")]),
    Row("another tag", expecting(tag=True), [made(tag="2.0")], "made for 2.0, not for 2.1"),
    Row("no tag in it", expecting(tag=True), [made()], "made for no tag, not for 2.1"),
    Row("tag not expected", expecting(tag=False), [made(tag="2.0")]),
    Row(
        "no tag was asked for",
        expecting(tag=True),
        [made(tag="")],
        "a tag is expected, and none was asked for",
        artifact={"tag": ""},
    ),
    Row(
        "each of two must say the tag",
        {**BOTH, "expect": {"tag": True}},
        [made(tag="2.1"), made("corp", tag="2.0")],
        "1 found; referrer of corp: made for 2.0, not for 2.1",
    ),
    Row(
        "attestations need not",
        {**SIGNED_AND_PROVEN, "expect": {"tag": True, "repository": True}},
        [made(tag="2.1", repository=ARTIFACT.repository), attested()],
    ),
    Row("repository", expecting(repository=True), [made(repository=ARTIFACT.repository)]),
    Row(
        "repository, written in another way",
        expecting(repository=True),
        [made(repository="Registry.example.com:443/team/model")],
    ),
    Row(
        "another repository",
        expecting(repository=True),
        [made(repository="registry.example.com/team/other")],
        "made for registry.example.com/team/other, not for registry.example.com/team/model",
    ),
    Row("no repository", expecting(repository=True), [made()], "made for no repository"),
    Row(
        "no repository on either side",
        expecting(repository=True),
        [made()],
        "made for no repository",
        artifact={"repository": ""},
    ),
]
EXPECTED = [
    Row("annotated", expecting(annotations={"team": "ml"}), [made(annotations={"team": "ml"})]),
    Row("by the manifest", expecting(annotations={"stage": "prod"}), [made()]),
    Row("not at all", expecting(annotations={"team": "ml"}), [made()], "annotation team is None"),
    Row(
        "otherwise",
        expecting(annotations={"team": "ml"}),
        [made(annotations={"team": "ops"})],
        "annotation team is 'ops', not 'ml'",
    ),
    Row(
        "otherwise than the manifest",
        expecting(annotations={"stage": "prod"}),
        [made(annotations={"stage": "dev"})],
        "annotation stage is 'dev', not 'prod'",
    ),
    Row(
        "only one of two",
        expecting(annotations={"stage": "prod", "team": "ml"}),
        [made()],
        "annotation team is None",
    ),
    Row(
        "only by an attestation",
        {**SIGNED_AND_PROVEN, "expect": {"annotations": {"team": "ml"}}},
        [made(), attested(annotations={"team": "ml"})],
        "annotation team is None",
    ),
    Row("version", expecting(version="2.1"), [made()]),
    Row("another version", expecting(version="2.2"), [made()], "version 2.2 is expected, the man"),
    Row("the same, otherwise", expecting(version="2.1.0"), [made()], "the manifest says '2.1'"),
    Row("version, unsigned", expecting(version="2.1"), [], "signature by release: none found"),
    Row("later version", expecting(minVersion="2.0.9"), [made()]),
    Row("that version", expecting(minVersion="2.1"), [made()]),
    Row("earlier version", expecting(minVersion="2.10"), [made()], "version 2.10 or later is exp"),
    Row(
        "candidate of that version",
        expecting(minVersion="2.1"),
        [made()],
        "version 2.1 or later is expected, the manifest says '2.1rc1'",
        artifact={"annotations": {VERSION: "2.1rc1"}},
    ),
    Row(
        "no number",
        expecting(minVersion="2.1"),
        [made()],
        "the manifest says 'latest'",
        artifact={"annotations": {VERSION: "latest"}},
    ),
    Row(
        "no version",
        expecting(version="2.1", minVersion="2.1"),
        [made()],
        "version 2.1 is expected, the manifest states none",
        artifact={"annotations": {}},
    ),
    Row(
        "the version that only a signature says",
        expecting(version="2.1"),
        [made(annotations={VERSION: "2.1"})],
        "the manifest states none",
        artifact={"annotations": {}},
    ),
]


@pytest.mark.parametrize(
    "row",
    [*ABOUT, *FORMS, *TYPES, *EXPIRY, *KEYS, *COUNTS, *NAMES, *EXPECTED],
    ids=lambda row: row.title,
)
def test_rules(row: Row) -> None:
    decision = judged(
        row.scope,
        *row.evidence,
        artifact=replace(ARTIFACT, **row.artifact),
        keys=row.keys,
        stamps={e.signature: row.stamp for e in row.evidence if row.stamp},
    )
    assert decision.accepted is not bool(row.refused), decision
    assert any(row.refused in reason for reason in decision.reasons) or not row.refused, decision
    assert decision.scope == "*"
    assert len(decision.findings) == len(row.evidence)


@pytest.mark.parametrize("kind", ["release", "p384", "ed", "rsa"])
@pytest.mark.parametrize("algorithm", ["", "ES256", "ES384", "PS256"])
def test_an_algorithm_must_fit_the_key(kind: str, algorithm: str) -> None:
    fits = {"release": "ES256", "p384": "ES384", "ed": "", "rsa": "PS256"}
    authority = KeyAuthority(private(kind).public_key)
    evidence = made(kind, algorithm=fits[kind] if algorithm else "")
    if algorithm in ("", fits[kind]):
        identity = authority.identify(evidence, NOW)
        fingerprint = authority.public_key.fingerprint
        assert identity == f"key {fingerprint[:19]}… ({authority.public_key.kind})"
    else:
        with pytest.raises(RefusedError, match="not signed by this key"):
            authority.identify(replace(evidence, algorithm=algorithm), NOW)


def test_findings_say_who_vouches_and_why_others_do_not() -> None:
    decision = judged(
        {"require": [{"by": ["release", "corp"]}, {"by": ["ci"], "predicate": SLSA}]},
        made(),
        attested(),
        made("mallory"),
        made("corp", tag="x"),
        unreadable=[Unreadable("layer 3", "no JSON")],
        keys={"corp": REVOKED},
    )
    assert decision.accepted
    assert decision.reasons == ()
    release, ci, mallory, corp, layer = decision.findings
    assert (release.origin, release.form, release.predicate_type) == (
        "referrer of release",
        "bundle",
        SIGNATURE,
    )
    identity = KeyAuthority(private("release").public_key).identify(made(), NOW)
    assert (release.counted, release.counted_by) == (True, {"release": identity})
    assert release.refusals == {"corp": "not signed by this key"}
    assert list(ci.counted_by) == ["ci"]
    assert (mallory.counted, mallory.refusals) == (
        False,
        {"release": "not signed by this key", "corp": "not signed by this key"},
    )
    assert corp.refusals == {"release": "not signed by this key", "corp": "revoked: leaked"}
    assert (layer.origin, layer.form, layer.counted_by) == ("layer 3", "", {})
    assert layer.refusals == {EVERYBODY: "no JSON"}


def test_foreign_text_stays_on_its_line() -> None:
    decision = judged(
        expecting(tag=True),
        made(origin="a\nb", tag="2.1\x1b[2J\u202e", predicate_type=SIGNATURE),
        made(predicate_type="x\ny" * 1000),
        unreadable=[Unreadable("c\r", "d\x00" * 1000)],
    )
    texts = [*decision.reasons]
    for finding in decision.findings:
        texts += [finding.origin, finding.predicate_type, *finding.refusals.values()]
    assert all(text.isprintable() for text in texts)
    assert max(map(len, texts)) < 1500
    assert "a?b: made for 2.1?[2J?, not for 2.1" in decision.reasons[0]


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


# Authorities


def test_a_key_alone_is_a_policy() -> None:
    key = private("release").public_key
    policy, keyring = policy_of_key("k.pub", key, ["slsaprovenance1"], {"team": "ml"})

    def accepts(*evidence: Evidence) -> Decision:
        gathered = Gathered(evidence)
        return decide(policy, keyring, ARTIFACT, gathered, now=NOW, stamped=lambda e: None)

    signature, provenance = made(annotations={"team": "ml"}), attested("release")
    assert accepts(signature, provenance).accepted
    assert list(accepts(signature).findings[0].counted_by) == ["k.pub"]
    assert not accepts(signature).accepted
    assert not accepts(provenance).accepted
    assert not accepts(made(), provenance).accepted
    assert not accepts(signature, attested("mallory")).accepted
    with pytest.raises(InputError, match="expected an URI"):
        policy_of_key("k.pub", key, ["provenance"], {})


VECTORS = Path(__file__).parents[1] / "vectors" / "signing"


def opened(tmp_path: Path, **entry: object) -> Mapping[str, Key]:
    return open_keyring(parse_policy({"version": 1, "keyring": {"k": entry}}, "p"), tmp_path)


def test_keys_are_opened_from_where_the_policy_lies(tmp_path: Path) -> None:
    pem = (VECTORS / "p256.pub").read_bytes()
    (tmp_path / "k.pub").write_bytes(pem)
    named, absolute = opened(tmp_path, key="k.pub"), opened(Path(), key=str(VECTORS / "p256.pub"))
    inline = opened(tmp_path, key=pem.decode(), revoked="r", notBefore="2026-01-01")
    assert named == absolute == opened(tmp_path, key="file:k.pub")
    assert isinstance(named["k"].authority, KeyAuthority)
    assert named["k"].fingerprint == inline["k"].fingerprint
    assert inline["k"].revoked == "r"
    assert inline["k"].not_before == datetime(2026, 1, 1, tzinfo=UTC)


def test_certificates_and_identities_are_opened(tmp_path: Path) -> None:
    root = str(VECTORS / "notation.root.pem")
    one = opened(tmp_path, certificates=root, identities=["C=US", "O=example"])["k"]
    same = opened(tmp_path, certificates=root, identities=["O=example", "C=US"])["k"]
    other = opened(tmp_path, certificates=root, identities=["C=US"])["k"]
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(RefusedError):
        one.authority.identify(made(), NOW)
    keyless = {"identity": "a@b.c", "issuer": "https://i.org"}
    identity = opened(tmp_path, keyless=keyless)["k"]
    with pytest.raises(RefusedError):
        identity.authority.identify(made(), NOW)
    issuer = opened(tmp_path, keyless={**keyless, "issuer": "https://j.org"})["k"]
    assert identity.fingerprint != issuer.fingerprint


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"key": "none.pub"}, r"^keyring\.k: cannot read .*none\.pub: No such file"),
        ({"key": "."}, r"^keyring\.k: cannot read "),
        ({"key": "large"}, r"^keyring\.k: .*large is over the limit of 1048576 bytes"),
        ({"key": "text"}, r"^keyring\.k: .*text holds no PEM"),
        ({"certificates": "text", "identities": ["*"]}, r"^keyring\.k: .*text holds no cert"),
        (
            {"certificates": str(VECTORS / "notation.root.pem"), "identities": ["nobody"]},
            r"^keyring\.k: 'nobody' is no name",
        ),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(InputError, match=message):
        opened(tmp_path, **entry)


def test_timestamps_count_only_from_authorities_that_the_policy_names(tmp_path: Path) -> None:
    stamped = replace(made(), timestamps=(b"no timestamp",))
    assert stamper(Policy(), tmp_path)(stamped) is None
    named = Policy(timestamp_authorities=(str(VECTORS / "notation.root.pem"),))
    assert stamper(named, tmp_path)(made()) is None
    assert stamper(named, tmp_path)(stamped) is None
    with pytest.raises(InputError, match=r"^timestampAuthorities\[0\]: cannot read"):
        stamper(Policy(timestamp_authorities=("none.pem",)), tmp_path)


# Properties

SIGNERS = ("release", "corp", "ci", "mallory")
HOSTILE = [
    *(made("mallory", tag=tag, predicate_type=t) for tag in ("", "2.1") for t in (SIGNATURE, SLSA)),
    *(replace(made("mallory"), signature=made(by).signature) for by in SIGNERS),
    *(broken(made(by)) for by in SIGNERS),
    replace(attested("ci"), predicate_type=SIGNATURE, message=b""),
]
HONEST = [
    made(by, predicate_type=t, tag=tag, subjects=(Subject(digest),), expires_at=expires)
    for by in SIGNERS
    for t in (SIGNATURE, SLSA)
    for tag in ("", "2.1")
    for digest in (DIGEST, OTHER)
    for expires in (None, NOW - DAY)
]
POLICIES = [
    SIGNED,
    BOTH,
    SAME,
    SIGNED_AND_PROVEN,
    expecting(tag=True),
    expecting(version="2.2"),
    {"require": [{"by": ["release", "again", "corp", "ci"], "atLeast": 3}]},
    {**BOTH, "expect": {"tag": True}},
]
USEFUL = [e for e in HONEST if e.subjects == (Subject(DIGEST),) and not e.expires_at]
some = st.lists(st.sampled_from(USEFUL) | st.sampled_from([*HONEST, *HOSTILE]), max_size=12)


# of each trusted signer what may count, so that about half of the lists are enough
good = st.lists(
    st.sampled_from([e for e in USEFUL if e.tag == "2.1" and "mallory" not in e.origin]),
    max_size=8,
    unique_by=lambda e: e.signature,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(POLICIES), good | some, some)
def test_more_evidence_never_turns_acceptance_into_refusal(
    scope: Mapping[str, object], fewer: list[Evidence], more: list[Evidence]
) -> None:
    """So that hiding evidence never turns a refusal into an acceptance either."""
    decision = judged(scope, *fewer)
    counted = [e for e, f in zip(fewer, decision.findings, strict=True) if f.counted]
    assert judged(scope, *counted).accepted is decision.accepted
    if decision.accepted:
        assert judged(scope, *fewer, *more).accepted
        assert judged(scope, *more, *fewer).accepted


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(POLICIES),
    some,
    st.lists(st.sampled_from(HOSTILE), max_size=5),
    st.lists(st.builds(Unreadable, st.text(max_size=9), st.text(max_size=9)), max_size=2),
)
def test_hostile_evidence_changes_no_decision(
    scope: Mapping[str, object],
    evidence: list[Evidence],
    hostile: list[Evidence],
    unreadable: list[Unreadable],
) -> None:
    before = judged(scope, *evidence).accepted
    assert judged(scope, *hostile, *evidence, unreadable=unreadable).accepted is before


@settings(max_examples=15, deadline=None)
@given(
    st.text(min_size=1, max_size=9),
    st.lists(st.binary(max_size=9), min_size=1, max_size=2).map(tuple),
    st.datetimes(timezones=st.just(UTC)),
    st.binary(min_size=1, max_size=9),
)
def test_nothing_unsigned_changes_a_decision(
    origin: str, certificates: tuple[bytes, ...], signed_at: datetime, document: bytes
) -> None:
    unsigned = {
        "origin": origin,
        "certificates": certificates,
        "timestamps": certificates,
        "signed_at": signed_at,
        "document": document,
    }
    changed = [replace(evidence, **unsigned) for evidence in HONEST]
    for scope in POLICIES:
        for before, after in zip(
            judged(scope, *HONEST).findings, judged(scope, *changed).findings, strict=True
        ):
            assert (after.counted_by, after.refusals) == (before.counted_by, before.refusals)
