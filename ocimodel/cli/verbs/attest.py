from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import ReferenceArgument, SignerOption, TimestampUrl
from ocimodel.cli.output import Output
from ocimodel.cli.passphrase import ask

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def attest(
    reference: ReferenceArgument,
    predicate_type: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="URI",
            help="What is attested: an URI, or a short name such as slsaprovenance1.",
        ),
    ],
    predicate: Annotated[Path, typer.Option(metavar="FILE", help="A JSON object: what is said.")],
    signer: SignerOption,
    compat: Annotated[
        bool, typer.Option("--compat", help="Write cosign 2's .att tag as well.")
    ] = False,
    timestamp_url: TimestampUrl = "",
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Attach a signed statement about an artifact."""
    import ocimodel

    done = ocimodel.attest(
        reference,
        predicate_type=predicate_type,
        predicate=predicate,
        key=signer,
        compatible=compat,
        timestamp_url=timestamp_url,
        passphrase=ask,
        client=client,
        observer=out.notices,
    )
    document = {
        "reference": done.reference,
        "digest": done.digest,
        "pinned": done.pinned,
        "predicateType": done.predicate_type,
        "signer": done.signer,
        "written": list(done.written),
    }
    text = [
        f"attested {done.pinned}" if done.written else f"was attested so already: {done.pinned}",
        f"{done.predicate_type} by {done.signer}",
        *(f"wrote {place}" for place in done.written),
    ]
    out.result(document, text, done.pinned)
