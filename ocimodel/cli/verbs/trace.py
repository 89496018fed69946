from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import KeyOption, PolicyOption, ReferenceArgument
from ocimodel.cli.output import Output
from ocimodel.cli.text import human

if TYPE_CHECKING:
    from ocimodel.registry.transport import ClientOptions


def trace(
    reference: ReferenceArgument,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND…", help="What to run, after --; {} is the model."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The profile to write.")
    ],
    key: KeyOption = "",
    policy: PolicyOption = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="OCIMODEL_CACHE", help="Folder of blobs, shared."),
    ] = None,
    *,
    client: "ClientOptions",
    mirrors: tuple[str, ...],
    out: Output,
) -> None:
    """Record which parts of a model a program reads, and in which order."""
    import ocimodel

    done = ocimodel.trace(
        reference,
        command,
        output,
        key=key,
        policy=policy,
        cache=cache,
        client=client,
        observer=out.notices,
    )
    document = {
        "reference": done.reference,
        "digest": done.digest,
        "profile": str(done.profile),
        "returncode": done.returncode,
        "ranges": done.n_ranges,
        "bytes": done.n_bytes,
    }
    text = [
        f"traced {done.reference}: {human(done.n_bytes)} of {human(done.n_total)} read",
        f"digest {done.digest}",
        f"wrote {done.profile}: ocimodel push --profile NAME={done.profile} keeps it",
    ]
    if done.returncode:
        out.warn(f"the command ended with {done.returncode}")
    out.result(document, text, str(done.profile))
