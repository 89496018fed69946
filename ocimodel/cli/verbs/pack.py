from pathlib import Path
from typing import Annotated

import typer

from ocimodel.cli.options import (
    MAX_LAYER_SIZE,
    Compat,
    Concurrency,
    DirectoryArgument,
    DryRun,
    ForceTag,
    LayeringOption,
    MaxLayerSize,
    ProfileOption,
    Rehash,
)
from ocimodel.cli.output import Output
from ocimodel.cli.pairs import parse_pairs
from ocimodel.cli.verbs.push import show


def pack(
    directory: DirectoryArgument,
    reference: Annotated[str, typer.Argument(metavar="REF", help="oci:PATH[:TAG]")],
    layering: LayeringOption = "file",
    max_layer_size: MaxLayerSize = MAX_LAYER_SIZE,
    profile: ProfileOption = [],  # noqa: B006
    force_tag: ForceTag = False,
    dry_run: DryRun = False,
    rehash: Rehash = False,
    compat: Compat = False,
    concurrency: Concurrency = 8,
    *,
    out: Output,
) -> None:
    """Pack a model directory into an OCI image layout."""
    import ocimodel

    packed = ocimodel.pack(
        directory,
        reference,
        layering=layering,
        max_layer_bytes=max_layer_size,
        profiles={name: Path(path) for name, path in parse_pairs(profile).items()},
        force_tag=force_tag,
        dry_run=dry_run,
        rehash=rehash,
        compatible=compat,
        concurrency=concurrency,
        observer=out.observer,
    )
    show(out, packed, "pack")
