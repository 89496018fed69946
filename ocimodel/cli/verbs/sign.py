from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.durations import parse_duration
from ocimodel.cli.options import SignerOption, TimestampUrl
from ocimodel.cli.output import Output
from ocimodel.cli.pairs import parse_pairs
from ocimodel.cli.passphrase import ask
from ocimodel.cli.text import listed

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def sign(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="An artifact; with --format oms a model directory, to be packed."
        ),
    ],
    signer: SignerOption,
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            "--format",
            metavar="cosign|notation|oms",
            help="A bundle and a .sig tag; a JWS envelope; model.sig in a directory.",
        ),
    ] = "cosign",
    annotation: Annotated[
        list[str],
        typer.Option("--annotation", "-a", metavar="KEY=VALUE", help="To be signed; repeatable."),
    ] = [],  # noqa: B006
    certificate_chain: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM certificates of the key, its own first."),
    ] = None,
    expires: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION", parser=parse_duration, help="Count no longer than, such as 90d."
        ),
    ] = None,
    timestamp_url: TimestampUrl = "",
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Sign an artifact by its digest, beside the signatures that it has."""
    import ocimodel

    done = ocimodel.sign(
        reference,
        key=signer,
        format=format,
        annotations=parse_pairs(annotation),
        certificate_chain=certificate_chain,
        expires=expires,
        timestamp_url=timestamp_url,
        passphrase=ask,
        client=client,
        observer=out.notices,
    )
    of_artifact = {"digest": done.digest, "pinned": done.pinned} if done.digest else {}
    document = {
        "reference": done.reference,
        **of_artifact,
        "format": done.format,
        "signer": done.signer,
        "written": list(done.written),
    }
    name = done.pinned or done.reference
    text = [
        f"signed {name}" if done.written else f"was signed so already: {name}",
        f"by {done.signer}",
        *(f"wrote {place}" for place in done.written),
    ]
    if done.left_out:
        out.note(f"not signed, since not packed either: {listed(done.left_out)}")
    if done.links:
        out.note(f"links, signed as what they lead to: {listed(done.links)}")
    out.result(document, text, name)
