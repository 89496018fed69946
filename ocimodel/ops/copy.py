"""copy: an artifact with all that belongs to it, between any two stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ocimodel.errors import NotFoundError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import client_options, find, guard_tag, open_store, tagged
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.manifest import Document
from ocimodel.spec.reference import Reference, RegistryReference, parse_reference
from ocimodel.store.copy import DEFAULT_CONCURRENCY, Report
from ocimodel.store.copy import copy as copy_between
from ocimodel.store.protocol import Store

# cosign 2 keeps signatures, attestations and SBOMs under tags made of the digest
_COSIGN_SUFFIXES = (".sig", ".att", ".sbom")


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What a copy did. `manifests`: digests, the artifact's and those of what refers to it."""

    reference: str
    pinned: str
    digest: str
    manifests: tuple[str, ...]
    bytes_copied: int
    bytes_skipped: int


def copy(
    source: str,
    destination: str,
    *,
    referrers: bool = True,
    force_tag: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> CopyResult:
    """Copy an artifact by digest, with its signatures and attestations unless told otherwise.

    Without a tag in `destination` the source's tag is used, and none if it was named by digest.
    Inside one registry blobs are mounted, not sent. ConflictError where the tag has other content,
    unless `force_tag`. Raises the tree of ocimodel.errors.
    """
    options = client_options(client)
    origin, goal = parse_reference(source), parse_reference(destination)
    if goal.digest:
        raise UsageError(f"{destination} names a digest", hint="copy to a repository or a tag")
    _check_credentials(origin, goal, options)
    from_store = open_store(origin, options, observer=observer)
    root = find(from_store, origin)
    goal = replace(goal, tag=goal.tag or ("" if origin.digest else origin.tag))
    target = open_store(
        goal, options, writable=True, observer=observer, mount_from=_sibling(origin, goal)
    )
    if goal.tag:
        guard_tag(target, goal.tag, tagged(target, goal.tag), root.digest, force=force_tag)
    report = copy_between(
        from_store, target, root, referrers=referrers, concurrency=concurrency, observer=observer
    )
    if referrers:
        _copy_digest_tags(from_store, target, root, report, concurrency, observer)
    if goal.tag:
        guard_tag(target, goal.tag, tagged(target, goal.tag), root.digest, force=force_tag)
        target.tag(goal.tag, root.descriptor)
    return CopyResult(
        reference=str(goal),
        pinned=str(goal.at(root.digest)),
        digest=root.digest,
        manifests=tuple(report.manifests),
        bytes_copied=report.bytes_transferred,
        bytes_skipped=report.bytes_skipped,
    )


def _check_credentials(origin: Reference, goal: Reference, options: ClientOptions) -> None:
    """Credentials in the environment are for one registry, and must not go to another one."""
    hosts = {r.host for r in (origin, goal) if isinstance(r, RegistryReference)}
    environ = options.environ
    if len(hosts) > 1 and environ.get("OCIMODEL_USERNAME") and not environ.get("OCIMODEL_REGISTRY"):
        raise UsageError(
            "OCIMODEL_USERNAME does not say for which of the two registries it is",
            hint="set OCIMODEL_REGISTRY to its host, and ocimodel login to the other one",
        )


def _sibling(origin: Reference, goal: Reference) -> str:
    """The repository to mount from: tokens must allow to pull there too."""
    if isinstance(origin, RegistryReference) and isinstance(goal, RegistryReference):
        return origin.repository if origin.host == goal.host else ""
    return ""


def _copy_digest_tags(
    source: Store,
    target: Store,
    root: Document,
    report: Report,
    concurrency: int,
    observer: Observer,
) -> None:
    """cosign's tags; what the target has under them already is only ever a version of the same."""
    for tag in digest_tags(root.digest):
        try:
            document = source.manifest(tag)
        except NotFoundError:
            continue
        found = copy_between(
            source, target, document, tag=tag, concurrency=concurrency, observer=observer
        )
        report.manifests += found.manifests
        for outcome, n_bytes in found.n_bytes.items():
            report.n_bytes[outcome] += n_bytes


def digest_tags(digest: str) -> Sequence[str]:
    return [digest.replace(":", "-") + suffix for suffix in _COSIGN_SUFFIXES]
