from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.findings import finding_document, finding_line
from ocimodel.cli.options import Concurrency, KeyOption, PolicyOption, ReferenceArgument, Rehash
from ocimodel.cli.output import Output
from ocimodel.cli.text import counted, human, listed

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def pull(
    reference: ReferenceArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", envvar="OCIMODEL_OUTPUT", help="Directory to fill."
        ),
    ],
    include: Annotated[
        list[str], typer.Option(metavar="GLOB", help="Only files that match; repeatable.")
    ] = [],  # noqa: B006
    exclude: Annotated[
        list[str], typer.Option(metavar="GLOB", help="No files that match; repeatable.")
    ] = [],  # noqa: B006
    order: Annotated[
        str,
        typer.Option(
            metavar="config-first|PROFILE", help="Which files first; a profile of the artifact."
        ),
    ] = "",
    key: KeyOption = "",
    policy: PolicyOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", envvar="OCIMODEL_CACHE", help="Folder of blobs, shared by pulls."
        ),
    ] = None,
    rehash: Rehash = False,
    concurrency: Concurrency = 8,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Pull a model into a directory, verified and resumable."""
    import ocimodel

    pulled = ocimodel.pull(
        reference,
        output,
        include=include,
        exclude=exclude,
        order=order,
        key=key,
        policy=policy,
        cache=cache,
        rehash=rehash,
        concurrency=concurrency,
        client=client,
        observer=out.observer,
    )
    document = {
        "reference": pulled.reference,
        "digest": pulled.digest,
        "pinned": pulled.pinned,
        "directory": str(pulled.directory),
        "evidence": [finding_document(finding) for finding in pulled.evidence],
        "bytesFetched": pulled.bytes_fetched,
        "bytesReused": pulled.bytes_reused,
        "files": [
            {"path": f.path, "size": f.size}
            | ({"digest": f.digest} if f.digest else {"segments": f.n_segments})
            for f in pulled.files
        ],
        "extraFiles": list(pulled.extra_files),
    }
    fetched = f"{human(pulled.bytes_fetched)} fetched, {human(pulled.bytes_reused)} here already"
    if not pulled.bytes_fetched:
        fetched = "everything was here already, nothing fetched"
    text = [
        f"pulled {pulled.reference} into {pulled.directory}",
        f"digest {pulled.digest}",
        *(finding_line(finding) for finding in pulled.evidence),
        f"{counted(len(pulled.files), 'file')}: {fetched}",
    ]
    if pulled.extra_files:
        text.append(f"not of this model, left alone: {listed(pulled.extra_files)}")
    out.result(document, text, pulled.pinned)
