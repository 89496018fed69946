from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import REFERENCE_HELP, Concurrency, ForceTag
from ocimodel.cli.output import Output
from ocimodel.cli.text import counted, human

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help=REFERENCE_HELP)],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="The same; without a tag, the source's is taken.")
    ],
    no_referrers: Annotated[
        bool, typer.Option("--no-referrers", help="Leave signatures and attestations behind.")
    ] = False,
    force_tag: ForceTag = False,
    concurrency: Concurrency = 8,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Copy an artifact with all that refers to it."""
    import ocimodel

    copied = ocimodel.copy(
        source,
        destination,
        referrers=not no_referrers,
        force_tag=force_tag,
        concurrency=concurrency,
        client=client,
        observer=out.observer,
    )
    document = {
        "reference": copied.reference,
        "digest": copied.digest,
        "pinned": copied.pinned,
        "manifests": list(copied.manifests),
        "bytesPushed": copied.bytes_copied,
        "bytesSkipped": copied.bytes_skipped,
    }
    text = [
        f"copied {source} to {copied.reference}",
        f"digest {copied.digest}",
        f"{counted(len(copied.manifests), 'manifest')}: {human(copied.bytes_copied)} sent, "
        f"{human(copied.bytes_skipped)} there already",
    ]
    out.result(document, text, copied.pinned)
