from typing import TYPE_CHECKING, Annotated, Any

import typer

from ocimodel.cli.findings import finding_line, judgement_document
from ocimodel.cli.options import REFERENCE_HELP, Concurrency, KeyOption, PolicyOption
from ocimodel.cli.output import Output
from ocimodel.cli.pairs import parse_pairs
from ocimodel.cli.text import counted, human, listed
from ocimodel.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ocimodel.ops.verify import VerifyResult
    from ocimodel.registry.transport import ClientOptions


def verify(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help=f"{REFERENCE_HELP}; or a model directory with a model.sig."
        ),
    ],
    key: KeyOption = "",
    policy: PolicyOption = None,
    types: Annotated[
        list[str],
        typer.Option(
            "--type",
            metavar="URI",
            help="The key must have attested this too; an URI or a short name; repeatable.",
        ),
    ] = [],  # noqa: B006
    annotation: Annotated[
        list[str],
        typer.Option(
            "--annotation", "-a", metavar="KEY=VALUE", help="The key must have signed this."
        ),
    ] = [],  # noqa: B006
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all bytes; recompute the digest of every chunk.")
    ] = False,
    concurrency: Concurrency = 8,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Check who signed an artifact, and that its store holds what it says; writes nothing."""
    import ocimodel
    from ocimodel.ops.access import parse_local
    from ocimodel.ops.verify import RefusedArtifactError

    if directory := parse_local(reference):
        _verify_directory(out, directory, key, asked_more=bool(policy or types or annotation))
        return
    try:
        found = ocimodel.verify(
            reference,
            key=key,
            policy=policy,
            types=types,
            annotations=parse_pairs(annotation),
            deep=deep,
            concurrency=concurrency,
            client=client,
            observer=out.observer,
        )
    except RefusedArtifactError as error:
        _show(out, error.result, refused=True)
        raise typer.Exit(error.exit_code) from None
    _show(out, found)
    if found.contents and found.contents.problems:
        raise typer.Exit(IntegrityError.exit_code)


def _show(out: Output, found: "VerifyResult", *, refused: bool = False) -> None:
    document: dict[str, Any] = {
        "reference": found.reference,
        "digest": found.digest,
        "pinned": found.pinned,
        "accepted": not refused,
        "judgements": [judgement_document(judgement) for judgement in found.judgements],
    }
    wrong = found.contents is not None and bool(found.contents.problems)
    verdict = "REFUSED" if refused else "WRONG" if wrong else "verified"
    text = [f"{verdict} {found.reference}", f"digest {found.digest}"]
    for judgement in found.judgements:
        decision = judgement.decision
        text.append(f"{judgement.by}: {'accepts' if decision.accepted else 'refuses'}")
        text += [f"  {line}" for line in decision.reasons]
        text += [f"  {finding_line(finding)}" for finding in decision.findings]
    if contents := found.contents:
        document |= {
            "blobs": contents.n_blobs,
            "chunks": contents.n_chunks,
            "tensors": contents.n_tensors,
            "bytes": contents.n_bytes,
            "problems": list(contents.problems),
        }
        text.append(
            f"{counted(contents.n_blobs, 'blob')}, {human(contents.n_bytes)}: "
            f"{counted(contents.n_chunks, 'chunk')}, {counted(contents.n_tensors, 'tensor')}"
        )
        text += [f"wrong: {problem}" for problem in contents.problems]
    out.result(document, text, "" if refused or wrong else found.pinned)


def _verify_directory(out: Output, directory: "Path", key: str, *, asked_more: bool) -> None:
    from ocimodel.ops.verify import verify_directory

    if not key or asked_more:
        raise UsageError(
            "the model.sig of a directory is verified with a key and nothing else",
            hint=f"ocimodel verify {directory} --key PUB",
        )
    found = verify_directory(directory, key=key, observer=out.observer)
    document = {
        "reference": found.reference,
        "accepted": not found.problems,
        "signer": found.signer,
        "files": found.n_files,
        "problems": list(found.problems),
        "uncovered": list(found.uncovered),
    }
    text = [
        f"{'WRONG' if found.problems else 'verified'} {found.reference}",
        f"{counted(found.n_files, 'file')} signed by {found.signer}",
        *(f"wrong: {problem}" for problem in found.problems),
    ]
    if found.uncovered:
        text.append(f"not covered by the signature: {listed(found.uncovered)}")
    out.result(document, text)
    if found.problems:
        raise typer.Exit(IntegrityError.exit_code)
