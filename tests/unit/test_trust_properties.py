"""What holds for all evidence: hiding or adding some gains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.signing.evidence import SIGNATURE, Evidence, Subject, Unreadable
from tests.trust import (
    BOTH,
    DAY,
    DIGEST,
    NOW,
    OTHER,
    SAME,
    SIGNED,
    SIGNED_AND_PROVEN,
    SLSA,
    attested,
    broken,
    expecting,
    judged,
    made,
)

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
