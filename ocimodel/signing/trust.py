"""Whether an artifact may be used: decided here, from a policy, what was found, and the time.

All functions are pure: no clock, no file, no network. One piece of evidence counts for one name of
the keyring when no rule objects:

    RULES             about the artifact and the scope, whoever signed
    SIGNATURE_RULES   the same, of a signature only: the name and notes that it was made with
    identify          the signature is by whom the name stands for
    KEY_RULES         that key is not revoked, and the time is in its window

An artifact is accepted when every requirement of its scope has enough different signers. Evidence
only ever adds to what counts, so hiding or adding some cannot turn a refusal into an acceptance
without the signature of somebody who is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ocimodel.signing.authority import Authority, RefusedError
from ocimodel.signing.evidence import SIGNATURE, Evidence, Gathered
from ocimodel.spec.policy import ANY, Expect, Policy, Requirement, Scope, Verdict, repository_name
from ocimodel.spec.version import version_order

EVERYBODY: Final = "*"  # in refusals: the reason holds whoever signed
VERSION: Final = "org.opencontainers.image.version"
_MAX_LINE: Final = 300  # characters
_MAX_SHOWN: Final = 3  # pieces of evidence in one reason

Stamped = Callable[[Evidence], datetime | None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is to be used: its manifest's descriptor and annotations, and the name asked for.

    `repository`: `host/repository`, or the name of a layout. `tag`: empty where none was named.
    """

    digest: str
    media_type: str
    size: int
    repository: str
    tag: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Key:
    """One name of the keyring, opened. `fingerprint`: names with an equal one are one key."""

    authority: Authority
    fingerprint: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one piece of evidence. All texts are single lines, fit for a terminal.

    `form`: empty where it could not be read. `counted_by`: name in the keyring → who signed.
    `refusals`: name in the keyring → why not; under EVERYBODY what holds for all names.
    """

    origin: str
    form: str = ""
    predicate_type: str = ""
    counted_by: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        return bool(self.counted_by)


@dataclass(frozen=True, slots=True)
class Decision:
    """`scope`: the pattern that matched; empty: the policy's default.

    `reasons`: what is missing, one line each; of an acceptance: that nothing was verified.
    """

    accepted: bool
    scope: str
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Examined:
    """`signer`: what one maker of signatures is called, whichever of the names vouch."""

    evidence: Evidence
    finding: Finding
    signer: str = ""


def decide(
    policy: Policy,
    keyring: Mapping[str, Key],
    artifact: Artifact,
    gathered: Gathered,
    *,
    now: datetime,
    stamped: Stamped,
) -> Decision:
    """Whether `policy` accepts `artifact`, and what it makes of all that was `gathered`.

    `stamped`: when a trusted authority saw a signature, or None. `now`: with a time zone.
    """
    pattern, scope = scope_of(policy, artifact.repository)
    unreadable = tuple(
        Finding(_line(u.origin), refusals={EVERYBODY: _line(u.reason)}) for u in gathered.unreadable
    )
    if scope.verdict is not Verdict.REQUIRE:
        unasked = [_finding(e, {}, {EVERYBODY: "is not asked for"}) for e in gathered.evidence]
        accepted = scope.verdict is Verdict.ACCEPT
        outcome = "accepts anything: not verified" if accepted else "rejects everything"
        reason = f"scope {pattern} {outcome}" if pattern else f"the default {outcome}"
        return Decision(accepted, pattern, (reason,), (*unasked, *unreadable))
    examined = [_examine(e, artifact, scope, keyring, now, stamped) for e in gathered.evidence]
    missing = [_missing(r, keyring, examined, unreadable) for r in scope.require]
    reasons = tuple(filter(None, (*_outdated(scope.expect, artifact), *missing)))
    accepted = bool(scope.require) and not reasons
    return Decision(accepted, pattern, reasons, (*(e.finding for e in examined), *unreadable))


def scope_of(policy: Policy, repository: str) -> tuple[str, Scope]:
    """The most specific pattern that covers `repository`, and its scope; "" and the default."""
    name = repository_name(repository)
    matching = {p: scope for scope in policy.scopes for p in scope.repositories if _covers(p, name)}
    if not matching:
        return "", policy.default
    best = max(matching, key=lambda pattern: (pattern == name, len(pattern)))
    return best, matching[best]


def _covers(pattern: str, name: str) -> bool:
    if pattern.endswith("/*"):
        return name.startswith(pattern.removesuffix(ANY))
    return pattern in (ANY, name)


# What each rule is given: evidence, artifact, scope, now. Its answer: an objection, or "".
Rule = Callable[[Evidence, Artifact, Scope, datetime], str]


def is_asked_for(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if any(_asks_for(requirement, evidence) for requirement in scope.require):
        return ""
    what = "signature" if evidence.predicate_type == SIGNATURE else "attestation of this type"
    return f"no {what} is asked for"


def form_is_allowed(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if scope.forms and evidence.form not in scope.forms:
        return f"form {evidence.form} is not among the allowed: {', '.join(scope.forms)}"
    return ""


def is_about_it(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if all(subject.digest != artifact.digest for subject in evidence.subjects):
        about = ", ".join(subject.digest for subject in evidence.subjects[:_MAX_SHOWN])
        return f"made for another artifact: {about or 'none'}"
    return ""


def states_its_type(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    for subject in evidence.subjects:
        stated = subject.media_type or artifact.media_type
        if subject.digest == artifact.digest and stated != artifact.media_type:
            return f"made for a {stated}, but this is a {artifact.media_type}"
    return ""


def states_its_size(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    for subject in evidence.subjects:
        stated = subject.size if subject.size >= 0 else artifact.size
        if subject.digest == artifact.digest and stated != artifact.size:
            return f"made for {stated} bytes, but these are {artifact.size}"
    return ""


def is_not_expired(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if evidence.expires_at is not None and evidence.expires_at <= now:
        return f"expired at {evidence.expires_at.isoformat()}"
    return ""


def is_for_repository(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if not scope.expect.repository:
        return ""
    if not evidence.repository:
        return f"made for no repository, not for {artifact.repository}"
    if repository_name(evidence.repository) != repository_name(artifact.repository):
        return f"made for {evidence.repository}, not for {artifact.repository}"
    return ""


def is_for_tag(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    if not scope.expect.tag:
        return ""
    if not artifact.tag:
        return "a tag is expected, and none was asked for: name it beside the digest, as TAG@DIGEST"
    if evidence.tag != artifact.tag:
        return f"made for {evidence.tag or 'no tag'}, not for {artifact.tag}"
    return ""


def is_annotated(evidence: Evidence, artifact: Artifact, scope: Scope, now: datetime) -> str:
    # what the signature itself says goes before what the manifest, which it covers, says
    signed = {**artifact.annotations, **evidence.annotations}
    for name, expected in scope.expect.annotations.items():
        if signed.get(name) != expected:
            return f"annotation {name} is {signed.get(name)!r}, not {expected!r}"
    return ""


RULES: Final[tuple[Rule, ...]] = (
    is_asked_for,
    form_is_allowed,
    is_about_it,
    states_its_type,
    states_its_size,
    is_not_expired,
)
SIGNATURE_RULES: Final[tuple[Rule, ...]] = (is_for_repository, is_for_tag, is_annotated)


def is_not_revoked(key: Key, at: datetime) -> str:
    return f"revoked: {key.revoked}" if key.revoked else ""


def is_in_window(key: Key, at: datetime) -> str:
    """The bounds themselves are inside."""
    if key.not_before is not None and at < key.not_before:
        return f"counts from {key.not_before.isoformat()} on, and this is of {at.isoformat()}"
    if key.not_after is not None and at > key.not_after:
        return f"counts until {key.not_after.isoformat()}, and this is of {at.isoformat()}"
    return ""


KEY_RULES: Final[tuple[Callable[[Key, datetime], str], ...]] = (is_not_revoked, is_in_window)


def _examine(
    evidence: Evidence,
    artifact: Artifact,
    scope: Scope,
    keyring: Mapping[str, Key],
    now: datetime,
    stamped: Stamped,
) -> _Examined:
    is_signature = evidence.predicate_type == SIGNATURE
    for rule in (*RULES, *SIGNATURE_RULES) if is_signature else RULES:
        if objection := rule(evidence, artifact, scope, now):
            return _Examined(evidence, _finding(evidence, {}, {EVERYBODY: objection}))
    # a timestamp proves that it was there already, never that it is yet to come
    at = min(stamped(evidence) or now, now)
    counted: dict[str, str] = {}
    refusals: dict[str, str] = {}
    signer = ""
    for name in dict.fromkeys(n for r in scope.require if _asks_for(r, evidence) for n in r.by):
        key = keyring[name]
        try:
            identity = key.authority.identify(evidence, at)
        except RefusedError as error:
            refusals[name] = str(error)
            continue
        signer = signer or identity
        if objection := "; ".join(filter(None, (rule(key, at) for rule in KEY_RULES))):
            refusals[name] = objection
        else:
            counted[name] = identity
    return _Examined(evidence, _finding(evidence, counted, refusals), signer)


def _asks_for(requirement: Requirement, evidence: Evidence) -> bool:
    """An attestation is no signature, nor the other way round, nor one of another type."""
    return evidence.predicate_type == (requirement.predicate or SIGNATURE)


def _outdated(expect: Expect, artifact: Artifact) -> Sequence[str]:
    """What the manifest's version, which every signature covers, leaves to be desired."""
    stated = artifact.annotations.get(VERSION, "")
    says = f"the manifest says {_line(stated)!r}" if stated else "the manifest states none"
    reasons = []
    if expect.version and stated != expect.version:
        reasons.append(f"version {expect.version} is expected, {says}")
    if expect.min_version:
        least, found = version_order(expect.min_version), version_order(stated)
        if least is None or found is None or found < least:
            reasons.append(f"version {expect.min_version} or later is expected, {says}")
    return reasons


