"""Trust decisions: a table for every rule, with real keys and evidence made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest

from ocimodel.signing.authorities import KeyAuthority
from ocimodel.signing.authority import RefusedError
from ocimodel.signing.evidence import SIGNATURE, Evidence, Form, Subject, Unreadable
from ocimodel.signing.trust import (
    EVERYBODY,
)
from ocimodel.spec.manifest import INDEX, MANIFEST
from tests.trust import (
    ARTIFACT,
    BOTH,
    DAY,
    DIGEST,
    EARLIER,
    EITHER,
    EMPTY,
    LATER,
    NOT_THIS_KEY,
    NOW,
    OTHER,
    PROVEN,
    REVOKED,
    SAME,
    SIGNED,
    SIGNED_AND_PROVEN,
    SLSA,
    SPDX,
    VERSION,
    attested,
    broken,
    expecting,
    judged,
    made,
    private,
    until,
    window,
    with_subject,
)


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
