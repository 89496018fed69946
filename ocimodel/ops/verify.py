"""verify: who signed an artifact, whether that is enough, and whether its bytes are intact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ocimodel.errors import PolicyError, UsageError
from ocimodel.events import Observer, ignore
from ocimodel.ops.access import as_model, client_options, find, open_store
from ocimodel.ops.admission import Demand, Judgement, judge, refuse
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.reference import parse_reference
from ocimodel.store.copy import DEFAULT_CONCURRENCY

if TYPE_CHECKING:
    from ocimodel.ops.contents import Contents


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """`judgements`: one for the policy, one for the key. `contents`: of a deep verification."""

    reference: str
    pinned: str
    digest: str
    judgements: tuple[Judgement, ...] = ()
    contents: Contents | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What a deep verification found wrong."""
        return self.contents.problems if self.contents else ()


@dataclass(frozen=True, slots=True)
class DirectoryResult:
    """A model directory against the `model.sig` in it. `problems`: files that differ from it.

    `uncovered`: files that the signature leaves out by its own word.
    """

    reference: str
    signer: str
    n_files: int
    problems: tuple[str, ...]
    uncovered: tuple[str, ...] = ()


class RefusedArtifactError(PolicyError):
    """An artifact that does not prove what was asked. `result`: all that was found."""

    def __init__(self, message: str, result: VerifyResult, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.result = result


def verify(
    reference: str,
    *,
    key: str = "",
    policy: Path | str | None = None,
    types: Sequence[str] = (),
    annotations: Mapping[str, str] = {},
    deep: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> VerifyResult:
    """Decide whether an artifact is signed as it must be; with `deep`, read every byte as well.

    `key`: a public key file, or the name of a KMS key, that must have signed; with attestations of
    `types` and with `annotations`. `policy`: a policy file. RefusedArtifactError, a PolicyError,
    tells of every signature why it does not count. What `deep` finds wrong stands in
    `problems`. Nothing is written.
    """
    demand = Demand(key, Path(policy) if policy else None, types, annotations)
    if not demand and not deep:
        raise UsageError(
            "nothing says whose signature counts",
            hint=f"ocimodel verify {reference} --key PUB, or --policy FILE; bytes only: --deep",
        )
    name = parse_reference(reference)
    source = open_store(name, client_options(client), observer=observer)
    root = find(source, name)
    judgements: tuple[Judgement, ...] = ()
    if demand:
        judgements = judge(source, name, root, demand, concurrency=concurrency)
    result = VerifyResult(str(name), str(name.at(root.digest)), root.digest, judgements)
    try:
        refuse(name, root.digest, judgements)
    except PolicyError as error:
        raise RefusedArtifactError(str(error), result, hint=error.hint) from None
    if not deep:
        return result
    from ocimodel.ops.contents import check_contents

    contents = check_contents(
        source, as_model(root, name), concurrency=concurrency, observer=observer
    )
    return VerifyResult(result.reference, result.pinned, result.digest, judgements, contents)


def verify_directory(
    directory: Path | str, *, key: str, observer: Observer = ignore
) -> DirectoryResult:
    """Check every file of a model directory against its `model.sig` (OpenSSF Model Signing).

    PolicyError for a signature that is not by `key`, NotFoundError without any.
    """
    from ocimodel.signing import oms
    from ocimodel.signing.authorities import KeyAuthority
    from ocimodel.signing.signer import open_public_key

    authority = KeyAuthority(open_public_key(key))
    found = oms.verify_directory(Path(directory), authority, datetime.now(UTC), observer=observer)
    differences = {
        "changed": found.changed,
        "missing": found.missing,
        "not signed": found.extra,
        "a link": found.links,
    }
    return DirectoryResult(
        str(directory),
        found.signer,
        found.n_files,
        tuple(f"{path}: {how}" for how, paths in differences.items() for path in paths),
        found.uncovered,
    )
