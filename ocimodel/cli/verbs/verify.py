from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import Concurrency, ReferenceArgument
from ocimodel.cli.output import Output
from ocimodel.cli.text import counted, human
from ocimodel.errors import IntegrityError

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def verify(
    reference: ReferenceArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read all bytes; recompute the digest of every chunk.")
    ] = False,
    concurrency: Concurrency = 8,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Check that a store holds what an artifact says; writes nothing."""
    import ocimodel

    found = ocimodel.verify(
        reference, deep=deep, concurrency=concurrency, client=client, observer=out.observer
    )
    document = {
        "reference": found.reference,
        "digest": found.digest,
        "pinned": found.pinned,
        "blobs": found.n_blobs,
        "chunks": found.n_chunks,
        "tensors": found.n_tensors,
        "bytes": found.n_bytes,
        "problems": list(found.problems),
    }
    text = [
        f"{'WRONG' if found.problems else 'verified'} {found.reference}",
        f"digest {found.digest}",
        f"{counted(found.n_blobs, 'blob')}, {human(found.n_bytes)}: "
        f"{counted(found.n_chunks, 'chunk')}, {counted(found.n_tensors, 'tensor')}",
        *(f"wrong: {problem}" for problem in found.problems),
    ]
    out.result(document, text, found.pinned)
    if found.problems:
        raise typer.Exit(IntegrityError.exit_code)
