from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ocimodel.cli.options import (
    MAX_LAYER_SIZE,
    Compat,
    Concurrency,
    DryRun,
    ForceTag,
    LayeringOption,
    MaxLayerSize,
    ProfileOption,
    ReferenceArgument,
    Rehash,
)
from ocimodel.cli.output import Output
from ocimodel.cli.pairs import parse_pairs
from ocimodel.cli.passphrase import ask
from ocimodel.cli.text import counted, human, listed

if TYPE_CHECKING:
    from ocimodel.ops.push import PushResult
    from ocimodel.registry.transport import ClientOptions


def push(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A model directory, or oci:PATH[:TAG].")
    ],
    reference: ReferenceArgument,
    layering: LayeringOption = "file",
    max_layer_size: MaxLayerSize = MAX_LAYER_SIZE,
    profile: ProfileOption = [],  # noqa: B006
    mount_from: Annotated[
        str,
        typer.Option(
            metavar="REPO", help="Repository of the same registry that may have some of the blobs."
        ),
    ] = "",
    sign: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            envvar="OCIMODEL_SIGN",
            help="Sign it with this key before the tag is set.",
        ),
    ] = "",
    force_tag: ForceTag = False,
    dry_run: DryRun = False,
    rehash: Rehash = False,
    compat: Compat = False,
    concurrency: Concurrency = 8,
    *,
    client: "ClientOptions",
    out: Output,
) -> None:
    """Push a model directory, or a layout, to a registry."""
    import ocimodel

    pushed = ocimodel.push(
        source,
        reference,
        layering=layering,
        max_layer_bytes=max_layer_size,
        profiles={name: Path(path) for name, path in parse_pairs(profile).items()},
        mount_from=mount_from,
        sign=sign,
        passphrase=ask,
        force_tag=force_tag,
        dry_run=dry_run,
        rehash=rehash,
        compatible=compat,
        concurrency=concurrency,
        client=client,
        observer=out.observer,
    )
    show(out, pushed, "push")


def show(out: Output, result: "PushResult", verb: str) -> None:
    """What pack and push print."""
    document = {
        "reference": result.reference,
        "digest": result.digest,
        "pinned": result.pinned,
        "files": result.n_files,
        "size": result.size,
        "bytesPushed": result.bytes_pushed,
        "bytesSkipped": result.bytes_skipped,
        "leftOut": list(result.left_out),
        "dryRun": result.dry_run,
    }
    if result.signatures:
        document["signatures"] = list(result.signatures)
    done, sent = (f"would {verb}", "to send") if result.dry_run else (f"{verb}ed", "sent")
    text = [
        f"{done} {result.reference}",
        f"digest {result.digest}",
        f"{counted(result.n_files, 'file')}, {human(result.size)}: "
        f"{human(result.bytes_pushed)} {sent}, {human(result.bytes_skipped)} there already",
    ]
    if result.signatures:
        text.append(f"signed: {', '.join(result.signatures)}")
    if result.left_out:
        text.append(f"left out: {listed(result.left_out)}")
    out.result(document, text, result.pinned)
