"""Whether an artifact may be used: what speaks for it is gathered, and judged, before it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ocimodel.errors import InputError, PolicyError, UsageError
from ocimodel.events import Notice, Observer
from ocimodel.spec.manifest import Document
from ocimodel.spec.reference import Reference
from ocimodel.store.copy import DEFAULT_CONCURRENCY
from ocimodel.store.protocol import Source

if TYPE_CHECKING:
    from ocimodel.signing.evidence import Gathered
    from ocimodel.signing.trust import Artifact, Decision, Finding

    Court = Callable[[Artifact, Gathered, datetime], Decision]


@dataclass(frozen=True, slots=True)
class Demand:
    """What an artifact must prove; nothing at all without `key` and `policy`, else both.

    `key`: the name of a public key that must have signed. `policy`: a file. `types`: predicate
    types of which that key must have made an attestation. `annotations`: that its signature must
    carry.
    """

    key: str = ""
    policy: Path | None = None
    types: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.types or self.annotations) and not self.key:
            raise UsageError(
                "types and annotations are asked of what a key has signed",
                hint="add --key PUB; a policy says itself what it requires",
            )

    def __bool__(self) -> bool:
        return bool(self.key or self.policy)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`by`: the policy or key that was asked, for people."""

    by: str
    decision: Decision


def judge(
    source: Source,
    name: Reference,
    root: Document,
    demand: Demand,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
) -> tuple[Judgement, ...]:
    """What the demanded policy and key make of all that the store has to say of `root`.

    Raises InputError for a policy or key that cannot be read.
    """
    from ocimodel.signing.gather import gather
    from ocimodel.signing.trust import Artifact

    # read before anything is fetched: a mistake in them shows at once
    courts: list[tuple[str, Court]] = []
    if demand.policy:
        courts.append((f"policy {demand.policy}", _of_policy(demand.policy)))
    if demand.key:
        courts.append((f"key {demand.key}", _of_key(demand)))
    gathered = gather(source, root, concurrency=concurrency)
    artifact = Artifact(
        digest=root.digest,
        media_type=root.media_type,
        size=len(root.raw),
        repository=name.name,
        tag=name.tag,
        annotations=root.annotations,
    )
    now = datetime.now(UTC)
    return tuple(Judgement(by, court(artifact, gathered, now)) for by, court in courts)


def _of_policy(path: Path) -> Court:
    from ocimodel.ops.yamlfile import load_yaml
    from ocimodel.signing.authorities import open_keyring, stamper
    from ocimodel.signing.trust import decide
    from ocimodel.spec.policy import parse_policy

    try:
        policy = parse_policy(load_yaml(path), str(path))
    except OSError as error:
        raise InputError(
            f"cannot read the policy {path}: {error.strerror}",
            hint="check --policy, OCIMODEL_POLICY and the user's configuration",
        ) from error
    keyring = open_keyring(policy, path.parent)
    stamped = stamper(policy, path.parent)
    return lambda artifact, gathered, now: decide(
        policy, keyring, artifact, gathered, now=now, stamped=stamped
    )


def _of_key(demand: Demand) -> Court:
    from ocimodel.signing.authorities import policy_of_key
    from ocimodel.signing.signer import open_public_key
    from ocimodel.signing.trust import decide

    policy, keyring = policy_of_key(
        demand.key, open_public_key(demand.key), demand.types, demand.annotations
    )
    return lambda artifact, gathered, now: decide(
        policy, keyring, artifact, gathered, now=now, stamped=lambda evidence: None
    )


def admit(
    source: Source,
    name: Reference,
    root: Document,
    demand: Demand,
    *,
    concurrency: int,
    observer: Observer,
) -> tuple[Finding, ...]:
    """What made the artifact acceptable; PolicyError if it is not.

    `observer` is told where a policy accepts it without looking.
    """
    judgements = judge(source, name, root, demand, concurrency=concurrency)
    refuse(name, root.digest, judgements)
    for judgement in judgements:
        for reason in judgement.decision.reasons:
            observer(Notice(f"{judgement.by}: {reason}"))
    return tuple(
        {f.origin: f for j in judgements for f in j.decision.findings if f.counted}.values()
    )


def refuse(name: Reference, digest: str, judgements: Sequence[Judgement]) -> None:
    """PolicyError, saying all that is missing, unless every judgement accepts."""
    against = [j for j in judgements if not j.decision.accepted]
    if against:
        reasons = "; ".join(f"{j.by}: {reason}" for j in against for reason in j.decision.reasons)
        raise PolicyError(
            f"{name.at(digest)} is refused by {reasons}",
            hint=f"to see all evidence: ocimodel verify {name} --json",
        )