def _missing(
    requirement: Requirement,
    keyring: Mapping[str, Key],
    examined: Sequence[_Examined],
    unreadable: Sequence[Finding],
) -> str:
    """Why the requirement is not met, in one line, with what was found instead; "" if it is."""
    pairs = {
        (keyring[name].fingerprint, one.signer)
        for one in examined
        if _asks_for(requirement, one.evidence)
        for name in one.finding.counted_by
        if name in requirement.by
    }
    n_found = n_distinct(pairs)
    if n_found >= requirement.at_least:
        return ""
    what = f"attestation {requirement.predicate}" if requirement.predicate else "signature"
    many = f"{requirement.at_least} of " if len(requirement.by) > 1 else ""
    instead = [*(_instead(requirement, one) for one in examined), *map(_why, unreadable)]
    shown = [text for text in instead if text]
    more = len(shown) - _MAX_SHOWN
    return (
        f"{what} by {many}{', '.join(requirement.by)}: {n_found or 'none'} found; "
        + ("; ".join(shown[:_MAX_SHOWN]) or "there is nothing else")
        + (f"; and {more} more" if more > 0 else "")
    )


def n_distinct(pairs: Iterable[tuple[str, str]]) -> int:
    """How many of the (key, signer) pairs can be chosen so that none shares its key or its signer.

    Two names may admit one certificate, and one name many: neither vouches twice. (The largest
    matching of a bipartite graph, by augmenting paths.)
    """
    signers: dict[str, list[str]] = {}
    for key, signer in sorted(pairs):
        signers.setdefault(key, []).append(signer)
    taken: dict[str, str] = {}

    def place(key: str, tried: set[str]) -> bool:
        for signer in signers[key]:
            if signer not in tried:
                tried.add(signer)
                if signer not in taken or place(taken[signer], tried):
                    taken[signer] = key
                    return True
        return False

    return sum(place(key, set()) for key in signers)


def _instead(requirement: Requirement, one: _Examined) -> str:
    """What a piece of evidence that does not count here is; "" for one that counts."""
    finding = one.finding
    if EVERYBODY in finding.refusals:
        return _why(finding)
    if not _asks_for(requirement, one.evidence):
        return f"{finding.origin}: {finding.predicate_type} is asked for elsewhere, not here"
    if finding.counted_by.keys() & set(requirement.by):
        return ""
    return _why(finding)


def _why(finding: Finding) -> str:
    reasons = [
        reason if name == EVERYBODY else f"{name}: {reason}"
        for name, reason in finding.refusals.items()
    ]
    return _line(f"{finding.origin}: {', '.join(reasons)}")


def _finding(
    evidence: Evidence, counted_by: Mapping[str, str], refusals: Mapping[str, str]
) -> Finding:
    return Finding(
        _line(evidence.origin),
        evidence.form,
        _line(evidence.predicate_type),
        {name: _line(identity) for name, identity in counted_by.items()},
        {name: _line(reason) for name, reason in refusals.items()},
    )


def _line(text: str) -> str:
    """Foreign text for people: it moves no cursor and makes no second line."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_LINE])
